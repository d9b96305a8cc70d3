"""Normalisation of signals: what it looks at, channels without a deviation, and the scale within windows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_pipelines.datasets import make_stream_windows
from data_pipelines.errors import BadDataError
from data_pipelines.grid import Grid
from data_pipelines.normalise import LOOKS_AHEAD, MODES, Normaliser
from data_pipelines.recording import Annotation, Chunk, Recording, StreamSpec
from data_pipelines.source import make_table
from data_pipelines.stream_windows import Moment
from jmt_jax.part_checks import masked_channels

RATE_HZ, CHUNK = 4.0, 40
CLIP, SLIDING = Grid("clip", 1), Grid("sliding", 2, window_seconds=6.0, step_seconds=3.0)
NEVER = Annotation(("label",), None, np.zeros((1, 1), np.float32), np.zeros((1, 1), bool))


class Prepared:
    """Signals of two channels in memory, in chunks of 10 s; one recording a person."""

    path = "fake"

    def __init__(self, *signals):
        self.streams = {"body": StreamSpec("body", "samples", ("a", "b"), ("1", "1"), rate_hz=RATE_HZ)}
        self.recordings, self._chunks, columns = [], [], {}
        for number, signal in enumerate(signals):
            name = f"r{number}"
            self.recordings.append(Recording(name, name, {"body": name}, NEVER))
            blocks = [signal[begin : begin + CHUNK] for begin in range(0, len(signal), CHUNK)]
            self._chunks += [
                Chunk("body", name, index, np.array([index * CHUNK / RATE_HZ]), RATE_HZ, (), block)
                for index, block in enumerate(blocks)
            ]
            columns[name] = {
                "length": np.array([len(block) for block in blocks], np.int32),
                "start_seconds": np.arange(len(blocks)) * CHUNK / RATE_HZ,
                "rate_hz": np.full(len(blocks), RATE_HZ),
                "times_seconds": np.zeros(0),
                "moment_count": np.stack([np.isfinite(block).sum(0) * 1.0 for block in blocks]),
                "moment_sum": np.stack([np.nansum(block.astype(float), 0) for block in blocks]),
                "moment_square_sum": np.stack([np.nansum(block.astype(float) ** 2, 0) for block in blocks]),
            }
        self._table = make_table(list(columns), list(columns.values()))

    def table(self, stream):
        return self._table

    def read(self, stream, rows):
        return [self._chunks[row] for row in rows]


def _stream(signals, mode, grid, **options):
    """Windows of the signals; the second is trained on."""
    options = {"normalise": mode, **({"samples": 60} if grid.kind == "clip" else {}), **options}
    return make_stream_windows(Prepared(*signals), "body", grid, options, training=frozenset([1]))


def _moments(*signals):
    prepared = Prepared(*signals)
    return prepared.table("body"), prepared.recordings


def _read(signals, mode, grid, start=0.0, **options):
    """The first signal's window that begins at ``start``."""
    recording = Prepared(*signals).recordings[0]
    return _stream(signals, mode, grid, **options).read(recording, Moment(0, start, None))


def _signal(seed, samples=200):
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(samples, 2)), 0) + rng.normal(size=(samples, 2))
    return walk.astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("grid", "start"), [(CLIP, 0.0), *((SLIDING, start) for start in (0.0, 3.0, 24.0))])
def test_what_comes_after_a_window_changes_it_only_where_that_is_said(mode, grid, start):
    """``subject_past`` took the whole first chunk before that had ended."""
    mine, other = _signal(0), _signal(1)
    end = 60 if grid.kind == "clip" else round((start + grid.window_seconds) * RATE_HZ)
    changed = mine.copy()
    changed[end:] = 5 * changed[end:] + 100
    before, mask = _read((mine, other), mode, grid, start)
    after, _ = _read((changed, other), mode, grid, start)
    assert np.isfinite(before).all() and mask.all()
    assert np.array_equal(before, after) != (mode in LOOKS_AHEAD)


