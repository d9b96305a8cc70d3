from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from data_pipelines import windows


@given(
    num_frames=st.integers(1, 300),
    tokens=st.integers(1, 8),
    frames=st.integers(1, 8),
    seed=st.one_of(st.none(), st.integers(0, 100)),
)
def test_segments_stay_in_the_clip_and_in_order(num_frames, tokens, frames, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    indices = windows.segment_frames(num_frames, tokens, frames, rng=rng)
    assert indices.shape == (tokens, frames) and indices.dtype == np.int32
    assert indices.min() >= 0 and indices.max() < num_frames
    assert np.all(np.diff(indices, axis=1) >= 0) and np.all(np.diff(indices[:, 0]) >= 0)
    if num_frames >= tokens * frames:
        assert np.all(np.diff(indices, axis=1) == 1)
        edges = np.arange(tokens + 1) * num_frames / tokens
        assert np.all(indices[:, 0] >= np.floor(edges[:-1])) and np.all(indices[:, -1] <= np.ceil(edges[1:]))


def test_evaluation_takes_the_middle_of_each_segment():
    assert windows.segment_frames(138, 4, 5)[:, 0].tolist() == [14, 49, 83, 118]


def test_the_paper_uses_frames_50_to_70_and_shorter_clips_whole():
    paper = windows.segment_frames(138, 4, 5, first_frame=50, last_frame=70)
    assert paper.ravel().tolist() == list(range(50, 70))
    whole = windows.segment_frames(60, 4, 5, first_frame=50, last_frame=70)
    assert whole.tolist() == windows.segment_frames(60, 4, 5).tolist()


def test_random_starts_reach_the_whole_segment():
    starts = {
        int(windows.segment_frames(40, 2, 5, rng=np.random.default_rng(seed))[0, 0]) for seed in range(200)
    }
    assert starts == set(range(16))


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        windows.segment_frames(0, 4, 5)


@given(
    duration=st.floats(0, 500), window=st.floats(1, 100), step=st.floats(0.5, 50)
)  # fmt: skip
def test_sliding_windows_lie_within_and_leave_no_room_for_another(duration, window, step):
    starts = windows.sliding_starts(duration, window, step)
    if len(starts):
        assert starts[0] == 0 and starts[-1] + window <= duration + 1e-6
        assert starts[-1] + step + window > duration - 1e-6
    else:
        assert duration < window


@given(tokens=st.integers(1, 12), rate=st.sampled_from([4.0, 32.0, 64.0, 512.0]), start=st.integers(0, 100))
def test_trailing_windows_tile_the_item(tokens, rate, start):
    ends = windows.token_ends(start, 60.0, tokens)
    indices = windows.trailing_samples(ends, 60.0 / tokens, 0.0, rate)
    assert indices.shape == (tokens, round(60.0 / tokens * rate))
    assert indices[-1, -1] == round((start + 60) * rate) - 1
    if (60.0 / tokens * rate).is_integer():
        assert np.array_equal(indices.ravel(), np.arange(start * rate, (start + 60) * rate))


def test_a_later_first_sample_shifts_the_indices():
    early = windows.trailing_samples(np.array([10.0]), 2.0, 0.0, 4.0)
    late = windows.trailing_samples(np.array([10.0]), 2.0, 1.5, 4.0)
    assert np.array_equal(early - 6, late)


@given(num_frames=st.integers(1, 2000))
def test_every_frame_is_a_target_once(num_frames):
    targets = windows.paper_targets(num_frames, "validation").ravel()
    inside = targets[targets <= num_frames]
    assert np.array_equal(np.sort(inside), np.arange(1, num_frames + 1))
    assert len(np.unique(targets)) == len(targets)


def test_training_on_1500_frames_uses_1024_of_them():
    sequences = windows.paper_sequences(1500, np.arange(1, 1501), "train")
    assert np.array_equal(np.sort(sequences.targets.ravel()), np.arange(1, 1025))


@given(
    available=st.lists(st.integers(1, 40), unique=True, max_size=40).map(sorted),
    target=st.integers(1, 80),
)
def test_a_token_sees_its_own_frames_in_order(available, target):
    frames = windows.paper_token_frames(np.array([[target]]), np.array(available, int))[0, 0]
    own = [frame for frame in available if target - 31 <= frame <= target]
    if not own:
        assert frames.tolist() == [windows.NO_FRAME] * 8
    else:
        assert set(frames.tolist()) <= set(own) and frames[-1] == own[-1]
        assert np.all(np.diff(frames) >= 0) and len(set(frames.tolist())) == min(len(own), 8)


def test_sequences_that_cannot_be():
    with pytest.raises(ValueError, match="at least one frame"):
        windows.paper_sequences(0, np.array([1]), "train")
    with pytest.raises(ValueError, match="train, validation or test"):
        windows.paper_sequences(9, np.array([1]), "val")
    for frames in ([0, 1], [2, 2], [3, 1]):
        with pytest.raises(ValueError, match="ascend strictly"):
            windows.paper_sequences(9, np.array(frames), "test")
    assert not windows.paper_sequences(40, np.array([], int), "test").mask.any()
