"""Training steps a second with a checkpoint every so many steps, beside the rate without any.

Trains one stage of ``configs/<name>.py`` on its sample in one process: rounds with checkpoints and without
take turns, loading included, each with checkpoints until its last one is on disk, manifest and all. Prints
the rates and their ratio, median and range over the rounds. Nothing is asserted.

    python benchmarks/checkpoints.py --rounds=7 --steps=200 --every=50
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.a_stage import TrainingStage, fresh_variables, shipped_config  # noqa: E402
from data_pipelines import command_line  # noqa: E402
from jmt_jax.checkpoint import Checkpoints  # noqa: E402
from jmt_jax.experiment import make_experiment, open_data  # noqa: E402
from jmt_jax.runtime import Runtime  # noqa: E402

_WARM_UP_STEPS = 20


def steps_per_second(stage: TrainingStage, steps: int, every: int, checkpoints: Checkpoints | None) -> float:
    """The rate of some steps, with a checkpoint after every so many of them.

    Args:
      stage: Goes on from where it is.
      steps: A multiple of ``every``.
      every: Steps between two checkpoints.
      checkpoints: Takes them; None for none.
    """
    started = time.monotonic()
    for _ in range(steps // every):
        stage.run(every)
        if checkpoints is not None:
            progress = {"best_step": -1, "data": stage.batches.get_state()}
            checkpoints.save(stage.runtime.single(stage.state), progress)
    if checkpoints is not None:
        checkpoints.wait()
    return steps / (time.monotonic() - started)


def main() -> None:
    """The command line."""
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="biovid", help="name of a file in configs/")
    parser.add_argument("--stage", default="joint")
    parser.add_argument("--rounds", type=command_line.whole(1), default=7)
    parser.add_argument("--steps", type=command_line.whole(1), default=200, help="of a round")
    parser.add_argument(
        "--every", type=command_line.whole(1), default=50, help="steps between two checkpoints"
    )
    parser.add_argument("--cache_dir", default="", help="where the sample is kept; if empty, nowhere")
    given = parser.parse_args()
    known = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "configs").glob("[a-z]*.py"))
    if given.config not in known:
        parser.error(f"--config={given.config} is not in configs/; it is one of {', '.join(known)}")
    training = shipped_config(given.config, "sample", given.cache_dir).training.to_dict()
    stages = [name for name, options in training.items() if isinstance(options, dict)]
    if given.stage not in stages:
        parser.error(f"--stage={given.stage} is none of {given.config}; it is one of {', '.join(stages)}")
    if given.steps % given.every:
        parser.error(f"--steps={given.steps} is no multiple of --every={given.every}")
    with tempfile.TemporaryDirectory() as folder:
        config = shipped_config(given.config, "sample", given.cache_dir or folder)
        experiment = make_experiment(config, open_data(config), fold=0, seed=0).of_stage(given.stage)
        runtime = Runtime.of(config)
        variables = fresh_variables(experiment, given.stage, runtime)
        stage = TrainingStage.create(experiment, given.stage, variables, runtime, donate_state=True)
        stage.run(_WARM_UP_STEPS)
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        rates: dict[bool, list[float]] = {False: [], True: []}
        for number in range(given.rounds):
            for saving in (False, True) if number % 2 else (True, False):
                taken = checkpoints if saving else None
                rates[saving].append(steps_per_second(stage, given.steps, given.every, taken))
        checkpoints.close()
        kept = Path(folder) / "checkpoints" / str(checkpoints.steps()[-1])
        size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    ratios = [on / off for off, on in zip(rates[False], rates[True], strict=True)]
    print(
        f"{given.config}, stage {given.stage}: {size / 2**20:.1f} MiB a checkpoint, every {given.every} steps"
    )
    for saving, name in ((False, "without"), (True, "with")):
        print(f"{name:<8} {statistics.median(rates[saving]):6.1f} steps/s")
    print(f"ratio    {statistics.median(ratios):6.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


if __name__ == "__main__":
    main()
