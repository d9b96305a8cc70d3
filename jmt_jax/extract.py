"""Frozen backbones are computed once: their tokens, kept by what they are a function of.

The features of a stream live in ``<cache_dir>/features/<data set>-<stream>-<key>``, a prepared data set like
any other. The key is a digest of the data's fingerprints, of everything that changes what the backbone sees,
and of its configuration and weights; whoever comes with the same key reads what is there. (The device and the
size of the batches are not in it: they change rounding only.)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import features
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.feature_windows import FeatureSet, FeatureWindows, Units, make_units
from data_pipelines.loader import Shard
from data_pipelines.source import CARD_FORMAT, PreparedSet, is_prepared
from data_pipelines.storage import digest
from jmt_jax import logging
from jmt_jax.distributed import wait_for_all
from jmt_jax.experiment import Experiment, backbone_options, cache_dir, window_options
from jmt_jax.models.model import reads_tokens_together
from jmt_jax.runtime import Runtime
from jmt_jax.torch_networks import BACKBONE
from jmt_jax.train_state import Params

# Options of a stream's windows that change how fast it is read, or training's copies only.
_NOT_SEEN = ("decoded_bytes", "augment")
# Of each set, in memory: a block of 512 frames is a megabyte at the paper's width.
_CACHE_BYTES = 256 * 2**20
# Features are small: an epoch is mixed far better than where frames have to be decoded.
_MIXED_BLOCKS = 64


@dataclasses.dataclass(frozen=True)
class Extraction:
    """Features of one stream, there or still to be computed.

    Attributes:
      stream: Name of the stream.
      draw: 0 for what evaluation sees, else the number of an augmented copy.
      folder: Where they are kept.
      reader: Computes them.
    """

    stream: str
    draw: int
    folder: Path
    reader: features.FeatureReader


def is_wanted(experiment: Experiment, stage: str) -> bool:
    """Whether a stage is to train on features: its backbones are frozen, and ``training.extract`` says so."""
    return stage == "fusion" and bool(experiment.config.training.get("extract", False))


def plan(experiment: Experiment, variables: Params, *, draws: int | None = None) -> list[Extraction]:
    """What the fusion of an experiment needs: every stream once for all parts, and its augmented copies.

    Args:
      experiment: The fold.
      variables: With the frozen backbones, ``{"params": {"backbone_x": ..}, "batch_stats": ..}``.
      draws: Number of augmented copies; None for ``training.extract_draws``.

    Raises:
      UsageError: The number of copies is negative.
      BadDataError: No recording of the split has one of the streams.
    """
    draws = int(experiment.config.training.get("extract_draws", 0)) if draws is None else draws
    if draws < 0:
        raise UsageError(f"training.extract_draws={draws}; expected 0 (no augmented copies) or more")
    found = []
    for stream in experiment.data.streams:
        encode, width = _encoder(experiment, stream, variables)
        by_token = experiment.data.has_frames and not reads_tokens_together(
            backbone_options(experiment.config, stream)
        )
        sha = weights_digest(variables, stream)
        for draw in range(draws + 1):
            parts = ("train",) if draw else experiment.split.parts
            units = _units(experiment, stream, parts, by_token=by_token)
            facts = _facts(experiment, stream, units, sha, draw)
            folder = f"{experiment.data.name}-{stream}-{digest(facts)[:16]}"
            reader = features.FeatureReader(
                experiment.data.prepared,
                stream,
                experiment.loader.streams[stream],
                units,
                encode,
                width=width,
                batch_rows=experiment.config.eval.global_batch_size,
                settings=facts,
                draw=draw,
                block_frames=experiment.data.grid.block_frames,
                num_threads=experiment.config.data.loader_threads,
            )
            found.append(Extraction(stream, draw, cache_dir(experiment.config) / "features" / folder, reader))
    return found


def run(extractions: list[Extraction], shard: Shard) -> None:
    """Computes a shard's part of what is not there yet.

    Raises:
      Interrupted: SIGTERM or SIGINT; what is finished is kept.
    """
    for one in extractions:
        copy = f", augmented copy {one.draw}" if one.draw else ""
        if is_prepared(one.folder):
            logging.info(f"features of {one.stream}{copy}: {one.folder}")
            continue
        part = f", shard {shard.process_index} of {shard.process_count}" if shard.process_count > 1 else ""
        logging.info(f"extracting features of {one.stream}{copy}{part} to {one.folder}")
        features.extract(one.reader, one.folder, label=f"extracting {one.stream}{copy}", shard=shard)


def finish(extractions: list[Extraction]) -> bool:
    """Assembles every set whose recordings are all there; whether all sets are finished."""
    return all([features.finish(one.reader, one.folder, logging.info) for one in extractions])


def opened(experiment: Experiment, extractions: list[Extraction]) -> Experiment:
    """The experiment with a model and a loader of finished features."""
    windows = {}
    for stream in experiment.data.streams:
        own = [one for one in extractions if one.stream == stream]
        clean, *draws = [
            FeatureSet(PreparedSet.open(one.folder, max_cache_bytes=_CACHE_BYTES), one.reader.units)
            for one in own
        ]
        length = experiment.loader.streams[stream].mask_length
        windows[stream] = FeatureWindows(stream, clean, draws, mask_length=length)
    loader = dataclasses.replace(experiment.loader, streams=windows, mixed_blocks=_MIXED_BLOCKS)
    return dataclasses.replace(experiment, features=loader)


def with_features(experiment: Experiment, variables: Params, runtime: Runtime) -> Experiment:
    """The experiment on features, which all processes extract first where that has not been done.

    Every process computes its share of the recordings on its own devices; all have to see the same
    ``data.cache_dir``.

    Raises:
      BadDataError: After all processes have done their part, a recording is missing.
      Interrupted: SIGTERM or SIGINT.
    """
    extractions = plan(experiment, variables)
    run(extractions, runtime.shard)
    wait_for_all("extracted")
    complete = finish(extractions) if runtime.is_main else True
    wait_for_all("assembled")
    if not complete or not all(is_prepared(one.folder) for one in extractions):
        raise BadDataError(
            f"features in {extractions[0].folder.parent} are not complete although every process has written "
            "its part; all of them have to see the same data.cache_dir"
        )
    return opened(experiment, extractions)


def find(experiment: Experiment, variables: Params) -> Experiment:
    """The experiment on features where evaluation's are there already, else as it is."""
    extractions = plan(experiment, variables, draws=0)
    if not all(is_prepared(one.folder) for one in extractions):
        return experiment
    run(extractions, Shard())
    return opened(experiment, extractions)


