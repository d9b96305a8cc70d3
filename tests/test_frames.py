"""Values of frames: stitched from sequences, filled, smoothed in two ways, and the challenge's files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import challenge, frames


def _times(*lengths):
    return [np.cumsum(np.random.default_rng(n).uniform(0.02, 0.05, n)) for n in lengths]


def test_every_frame_gets_its_own_value_in_whatever_order():
    rng = np.random.default_rng(0)
    truth = [rng.normal(size=(n, 2)) for n in (7, 5)]
    places = [(r, f) for r in (0, 1) for f in range(len(truth[r]))]
    rng.shuffle(places)
    recording = np.array([r for r, _ in places])
    token_frames = np.array([[f] for _, f in places])
    values = np.stack([truth[r][[f]] for r, f in places])
    found = frames.stitch(values, recording, token_frames, _times(7, 5))
    np.testing.assert_allclose(found.values, np.concatenate(truth))
    assert found.predicted.all() and found.offsets.tolist() == [0, 7, 12]


def test_several_predictions_are_averaged_and_padding_counts_for_nothing():
    values = np.array([[[1.0], [9.0]], [[3.0], [5.0]], [[np.nan], [np.nan]]])
    token_frames = np.array([[0, -1], [0, 1], [1, -1]])
    found = frames.stitch(values, np.zeros(3, int), token_frames, _times(2))
    np.testing.assert_allclose(found.values[:, 0], [2.0, 5.0])


def test_a_frame_without_a_prediction_lies_between_its_neighbours_in_time():
    times = [np.array([0.0, 0.1, 0.4, 0.5, 0.6]), np.array([0.0, 1.0])]
    found = frames.stitch(np.array([[[1.0, -1.0], [2.0, 0.0]]]), np.array([0]), np.array([[1, 3]]), times)
    np.testing.assert_allclose(found.values[:5, 0], [1.0, 1.0, 1.75, 2.0, 2.0])
    assert found.predicted.tolist() == [False, True, False, True, False, False, False]
    np.testing.assert_array_equal(found.values[5:], 0)
    assert frames.interpolated_runs(found.predicted[:5]) == [(0, 0), (2, 2), (4, 4)]
    assert frames.interpolated_runs(found.predicted[5:]) == [(0, 1)]
    assert frames.interpolated_runs(np.ones(3, bool)) == []


def test_a_frame_past_the_end_is_refused():
    with pytest.raises(ValueError, match="frame 2 of a recording of 2 frames"):
        frames.stitch(np.zeros((1, 1, 2)), np.array([0]), np.array([[2]]), _times(2))


@pytest.mark.parametrize("size", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("length", [1, 7, 60])
def test_the_centred_mean_is_that_of_the_frames_that_exist(size, length):
    column = np.random.default_rng(size).normal(size=length)
    weights = np.ones(size) if size % 2 else np.r_[0.5, np.ones(size - 1), 0.5]
    expected = []
    for frame in range(length):
        near = [(frame + k - size // 2, weight) for k, weight in enumerate(weights)]
        near = [(f, weight) for f, weight in near if 0 <= f < length]
        expected.append(sum(weight * column[f] for f, weight in near) / sum(weight for _, weight in near))
    found = frames.smooth(column[:, None], "centred", (size,))[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(frames.smooth(np.full((length, 1), 0.3), "centred", (size,)), 0.3)
    reverse = frames.smooth(column[::-1, None], "centred", (size,))[::-1, 0]
    np.testing.assert_allclose(found, reverse, atol=1e-12)


def test_the_papers_smoothing_pads_with_zeros_and_looks_further_back():
    values = np.random.default_rng(3).uniform(-1, 1, (90, 2))
    found = frames.smooth(values, "paper", (20, 50))
    for column, size in enumerate((20, 50)):
        padded = np.concatenate([np.zeros(size), values[:, column], np.zeros(size)])
        expected = [padded[size + i - size // 2 : size + i - size // 2 + size].mean() for i in range(90)]
        np.testing.assert_allclose(found[:, column], expected, atol=1e-12)
    assert abs(frames.smooth(np.ones((90, 1)), "paper", (50,))[0, 0] - 0.5) < 0.02
    np.testing.assert_array_equal(frames.smooth(values, "none", ()), values)
    assert scipy.ndimage.uniform_filter1d(np.r_[0.0, 0, 1, 0, 0], 2, mode="constant").argmax() == 2


def test_options_that_do_not_fit_are_sentences():
    frames.FrameOptions().check(("valence", "arousal"))
    for options, message in (
        ({"smoothing": "median"}, "centred, paper, none"),
        ({"smoothing_frames": (20,)}, "for each of valence, arousal"),
        ({"value_range": (1.0, -1.0)}, "lower one first"),
    ):
        with pytest.raises(UsageError, match=message):
            frames.FrameOptions(**options).check(("valence", "arousal"))


def test_challenge_files_there_and_back(tmp_path):
    values = np.random.default_rng(0).uniform(-1, 1, (12, 2))
    values[0] = -1e-9, 0.123456
    path = challenge.write(tmp_path / "challenge", "7-60-1920x1080_left", values)
    lines = path.read_text().splitlines()
    assert lines[0] == "image_location,valence,arousal"
    assert lines[1] == "7-60-1920x1080_left/00001.jpg,0.00000,0.12346"
    assert len(lines) == 13 and lines[12].startswith("7-60-1920x1080_left/00012.jpg,")
    np.testing.assert_allclose(challenge.read(path), values, atol=5.1e-6)
    path.write_text("\n".join([*lines[:3], *lines[4:]]))
    with pytest.raises(BadDataError, match="line 4"):
        challenge.read(path)
    with pytest.raises(ValueError, match="finite"):
        challenge.write(tmp_path, "a", np.full((2, 2), np.nan))