@pytest.mark.parametrize("seed", range(3))
def test_no_later_sample_changes_a_window_of_the_past(seed):
    """``subject_past``, with gaps and a channel that begins late, wherever the change begins."""
    rng = np.random.default_rng(seed)
    mine = _signal(seed)
    mine[rng.random(len(mine)) < 0.2] = np.nan
    mine[: rng.integers(70), 1] = np.nan
    changed = mine.copy()
    cut = int(rng.integers(30, 190))
    changed[cut:] = np.where(rng.random((len(mine) - cut, 2)) < 0.3, np.nan, 1e3)
    starts = np.arange(0, cut / RATE_HZ - SLIDING.window_seconds + 1e-9, 0.25)
    for start in starts:
        before, after = (_read((one, mine), "subject_past", SLIDING, start) for one in (mine, changed))
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])
    assert len(starts) > 1


@pytest.mark.parametrize("value", [np.nan, 33.25])
@pytest.mark.parametrize("mode", ["centred", "train"])
def test_a_channel_without_deviation_in_training_is_masked(mode, value):
    """An empty one got the deviation 1, a constant one 1e-6: the others' numbers went on as they are."""
    dead, other = _signal(0), _signal(1)
    dead[:, 1] = value
    for grid in (CLIP, SLIDING):
        values, mask = _read((other, dead), mode, grid)
        assert mask.all() and not values[..., 1].any() and 0 < np.abs(values).max() < 100
        values, mask = _read((dead, dead), mode, grid)
        assert mask.all() and not values[..., 1].any() and values[..., 0].any()
        with pytest.raises(BadDataError, match="in b; leave it out"):
            _read((other, dead), mode, grid, channels=("b",))
    stream = _stream((other, dead), mode, CLIP)
    assert stream.masked_channels == ("b",) and not _stream((dead, other), mode, CLIP).masked_channels
    kept = json.loads(json.dumps(stream.constants, allow_nan=False))
    assert kept["deviation"][1] is None
    again = Normaliser(mode, "body", *_moments(dead, other), (), constants=kept)
    assert again.constants == kept
    assert "body is used without b" in masked_channels({"body": stream})[0]


@pytest.mark.parametrize("value", [np.nan, 33.25])
@pytest.mark.parametrize("mode", ["subject", "subject_past"])
def test_a_channel_without_deviation_in_a_person_is_missing(mode, value):
    dead, other = _signal(0), _signal(1)
    dead[:, 1] = value
    for grid in (CLIP, SLIDING):
        values, mask = _read((dead, other), mode, grid, presence_channel=True)
        assert not mask.any() and not values[..., 2].any()
        alone, mask = _read((dead, other), mode, grid, channels=("a",))
        assert mask.all() and 0 < np.abs(alone).max() < 100


def test_a_channel_that_begins_late_is_there_from_then_on():
    """The first chunk had no sample of it: the window itself says the scale."""
    late, other = _signal(0), _signal(1)
    late[:CHUNK, 1] = np.nan
    values, mask = _read((late, other), "subject_past", SLIDING, start=CHUNK / RATE_HZ)
    assert mask.all() and values[..., 1].std() == pytest.approx(1, abs=0.05)


def test_a_constant_within_one_window_is_no_missing_channel():
    steady, other = _signal(0), _signal(1)
    steady[:60, 1] = 33.25
    values, mask = _read((steady, other), "window", CLIP)
    assert mask.all() and not values[..., 1].any() and values[..., 0].any()


def test_centred_has_the_deviation_within_windows():
    """In a sliding grid it was that within whole recordings, drift and all."""
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 500, 960)[:, None]
    signal = (drift + rng.normal(size=(960, 2))).astype(np.float32)
    grid = Grid("sliding", 2, window_seconds=20.0, step_seconds=20.0)
    values = [_read((signal, signal), "centred", grid, start)[0] for start in np.arange(0.0, 220.0, 20.0)]
    assert np.sqrt(np.mean(np.square(values))) == pytest.approx(1, abs=0.02)