def weights_digest(variables: Params, stream: str) -> str:
    """SHA-256 over names, shapes, types and values of a backbone's parameters and batch statistics."""
    found = hashlib.sha256()
    for kind in ("params", "batch_stats"):
        tree = variables.get(kind, {}).get(f"{BACKBONE}_{stream}", {})
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            value = np.asarray(leaf)
            found.update(f"{kind}{jax.tree_util.keystr(path)} {value.dtype} {value.shape}\n".encode())
            found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def encoding(experiment: Experiment, stream: str) -> tuple[Callable[..., jax.Array], Any]:
    """What extraction computes of a stream.

    Returns:
      A step (variables of the backbone, (values, mask)) -> tokens, float32 [rows, S, D]; and the shapes and
      types of (values, mask).
    """
    model, seen = experiment.model(stream), experiment.loader.streams[stream]
    rows = experiment.config.eval.global_batch_size

    def tokens(variables: Params, batch: Any) -> jax.Array:
        (found,) = model.apply(variables, {stream: batch[0]}, {stream: batch[1]}, method="encode").values()
        return found.astype(jnp.float32)

    example = (
        jax.ShapeDtypeStruct((rows, *seen.shape), seen.dtype),
        jax.ShapeDtypeStruct((rows, seen.mask_length), bool),
    )
    return tokens, example


def backbone_of(variables: Params, stream: str) -> Params:
    """The part of a model's variables that belongs to a stream's backbone."""
    name = f"{BACKBONE}_{stream}"
    return {kind: {name: tree[name]} for kind, tree in variables.items() if name in tree}


