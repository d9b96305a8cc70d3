"""One fold with one seed, made ready from a configuration: data, split, loader and models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from data_pipelines import label_shuffle, splits
from data_pipelines.datasets import make_stream_windows, open_dataset, usable_cache_dir
from data_pipelines.errors import UsageError
from data_pipelines.grid import Grid
from data_pipelines.item_table import ItemTable
from data_pipelines.items import make_items
from data_pipelines.loader import Loader
from data_pipelines.source import BLOCK_CACHE_BYTES, DEFAULT_CACHE_BYTES, PreparedSet
from data_pipelines.tasks import Task, check_left_out, find_task
from jmt_jax import logging, losses, metrics, part_checks
from jmt_jax.fold_splits import make_split
from jmt_jax.models.model import OPTIONS_OF, build_model

SAMPLE_WARNING = (
    "These are figures of the built-in sample of synthetic people. They say nothing about {name} or any "
    "other recordings of real people."
)

Config = Any  # an ml_collections.ConfigDict


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set with its question and its items; the same for all folds and seeds.

    Attributes:
      prepared: The prepared set.
      task: What is asked.
      grid: The token grid.
      items: All items.
      streams: The streams that the model uses, in order.
      other: Where they are not the run's own (`other_data`): who is evaluated and who is left out; JSON.
    """

    prepared: PreparedSet
    task: Task
    grid: Grid
    items: ItemTable
    streams: tuple[str, ...]
    other: Mapping[str, Any] | None = None

    @property
    def is_sample(self) -> bool:
        """True if this software made the recordings."""
        return bool(self.prepared.card["sample"])

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.prepared.card["dataset"])

    @property
    def has_frames(self) -> bool:
        """True where every token is about a frame of its own, and results are about frames."""
        # Before the data are open the grid says it.
        return self.grid.kind == "frames" if self.items is None else self.items.token_frames is not None

    @property
    def warning(self) -> str:
        """The sentence that every log and result of a sample carries; "" for real data."""
        return SAMPLE_WARNING.format(name=self.name) if self.is_sample else ""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One fold with one seed.

    Attributes:
      config: The configuration.
      data: The data set.
      split: Who is in which part.
      rows: Part name (``train``, ``validation``, ``test``) to rows of the item table.
      loader: Makes batches of rows.
      features: Makes batches whose streams are the tokens of frozen backbones (`extract`); None where the
        backbones see the streams themselves.
      loss: What training lowers.
      fold, seed: Which.
      shuffled: What is left of the true labels where ``data.shuffle_labels`` is on, else None.
    """

    config: Config
    data: Data
    split: splits.Split
    rows: Mapping[str, np.ndarray]
    loader: Loader
    loss: losses.Loss
    fold: int
    seed: int
    features: Loader | None = None
    shuffled: Mapping[str, Any] | None = None

    @property
    def split_facts(self) -> dict[str, Any]:
        """Who is in which part, under which seed, what became of all items, and of shuffled labels; JSON."""
        further = {
            "items": part_checks.counts(self.data.items, self.split),
            "shuffled_labels": self.shuffled,
        }
        known = {name: facts for name, facts in further.items() if facts}
        return {**self.split.as_json(), "seed": self.seed, **known}

    @property
    def model_loader(self) -> Loader:
        """Makes what the model takes."""
        return self.features or self.loader

    def model(self, stage: str, axis_name: str | None = None) -> nn.Module:
        """The model that a stage trains: one stream's backbone with a head, or everything.

        Fed with `features` it has no backbones, but takes the same variables: those of the backbones, whose
        work is done, are left alone.
        """
        config = self.config.model
        if stage in self.data.streams:
            streams, fusion = (stage,), "unimodal"
        else:
            streams, fusion = self.data.streams, config.fusion
        options = OPTIONS_OF.get(fusion, fusion)
        head = config.get(f"{options}_head", config.head)  # unimodal and late have their own
        if options not in config:
            raise UsageError(f"config.model has no options for fusion {fusion!r}; add config.model.{fusion}")
        try:
            return build_model(
                streams,
                {stream: self._backbone(stream) for stream in streams},
                {"name": fusion, **plain(config[options])},
                {"outputs": self.num_outputs, **plain(head)},
                frozen=streams if stage == "fusion" else (),
                axis_name=axis_name,
                modality_dropout=config.modality_dropout if stage not in streams else 0.0,
                dtype=jnp.dtype(config.dtype),
            )
        except (ValueError, TypeError) as error:
            raise UsageError(f"the model of stage {stage!r} cannot be built: {error}") from error

    def _backbone(self, stream: str) -> dict[str, Any]:
        return backbone_options(self.config, stream) if self.features is None else {"name": "identity"}

    def of_stage(self, stage: str) -> Experiment:
        """The same with a loader of what a stage looks at: a stream's own stage does not load the others."""
        if stage not in self.data.streams:
            return self
        loader = dataclasses.replace(self.loader, streams={stage: self.loader.streams[stage]})
        return dataclasses.replace(self, loader=loader)

    def initial_weights(self, stage: str) -> list[tuple[str, str, Path]]:
        """The files that ``config.model.<stream>.weights`` and ``config.model.fusion_weights`` name.

        Returns:
          (stream, part of a backbone that is a pair or "", file), and ("", "", file) for fusion and head.
        """
        streams = (stage,) if stage in self.data.streams else self.data.streams
        found = [
            (stream, part, Path(path))
            for stream in streams
            for part, path in _weights_of(plain(self.config.model[stream]))
        ]
        if stage not in self.data.streams and self.config.model.fusion_weights:
            found.append(("", "", Path(self.config.model.fusion_weights)))
        return found

    def trainable(self, stage: str, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Top-level parameters that a stage changes."""
        return tuple(name for name in params if stage != "fusion" or not name.startswith("backbone_"))

    @property
    def num_outputs(self) -> int:
        """Classes, or regressed values."""
        return len(self.data.task.outputs)

    @property
    def selection_metric(self) -> str:
        """The validation metric by which checkpoints are chosen: ``eval.select``, higher is better."""
        data = self.data
        if data.task.is_classification:
            known = metrics.CLASSIFICATION_NAMES
        else:
            kinds = (kind for kind in metrics.REGRESSION_NAMES if kind != "rmse")
            known = tuple(f"{kind}_{name}" for kind in kinds for name in (*data.task.outputs, "mean"))
        chosen = self.config.eval.select or ("accuracy" if data.task.is_classification else "ccc_mean")
        if chosen not in known:
            raise UsageError(
                f"eval.select={chosen!r} is no metric of task {data.task.name}: {', '.join(known)}"
            )
        return chosen

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of ``config.training.stages`` that concern the streams in use, in order."""
        names = comma_separated(self.config.training.stages)
        known = {*comma_separated_streams(self.config), "fusion", "joint"}
        for name in names:
            if name not in known or name not in self.config.training:
                raise UsageError(
                    f"training.stages names {name!r}; a stage is a stream's name, fusion or joint, and has "
                    f"its options in config.training.{name}"
                )
        kept = tuple(name for name in names if name in (*self.data.streams, "fusion", "joint"))
        if not kept or kept[-1] not in ("fusion", "joint"):
            raise UsageError("the last of training.stages must be fusion or joint: it trains the whole model")
        return kept


def comma_separated(text: str | Sequence[str]) -> tuple[str, ...]:
    """``"a,b"`` as ``("a", "b")``."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())


def backbone_options(config: Config, stream: str) -> dict[str, Any]:
    """The name and the arguments of a stream's backbone, without files of weights."""
    return _without_weights(plain(config.model[stream]))


def window_options(config: Config, stream: str) -> dict[str, Any]:
    """What ``config.data.streams.<stream>`` says."""
    return plain(config.data.streams[stream])


def comma_separated_streams(config: Config) -> tuple[str, ...]:
    """All streams that the configuration describes, used or not."""
    return tuple(config.data.streams)


def used_streams(config: Config) -> tuple[str, ...]:
    """The streams of ``config.model.streams``, in order.

    Raises:
      UsageError: One is not described, or is named twice, or there is none.
    """
    streams = comma_separated(config.model.streams)
    for stream in streams:
        if stream not in config.data.streams or stream not in config.model:
            raise UsageError(
                f"model.streams names {stream!r}; this configuration describes "
                f"{', '.join(comma_separated_streams(config))}"
            )
    if not streams or len(set(streams)) < len(streams):
        raise UsageError(f"model.streams is {config.model.streams!r}; name one or more streams, each once")
    return streams


def cache_dir(config: Config) -> Path:
    """Where samples, prepared data and compiled programs are kept."""
    return usable_cache_dir(config.data.cache_dir)


def open_data(config: Config) -> Data:
    """Opens the data set of a configuration and cuts it into items.

    Raises:
      UsageError: The configuration asks for what the data do not have.
      BadDataError: The data are not as the task or the grid need them.
    """
    streams = used_streams(config)
    task = find_task(config.data.task).leaving_out(config.data.get("leave_out_labels", ()))
    grid = Grid(**plain(config.data.grid))
    prepared = open_dataset(
        config.data.name,
        config.data.dir,
        reader_options=plain(config.data.reader),
        sample_options=plain(config.data.sample),
        cache_dir=cache_dir(config),
        workers=config.data.prepare_workers,
        max_damaged_share=config.data.get("max_damaged", 0.05),
        log=logging.info,
        max_cache_bytes=BLOCK_CACHE_BYTES if grid.kind == "frames" else DEFAULT_CACHE_BYTES,
    )
    if not config.eval.get("data_dir", ""):  # other recordings need not have what the run left out
        check_left_out(task, prepared.recordings)
    items = make_items(prepared, task, grid)
    if config.data.shuffle_labels not in ("", *label_shuffle.MODES):
        raise UsageError(f"data.shuffle_labels={config.data.shuffle_labels!r}; it is '' or 'within_subject'")
    return Data(prepared, task, grid, items, streams)


def make_experiment(
    config: Config,
    data: Data,
    *,
    fold: int,
    seed: int,
    split: splits.Split | None = None,
    constants: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Experiment:
    """One fold with one seed.

    Args:
      config: The configuration.
      data: From `open_data`.
      fold: Number of the fold.
      seed: Seed of everything random in training; the split has its own (``protocol.seed``).
      split: Who is in which part, where ``config.protocol`` does not say it.
      constants: Stream to the constants of its normalisation, where they are not these data's.
    """
    given, split = split is not None, split or make_split(config, data, fold)
    recording_rows: dict[str, list[int]] = {}
    for row, recording in enumerate(data.items.recording):
        recording_rows.setdefault(data.prepared.recordings[recording].id, []).append(row)
    rows = {
        part: np.array([row for name in getattr(split, part) for row in recording_rows[name]], np.int64)
        for part in split.parts
    }
    if data.has_frames:
        # A sequence without any label teaches nothing.
        rows["train"] = rows["train"][data.items.label_mask[rows["train"]].any((1, 2))]
    notes = [] if given else part_checks.check(data.task, data.items, rows, split)
    if data.grid.kind != "clip":  # Of clips the split has said so.
        split = dataclasses.replace(split, warnings=(*split.warnings, *notes))
    shuffled = None
    if config.data.shuffle_labels:
        names = ("shuffle", config.protocol.seed, seed, fold)
        items, shuffled = label_shuffle.shuffle(data.prepared, data.task, data.grid, data.items, rows, names)
        data = dataclasses.replace(data, items=items)
    training = frozenset(int(number) for number in np.unique(data.items.recording[rows["train"]]))
    windows = {
        stream: make_stream_windows(
            data.prepared,
            stream,
            data.grid,
            plain(config.data.streams[stream]),
            training=training,
            constants=(constants or {}).get(stream),
        )
        for stream in data.streams
    }
    split = dataclasses.replace(split, warnings=(*split.warnings, *part_checks.masked_channels(windows)))
    loader = Loader(data.items, windows, config.data.loader_threads, config.data.loader_workers)
    loss = make_loss(config, data.task)
    return Experiment(config, data, split, rows, loader, loss, fold, seed, shuffled=shuffled)


def make_loss(config: Config, task: Task) -> losses.Loss:
    """What ``training.loss`` names; "" is cross-entropy for classes and CCC for values."""
    known = ("cross_entropy",) if task.is_classification else ("ccc", "mse")
    name = config.training.get("loss", "") or known[0]
    if name not in known:
        raise UsageError(
            f"training.loss={name!r} is no loss for the {task.kind} task {task.name}; it is one of "
            f"{', '.join(known)}"
        )
    if name == "cross_entropy":
        return losses.cross_entropy(len(task.outputs), label_smoothing=config.training.label_smoothing)
    return losses.ccc(len(task.outputs)) if name == "ccc" else losses.mse(len(task.outputs))


def _without_weights(backbone: dict[str, Any]) -> dict[str, Any]:
    """A backbone's arguments: its file of weights is none, nor are those of its parts."""
    return {
        key: _without_weights(value) if isinstance(value, dict) else value
        for key, value in backbone.items()
        if key != "weights"
    }


def _weights_of(backbone: dict[str, Any]) -> list[tuple[str, str]]:
    """(part, file), the part "" for the whole backbone."""
    parts = {"": backbone, **{part: value for part, value in backbone.items() if isinstance(value, dict)}}
    return [(part, value["weights"]) for part, value in parts.items() if value.get("weights")]


def plain(config: Any) -> dict[str, Any]:
    """A ConfigDict (or dict) as plain dicts."""
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)
