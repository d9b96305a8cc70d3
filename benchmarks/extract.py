"""An epoch of the fusion on extracted features beside one whose frozen backbones compute everything again.

Makes a few short Affwild2 videos, extracts the features of the paper's networks (R(2+1)D-18 and ResNet18, 16
tokens of 8 frames of 112x112 and one second of sound), and times training steps of the JMT both ways, loading
included, in one process on the same items. Prints one JSON line. Nothing is asserted.

    python benchmarks/extract.py --seconds=4 --raw_steps=2
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.a_stage import TrainingStage, fresh_variables, shipped_config  # noqa: E402
from data_pipelines import command_line  # noqa: E402
from jmt_jax import extract  # noqa: E402
from jmt_jax.experiment import Experiment, make_experiment, open_data  # noqa: E402
from jmt_jax.runtime import Runtime  # noqa: E402
from jmt_jax.train_state import Params  # noqa: E402

_WARM_UP_STEPS = 2
_VIDEO_SECONDS, _BATCH_SIZE = 4.0, 2


def time_epochs(config: Any, *, raw_steps: int = 2, feature_steps: int = 50) -> dict[str, float]:
    """Seconds of an epoch of the stage ``fusion`` both ways; loading is part of it, validation is not.

    Args:
      config: A configuration; its backbones stay as they are initialised, which costs the same.
      raw_steps: Measured steps that compute the backbones again; the epoch is scaled from them.
      feature_steps: Measured steps on features.

    Returns:
      ``raw_epoch_seconds``, ``features_epoch_seconds``, their ``ratio``, ``extraction_seconds`` (compilation
      included; 0 or so where the features were there), ``tokens_extracted`` (of all streams and parts),
      ``sequences`` (of an epoch) and ``frames_per_second``, the target frames of all streams that a step
      which computes the backbones gets through.
    """
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    runtime = Runtime.create(config.parallelism)
    variables = fresh_variables(experiment, "fusion", runtime)
    started = time.monotonic()
    ready = extract.with_features(experiment, variables, runtime)
    extraction_seconds = time.monotonic() - started
    sequences = len(experiment.rows["train"])
    steps = sequences / config.training.fusion.global_batch_size
    raw_step = _step_seconds(experiment, variables, runtime, raw_steps)
    raw = steps * raw_step
    on_features = steps * _step_seconds(ready, variables, runtime, feature_steps)
    return {
        "raw_epoch_seconds": raw,
        "features_epoch_seconds": on_features,
        "ratio": raw / on_features,
        "extraction_seconds": extraction_seconds,
        "tokens_extracted": sum(
            len(units) for one in extract.plan(experiment, variables) for units in one.reader.units.values()
        ),
        "sequences": sequences,
        "frames_per_second": config.training.fusion.global_batch_size * config.data.grid.tokens / raw_step,
    }


def _step_seconds(experiment: Experiment, variables: Params, runtime: Runtime, steps: int) -> float:
    """Seconds of a training step with its loading, after the first ones."""
    stage = TrainingStage.create(experiment, "fusion", variables, runtime)
    stage.run(_WARM_UP_STEPS)
    started = time.monotonic()
    stage.run(steps)
    return (time.monotonic() - started) / steps


def paper_config(cache_dir: str, seconds: float, batch_size: int) -> Any:
    """The paper's windows and networks on a few short videos, with every frame a target."""
    config = shipped_config("affwild2", "paper", cache_dir)
    config.data.sample.update(train=2, validation=1, test=1, seconds=seconds)
    config.data.grid.schedule = "every_frame"
    config.training.stages = "fusion"
    config.training.fusion.global_batch_size = config.eval.global_batch_size = batch_size
    return config


def extraction_table(folder: Path, release_frames: int, hosts: int) -> list[tuple[str, str]]:
    """Both epochs, and what extracting a release of so many frames takes at this rate."""
    config = paper_config(str(folder), _VIDEO_SECONDS, _BATCH_SIZE)
    found = time_epochs(config)
    width = 2 * config.model.jmt.dim * np.dtype(np.float32).itemsize
    table = [
        ("an epoch that computes the backbones, s", f"{found['raw_epoch_seconds']:.1f}"),
        ("an epoch on extracted features, s", f"{found['features_epoch_seconds']:.3f}"),
        ("times faster", f"{found['ratio']:.0f}"),
        ("extract: frames/s of this machine", f"{found['frames_per_second']:.1f}"),
        ("extract: GB kept", f"{width * release_frames / 1e9:.1f}"),
    ]
    for count in dict.fromkeys((1, hosts)):
        hours = release_frames / found["frames_per_second"] / count / 3600
        where = "this machine" if count == 1 else f"{count} hosts like this one"
        table.append((f"extract: hours on {where}", f"{hours:,.1f}"))
    return table


def main() -> None:
    """The command line."""
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=command_line.above_zero, default=_VIDEO_SECONDS, help="length of a video"
    )
    parser.add_argument("--batch_size", type=command_line.whole(1), default=_BATCH_SIZE)
    parser.add_argument("--raw_steps", type=command_line.whole(1), default=2)
    parser.add_argument("--feature_steps", type=command_line.whole(1), default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache_dir:
        config = paper_config(cache_dir, given.seconds, given.batch_size)
        found = time_epochs(config, raw_steps=given.raw_steps, feature_steps=given.feature_steps)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
