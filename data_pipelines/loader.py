"""Items to batches with Grain: shuffled, sharded by process, windowed, augmented, batched, checkpointable.

A batch is a dict::

    inputs      stream -> [B, S, ...] (or [B, 1, ...]: one window for all tokens)
    masks       stream -> bool [B, S] (or [B, 1]); False where the stream is absent
    labels      int32 [B] or float32 [B, A]
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
from data_pipelines.items import ItemTable
from data_pipelines.stream_windows import FrameWindows, Moment, SignalWindows

Batch = dict[str, Any]
StreamWindows = FrameWindows | SignalWindows

PADDING = -1


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
    """

    items: ItemTable
    streams: Mapping[str, StreamWindows]
    num_threads: int = 2
    num_workers: int = 0

    def load_item(self, row: int, rng: np.random.Generator | None = None) -> Batch:
        """One item without the batch axis; ``row`` -1 gives padding, in which everything is masked."""
        inputs, masks = {}, {}
        is_padding = row == PADDING
        index = 0 if is_padding else int(row)
        number = int(self.items.recording[index])
        recording = self.items.recordings[number]
        moment = Moment(number, float(self.items.start_seconds[index]), rng)
        for name, stream in self.streams.items():
            if is_padding or name not in recording.sources:
                inputs[name] = np.zeros(stream.shape, stream.dtype)
                masks[name] = np.zeros(stream.mask_length, bool)
            else:
                inputs[name], masks[name] = stream.read(recording, moment)
        label_mask = self.items.label_mask[index]
        return {
            "inputs": inputs,
            "masks": masks,
            "labels": self.items.labels[index],
            "label_mask": np.zeros_like(label_mask) if is_padding else label_mask,
            "index": np.int32(row),
        }

    def train(
        self, rows: Sequence[int], *, global_batch_size: int, seed: int, shard: Shard = Shard()
    ) -> grain.DatasetIterator:
        """Endless training batches, reshuffled each epoch.

        The order, and each item's random draws, depend on the seed and on the position in the global
        order only: another number of processes sees the same global batches.

        Returns:
          An iterator over local batches with ``get_state()`` and ``set_state(state)``.
        """
        if not len(rows):
            raise UsageError("the training part of the split is empty; use fewer folds or more recordings")
        dataset = (
            grain.MapDataset.source(np.asarray(rows, np.int64))
            .shuffle(seed=seed)
            .repeat()
            .random_map(_LoadItem(self), seed=seed + 1)
        )
        batches = dataset[shard.process_index :: shard.process_count].batch(
            shard.local_batch_size(global_batch_size), drop_remainder=True
        )
        options = grain.ReadOptions(num_threads=self.num_threads, prefetch_buffer_size=2 * self.num_threads)
        if self.num_workers:
            if not flags.FLAGS.is_parsed():
                # Grain's worker pool reads absl flags; a program without a command line has parsed none.
                flags.FLAGS.mark_as_parsed()
            iterable = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
            iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.num_workers))
        else:
            iterable = batches.to_iter_dataset(options)
        return iter(iterable)

    def evaluate(
        self, rows: Sequence[int], *, global_batch_size: int, shard: Shard = Shard()
    ) -> Iterator[Batch]:
        """One pass over the rows in order, padded so that all processes have equally many batches."""
        count = -(-len(rows) // global_batch_size) * global_batch_size
        padded = np.full(count, PADDING, np.int64)
        padded[: len(rows)] = rows
        dataset = grain.MapDataset.source(padded).map(self.load_item)
        batches = dataset[shard.process_index :: shard.process_count].batch(
            shard.local_batch_size(global_batch_size), drop_remainder=True
        )
        options = grain.ReadOptions(num_threads=self.num_threads, prefetch_buffer_size=2 * self.num_threads)
        return iter(batches.to_iter_dataset(options))

    def example_batch(self, batch_size: int) -> Batch:
        """A batch of padding: the shapes and types that every batch has."""
        item = self.load_item(PADDING)
        return _stack([item] * batch_size)


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
