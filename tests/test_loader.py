from __future__ import annotations

import dataclasses
import multiprocessing
import threading
import time

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.augment import FrameAugmentation, SignalAugmentation
from data_pipelines.errors import UsageError
from data_pipelines.loader import PADDING, Shard
from data_pipelines.normalise import MODES
from data_pipelines.worker_batches import LostWorker, WorkerBatches
from jmt_jax.experiment import make_experiment, open_data


@pytest.fixture(scope="module")
def biovid(cache_dir):
    config = tiny.shrunk("biovid", cache_dir)
    return make_experiment(config, open_data(config), fold=0, seed=0)


@pytest.fixture(scope="module")
def stress(cache_dir):
    config = tiny.shrunk("stress", cache_dir, model__streams="pulse,skin_conductance,temperature")
    return make_experiment(config, open_data(config), fold=0, seed=0)


def _take(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_shapes_and_types_are_those_of_the_example(biovid, stress):
    for experiment, size in ((biovid, 4), (stress, 8)):
        rows = experiment.rows["train"]
        batch = next(experiment.loader.train(rows, global_batch_size=size, seed=0))
        example = experiment.loader.example_batch(size)
        assert jax.tree.structure(batch) == jax.tree.structure(example)
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), batch, example)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.dtype == b.dtype, batch, example)))
        assert batch["label_mask"].all() and not example["label_mask"].any()
    assert biovid.loader.example_batch(2)["inputs"]["visual"].shape == (2, 4, 5, 16, 16, 3)
    assert biovid.loader.example_batch(2)["inputs"]["physio"].shape == (2, 1, 2816, 1)
    assert stress.loader.example_batch(2)["inputs"]["pulse"].shape == (2, 6, 640, 1)


