"""Videos that were trimmed, turned, mirrored, recorded with oblong pixels, or whose header has no rate."""

from __future__ import annotations

import itertools
import struct

import av
import numpy as np
import pytest
from test_video import read_all, write_video

from data_pipelines.errors import BadDataError
from data_pipelines.media import display, video
from data_pipelines.media.audio import decode_audio
from data_pipelines.media.frame_times import read_frame_times
from data_pipelines.media.video_writing import write_film

GREY = [np.full((64, 64, 3), 8 * shade, np.uint8) for shade in range(30)]
QUARTERS = np.zeros((64, 64, 3), np.uint8)
QUARTERS[:32, :32], QUARTERS[:32, 32:], QUARTERS[32:, :32] = (240, 20, 20), (20, 200, 20), (20, 20, 240)


def trimmed(path, shown_ms=None, options=None):
    """30 frames of which an edit list hides the first 8, and all after `shown_ms`."""
    write_video(path, GREY, pts=range(-8, 22), options={"g": "40"}, container_options=options)
    if shown_ms is not None:
        data = bytearray(path.read_bytes())
        at = data.find(b"elst") + 12
        assert struct.unpack(">I", data[at : at + 4]) == (880,)
        data[at : at + 4] = struct.pack(">I", shown_ms)
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(("shown_ms", "shown"), [(None, 22), (440, 11)])
def test_a_trimmed_video_is_whole_and_shows_what_is_left(tmp_path, shown_ms, shown):
    path = trimmed(tmp_path / "trimmed.mp4", shown_ms)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 30
    frames = read_all(path)
    assert len(frames) == shown
    np.testing.assert_allclose([frame.time_seconds for frame in frames], np.arange(shown) / 25, atol=1e-6)
    shades = [frame.image.mean() for frame in frames]
    np.testing.assert_allclose(shades, 8.0 * np.arange(8, 8 + shown), atol=3)
    np.testing.assert_allclose(read_frame_times(path).times_seconds, np.arange(shown) / 25, atol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_a_trimmed_video_that_is_cut_off_is_still_damaged(tmp_path, share):
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    path = tmp_path / "cut.mp4"
    options = {"movflags": "faststart"}
    write_video(path, noise, pts=range(-8, 22), options={"g": "40"}, container_options=options)
    assert len(read_all(path)) == 22
    data = path.read_bytes()
    start = data.find(b"mdat") + 4
    path.write_bytes(data[: start + int((len(data) - start) * share)])
    for read in (read_all, read_frame_times):
        with pytest.raises(BadDataError, match=r"cut\.mp4"):
            read(path)


def test_sound_of_a_trimmed_video_is_whole(tmp_path):
    sound = np.sin(np.arange(44100) / 20).astype(np.float32) / 2
    path = tmp_path / "trimmed.mp4"
    write_film(path, GREY[:25], np.arange(25) / 25, sound=sound)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"elst") + 12  # that of the sound
    data[at : at + 4] = struct.pack(">I", 400)
    path.write_bytes(data)
    assert sum(len(piece.samples) for piece in decode_audio(path)) / 44100 == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("turn", itertools.product((False, True), repeat=3))
