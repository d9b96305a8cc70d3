"""All that can be known of a run before it makes, writes or trains anything; no data are opened.

The command line calls `check` before it touches the run's folder: a refused start leaves it as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from data_pipelines import datasets
from data_pipelines.errors import UsageError
from data_pipelines.grid import Grid
from data_pipelines.reader_options import make_reader
from data_pipelines.tasks import find_task
from jmt_jax import addresses, config_rules, evaluate, stage, weights
from jmt_jax.experiment import (
    Config,
    Data,
    Experiment,
    backbone_options,
    make_loss,
    plain,
    used_streams,
    window_options,
)
from jmt_jax.models.model import build_backbone
from jmt_jax.runtime import Runtime

# Where a signal's rate is not known yet: high enough that no kernel is too long for a window.
_ASSUMED_RATE_HZ = 64
_ASSUMED_SIZE = 112
_ASSUMED_FEATURES = 8


def check(config: Config, runtime: Runtime | None = None, *, trains: bool = True) -> None:
    """Refuses a configuration that cannot run.

    Args:
      config: The configuration.
      runtime: What it is to run on; None where that is not this machine.
      trains: False where a trained run is evaluated: what training began from need not be there any more,
        and its batches need not fit these devices.

    Raises:
      UsageError: A value is none, or several do not go together; the message names the keys.
      BadDataError: ``data.dir`` is not there.
    """
    config_rules.check_values(config.to_dict())
    _check_numbers(config)
    experiment = without_data(config)
    evaluate.check(experiment)
    _check_stages(experiment)
    _check_data(config)
    if trains:
        if config.eval.get("data_dir", ""):
            raise UsageError(
                f"eval.data_dir={config.eval.data_dir!r} is for --mode=eval: other recordings than the run's "
                "own, which are in data.dir; leave it out"
            )
        _check_files(experiment)
    if runtime is not None:
        _check_batches(experiment, runtime, experiment.stages if trains else ())
    _check_fusion(experiment)
    _check_backbones(experiment)


def without_data(config: Config) -> Experiment:
    """What a configuration describes before any data are opened: task, grid, stages and models; no rows."""
    task = find_task(config.data.task).leaving_out(config.data.get("leave_out_labels", ()))
    data = Data(None, task, Grid(**plain(config.data.grid)), None, used_streams(config))
    return Experiment(config, data, None, {}, None, make_loss(config, task), fold=0, seed=0)


def check_models(experiment: Experiment, runtime: Runtime) -> None:
    """Builds the last stage's model, which has all parts, for the data as they are; nothing is computed.

    Raises:
      UsageError: Shapes do not go together; the message says which.
      BadDataError: Nor do those of a file of weights.
    """
    try:
        variables = evaluate.abstract_variables(experiment, experiment.model("evaluation"), runtime)
    except (ValueError, TypeError) as error:
        raise _cannot_be_built(f"fusion {experiment.config.model.fusion!r}", error) from error
    variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    for stream, part, path in experiment.initial_weights("evaluation"):
        if stream:
            weights.apply_weights(variables, stream, path, part=part)
        else:
            weights.apply_fusion_weights(variables, path)


def _check_numbers(config: Config) -> None:
    """Lists of numbers that name something, each once."""
    for key, values in (("seeds", config.seeds), ("protocol.folds", config.protocol.folds)):
        if len(set(values)) < len(values):
            raise UsageError(f"{key}={tuple(values)}; name each once")
    if not len(config.seeds):
        raise UsageError("seeds=() names none; name at least one, e.g. (0,)")
    of_folds = config.protocol.name in ("subject_kfold", "clip_kfold_test_selected")
    if of_folds and any(fold >= config.protocol.num_folds for fold in config.protocol.folds):
        raise UsageError(
            f"protocol.folds={tuple(config.protocol.folds)}; with protocol.num_folds="
            f"{config.protocol.num_folds} they are 0 to {config.protocol.num_folds - 1}"
        )


def _check_stages(experiment: Experiment) -> None:
    """What the numbers of a stage have to be together."""
    for name in experiment.stages:
        options = experiment.config.training[name]
        if options.warmup_epochs > options.epochs:
            raise UsageError(
                f"training.{name}.warmup_epochs={options.warmup_epochs} is longer than the whole stage, "
                f"training.{name}.epochs={options.epochs}; the learning rate would never be reached"
            )
        if options.learning_rate_floor > options.learning_rate:
            raise UsageError(
                f"training.{name}.learning_rate_floor={options.learning_rate_floor} is above "
                f"training.{name}.learning_rate={options.learning_rate}; expected at most that"
            )


def _check_files(experiment: Experiment) -> None:
    """Files and folders that are named have to be there."""
    for name in experiment.stages:
        for stream, part, path in experiment.initial_weights(name):
            if not path.is_file():
                own = ".".join(filter(None, (stream, part, "weights")))
                key = f"model.{own if stream else 'fusion_weights'}"
                raise UsageError(
                    f"{key}={path} is no file that is there; give one of python -m jmt_jax.convert, or ''"
                )
            weights.load_weights(path)
    source = experiment.config.training.backbones_from
    if source and not (addresses.path_of(source) / "config.json").is_file():
        raise UsageError(
            f"training.backbones_from={source} is no run (no config.json); name a workdir, or ''"
        )


def _check_data(config: Config) -> None:
    """The folder, and what reader and sample are told."""
    if config.data.dir:
        datasets.check_directory(config.data.dir)
    else:
        datasets.sample_spec(config.data.name, plain(config.data.sample))
    try:
        make_reader(config.data.name, config.data.dir or ".", **plain(config.data.reader))
    except (TypeError, ValueError) as error:
        raise UsageError(f"config.data.reader does not fit {config.data.name!r}: {error}") from error


def _check_batches(experiment: Experiment, runtime: Runtime, stages: tuple[str, ...]) -> None:
    for name in stages:
        options = experiment.config.training[name]
        runtime.check_batch_size(f"training.{name}.global_batch_size", options.global_batch_size)
        stage.check_options(name, options, runtime)
    runtime.check_batch_size("eval.global_batch_size", experiment.config.eval.global_batch_size)


def _check_fusion(experiment: Experiment) -> None:
    """Fusion and heads of every stage, between tokens of some width."""
    tokens = experiment.data.grid.tokens
    features = np.zeros((1, tokens, _ASSUMED_FEATURES), np.float32)
    streams = experiment.data.streams
    for name in (*experiment.stages, "evaluation"):
        # Names and arguments of the backbones as well.
        experiment.model(name)
        inputs = {stream: features for stream in streams if name not in streams or stream == name}
        model = dataclasses.replace(experiment, features=inputs).model(name)
        _trace(model, (inputs, None), f"stage {name!r} with fusion {experiment.config.model.fusion!r}")


def _check_backbones(experiment: Experiment) -> None:
    """Each stream's network, on windows of the size that the configuration asks for."""
    config = experiment.config
    for stream in experiment.data.streams:
        options = backbone_options(config, stream)
        window = _window(config, stream)
        if window is None or options["name"] in ("identity", "pair"):
            continue
        backbone = build_backbone(options)
        mask = np.ones(window.shape[:2], bool)
        _trace(backbone, (window, mask), f"the backbone {options['name']!r} of stream {stream!r}")