def with_shapes(experiment: Experiment, variables: Params) -> Experiment:
    """The experiment on features that nobody has computed yet: it tells their shapes and nothing else.

    Args:
      experiment: The fold.
      variables: Arrays, or their shapes and types.
    """
    windows = {}
    for stream in experiment.data.streams:
        tokens, example = encoding(experiment, stream)
        width = jax.eval_shape(tokens, backbone_of(variables, stream), example).shape[-1]
        windows[stream] = _Shapes((experiment.loader.streams[stream].mask_length, width))
    return dataclasses.replace(experiment, features=dataclasses.replace(experiment.loader, streams=windows))


@dataclasses.dataclass(frozen=True)
class _Shapes:
    """What `Loader.example_batch` asks of a stream's windows."""

    shape: tuple[int, int]
    dtype: type = np.float32

    @property
    def mask_length(self) -> int:
        return self.shape[0]


def _encoder(experiment: Experiment, stream: str, variables: Params) -> tuple[features.Encode, int]:
    """The backbone on this process's devices, and the width of its tokens."""
    local = Runtime.create("jit", jax.local_devices())
    own = backbone_of(variables, stream)
    local.check_batch_size("eval.global_batch_size", experiment.config.eval.global_batch_size)
    tokens, example = encoding(experiment, stream)
    step = local.compile(tokens, rows_out=True)
    placed: list[Params] = []

    def encode(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not placed:
            placed.append(local.put_state(jax.tree.map(np.asarray, own)))
        return np.asarray(step(placed[0], local.put_batch((values, mask))))

    return encode, jax.eval_shape(tokens, own, example).shape[-1]


def _units(
    experiment: Experiment, stream: str, parts: tuple[str, ...], *, by_token: bool
) -> dict[int, Units]:
    """What is computed of the recordings of some parts: all of it, whichever items training goes by."""
    items = experiment.data.items
    numbers = np.unique(np.concatenate([items.recording[experiment.rows[part]] for part in parts]))
    rows = np.flatnonzero(np.isin(items.recording, numbers))
    units = make_units(items, rows, stream, by_token=by_token)
    if not units:
        raise BadDataError(
            f"no recording of the {', '.join(parts)} part has the stream {stream!r}; leave it out of "
            "--config.model.streams"
        )
    return units


def _facts(
    experiment: Experiment, stream: str, units: Mapping[int, Units], weights: str, draw: int
) -> dict[str, Any]:
    """What the features are a function of, as JSON values."""
    config, data, grid = experiment.config, experiment.data, experiment.data.grid
    options = window_options(config, stream)
    facts = {
        "version": features.VERSION,
        "layout": CARD_FORMAT,
        "data": data.prepared.card["fingerprints"],
        "stream": dataclasses.asdict(data.prepared.streams[stream]),
        "windows": {key: value for key, value in options.items() if key not in _NOT_SEEN},
        "grid": _grid_facts(experiment),
        "units": _units_digest(experiment, units),
        "backbone": backbone_options(config, stream),
        "dtype": config.model.dtype,
        "weights": weights,
    }
    if options.get("normalise") in ("train", "centred"):
        numbers = np.unique(data.items.recording[experiment.rows["train"]])
        facts["normalised_by"] = digest([data.items.recordings[number].id for number in numbers])
    if draw:
        facts["augmented"] = {"draw": draw, "augment": options.get("augment", {}), "block": grid.block_frames}
    return facts


def _grid_facts(experiment: Experiment) -> dict[str, Any]:
    """What of the grid changes what a unit is; which frames or items there are, the units say."""
    grid = experiment.data.grid
    if grid.kind == "frames":
        return {"kind": grid.kind, "schedule": grid.schedule}
    return {"kind": grid.kind, "tokens": grid.tokens, "window_seconds": grid.window_seconds}


def _units_digest(experiment: Experiment, units: Mapping[int, Units]) -> str:
    found = hashlib.sha256()
    for number, one in units.items():
        found.update(f"{experiment.data.prepared.recordings[number].id}\n".encode())
        for array in (one.times_seconds, one.targets):
            if array is not None:
                found.update(
                    f"{array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes()
                )
    return found.hexdigest()
