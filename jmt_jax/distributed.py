"""Becoming one of several processes: from flags, SLURM or Cloud TPU; the command line alone calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines import endings
from data_pipelines.errors import Interrupted, UsageError
from jmt_jax import logging, moves

MODES = ("auto", "off")
DEFAULT_TIMEOUT_SECONDS = 100
_SHUTDOWN_SECONDS = 600  # The first process still draws and writes while the others have done their part.
_TEXT_BYTES = 512
# What XLA's collectives (gloo, NCCL, TPU) say when another process is gone; they know no number.
_BROKEN_COLLECTIVE = re.compile(r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Cc]onnection (closed|reset)")
_VERDICT_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says of the other processes.

    Attributes:
      mode: ``auto`` or ``off``.
      coordinator: ``host:port`` of process 0; "" to be found out.
      process_id: Number of this process; None to be found out.
      process_count: Number of all; None to be found out.
      timeout_seconds: How long a process may be silent (dead, stopped, cut off) before all are ended, and
        how long they wait for each other at the start.
    """

    mode: str = "auto"
    coordinator: str = ""
    process_id: int | None = None
    process_count: int | None = None
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS

    def check(self) -> None:
        """Raises UsageError where the values do not go together."""
        given = (bool(self.coordinator), self.process_id is not None, self.process_count is not None)
        if self.mode not in MODES:
            raise UsageError(f"--distributed={self.mode!r} is unknown; it is one of {', '.join(MODES)}")
        if any(given) and not all(given):
            raise UsageError(
                "--coordinator, --process_id and --process_count belong together: give all three, or none "
                "and they are found out on Cloud TPU and under SLURM's srun"
            )
        if any(given) and self.mode == "off":
            raise UsageError("--distributed=off allows no --coordinator; leave out one of the two")
        if self.coordinator and not self.coordinator.rpartition(":")[2].isdigit():
            raise UsageError(
                f"--coordinator={self.coordinator!r}: host:port was expected, e.g. 10.0.0.2:8476"
            )
        if all(given) and not 0 <= self.process_id < self.process_count:
            raise UsageError(
                f"--process_id={self.process_id} of --process_count={self.process_count}: numbers begin at 0"
            )
        if self.timeout_seconds < 5:
            raise UsageError(
                f"--distributed_timeout_seconds={self.timeout_seconds}: at least 5 are needed, a busy "
                "machine is silent for some seconds now and then"
            )


def find_source(
    options: Options, environment: Mapping[str, str] = os.environ, dev: Path = Path("/dev")
) -> str:
    """Who says which process this is: ``flags``, ``SLURM``, ``Cloud TPU``, ``one process`` or ``off``."""
    if options.mode == "off":
        return "off"
    if options.coordinator:
        return "flags"
    # What srun sets for each task; a shell inside an allocation, or sbatch's own script, lacks the step.
    if all(f"SLURM_{name}" in environment for name in ("JOB_ID", "STEP_NODELIST", "PROCID", "LOCALID")) and (
        int(environment.get("SLURM_NTASKS", 1)) > 1
    ):
        return "SLURM"
    has_chips = any(dev.glob("accel[0-9]*")) or any(dev.glob("vfio/[0-9]*"))
    wants_tpu = environment.get("JAX_PLATFORMS", "tpu").split(",")[0] in ("", "tpu")
    if wants_tpu and has_chips and importlib.util.find_spec("libtpu") is not None:
        return "Cloud TPU"
    return "one process"