def _window(config: Config, stream: str) -> np.ndarray | None:
    """An item of a stream as its options describe it, or nearly; None where they do not."""
    options, grid = window_options(config, stream), config.data.grid
    tokens = grid.tokens
    if options.get("features") == "log_mel":
        samples = round(options["window_seconds"] * config.data.reader.get("sound_rate_hz", 0))
        if not samples:
            return None
        return np.zeros((1, tokens, options["mels"], 1 + samples // options["hop_samples"]), np.float32)
    if "frames" in options:
        size = config.data.reader.get("size", _ASSUMED_SIZE)
        return np.zeros((1, tokens, options["frames"], size, size, 3), np.uint8)
    samples = options.get("samples", 0)
    if not samples:
        seconds = options.get("window_seconds", 0.0) or grid.get("window_seconds", 0.0) / tokens
        samples = round(seconds * _ASSUMED_RATE_HZ)
    channels = len(options.get("channels", ())) or 1
    width = channels + bool(options.get("presence_channel", False))
    return np.zeros((1, tokens, samples, width), np.float32) if samples else None


def _trace(model: Any, arguments: tuple[Any, ...], what: str) -> None:
    def init(*inputs: Any) -> Mapping[str, Any]:
        return model.init(jax.random.key(0), *inputs, train=False)

    try:
        jax.eval_shape(init, *arguments)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise _cannot_be_built(what, error) from error


def _cannot_be_built(what: str, error: Exception) -> UsageError:
    said = " ".join(str(error).split())[:300]
    return UsageError(f"{what} cannot be built: {said}; change its options in config.model")
