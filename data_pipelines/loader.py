"""Items to batches with Grain: shuffled, sharded by process, windowed, augmented, batched, checkpointable.

A batch is a dict::

    inputs      stream -> [B, S, ...] (or [B, 1, ...]: one window for all tokens)
    masks       stream -> bool [B, S] (or [B, 1]); False where the stream is absent
    labels      int32 [B], float32 [B, A] or float32 [B, S, A]
    label_mask  bool, of the labels' shape; False for padding
    index       int32 [B], row of the item table; -1 for padding
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines.errors import UsageError
from data_pipelines.feature_windows import FeatureWindows
from data_pipelines.frame_windows import LogMelWindows, TargetFrameWindows
from data_pipelines.item_table import ItemTable
from data_pipelines.program import begin_worker
from data_pipelines.stream_windows import FrameWindows, Moment, SignalWindows
from data_pipelines.worker_batches import WorkerBatches

Batch = dict[str, Any]
StreamWindows = FrameWindows | SignalWindows | TargetFrameWindows | LogMelWindows | FeatureWindows

PADDING = -1
_MIXED_BLOCKS = 4


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of every global batch this process loads."""

    process_index: int = 0
    process_count: int = 1

    def local_batch_size(self, global_batch_size: int) -> int:
        """This process's share of a global batch.

        Raises:
          UsageError: The processes cannot share it equally.
        """
        if global_batch_size < 1 or global_batch_size % self.process_count:
            raise UsageError(
                f"a global batch of {global_batch_size} cannot be shared by {self.process_count} processes; "
                f"choose a multiple of {self.process_count}"
            )
        return global_batch_size // self.process_count