def test_an_epoch_holds_every_row_once_and_the_next_is_in_another_order(biovid):
    rows = biovid.rows["train"]
    batches = _take(biovid.loader.train(rows, global_batch_size=4, seed=3), 2 * len(rows) // 4)
    order = np.concatenate([batch["index"] for batch in batches])
    first, second = order[: len(rows)], order[len(rows) : 2 * len(rows)]
    assert sorted(first) == sorted(rows) and sorted(second) == sorted(rows)
    assert first.tolist() != second.tolist()


def test_a_saved_state_goes_on_with_the_same_draws(biovid):
    rows = biovid.rows["train"]
    whole = biovid.loader.train(rows, global_batch_size=4, seed=3)
    _take(whole, 2)
    state = whole.get_state()
    expected = _take(whole, 3)
    again = biovid.loader.train(rows, global_batch_size=4, seed=3)
    again.set_state(state)
    for one, other in zip(expected, _take(again, 3), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_sees_the_same_global_batches(stress, processes):
    rows = stress.rows["train"]
    whole = _take(stress.loader.train(rows, global_batch_size=8, seed=1), 3)
    shards = [
        _take(stress.loader.train(rows, global_batch_size=8, seed=1, shard=Shard(index, processes)), 3)
        for index in range(processes)
    ]
    for number, batch in enumerate(whole):
        parts = [shard[number] for shard in shards]
        for place, row in enumerate(batch["index"]):
            part, local = parts[place * processes // 8], place % (8 // processes)
            assert part["index"][local] == row
            one = jax.tree.map(lambda x, place=place: x[place], batch)
            other = jax.tree.map(lambda x, local=local: x[local], part)
            jax.tree.map(np.testing.assert_array_equal, one, other)


def test_evaluation_gives_each_row_once_and_pads(biovid):
    rows = biovid.rows["test"]
    for processes in (1, 2):
        found = []
        for index in range(processes):
            batches = list(biovid.loader.evaluate(rows, global_batch_size=6, shard=Shard(index, processes)))
            assert len(batches) == -(-len(rows) // 6)
            for batch in batches:
                real = batch["index"] != PADDING
                assert not batch["label_mask"][~real].any() and batch["label_mask"][real].all()
                assert not any(mask[~real].any() for mask in batch["masks"].values())
                found += batch["index"][real].tolist()
        assert sorted(found) == sorted(rows)


def test_evaluation_draws_nothing_random(biovid):
    rows = biovid.rows["test"]
    one, other = (list(biovid.loader.evaluate(rows, global_batch_size=4)) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_worker_processes_give_the_same_batches(stress):
    rows = stress.rows["train"]
    inside = _take(stress.loader.train(rows, global_batch_size=8, seed=1), 4)
    loader = dataclasses.replace(stress.loader, num_workers=2)
    outside = _take(loader.train(rows, global_batch_size=8, seed=1), 4)
    for one, other in zip(inside, outside, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_worker_that_is_killed_ends_the_batches(stress):
    loader = dataclasses.replace(stress.loader, num_workers=2)
    others = set(multiprocessing.active_children())
    batches = loader.train(stress.rows["train"], global_batch_size=8, seed=1)
    next(batches)
    for worker in set(multiprocessing.active_children()) - others:
        worker.kill()
    with pytest.raises(LostWorker, match="ended abruptly"):
        for _ in range(100):  # what was loaded before comes first
            position = batches.get_state()
            next(batches)
    assert batches.get_state() == position


def test_a_worker_that_is_killed_while_it_starts_is_no_hang(stress):
    # Grain waits without end for a worker that it has just asked to go on from elsewhere.
    loader = dataclasses.replace(stress.loader, num_workers=2)
    position = loader.train(stress.rows["train"], global_batch_size=8, seed=1).get_state()
    batches = loader.train(stress.rows["train"], global_batch_size=8, seed=1)
    batches.set_state(position)
    others = set(multiprocessing.active_children())

    def kill():
        while not (workers := set(multiprocessing.active_children()) - others):
            time.sleep(0.01)
        time.sleep(0.3)
        for worker in workers:
            worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LostWorker):
        next(batches)
    killer.join()
    assert batches.get_state() == position


@pytest.mark.parametrize("error", [TimeoutError("the disk is away"), RuntimeError("a broken file")])
def test_an_error_of_loading_is_no_lost_worker(error):
    class Failing:
        def get_state(self):
            return {}

        def __next__(self):
            raise error

    with pytest.raises(type(error), match=str(error)):
        next(WorkerBatches(Failing()))


def test_a_recording_without_a_stream_is_masked(biovid):
    items = biovid.data.items
    recordings = list(items.recordings)
    row = int(biovid.rows["train"][0])
    number = int(items.recording[row])
    recordings[number] = dataclasses.replace(
        recordings[number], sources={"visual": recordings[number].sources["visual"]}
    )
    loader = dataclasses.replace(biovid.loader, items=dataclasses.replace(items, recordings=recordings))
    item = loader.load_item(row)
    assert not item["masks"]["physio"].any() and not item["inputs"]["physio"].any()
    assert item["masks"]["visual"].all() and item["label_mask"]


def test_missing_samples_are_zero_and_said_so(cache_dir):
    config = tiny.shrunk("stress", cache_dir, model__streams="skin_conductance")
    with config.unlocked():
        config.data.streams.skin_conductance.presence_channel = True
        config.data.sample.lifts_per_hour = 60.0
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    items = [experiment.loader.load_item(row) for row in range(len(experiment.data.items))]
    values = np.stack([item["inputs"]["skin_conductance"] for item in items])
    missing = values[..., 1] == 0
    assert missing.any() and np.all(values[..., 0][missing] == 0) and np.isfinite(values).all()
    masks = np.stack([item["masks"]["skin_conductance"] for item in items])
    assert np.array_equal(masks, (~missing).mean(-1) >= 0.5)


@pytest.mark.parametrize("mode", MODES)
def test_normalisation(cache_dir, mode):
    config = tiny.shrunk("stress", cache_dir, model__streams="temperature")
    config.data.streams.temperature.normalise = mode
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    loader, items = experiment.loader, experiment.data.items
    rows = np.flatnonzero(items.recording == items.recording[0])
    values = np.stack([loader.load_item(row)["inputs"]["temperature"] for row in rows])
    assert np.isfinite(values).all()
    if mode == "none":
        assert 20 < values.mean() < 45
    elif mode == "window":
        assert np.allclose(values.mean((1, 2, 3)), 0, atol=1e-3)
        assert np.allclose(values.std((1, 2, 3)), 1, atol=1e-2)
    elif mode == "centred":
        assert np.allclose(values.mean((1, 2, 3)), 0, atol=1e-3)
    elif mode == "subject":
        assert abs(values.mean()) < 0.5 and 0.5 < values.std() < 1.5


def test_the_past_does_not_know_the_future(cache_dir):
    config = tiny.shrunk("stress", cache_dir, model__streams="temperature")
    config.data.streams.temperature.normalise = "subject_past"
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    normaliser = experiment.loader.streams["temperature"]._normalise
    before = experiment.loader.load_item(0)["inputs"]["temperature"]
    table = experiment.data.prepared.table("temperature")
    later = table.start_seconds >= 60.0
    normaliser._moments[:, later] *= 7.0
    assert np.array_equal(before, experiment.loader.load_item(0)["inputs"]["temperature"])


@given(seed=st.integers(0, 50))
def test_augmentation_keeps_shape_and_type_and_follows_its_generator(seed):
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 10, 3), dtype=np.uint8)
    change = FrameAugmentation(0.2, 0.2, 0.2, 0.5, 0.5, 0.2)
    one, other = (change(frames, np.random.default_rng(seed)) for _ in range(2))
    assert one.shape == frames.shape and one.dtype == np.uint8 and np.array_equal(one, other)
    assert np.array_equal(FrameAugmentation()(frames, np.random.default_rng(seed)), frames)
    signal = np.random.default_rng(0).standard_normal((1, 20, 2)).astype(np.float32)
    noisy = SignalAugmentation(gain=0.1, noise=0.1)(signal, np.random.default_rng(seed))
    assert noisy.shape == signal.shape and noisy.dtype == np.float32


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(UsageError, match="multiple of 3"):
        Shard(0, 3).local_batch_size(8)