def initialise(options: Options) -> str:
    """Joins the other processes; must come before anything asks JAX for devices.

    A process that is alone joins nobody: it needs no network and no name, and hears of a preemption itself
    (`jmt_jax.stop`).

    Returns:
      What `find_source` says.

    Raises:
      UsageError: The options do not go together, or the others did not come within the time limit.
    """
    options.check()
    source = find_source(options)
    if source in ("off", "one process"):
        return source
    limits = {
        "initialization_timeout": options.timeout_seconds,
        "heartbeat_timeout_seconds": options.timeout_seconds,
        "shutdown_timeout_seconds": max(_SHUTDOWN_SECONDS, options.timeout_seconds),
    }
    try:
        if source == "flags":
            jax.distributed.initialize(
                options.coordinator,
                options.process_count,
                options.process_id,
                cluster_detection_method="deactivate",
                **limits,
            )
        elif source == "SLURM":
            jax.distributed.initialize(cluster_detection_method="slurm", **limits)
        else:
            jax.distributed.initialize(**limits)
    except (RuntimeError, ValueError) as error:
        if source == "Cloud TPU" and "should be defined" in str(error):
            # A TPU machine without Google's metadata: nobody says that there are others.
            return "one process"
        what = " ".join(str(error).split())
        raise UsageError(
            f"the processes did not find each other within {options.timeout_seconds} s ({source}): {what}. "
            "Start all of them, with the same coordinator and count, and see that its port is open"
        ) from error
    return source


def expected_processes(environment: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """How many processes the surroundings speak of, and where they do: (1, "") if nowhere."""
    # libtpu itself writes a warning there, of several words, where it knows no hosts.
    hosts = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name.strip()]
    hosts = [] if any(" " in name.strip() for name in hosts) else hosts
    if len(hosts) > 1:
        return len(hosts), "TPU_WORKER_HOSTNAMES"
    for name in ("SLURM_NTASKS", "SLURM_NPROCS"):
        if environment.get(name, "").isdigit() and int(environment[name]) > 1:
            return int(environment[name]), name
    return 1, ""


def too_few_processes(process_count: int, environment: Mapping[str, str] = os.environ) -> str:
    """A warning if this is fewer processes than the surroundings speak of; "" if not."""
    expected, where = expected_processes(environment)
    if process_count >= expected:
        return ""
    return (
        f"{where} speaks of {expected} processes, but this run has {process_count}: a pod or cluster job "
        "that is started on one host only trains on a part of it, or hangs. Start it on all of them at once "
        "(launch/tpu_pod.sh run, or srun), or say --distributed=off if that is meant"
    )


def agreed_text(text: str) -> str:
    """Process 0's text, on all processes; every process must call it.

    Args:
      text: At most 512 bytes; only that of process 0 counts.
    """
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).rstrip(b"\0").decode()


def wait_for_all(where: str) -> None:
    """Returns when all processes are here. A dead or stopped one ends the wait: JAX ends this process.

    Args:
      where: Name of the place, the same on all.
    """
    if jax.process_count() > 1:
        moves.made(where)
        multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def ends_with_others(options: Options) -> Iterator[None]:
    """What a process of several does with an error: it ends at once, without the usual waiting at the end.

    That wait is for the others, and they may be waiting for this one. JAX's coordination service tells them,
    with this process's number, within the time limit; and where it is another one that has gone, it tells
    this one. A process that is alone raises as ever.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or isinstance(error, SystemExit):
            raise
        logging.say_as_process(*_what_happened(error))
        if _BROKEN_COLLECTIVE.search(str(error)):
            limit = options.timeout_seconds
            logging.say_as_process(
                f"another process has probably ended: which one, JAX says within {limit} s and ends this one"
            )
            time.sleep(limit + _VERDICT_SECONDS)
            logging.say_as_process(
                "no process was found to be gone; the same command goes on from the last checkpoint"
            )
            os._exit(Interrupted.exit_code)
        logging.say_as_process(f"ending; the others follow within {options.timeout_seconds} s")
        os._exit(_exit_code(error))


def _what_happened(error: BaseException) -> list[str]:
    if (ending := endings.of(error)) is not None:
        return [ending.sentence]
    return "".join(traceback.format_exception(error)).splitlines()


def _exit_code(error: BaseException) -> int:
    ending = endings.of(error)
    return 1 if ending is None else ending.code