@dataclasses.dataclass(frozen=True)
class Loader:
    """Turns rows of an item table into batches.

    Attributes:
      items: The item table.
      streams: Stream name to what it sees.
      num_threads: Threads that load batches ahead.
      num_workers: Worker processes for training batches; 0 loads in this process.
      mixed_blocks: How many blocks training mixes at a time; what they share is in memory at once.
    """

    items: ItemTable
    streams: Mapping[str, StreamWindows]
    num_threads: int = 2
    num_workers: int = 0
    mixed_blocks: int = _MIXED_BLOCKS

    def load_item(self, row: int, rng: np.random.Generator | None = None) -> Batch:
        """One item without the batch axis; ``row`` -1 gives padding, in which everything is masked."""
        inputs, masks = {}, {}
        is_padding = row == PADDING
        index = 0 if is_padding else int(row)
        number = int(self.items.recording[index])
        recording = self.items.recordings[number]
        targets = None if self.items.targets is None else self.items.targets[index]
        moment = Moment(number, float(self.items.start_seconds[index]), rng, targets)
        for name, stream in self.streams.items():
            if is_padding or name not in recording.sources:
                inputs[name] = np.zeros(stream.shape, stream.dtype)
                masks[name] = np.zeros(stream.mask_length, bool)
            else:
                inputs[name], masks[name] = stream.read(recording, moment)
        label_mask = self.items.label_mask[index]
        if self.items.token_frames is not None:
            # What a token says that rests on nothing is no prediction.
            seen = np.stack([np.broadcast_to(mask, label_mask.shape[:1]) for mask in masks.values()]).any(0)
            label_mask = label_mask & seen[:, None]
        return {
            "inputs": inputs,
            "masks": masks,
            "labels": self.items.labels[index],
            "label_mask": np.zeros_like(label_mask) if is_padding else label_mask,
            "index": np.int32(row),
        }

    def train(
        self, rows: Sequence[int], *, global_batch_size: int, seed: int, shard: Shard = Shard()
    ) -> grain.DatasetIterator | WorkerBatches:
        """Endless training batches, reshuffled each epoch.

        The order, and each item's random draws, depend on the seed and on the position in the global
        order only: another number of processes sees the same global batches. Items with a block come in
        shuffled groups of `mixed_blocks` shuffled blocks, so that what they share is decoded once.

        Returns:
          An iterator over local batches with ``get_state()`` and ``set_state(state)``.
        """
        if not len(rows):
            raise UsageError("the training part of the split is empty; use fewer folds or more recordings")
        rows = np.asarray(rows, np.int64)
        if self.items.block is None:
            order = grain.MapDataset.source(rows).shuffle(seed=seed).repeat()
        else:
            order = grain.MapDataset.source(BlockOrder(rows, self.items.block[rows], seed, self.mixed_blocks))
        dataset = order.random_map(_LoadItem(self), seed=seed + 1)
        batches = _share(dataset, shard, global_batch_size)
        options = grain.ReadOptions(num_threads=self.num_threads, prefetch_buffer_size=2 * self.num_threads)
        if self.num_workers:
            if not flags.FLAGS.is_parsed():
                # Grain's worker pool reads absl flags; a program without a command line has parsed none.
                flags.FLAGS.mark_as_parsed()
            iterable = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
            workers = grain.MultiprocessingOptions(num_workers=self.num_workers)
            return WorkerBatches(iter(iterable.mp_prefetch(workers, worker_init_fn=begin_worker)))
        return iter(batches.to_iter_dataset(options))

    def evaluate(
        self, rows: Sequence[int], *, global_batch_size: int, shard: Shard = Shard()
    ) -> Iterator[Batch]:
        """One pass over the rows in order, padded so that all processes have equally many batches."""
        count = -(-len(rows) // global_batch_size) * global_batch_size
        padded = np.full(count, PADDING, np.int64)
        padded[: len(rows)] = rows
        dataset = grain.MapDataset.source(padded).map(self.load_item)
        batches = _share(dataset, shard, global_batch_size)
        options = grain.ReadOptions(num_threads=self.num_threads, prefetch_buffer_size=2 * self.num_threads)
        return iter(batches.to_iter_dataset(options))

    def example_batch(self, batch_size: int) -> Batch:
        """A batch of padding: the shapes and types that every batch has."""
        item = self.load_item(PADDING)
        return _stack([item] * batch_size)


class BlockOrder:
    """Rows without end, epoch after epoch, those of a block near each other.

    Args:
      rows: int64 [N], of the item table.
      block: int64 [N], the block of each.
      seed: The order of an epoch depends on it and on the epoch's number only.
      mixed_blocks: How many blocks are mixed at a time.
    """

    def __init__(self, rows: np.ndarray, block: np.ndarray, seed: int, mixed_blocks: int) -> None:
        self._rows, self._seed, self._mixed = rows, seed, mixed_blocks
        _, self._block = np.unique(block, return_inverse=True)
        self._epoch: tuple[int, np.ndarray] = (-1, rows)

    def __len__(self) -> int:
        return len(self._rows) * (2**40 // len(self._rows))

    def __getitem__(self, position: int) -> np.int64:
        epoch, place = divmod(int(position), len(self._rows))
        # Read once: threads that have reached the next epoch may replace it at any time.
        number, order = self._epoch
        if number != epoch:
            order = self.epoch(epoch)
            self._epoch = (epoch, order)
        return order[place]

    def epoch(self, number: int) -> np.ndarray:
        """The rows of one epoch, int64 [N]."""
        rng = np.random.default_rng([self._seed, number])
        group = rng.permutation(self._block.max() + 1)[self._block] // self._mixed
        return self._rows[np.lexsort((rng.random(len(self._rows)), group))]


def _share(dataset: grain.MapDataset, shard: Shard, global_batch_size: int) -> grain.MapDataset:
    """This process's rows of every global batch: neighbours, as its devices are in the mesh."""
    local = shard.local_batch_size(global_batch_size)
    if shard.process_count > 1:
        dataset = grain.MapDataset.source(
            _OwnRows(dataset, shard.process_index * local, local, global_batch_size)
        )
    return dataset.batch(local, drop_remainder=True)


class _OwnRows:
    """Of every ``global_batch_size`` elements of a dataset the ``local`` ones from ``first`` on."""

    def __init__(self, dataset: grain.MapDataset, first: int, local: int, global_batch_size: int) -> None:
        self._dataset, self._first, self._local, self._global = dataset, first, local, global_batch_size

    def __len__(self) -> int:
        return len(self._dataset) // self._global * self._local

    def __getitem__(self, position: int) -> Batch:
        batch, place = divmod(int(position), self._local)
        return self._dataset[batch * self._global + self._first + place]


class _LoadItem(grain.transforms.RandomMap):
    """Loads one training item with the generator that belongs to its place in the global order."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def random_map(self, element: np.int64, rng: np.random.Generator) -> Batch:
        return self._loader.load_item(int(element), rng)


def _stack(items: list[Any]) -> Any:
    if isinstance(items[0], dict):
        return {key: _stack([item[key] for item in items]) for key in items[0]}
    return np.stack(items)
