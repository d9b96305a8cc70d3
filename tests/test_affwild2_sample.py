from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from affwild2_case import digest

from data_pipelines import storage
from data_pipelines.errors import UsageError
from data_pipelines.media import audio, video
from data_pipelines.media.video_writing import write_film
from data_pipelines.recording import Source
from data_pipelines.sample.affwild2 import (
    SOUND_RATE_HZ,
    Affwild2SampleSpec,
    plan_video,
    write_affwild2,
)


def test_the_bytes_are_the_same_with_one_worker_or_two(tmp_path):
    spec = Affwild2SampleSpec(train=2, validation=0, test=0, seconds=2, size=32)
    write_affwild2(tmp_path / "one", spec, workers=1)
    done = []
    write_affwild2(tmp_path / "two", spec, lambda *counts: done.append(counts), workers=2)
    assert done[-1] == (2, 2) and digest(tmp_path / "one") == digest(tmp_path / "two")
    assert (
        "say nothing about affwild2" in json.loads((tmp_path / "one" / "SAMPLE.json").read_text())["warning"]
    )
    other = plan_video(dataclasses.replace(spec, seed=1), 0)
    assert not np.array_equal(other.times_seconds[:8], plan_video(spec, 0).times_seconds[:8])


def test_the_face_shows_valence_and_the_voice_arousal():
    spec = Affwild2SampleSpec(train=40, validation=0, test=0, seconds=30)
    moods = [track.mood for index in range(40) for track in plan_video(spec, index).tracks]

    def correlation(one, other):
        a, b = (np.concatenate([getattr(mood, name) for mood in moods]) for name in (one, other))
        return np.corrcoef(a, b)[0, 1]

    assert correlation("valence", "face_valence") > 0.9 and correlation("arousal", "voice_arousal") > 0.9
    for one, other in (("arousal", "face_arousal"), ("valence", "voice_valence")):
        assert 0.1 < correlation(one, other) < 0.6
    for one, other in (("valence", "arousal"), ("face_valence", "arousal"), ("voice_arousal", "valence")):
        assert abs(correlation(one, other)) < 0.25


@pytest.mark.parametrize(
    "options",
    [
        {"train": 0},
        {"seconds": 1.0},
        {"size": 33},
        {"edition": "VA"},
        {"without_face": 0.9},
    ],
)
def test_a_sample_that_cannot_be_made_is_a_usage_error(options):
    with pytest.raises(UsageError):
        Affwild2SampleSpec(**options)


def test_a_film_has_its_pictures_and_its_sound(tmp_path):
    times = np.array([0.0, 0.03, 0.11, 0.15])
    sound = np.sin(np.arange(8000) / 9).astype(np.float32) / 2
    images = [np.full((16, 16, 3), shade, np.uint8) for shade in (10, 90, 170, 250)]
    write_film(tmp_path / "film.mp4", images, times, sound=sound, sound_rate_hz=SOUND_RATE_HZ)
    frames = list(video.read_frames(tmp_path / "film.mp4", size=16))
    np.testing.assert_allclose([frame.time_seconds for frame in frames], times, atol=1e-5)
    assert [round(float(frame.image.mean()), -1) for frame in frames] == [10, 90, 170, 250]
    (piece,) = audio.decode_audio(tmp_path / "film.mp4")
    heard = piece.samples[500:7500].astype(float)
    assert np.corrcoef(heard, sound[500:7500])[0, 1] > 0.95


def test_a_source_may_be_a_folder(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "1").write_bytes(b"one")
    (tmp_path / "faces" / ".hidden").write_bytes(b"nothing")
    described = storage.describe_file(tmp_path, "faces")
    assert described.size == 3 and described.is_unchanged(tmp_path)
    (tmp_path / "faces" / "2").write_bytes(b"two")
    assert not described.is_unchanged(tmp_path)
    assert storage.describe_file(tmp_path, "faces").sha256 != described.sha256
    assert Source("visual", "x", ("faces",)).files == ("faces",)
