from __future__ import annotations

import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import BadDataError
from data_pipelines.media import audio, spectrogram, video

FORMATS = {"pcm_s16le": "s16", "pcm_f32le": "flt", "aac": "fltp", "flac": "s16", "libmp3lame": "fltp"}


def tone(seconds, rate_hz, frequency_hz=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def write_sound(path, samples, *, rate_hz=44100, codec="pcm_s16le", options=None, gaps=(), block=1000):
    """Samples [N] or [C, N] in a file; after each (sample, seconds) of `gaps` the clock jumps."""
    samples = np.atleast_2d(samples)
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        for first in range(0, samples.shape[1], block):
            part = samples[:, first : first + block]
            if FORMATS[codec] == "s16":
                part = np.round(part * 32767).astype(np.int16)
            if not FORMATS[codec].endswith("p"):
                part = part.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(part), format=FORMATS[codec], layout=layout
            )
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = first + sum(round(jump * rate_hz) for sample, jump in gaps if first >= sample)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def whole(path, **options):
    pieces = list(audio.decode_audio(path, **options))
    return pieces, np.concatenate([piece.samples for piece in pieces])


# --- spectrogram ---


def test_clips_are_looked_at_each_on_its_own():
    rng = np.random.default_rng(0)
    waves = rng.standard_normal((2, 3, 3000)).astype(np.float32) * np.array([[[1], [0.1], [0.001]]])
    together = spectrogram.log_mel(waves, 16000)
    assert together.shape == (2, 3, 64, 7)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(together[index], spectrogram.log_mel(waves[index], 16000))


def test_silence_and_the_floor():
    silence = spectrogram.log_mel(np.zeros(2000, np.int16), 44100)
    np.testing.assert_allclose(silence, (-100 + 14.8) / 19.895, rtol=1e-6)
    burst = spectrogram.left_pad(tone(0.1, 44100), audio.PAPER_CLIP_SAMPLES)
    levels = spectrogram.log_mel(burst, 44100)
    assert levels.shape == (64, 104)
    assert np.ptp(levels) == pytest.approx(80 / 19.895, rel=1e-5)
    assert levels.argmax() % 104 > 90  # the sound is at the end


def test_padding_goes_before_the_sound():
    assert spectrogram.left_pad(np.array([[1, 2]], np.int16), 4).tolist() == [[0, 0, 1, 2]]
    assert spectrogram.left_pad(np.arange(3), 2).tolist() == [0, 1, 2]


def test_a_tone_lies_in_its_filter():
    filters = spectrogram.mel_filters(44100, 64, 1024)
    for frequency in (300.0, 1000.0, 5000.0):
        found = spectrogram.log_mel(tone(0.2, 44100, frequency), 44100).mean(1).argmax()
        assert abs(found - filters[round(frequency * 1024 / 44100)].argmax()) <= 1


def test_waves_that_cannot_be():
    with pytest.raises(ValueError, match="at least 513"):
        spectrogram.log_mel(np.zeros(512, np.int16), 44100)
    with pytest.raises(ValueError, match="int32"):
        spectrogram.log_mel(np.zeros(2000, np.int32), 44100)


# --- decoding ---


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_wav_comes_back_bit_for_bit_in_pieces_of_10_seconds(tmp_path, dtype):
    samples = np.random.default_rng(0).uniform(-1, 1, 8000 * 23 + 7).astype(np.float32)
    codec = "pcm_s16le" if dtype == "int16" else "pcm_f32le"
    path = write_sound(tmp_path / "x.wav", samples, rate_hz=8000, codec=codec)
    pieces, found = whole(path, rate_hz=8000, dtype=dtype)
    assert [len(piece.samples) for piece in pieces] == [80000, 80000, 24007]
    assert [piece.time_seconds for piece in pieces] == [0, 10, 20]
    expected = np.round(samples * 32767).astype(np.int16) if dtype == "int16" else samples
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_channels_become_their_mean(tmp_path):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.9, 0.9, (2, 3000)).astype(np.float32)
    path = write_sound(tmp_path / "x.wav", samples, codec="pcm_f32le")
    np.testing.assert_allclose(whole(path, dtype="float32")[1], samples.mean(0), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [16000, 44100, 48000])
