"""The first block of a run's log: versions, processes, devices and the batch arithmetic."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from data_pipelines.errors import UsageError
from jmt_jax import distributed, logging
from jmt_jax.runtime import Runtime, description

_PACKAGES = ("jmt-jax", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Python's version, and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(config: Any, source: str, options: distributed.Options) -> None:
    """Logs the block, and a warning if a pod or cluster job seems to have been started on one host only.

    Args:
      config: The configuration.
      source: What `distributed.initialise` said.
      options: What it was told.
    """
    runtime = Runtime.of(config)
    lines = ["  ".join(f"{name} {version}" for name, version in versions().items()), *description()]
    if runtime.shard.process_count > 1:
        lines.append(
            f"joined by {source}; a process that is silent for {options.timeout_seconds} s ends all of them, "
            "with its number; process 0 is the coordinator, in JAX's words the leader or CoordinationService"
        )
    lines.append(f"{runtime.parallelism} over {runtime.mesh_text}")
    lines += batch_arithmetic(config, runtime)
    logging.info("\n  ".join(lines))
    if warning := distributed.too_few_processes(runtime.shard.process_count):
        logging.warning(warning)


def batch_arithmetic(config: Any, runtime: Runtime) -> list[str]:
    """A sentence for every stage that the configuration names, and for evaluation."""
    names = [name.strip() for name in str(config.training.stages).split(",")]
    sizes = {
        f"training.{name}.global_batch_size": config.training[name].global_batch_size
        for name in names
        if name in config.training
    }
    sizes["eval.global_batch_size"] = config.eval.global_batch_size
    lines = []
    for name, size in sizes.items():
        try:
            lines.append(runtime.check_batch_size(name, size))
        except UsageError as error:
            # A stage that concerns no stream in use is never run: it says no more than this.
            lines.append(str(error))
    return lines
