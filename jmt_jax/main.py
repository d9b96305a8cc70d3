"""The command line: ``python -m jmt_jax.main --config=configs/biovid.py``."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from data_pipelines import endings, program
from data_pipelines.errors import UsageError
from jmt_jax import addresses, settings

_USAGE = """Trains and evaluates joint multimodal transformers.

  python -m jmt_jax.main --config=configs/biovid.py
      From nothing to results on the built-in sample.
  python -m jmt_jax.main --config=configs/biovid.py:paper --config.data.dir=DIR
      The paper's networks and stages on a prepared (or raw) BioVid.
  python -m jmt_jax.main --config=configs/biovid.py --config.model.streams=physio
      Any value of the configuration can be set so.
  python -m jmt_jax.main --config=configs/biovid.py --help
      All keys of a configuration, with their values and what they are.
  python -m jmt_jax.main --config=configs/biovid.py --config.training.all.epochs=3
      One option of all stages of training; a stage's own key wins.
  python -m jmt_jax.main --config=configs/biovid.py --workdir=RUN
      Again with the same folder: goes on where the run was.
  python -m jmt_jax.main --mode=eval --workdir=RUN [--config.eval.split=validation]
      Evaluates a run's checkpoint again.
  python -m jmt_jax.main --mode=extract --config=configs/affwild2.py --workdir=RUN [--shard=0/4]
      Computes the features that the fusion trains on, alone or as one job of several that share the work.
  python -m jmt_jax.main --mode=eval --watch --workdir=RUN
      Follows the checkpoints of a run that is being trained, until it is done.
  python -m jmt_jax.main --mode=plan --config=configs/biovid.py:paper --topology=v5e:4x4
      What the run will need on a TPU pod, compiled without one.
  python -m jmt_jax.main --config=configs/biovid.py --process_id=I --process_count=N --coordinator=HOST:PORT
      One of N processes; Cloud TPU and SLURM's srun need none of these three. See launch/README.md.