@pytest.mark.parametrize("codec", ["pcm_s16le", "aac", "flac", "libmp3lame"])
def test_other_rates_and_codecs_keep_the_time(tmp_path, codec, rate_hz):
    ending = {"aac": "m4a", "flac": "flac", "libmp3lame": "mp3"}.get(codec, "wav")
    path = write_sound(tmp_path / f"x.{ending}", tone(2.0, 32000), rate_hz=32000, codec=codec)
    pieces, found = whole(path, rate_hz=rate_hz, dtype="float32")
    assert pieces[0].time_seconds == pytest.approx(0, abs=1e-6)
    assert len(found) == pytest.approx(2 * rate_hz, abs=0.04 * rate_hz)
    middle = slice(rate_hz // 2, rate_hz * 3 // 2)
    # One sample too late would be 0.03 at the lowest rate.
    assert np.abs(found[middle] - tone(2.0, rate_hz)[middle]).mean() < 0.02


def test_chunks_keep_the_contract(tmp_path):
    from data_pipelines.recording import Source, StreamSpec
    from data_pipelines.storage import checked_chunks

    path = write_sound(tmp_path / "x.wav", tone(21.0, 8000), rate_hz=8000)
    spec = StreamSpec("audio", "samples", ("mono",), ("full scale",), 16000.0, dtype="int16")
    chunks = audio.read_chunks(path, stream="audio", source="x", rate_hz=16000)
    chunks = list(checked_chunks(spec, Source("audio", "x", ("x.wav",)), chunks))
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert sum(map(len, chunks)) == pytest.approx(21 * 16000, abs=20)


def test_gaps_stay_gaps_and_overlaps_are_dropped(tmp_path):
    samples = tone(3.0, 8000)
    path = write_sound(tmp_path / "x.mka", samples, rate_hz=8000, gaps=[(8000, 2.0)])
    pieces, found = whole(path, rate_hz=8000)
    assert [piece.time_seconds for piece in pieces] == pytest.approx([0.0, 3.0], abs=2e-3)
    assert [len(piece.samples) for piece in pieces] == [8000, 16000]
    np.testing.assert_array_equal(found, np.round(samples * 32767).astype(np.int16))
    overlaps = [(8000 + 1000 * block, -0.0625) for block in range(8)]
    path = write_sound(tmp_path / "y.mka", samples, rate_hz=8000, gaps=overlaps)
    pieces, found = whole(path, rate_hz=8000)
    assert len(pieces) == 1 and 19000 < len(found) < 21001


def test_sound_beside_video_shares_its_clock(tmp_path):
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index in range(20):
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * index, np.uint8), format="rgb24")
            container.mux(pictures.encode(image))
            if index >= 5:
                part = av.AudioFrame.from_ndarray(
                    np.full((1, 800), index, np.int16), format="s16", layout="mono"
                )
                part.sample_rate, part.time_base, part.pts = 8000, Fraction(1, 8000), 800 * index
                container.mux(sound.encode(part))
        container.mux([*pictures.encode(), *sound.encode()])
    (piece,) = audio.decode_audio(path, rate_hz=8000)
    assert piece.time_seconds == pytest.approx(0.5, abs=2e-3)
    assert len(list(video.read_frames(path, size=32))) == 20


def test_what_holds_no_sound(tmp_path):
    silent = tmp_path / "silent.mp4"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode())
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound")
    with wave.open(str(tmp_path / "nothing.wav"), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
    for name, message in (
        ("silent.mp4", "holds no audio stream"),
        ("none.wav", "is missing"),
        ("empty.wav", r"empty\.wav \(0 bytes\) cannot be opened"),
        ("text.wav", "cannot be opened"),
        ("nothing.wav", "no sound at all"),
    ):
        with pytest.raises(BadDataError, match=message):
            list(audio.decode_audio(tmp_path / name))
    with pytest.raises(ValueError, match="int16 or float32"):
        list(audio.decode_audio(tmp_path / "nothing.wav", dtype="int8"))


def test_a_rate_that_would_make_hours_of_a_small_file(tmp_path):
    path = write_sound(tmp_path / "x.wav", tone(1.0, 8000), rate_hz=8000)
    data = bytearray(path.read_bytes())
    data[24:28] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(BadDataError, match="has sound of 1 samples a second"):
        list(audio.decode_audio(path))


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Folder of undamaged files; their bytes would make the reports of failures unreadable."""
    folder = tmp_path_factory.mktemp("sound")
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    return [
        write_sound(folder / name, sound, rate_hz=16000, codec=codec, options=options)
        for name, codec, options in (
            ("x.wav", "pcm_s16le", None),
            ("x.flac", "flac", None),
            ("x.m4a", "aac", None),
            ("y.m4a", "aac", {"movflags": "faststart"}),
            ("x.mka", "aac", None),
        )
    ]


@settings(max_examples=40)
@given(kind=st.integers(0, 4), share=st.floats(0.0, 0.7))
def test_a_truncated_file_never_passes(intact, tmp_path_factory, kind, share):
    path = tmp_path_factory.mktemp("cut") / "x"
    data = intact[kind].read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadDataError, match="x"):
        list(audio.decode_audio(path))


@settings(max_examples=40)
@given(kind=st.integers(0, 4), seed=st.integers(0, 1000))
def test_a_damaged_file_is_read_or_refused(intact, tmp_path_factory, kind, seed):
    rng = np.random.default_rng(seed)
    data = np.frombuffer(intact[kind].read_bytes(), np.uint8).copy()
    data[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(data.tobytes())
    try:
        pieces = list(audio.decode_audio(path))
    except BadDataError as error:
        assert str(path) in str(error)
    else:
        assert all(piece.samples.dtype == np.int16 and len(piece.samples) <= 441000 for piece in pieces)


def test_real_files(shared):
    pieces, speech = whole(shared / "media" / "obama_speech.mp4", rate_hz=16000)
    assert len(speech) == pytest.approx(8.73 * 16000, rel=0.01) and pieces[0].time_seconds == 0
    assert spectrogram.log_mel(speech[:45599], 16000).shape == (64, 104)
    pieces, sound = whole(shared / "media" / "face_noface.mov")
    assert pieces[0].time_seconds == pytest.approx(2.43, abs=0.01)
    assert len(sound) == pytest.approx(3.97 * 44100, rel=0.01)
