"""Features as a prepared data set: each unit once, the same bytes however they come, read as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_frame_items import GRID, PAPER, SMALL, SOUND, TASK, Prepared, Video

from data_pipelines import features
from data_pipelines.datasets import make_stream_windows
from data_pipelines.errors import BadDataError
from data_pipelines.feature_windows import FeatureSet, FeatureWindows, make_units
from data_pipelines.items import make_items
from data_pipelines.loader import Loader, Shard
from data_pipelines.source import PreparedSet, is_prepared

VISUAL = {"frames": 2, "reach_frames": 8}
BRIGHTER = {**VISUAL, "augment": {"brightness": 0.5}}
BATCH_ROWS = 3


def videos():
    return [
        Video("a", 90, faces=np.r_[1:20, 60:91]),
        Video("b", 30),
        Video("c", 40, sound=False),
        Video("faceless", 33, faces=[]),
        Video("e", 21),
        Video("f", 4),
        Video("g", 5),
    ]


class Case:
    """A data set, one stream of it, and a backbone that sees mean and spread of each token."""

    def __init__(self, videos, grid, stream, options, *, by_token=True, draw=0):
        self.prepared = Prepared(videos)
        self.prepared.card = {"dataset": "fake", "sample": True}
        self.items = make_items(self.prepared, TASK, grid)
        self.windows = make_stream_windows(self.prepared, stream, grid, options, training=frozenset())
        self.units = make_units(self.items, np.arange(len(self.items)), stream, by_token=by_token)
        self.stream, self.rows, self.fail_at = stream, [], -1
        self.reader = features.FeatureReader(
            self.prepared, stream, self.windows, self.units, self.encode, width=2, batch_rows=BATCH_ROWS,
            settings={"backbone": "mean and spread"}, draw=draw, block_frames=grid.block_frames,
        )  # fmt: skip

    def encode(self, values, mask):
        if len(self.rows) == self.fail_at:
            raise KeyboardInterrupt
        assert len(values) == len(mask) == BATCH_ROWS and not values[~mask].any()
        self.rows.append(int(mask.sum()))
        flat = values.reshape(*mask.shape, -1).astype(np.float32)
        return np.stack([flat.mean(-1), flat.std(-1)], -1)

    def write(self, out, shards=1):
        for index in range(shards):
            features.extract(self.reader, out, label="extracting", shard=Shard(index, shards))
            last = features.finish(self.reader, out, lambda sentence: None)
        return last

    def opened(self, out):
        return FeatureSet(PreparedSet.open(out), self.units)

    def loader(self, windows):
        return Loader(self.items, {self.stream: windows})


def content(folder):
    """Every file of a folder with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("grid", "stream", "options", "by_token"),
    [
        (SMALL, "visual", VISUAL, True),
        (SMALL, "audio", SOUND, True),
        (SMALL, "visual", VISUAL, False),
        (PAPER, "visual", {}, True),
    ],
)
def test_items_of_features_are_what_the_backbone_says_of_raw_items(tmp_path, grid, stream, options, by_token):
    long = [Video("a", 1100, group="train"), Video("b", 530, faces=np.r_[1:90, 300:531], group="validation")]
    case = Case(long if grid is PAPER else videos(), grid, stream, options, by_token=by_token)
    assert case.write(tmp_path)
    windows = FeatureWindows(stream, case.opened(tmp_path), (), mask_length=grid.tokens)
    assert windows.shape == (grid.tokens, 2)
    raw, ready = case.loader(case.windows), case.loader(windows)
    for row in [*range(0, len(case.items), 5), len(case.items) - 1, -1]:
        one, other = raw.load_item(row), ready.load_item(row, np.random.default_rng(0))
        mask = one["masks"][stream]
        np.testing.assert_array_equal(mask, other["masks"][stream])
        np.testing.assert_array_equal(one["label_mask"], other["label_mask"])
        values = one["inputs"][stream].reshape(grid.tokens, -1).astype(np.float32)
        wanted = np.where(mask[:, None], np.stack([values.mean(-1), values.std(-1)], -1), 0)
        np.testing.assert_allclose(other["inputs"][stream], wanted, atol=1e-5)


