"""The TFDS builder that assembles the sources' files into array_record files: one configuration a stream."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.recording import StreamSpec
from data_pipelines.storage import SourceFile, source_path

SPLIT = "stored"
VERSION = "1.0.0"
# Large enough that a data set is few files, small enough to be copied and checked piece by piece.
SHARD_BYTES = 512 * 2**20


class StreamConfig(tfds.core.BuilderConfig):
    """Configuration for one stream.

    Args:
      spec: What the stream is.
      sources_folder: Folder of the finished sources' files.
      sources: Ids of the sources in the order in which they are stored, each with its number of chunks.
    """

    def __init__(self, spec: StreamSpec, sources_folder: Path, sources: Sequence[tuple[str, int]]) -> None:
        super().__init__(name=spec.name, version=VERSION)
        # tfds treats configurations as dataclasses without fields of their own, so these are set afterwards.
        self.spec, self.sources_folder, self.sources = spec, sources_folder, tuple(sources)


class _OwnInfo(tfds.core.DatasetInfo):
    """The description of a data set that is nobody else's."""

    def initialize_from_bucket(self) -> None:
        """Asks nobody: TFDS would look for it among Google's, by its name, over the network."""


class Chunks(tfds.core.GeneratorBasedBuilder):
    """The chunks of one stream, in order of source and time.

    Features of a row: ``key`` int64 [2] (number of the source in the index, number of the chunk within it),
    ``times_seconds`` float64 [N or 1], ``rate_hz`` float64 [1], and either ``values`` [N, C] in the stream's
    dtype or ``images``, the encoded images in one run of bytes, with ``image_lengths`` int64 [N]. All are
    stored as bytes: exact for float64 and NaN, and decoded without a copy.
    """

    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        return _OwnInfo(
            builder=self,
            description="Chunks of one stream of a data set prepared by JMT-JAX.",
            features=_features(self.builder_config.spec),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, np.ndarray]]]]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        config = self.builder_config
        row = 0
        for number, (source, chunks) in enumerate(config.sources):
            with SourceFile(source_path(config.sources_folder, config.spec.name, source)) as file:
                for index in range(chunks):
                    yield row, {"key": np.array([number, index], np.int64)} | file.chunk_arrays(index)
                    row += 1

    def download_and_prepare(self, *, on_row: Callable[[int], None] = lambda row: None) -> None:
        """Writes the array_record files and their description, holding one chunk in memory.

        The inherited one keeps up to 1 GB in memory, beyond that needs TensorFlow for temporary files and
        then sorts all rows in memory; and the order of a row's features differs between runs. Our rows come
        in order, and their bytes are a function of their content. If it is killed, delete the folder and
        call it again.

        Args:
          on_row: Called with the row's number after each one.
        """
        config, folder = self.builder_config, Path(self.data_dir)
        folder.mkdir(parents=True)
        self.info.set_file_format("array_record", override=True)
        rows_per_shard = self._rows_per_shard()
        rows = sum(chunks for _, chunks in config.sources)
        shards = -(-rows // rows_per_shard)
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=self.name, split=SPLIT, filetype_suffix="array_record"
        )
        serializer = ExampleSerializer(self.info.features.get_serialized_info())
        examples = self._generate_examples()
        lengths, size = [], 0
        for shard in range(shards):
            path = template.sharded_filepath(shard_index=shard, num_shards=shards)
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            lengths.append(0)
            for row, example in itertools.islice(examples, rows_per_shard):
                message = serializer.get_tf_example(self.info.features.encode_example(example))
                record = message.SerializeToString(deterministic=True)
                writer.write(record)
                lengths[-1] += 1
                size += len(record)
                # Let go before the next one is read: a chunk is megabytes.
                del example, message, record
                on_row(row)
            writer.close()
        split = tfds.core.SplitInfo(
            name=SPLIT, shard_lengths=lengths, num_bytes=size, filename_template=template
        )
        self.info.set_splits(tfds.core.splits.SplitDict([split]))
        self.info.write_to_directory(folder)

    def _rows_per_shard(self) -> int:
        config = self.builder_config
        rows = sum(chunks for _, chunks in config.sources)
        size = sum(
            source_path(config.sources_folder, config.spec.name, source).stat().st_size
            for source, _ in config.sources
        )
        return max(1, rows * SHARD_BYTES // max(size, 1))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences tfds' remarks on its own workings, e.g. that a configuration was made by hand."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def _features(spec: StreamSpec) -> tfds.features.FeaturesDict:
    def array(shape: tuple[int | None, ...], dtype: Any) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    features = {
        "key": array((2,), np.int64),
        "times_seconds": array((None,), np.float64),
        "rate_hz": array((1,), np.float64),
    }
    if spec.kind == "frames":
        features |= {"images": array((None,), np.uint8), "image_lengths": array((None,), np.int64)}
    else:
        features["values"] = array((None, len(spec.channels)), np.dtype(spec.dtype).type)
    return tfds.features.FeaturesDict(features)
