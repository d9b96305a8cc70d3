from __future__ import annotations

import struct
import wave

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import BadDataError
from data_pipelines.media import video


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(40, 220, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_video(path, images, *, pts=None, pix_fmt="yuv420p", options=None, container_options=None):
    height, width = images[0].shape[:2]
    with av.open(str(path), "w", options=container_options or {}) as container:
        settings_ = {"preset": "ultrafast", "qp": "4", "threads": "1"} | (options or {})
        stream = container.add_stream("libx264", rate=25, options=settings_)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts = pts[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    images = [np.roll(picture(96, 96), 4 * index, axis=1) for index in range(30)]
    return write_video(path, images, options={"qp": "20", "g": "10"}), images


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (96, 96, 96),
        (96, 96, 48),
        (96, 96, 112),
        (200, 150, 112),
        (694, 518, 112),
        (1388, 1038, 112),
        (520, 392, 44),
    ],
)
@pytest.mark.parametrize("crop", ["given", "centre"])
def test_crop_and_colours_are_those_of_a_plain_conversion(tmp_path, width, height, size, crop):
    image = picture(height, width)
    path = write_video(tmp_path / "clip.mp4", [image])
    (frame,) = video.read_frames(path, size=size, crop=crop)
    if crop == "centre":
        side = min(width, height)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    expected = cv2.resize(image, (size, size), interpolation=interpolation)
    assert frame.image.shape == (size, size, 3) and frame.image.dtype == np.uint8
    assert frame.crop == crop
    assert np.abs(frame.image.astype(int) - expected).mean() < 3.0


def test_auto_takes_square_pictures_as_given_and_cuts_others():
    assert video.resolve_crop("auto", 96, 96) == "given"
    assert video.resolve_crop("auto", 1388, 1038) == "centre"
    with pytest.raises(ValueError, match="given, centre, auto"):
        video.resolve_crop("face", 1, 1)


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p", "yuv420p10le", "nv12", "yuvj420p"])
def test_every_pixel_format_gives_the_same_colours(tmp_path, pix_fmt):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32], image[:32, 32:], image[32:, :32], image[32:, 32:] = (
        (250, 20, 10),
        (20, 200, 30),
        (10, 30, 240),
        (128, 128, 128),
    )
    path = write_video(tmp_path / "clip.mp4", [image], pix_fmt=pix_fmt)
    (frame,) = video.read_frames(path, size=32)
    for row, column in ((8, 8), (8, 24), (24, 8), (24, 24)):
        assert np.abs(frame.image[row, column].astype(int) - image[2 * row, 2 * column]).max() <= 4


@pytest.mark.parametrize("full_range", [False, True])
def test_colour_matrix_follows_what_the_file_says(full_range):
    colour = (200, 100, 50)
    rgb = av.VideoFrame.from_ndarray(np.full((32, 32, 3), colour, np.uint8), format="rgb24")
    frame = rgb.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=2 if full_range else 1)
    frame.colorspace, frame.color_range = 1, 2 if full_range else 1
    assert np.abs(video._face(frame, "given", 16)[8, 8].astype(int) - colour).max() <= 2


def test_times_are_those_of_the_file_not_of_a_rate(tmp_path):
    pts = [0, 1, 2, 5, 6, 9, 15]
    path = write_video(tmp_path / "clip.mkv", [picture(64, 64, index) for index in pts], pts=pts)
    times = [frame.time_seconds for frame in video.read_frames(path, size=32)]
    np.testing.assert_allclose(times, np.array(pts) / 25.0, atol=1e-3)


def test_times_count_from_the_start_of_the_file(tmp_path):
    # A transport stream's clock starts anywhere, here at 4 s.
    images = [picture(64, 64, index) for index in range(4)]
    path = write_video(tmp_path / "clip.ts", images, pts=[100, 101, 102, 103])
    with av.open(str(path)) as container:
        assert container.start_time == 4_000_000
    times = [frame.time_seconds for frame in video.read_frames(path, size=32)]
    np.testing.assert_allclose(times, np.arange(4) / 25.0, atol=1e-4)


def test_rotation_is_applied(tmp_path):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :32] = (250, 10, 10)
    data = bytearray(write_video(tmp_path / "clip.mp4", [image]).read_bytes())
    # The matrix of the track header: show it a quarter turn clockwise, as telephones write it.
    at = data.find(b"tkhd") + 4 + 4 + 5 * 4 + 16
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    (frame,) = video.read_frames(tmp_path / "turned.mp4", size=32)
    assert frame.image[8, 24, 0] > 200 and frame.image[8, 8, 0] < 60


def test_header_says_what_the_file_promises(clip):
    header = video.read_header(clip[0])
    assert (header.width, header.height, header.frames, header.rate_hz) == (96, 96, 30, 25.0)
    assert header.duration_seconds == pytest.approx(1.2, abs=0.05)