def test_each_unit_is_computed_once_and_nothing_a_second_time(tmp_path):
    case = Case(videos(), SMALL, "visual", VISUAL)
    counted = []
    plain, case.reader._read = case.reader._read, lambda row: counted.append(row) or plain(row)
    case.write(tmp_path)
    seen = [(row.recording, row.first + i) for row in counted for i in range(row.count)]
    assert sorted(seen) == [(number, i) for number, one in case.units.items() for i in range(len(one))]
    assert (
        sum(len(one) for one in case.units.values()) == 90 + 30 + 40 + 21 + 4 + 5
    )  # the faceless one has none
    # Short recordings share a batch.
    assert len(case.rows) < sum(-(-len(rows) // BATCH_ROWS) for rows in case.reader._rows.values())
    done = len(case.rows)
    assert case.write(tmp_path) and len(case.rows) == done
    assert set(PreparedSet.open(tmp_path).streams) == {"visual"}
    assert not (tmp_path / "sources").exists()


def test_two_shards_give_the_bytes_of_one(tmp_path):
    assert Case(videos(), SMALL, "visual", VISUAL).write(tmp_path / "one")
    halves = [Case(videos(), SMALL, "visual", VISUAL) for _ in range(2)]
    for index, (case, finished) in enumerate(zip(halves, (False, True), strict=True)):
        features.extract(case.reader, tmp_path / "two", label="", shard=Shard(1 - index, 2))
        assert features.finish(case.reader, tmp_path / "two", lambda sentence: None) == finished
    assert all(case.rows for case in halves)
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_stopped_anywhere_it_ends_in_the_same_bytes(tmp_path):
    whole = Case(videos(), SMALL, "visual", VISUAL)
    whole.write(tmp_path / "whole")
    for batch in range(1, len(whole.rows), 5):
        case = Case(videos(), SMALL, "visual", VISUAL)
        case.fail_at = batch
        with pytest.raises(KeyboardInterrupt):
            case.write(tmp_path / f"{batch}")
        assert not is_prepared(tmp_path / f"{batch}")
        case.fail_at = -1
        assert case.write(tmp_path / f"{batch}")
        assert content(tmp_path / f"{batch}") == content(tmp_path / "whole")


_KILLED = """
import os, sys
from pathlib import Path
import test_features as this

class Killed(this.Case):
    def encode(self, values, mask):
        if len(self.rows) == 12:
            os.kill(os.getpid(), 9)
        return super().encode(values, mask)

Killed(this.videos(), this.SMALL, "visual", this.VISUAL).write(Path(sys.argv[1]))
"""


def test_killed_it_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "killed")],
        cwd=Path(__file__).parent, env={"PYTHONPATH": f"{Path(__file__).parents[1]}"}, check=False,
    )  # fmt: skip
    assert done.returncode == -9
    left = list((tmp_path / "killed").rglob("*.partial"))
    assert left and not is_prepared(tmp_path / "killed")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").rglob("*.npz")}
    assert kept
    again, whole = (Case(videos(), SMALL, "visual", VISUAL) for _ in range(2))
    again.write(tmp_path / "killed")
    whole.write(tmp_path / "whole")
    assert len(again.rows) < len(whole.rows)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_training_takes_a_draw_by_its_key_and_evaluation_the_clean_one(tmp_path):
    cases = [Case([Video("a", 64)], SMALL, "visual", BRIGHTER, draw=draw) for draw in range(3)]
    sets = []
    for draw, case in enumerate(cases):
        case.write(tmp_path / f"{draw}")
        sets.append(case.opened(tmp_path / f"{draw}"))
    again = Case([Video("a", 64)], SMALL, "visual", BRIGHTER, draw=1)
    again.write(tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "1")
    loader = cases[0].loader(FeatureWindows("visual", sets[0], sets[1:], mask_length=4))
    alone = [cases[0].loader(FeatureWindows("visual", one, (), mask_length=4)) for one in sets]
    clean, *drawn = (one.load_item(9)["inputs"]["visual"] for one in alone)
    np.testing.assert_array_equal(loader.load_item(9)["inputs"]["visual"], clean)
    # One copy has one brightness for all tokens of a sequence.
    for copy in drawn:
        ratio = copy[:, 0] / clean[:, 0]
        np.testing.assert_allclose(ratio, ratio[0], rtol=0.05)
        assert abs(ratio[0] - 1) > 0.01
    chosen = []
    for seed in range(12):
        one, same = (loader.load_item(9, np.random.default_rng(seed))["inputs"]["visual"] for _ in range(2))
        np.testing.assert_array_equal(one, same)
        chosen.append([np.array_equal(one, copy) for copy in drawn])
    assert {tuple(choice) for choice in chosen} == {(True, False), (False, True)}


def test_features_that_are_not_finite_and_sets_of_other_units_are_refused(tmp_path):
    case = Case(videos(), SMALL, "visual", VISUAL)
    case.reader._encode = lambda values, mask: np.full((*mask.shape, 2), np.inf, np.float32)
    with pytest.raises(BadDataError, match="not finite"):
        case.write(tmp_path / "bad")
    assert not list((tmp_path / "bad").rglob("*.npz"))
    case = Case(videos(), SMALL, "visual", VISUAL)
    case.write(tmp_path / "good")
    other = Case(videos()[:2], SMALL, "visual", VISUAL)
    with pytest.raises(BadDataError, match="extract again"):
        FeatureWindows("visual", other.opened(tmp_path / "good"), (), mask_length=4)


def test_the_grid_of_the_paper_fits_blocks():
    case = Case([Video("a", 1100)], GRID, "visual", {})
    blocks = {(row.first // 512, (row.first + row.count - 1) // 512) for row in case.reader._rows[0]}
    assert blocks == {(0, 0), (1, 1), (2, 2)} and len(case.reader._rows[0]) == -(-1100 // 16)
