"""Checks the processes of a pod or cluster job against each other before it is trusted with a run.

    python launch/preflight.py --shared=DIR         on every worker at once (Cloud TPU, or under srun)
    python launch/preflight.py --coordinator=H:P --process_id=I --process_count=N --shared=DIR

Same versions and code, the same number of devices each, a folder that all see, clocks that agree, and a sum
over all devices. Exit codes: 0 all well, 2 usage, 3 something differs (the process is named).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import sys
import time
import uuid
from typing import Any, NoReturn

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_MESSAGE_BYTES = 8192
_ROOT = pathlib.Path(__file__).resolve().parent.parent


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"preflight: {message}; see --help\n")


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", metavar="DIR", help="a folder that all processes have to see")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where nothing says it")
    parser.add_argument("--process_id", type=int)
    parser.add_argument("--process_count", type=int)
    parser.add_argument("--timeout_seconds", type=int, default=60, help="to find each other (default 60)")
    parser.add_argument("--max_clock_seconds", type=float, default=5.0, help="between clocks (default 5)")
    parser.add_argument("--dry_run", action="store_true", help="say what would be checked and do nothing")
    return parser


def facts() -> dict[str, Any]:
    """What has to be the same everywhere: versions, and the code's SHA-256."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    digest = hashlib.sha256()
    for path in sorted(_ROOT.glob("*/**/*.py")):
        if path.relative_to(_ROOT).parts[0] in ("jmt_jax", "data_pipelines", "configs"):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    found["code"] = digest.hexdigest()[:12]
    return found


def differences(reports: list[dict[str, Any]], max_clock_seconds: float) -> list[str]:
    """What is wrong, a sentence each; the majority is taken for right.

    Args:
      reports: Of all processes, in order: ``facts``, ``devices``, ``kind``, ``host``, ``clock``, ``shared``.
      max_clock_seconds: That the clocks may differ.
    """
    wrong = []
    for key in (*reports[0]["facts"], "devices", "kind"):
        values = [report["facts"].get(key, report.get(key)) for report in reports]
        usual = max(values, key=values.count)
        wrong += [
            f"process {number} ({report['host']}): {key} is {value}, elsewhere {usual}"
            for number, (report, value) in enumerate(zip(reports, values, strict=True))
            if value != usual
        ]
    clocks = [report["clock"] for report in reports]
    middle = sorted(clocks)[len(clocks) // 2]
    wrong += [
        f"process {number} ({report['host']}): its clock is {report['clock'] - middle:+.1f} s off"
        for number, report in enumerate(reports)
        if abs(report["clock"] - middle) > max_clock_seconds
    ]
    wrong += [
        f"process {number} ({report['host']}): {report['shared']}"
        for number, report in enumerate(reports)
        if report["shared"]
    ]
    return wrong


def join(given: argparse.Namespace) -> None:
    """Becomes one of the processes; alone if nothing speaks of others."""
    import jax

    limits = {
        "initialization_timeout": given.timeout_seconds,
        "heartbeat_timeout_seconds": given.timeout_seconds,
    }
    if given.coordinator:
        jax.distributed.initialize(
            given.coordinator,
            given.process_count,
            given.process_id,
            cluster_detection_method="deactivate",
            **limits,
        )
        return
    try:
        jax.distributed.initialize(**limits)
    except ValueError as error:
        if "should be defined" not in str(error):
            raise


def exchange(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every process's report, in order."""
    import numpy as np
    from jax.experimental import multihost_utils

    text = json.dumps(report).encode()
    if len(text) > _MESSAGE_BYTES:
        raise ValueError(f"a report of {len(text)} bytes; at most {_MESSAGE_BYTES} were expected")
    padded = np.frombuffer(text.ljust(_MESSAGE_BYTES, b" "), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, _MESSAGE_BYTES)
    return [json.loads(bytes(row)) for row in gathered]


def check_shared(folder: str | None) -> str:
    """A sentence if this process does not see what process 0 writes there; "" if it does."""
    import jax

    if not folder:
        return ""
    token = exchange({"token": uuid.uuid4().hex})[0]["token"]
    path = pathlib.Path(folder) / f"preflight_{token}"
    problem = ""
    try:
        if jax.process_index() == 0:
            path.write_text(token)
    except OSError as error:
        problem = f"cannot write to {folder}: {error.strerror}"
    exchange({})
    give_up = time.monotonic() + 10  # A network folder may show a new file late.
    while not problem and not path.exists() and time.monotonic() < give_up:
        os.listdir(folder) if os.path.isdir(folder) else None
        time.sleep(0.2)
    if not problem and not path.exists():
        problem = f"does not see in {folder} what process 0 writes there"
    exchange({})
    if jax.process_index() == 0:
        path.unlink(missing_ok=True)
    return problem


def check_sum() -> tuple[bool, float]:
    """Whether a sum over all devices is right, and the milliseconds of one."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("all",))
    sharding = NamedSharding(mesh, PartitionSpec("all"))
    count = jax.device_count()
    values = jax.make_array_from_callback(
        (count,), sharding, lambda index: np.arange(count, dtype=np.int32)[index]
    )
    add = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    total = int(add(values))
    started = time.perf_counter()
    for _ in range(10):
        total = int(add(values))
    return total == count * (count - 1) // 2, (time.perf_counter() - started) * 100


def main() -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    given = parser.parse_args()
    together = (given.coordinator, given.process_id, given.process_count)
    if any(value is not None for value in together) and None in together:
        parser.error("--coordinator, --process_id and --process_count belong together")
    if given.dry_run:
        where = f", the folder {given.shared}" if given.shared else ""
        print(f"would compare versions, code, devices and clocks{where}, and add over all devices")
        return 0
    join(given)
    import jax

    shared = check_shared(given.shared)
    exchange({})  # All are here: the clocks are read at about the same moment.
    reports = exchange(
        {
            "facts": facts(),
            "devices": jax.local_device_count(),
            "kind": jax.local_devices()[0].device_kind,
            "host": socket.gethostname(),
            "clock": time.time(),
            "shared": shared,
        }
    )
    is_right, milliseconds = check_sum()
    wrong = differences(reports, given.max_clock_seconds)
    if not is_right:
        wrong.append("the sum over all devices is wrong")
    if jax.process_index() == 0:
        versions = "  ".join(f"{name} {version}" for name, version in reports[0]["facts"].items())
        print(f"preflight: {len(reports)} processes, {jax.device_count()} devices ({reports[0]['kind']})")
        print(f"  {versions}")
        print(f"  one sum over all devices takes {milliseconds:.1f} ms")
        print("\n".join(f"  WRONG {sentence}" for sentence in wrong) or "  all well")
    sys.stdout.flush()
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