def test_chunks_hold_at_most_512_frames_and_the_same_bytes_every_time(tmp_path):
    path = write_video(tmp_path / "long.mp4", [picture(32, 32, index % 7) for index in range(600)])
    chunks = list(video.read_chunks(path, stream="visual", source="a", size=16))
    assert [len(chunk) for chunk in chunks] == [512, 88]
    assert [chunk.index for chunk in chunks] == [0, 1]
    times = np.concatenate([chunk.times_seconds for chunk in chunks])
    np.testing.assert_allclose(times, np.arange(600) / 25.0, atol=1e-9)
    again = list(video.read_chunks(path, stream="visual", source="a", size=16))
    assert [chunk.frames for chunk in chunks] == [chunk.frames for chunk in again]
    image = video.decode_jpeg(chunks[0].frames[3])
    assert image.shape == (16, 16, 3)


def test_exactly_512_frames_are_one_chunk(tmp_path):
    path = write_video(tmp_path / "long.mp4", [picture(32, 32, index % 7) for index in range(512)])
    assert [len(chunk) for chunk in video.read_chunks(path, stream="v", source="a", size=16)] == [512]


def test_a_truncated_file_without_a_frame_count_does_not_pass(tmp_path):
    images = [np.roll(picture(64, 64), 3 * index, axis=0) for index in range(100)]
    path = write_video(tmp_path / "whole.mkv", images, options={"g": "10"})
    assert len(read_all(path)) == 100
    data = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadDataError, match=r"cut\.mkv"):
        read_all(tmp_path / "cut.mkv")


def test_jpeg_keeps_the_colours():
    image = picture(48, 48)
    back = video.decode_jpeg(video.encode_jpeg(image))
    assert np.abs(back.astype(int) - image).mean() < 3.0
    with pytest.raises(BadDataError, match="not a picture"):
        video.decode_jpeg(b"")
    with pytest.raises(BadDataError, match="not a picture"):
        video.decode_jpeg(b"nothing")


def read_all(path, **options):
    return list(video.read_frames(path, size=32, **options))


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_a_truncated_file_never_passes(clip, tmp_path_factory, share):
    data = clip[0].read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadDataError, match=r"cut\.mp4"):
        read_all(path)


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 0.9))
def test_a_truncated_file_with_its_index_in_front_never_passes(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    images = [np.roll(picture(64, 64), 3 * index, axis=0) for index in range(20)]
    path = write_video(folder / "whole.mp4", images, container_options={"movflags": "faststart"})
    assert len(read_all(path)) == 20
    data = path.read_bytes()
    start = data.find(b"mdat") + 4
    (folder / "cut.mp4").write_bytes(data[: start + int((len(data) - start) * share)])
    with pytest.raises(BadDataError, match=r"cut\.mp4"):
        read_all(folder / "cut.mp4")


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_flipped_bytes_give_a_sentence_or_all_frames(clip, tmp_path_factory, share, seed):
    data = bytearray(clip[0].read_bytes())
    start, end = data.find(b"mdat") + 700, data.find(b"moov") - 40
    at = start + int(share * (end - start))
    data[at : at + 32] = np.random.default_rng(seed).bytes(32)
    path = tmp_path_factory.mktemp("flip") / "flip.mp4"
    path.write_bytes(data)
    try:
        assert len(read_all(path)) == 30
    except BadDataError as error:
        assert "flip.mp4" in str(error) and "frame" in str(error)


def test_damage_names_the_frame(clip, tmp_path):
    data = bytearray(clip[0].read_bytes())
    middle = (data.find(b"mdat") + data.find(b"moov")) // 2
    data[middle : middle + 600] = bytes(600)
    (tmp_path / "bad.mp4").write_bytes(data)
    with pytest.raises(BadDataError, match=r"bad\.mp4 is .*damaged at frame \d+"):
        read_all(tmp_path / "bad.mp4")


def test_what_is_no_video_gets_a_sentence(tmp_path):
    with pytest.raises(BadDataError, match="missing"):
        read_all(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(BadDataError, match=r"empty\.mp4 \(0 bytes\).*empty, truncated"):
        read_all(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    with pytest.raises(BadDataError, match="cannot be opened as a video"):
        read_all(tmp_path / "text.mp4")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(BadDataError, match="no video stream"):
        read_all(tmp_path / "sound.wav")


def test_absurd_sizes_are_refused_before_decoding(clip):
    with pytest.raises(BadDataError, match="96x96 pixels; at most 4096 pixels"):
        read_all(clip[0], max_pixels=64 * 64)
    with pytest.raises(BadDataError, match="96x96"):
        video.read_header(clip[0], max_pixels=64 * 64)
    assert video.MAX_PIXELS < 8192 * 8192


@pytest.mark.parametrize(("name", "frames"), [("obama_speech.mp4", 105), ("face_noface.mov", 169)])
def test_real_clips(shared, name, frames):
    path = shared / "media" / name
    decoded = list(video.read_frames(path, size=64))
    assert len(decoded) == frames == video.read_header(path).frames
    assert {frame.crop for frame in decoded} == {"centre"}
    with av.open(str(path)) as container:
        for frame, ours in zip(container.decode(video=0), decoded, strict=True):
            assert ours.time_seconds == pytest.approx(frame.time, abs=1e-6)
        whole = frame.reformat(format="rgb24").to_ndarray()
    side = min(whole.shape[:2])
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    expected = cv2.resize(whole[top : top + side, left : left + side], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded[-1].image.astype(int) - expected).mean() < 4.0