Exit codes: 0 done, 2 usage, 3 bad data, 75 stopped (the same command goes on)."""

FLAGS = flags.FLAGS


def define_flags(argv: list[str]) -> list[str]:
    """Defines the flags.

    Returns:
      The arguments; ``--mode=eval`` and ``extract`` without a config take that of the run in ``--workdir``.
    """
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "eval", "extract", "plan"],
        "train, then test; eval: test a checkpoint; extract: compute the frozen backbones' features; "
        "plan: what a run will need elsewhere",
    )
    flags.DEFINE_string("shard", "", "i/n with i from 0: the part of the recordings that mode extract does")
    flags.DEFINE_bool("watch", False, "with --mode=eval: evaluate each checkpoint of a training as it comes")
    flags.DEFINE_string("workdir", "", "the run's folder; a dated one below runs/ if not given")
    flags.DEFINE_string("topology", "", "of mode plan: what to compile for, e.g. v5e:4x4; none: what is here")
    flags.DEFINE_enum(
        "distributed", "auto", ["auto", "off"], "auto: join the other processes; off: know of none"
    )
    flags.DEFINE_string("coordinator", "", "host:port of process 0, where nothing says who the others are")
    flags.DEFINE_integer("process_id", None, "number of this process, from 0")
    flags.DEFINE_integer("process_count", None, "number of all processes")
    flags.DEFINE_integer(
        "distributed_timeout_seconds", 100, "a process that is silent for so long ends all of them"
    )
    flags.DEFINE_integer(
        "stuck_seconds",
        900,
        "of several processes: if none moves for so long all are ended; 0 is never",
        lower_bound=0,
    )
    config_flags.DEFINE_config_file("config", None, "the configuration, e.g. configs/biovid.py")
    workdir = _given(argv, "workdir")
    if _given(argv, "mode") not in ("eval", "extract") or _given(argv, "config") is not None or not workdir:
        return argv
    # Read as a path of any kind: the folder may be in an object store.
    path = addresses.path_of(workdir) / "config.json"
    if not path.exists():
        raise UsageError(f"there is no run in {workdir}: it has no config.json; give the --workdir of a run")
    loader = Path(__file__).with_name("run_config.py")
    return [argv[0], f"--config={loader}:{path}", *argv[1:]]


def parse(argv: list[str]) -> None:
    """Parses the command line.

    Raises:
      UsageError: A flag, a configuration key or a value is wrong; the message names the nearest known one.
    """
    if (config_flag := _given(argv, "config")) is not None:
        # ml_collections reads the overrides from sys.argv itself.
        argv = sys.argv = settings.spread(argv, settings.load(config_flag))
    try:
        rest = FLAGS(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is no option; options begin with --, see --help")
    if FLAGS.watch and not (FLAGS.mode == "eval" and FLAGS.workdir):
        raise UsageError("--watch follows a run: give --mode=eval and the run's --workdir as well")
    if FLAGS.config is None:
        raise UsageError(
            "no --config given; try --config=configs/biovid.py, or --mode=eval with a run's --workdir"
        )
    _shard()


def run() -> None:
    """Does what the parsed flags say."""
    if FLAGS.mode == "plan":
        _plan()
        return
    started = time.monotonic()
    # JAX and the data libraries are imported here, so that --help and a mistyped flag answer at once.
    from jmt_jax import (
        config_checks,
        distributed,
        experiment,
        first_lines,
        logging,
        moves,
        run_folder,
        run_record,
        runtime,
        stop,
        study,
    )

    options = distributed.Options(
        mode=FLAGS.distributed,
        coordinator=FLAGS.coordinator,
        process_id=FLAGS.process_id,
        process_count=FLAGS.process_count,
        timeout_seconds=FLAGS.distributed_timeout_seconds,
    )
    source = distributed.initialise(options)
    with distributed.ends_with_others(options), contextlib.ExitStack() as ending:
        devices = runtime.Runtime.of(FLAGS.config)
        config_checks.check(FLAGS.config, devices, trains=FLAGS.mode != "eval")
        cache_dir = experiment.cache_dir(FLAGS.config)
        named = FLAGS.workdir or distributed.agreed_text(str(_dated_workdir()))
        workdir = run_folder.open_folder(named)
        if FLAGS.mode == "eval" and not FLAGS.watch:  # a run that is followed may not have begun
            run_record.check_options(FLAGS.config, workdir)
        own_folder = _own_folder(workdir)
        ending.enter_context(_held(own_folder, named, runtime.is_main_process()))
        logging.set_up(own_folder if runtime.is_main_process() else None)
        logging.info(f"run folder: {named}" + (f", here {workdir}" if addresses.is_remote(named) else ""))
        runtime.enable_compilation_cache(cache_dir)
        first_lines.write(FLAGS.config, source, options)
        stop.install()
        with logging.ending_noted(), moves.watched(FLAGS.stuck_seconds), run_folder.pushed(workdir):
            if FLAGS.mode == "eval" and FLAGS.watch:
                study.run_watch(FLAGS.config, workdir)
            elif FLAGS.mode == "eval":
                study.run_evaluation(FLAGS.config, workdir)
            elif FLAGS.mode == "extract":
                study.run_extraction(FLAGS.config, workdir, _shard())
            else:
                study.run(FLAGS.config, workdir)
            logging.info(f"done in {time.monotonic() - started:.0f} s; run folder: {named}")


def _own_folder(workdir: Path) -> Path:
    """Where the mode writes: whoever looks at a run writes into no file of its training."""
    from jmt_jax import evaluations

    if FLAGS.mode == "eval":
        return workdir / ("watch" if FLAGS.watch else evaluations.FOLDER)
    return workdir


def _held(folder: Path, named: str, is_main: bool) -> contextlib.AbstractContextManager[None]:
    """Holds the folder; evaluations have folders of their own, and shards of an extraction share theirs."""
    from jmt_jax import folder_lock

    if not is_main or (FLAGS.mode == "eval" and not FLAGS.watch) or FLAGS.shard:
        return contextlib.nullcontext()
    return folder_lock.held(folder, named)


def _plan() -> None:
    if FLAGS.topology:
        # libtpu compiles without a TPU, and must not look for one.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jmt_jax import config_checks, logging, plan

    config_checks.check(FLAGS.config)
    logging.set_up()
    plan.plan(FLAGS.config, FLAGS.topology)


def main() -> int:
    """Entry point; returns the exit code."""
    return endings.guarded(_main)


def _main() -> None:
    argv = define_flags(sys.argv)
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        config_flag = _given(argv, "config")
        print(settings.listing(config_flag) if config_flag else _help())
        return
    parse(argv)
    run()


def _given(argv: list[str], name: str) -> str | None:
    """Value of a flag as written on the command line, before flags are parsed; of several the last."""
    value = None
    for number, argument in enumerate(argv):
        match = re.fullmatch(rf"--?{name}(?:=(.*))?", argument)
        if match and match[1] is not None:
            value = match[1]
        elif match and number + 1 < len(argv):
            value = argv[number + 1]
    return value


def _shard() -> tuple[int, int] | None:
    """Number and count out of ``--shard``; None without it.

    Raises:
      UsageError: It is no shard, or the mode knows none.
    """
    if not FLAGS.shard:
        return None
    if FLAGS.mode != "extract":
        raise UsageError(f"--shard={FLAGS.shard} is for --mode=extract; leave it out")
    match = re.fullmatch(r"(\d+)/(\d+)", FLAGS.shard)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard={FLAGS.shard} is none; expected i/n with i from 0 to n - 1, e.g. 0/4")
    return int(match[1]), int(match[2])


def _dated_workdir() -> Path:
    """``runs/<date>_<time>``, with a number behind it where that is taken."""
    name = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path("runs") / name
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}_{number}"
    return folder


def _help() -> str:
    defined = ["mode", "watch", "shard", "workdir", "config", "topology", "distributed", "coordinator"]
    defined += ["process_id", "process_count", "distributed_timeout_seconds", "stuck_seconds"]
    lines = [f"  --{name}: {FLAGS[name].help}" for name in defined]
    return f"{_USAGE}\n\nOptions:\n" + "\n".join(lines)


if __name__ == "__main__":
    program.run(main)