def test_every_turn_and_mirror_is_the_matrix_of_the_file(tmp_path, turn):
    transpose, mirror, upside_down = turn
    across, down = (-1) ** mirror, (-1) ** upside_down
    a, b, c, d = (0, down, across, 0) if transpose else (across, 0, 0, down)
    data = bytearray(write_video(tmp_path / "clip.mp4", [QUARTERS]).read_bytes())
    at = data.find(b"tkhd") + 4 + 4 + 5 * 4 + 16
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    (frame,) = read_all(tmp_path / "turned.mp4")
    # Where the matrix puts the middle of each quarter, counted from the picture's own.
    for x, y in itertools.product((-16, 16), repeat=2):
        shown_x, shown_y = a * x + c * y, b * x + d * y
        found = frame.image[(shown_y + 32) // 2, (shown_x + 32) // 2].astype(int)
        assert np.abs(found - QUARTERS[y + 32, x + 32]).max() < 40


def test_a_matrix_that_says_nothing_turns_nothing():
    assert display.turn_of_matrix(np.zeros(9)) == (False, False, False)
    assert display.turn_of_matrix(np.array([9, 1, 0, -1, 8, 0, 0, 0, 1])) == (False, False, False)


def test_oblong_pixels_become_square(tmp_path):
    # A disc as an anamorphic film stores it: half as wide as high.
    y, x = np.mgrid[:64, :48]
    disc = ((((x - 23.5) * 2) ** 2 + (y - 31.5) ** 2) < 24**2)[..., None] * np.uint8([220, 220, 220])
    path = write_video(tmp_path / "wide.mp4", [disc], options={"x264-params": "sar=2/1"})
    (frame,) = read_all(path)
    assert frame.crop == "centre"
    bright = frame.image[..., 0] > 110
    assert bright.any(0).sum() == pytest.approx(bright.any(1).sum(), abs=2)
    assert bright.any(1).sum() == pytest.approx(24, abs=2)
    # As wide as high once its pixels are square: a face crop that is given.
    path = write_video(tmp_path / "given.mp4", [disc[:, 8:40]], options={"x264-params": "sar=2/1"})
    assert read_all(path)[0].crop == "given" and video.read_header(path).pixel_aspect == 2.0
    path = write_video(tmp_path / "absurd.mp4", [disc], options={"x264-params": "sar=50/1"})
    with pytest.raises(BadDataError, match=r"absurd\.mp4 says that its pixels are 50 times"):
        read_all(path)


@pytest.mark.parametrize("ending", ["flv", "mkv", "mp4", "mov", "avi", "mpg", "ts"])
def test_the_rate_is_that_of_the_frames_whatever_the_header_says(tmp_path, ending):
    path = tmp_path / f"clip.{ending}"
    codec = "mpeg2video" if ending == "mpg" else "libx264"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if ending in ("flv", "mkv") else 25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(GREY[:20]):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number * (40 if ending in ("flv", "mkv") else 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert video.read_header(path).rate_hz == pytest.approx(25.0, rel=1e-3)
    times = [frame.time_seconds for frame in read_all(path)]
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-3)
    shades = [frame.image.mean() for frame in read_all(path)]
    assert shades == sorted(shades) and len(shades) == 20
    np.testing.assert_allclose(read_frame_times(path).times_seconds, times, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "frames", "rate_hz"),
    [
        ("no_face.mp4", 95, 24.0),
        ("trimmed_copy.mp4", 60, 30.0),
        ("trim_optimization_failure.mp4", 167, 29.88),
        ("edit_list_positive_shift.mp4", 270, 30.0),
        ("variable_rate.mkv", 42, 17.57),
        ("face.flv", 72, 30.0),
        ("face.webm", 72, 30.0),
        ("FACE.MPG", 62, 25.0),
        ("no_sound.MOV", 72, 30.0),
    ],
)
def test_real_videos_are_whole(shared, name, frames, rate_hz):
    path = shared / "data" / "own_videos" / name
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    read = read_all(path)
    assert len(read) == frames
    clock = read_frame_times(path)
    np.testing.assert_allclose(clock.times_seconds, [frame.time_seconds for frame in read], atol=1e-6)
    assert clock.rate_hz == pytest.approx(rate_hz, rel=1e-3) == video.read_header(path).rate_hz


def test_real_videos_are_shown_upright_and_undistorted(shared):
    folder = shared / "data" / "own_videos"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")

    def first(name):
        return next(video.read_frames(folder / name, size=64)).image.astype(int)

    plain = first("single_face.mp4")
    # The same film squeezed, and with a note to turn it: its picture lies on its side until turned.
    assert np.abs(first("anamorphic.mp4") - plain).mean() < 6
    turned = first("rotated_90.mp4")
    assert min(np.abs(np.rot90(plain, k) - turned).mean() for k in (1, 3)) < 3
    mirrored, upright = first("sample_rotate_and_reflect.mp4"), first("sample_portrait.mp4")
    assert np.abs(mirrored - upright).mean() < 8
