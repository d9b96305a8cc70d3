"""What a plan compiles for: the chips of a TPU topology with their published rates, or the local devices."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from data_pipelines.errors import UsageError

GIB = 2**30
_PRODUCT_SIZE, _COPIED_BYTES, _REPETITIONS = 2048, 2**27, 5


@dataclasses.dataclass(frozen=True)
class Chip:
    """The figures of one chip, or of one local device.

    Attributes:
      memory_bytes: That arrays can be in.
      flops_per_second: Of matrix products.
      memory_bytes_per_second: To and from that memory.
      link_bytes_per_second: To other chips, all links together, one direction; None where it is not known.
      source: Where the figures are from.
    """

    memory_bytes: int
    flops_per_second: float
    memory_bytes_per_second: float
    link_bytes_per_second: float | None
    source: str = "published"


# cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, read in November 2026: peak bfloat16, HBM, and half of the
# bidirectional bandwidth between chips.
CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9, 300e9),
    "v5e": Chip(16 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * GIB, 918e12, 1638e9, 400e9),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
      name: For people.
      devices: Of the topology, or the local ones.
      hosts: How many machines those are in.
      chip: Its figures.
    """

    name: str
    devices: Sequence[Any]
    hosts: int
    chip: Chip

    @property
    def one_host(self) -> Target:
        """The devices of its first host alone."""
        first = self.devices[0].process_index
        devices = [device for device in self.devices if device.process_index == first]
        return dataclasses.replace(self, devices=devices, hosts=1)


def find_target(topology: str) -> Target:
    """Devices of a TPU topology such as ``v5e:4x4``, or the local ones for "".

    Raises:
      UsageError: The topology is unknown, or libtpu is not installed.
    """
    if not topology:
        devices = jax.devices()
        name = f"{len(devices)} local {devices[0].device_kind}"
        return Target(name, devices, jax.process_count(), measure(jax.local_devices()[0]))
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not shape:
        raise UsageError(
            f"--topology={topology!r} is unknown; it is one of {', '.join(CHIPS)} with a shape, such as "
            "v5e:4x4; none compiles for the local devices"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            f"compiling for {topology} needs libtpu, which is not installed: pip install -e '.[tpu]'"
        )
    try:
        devices = topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # libtpu's own errors have no class of their own.
        raise UsageError(f"libtpu knows no topology {topology!r}: {' '.join(str(error).split())}") from error
    hosts = len({device.process_index for device in devices})
    return Target(f"{topology} ({len(devices)} chips, {hosts} hosts)", devices, hosts, CHIPS[kind])


def measure(device: jax.Device) -> Chip:
    """A local device's figures: what it reaches on one large product and on one large copy.

    A floor by them holds for steps that XLA computes as well as those.
    """
    with jax.default_device(device):
        square = jnp.ones((_PRODUCT_SIZE, _PRODUCT_SIZE), jnp.float32)
        long = jnp.ones(_COPIED_BYTES // 4, jnp.float32)
        product_seconds = _fastest(jax.jit(lambda x: x @ x), square)
        copy_seconds = _fastest(jax.jit(lambda x: x + 1), long)
    return Chip(
        memory_bytes=_memory_bytes(device),
        flops_per_second=2 * _PRODUCT_SIZE**3 / product_seconds,
        memory_bytes_per_second=2 * _COPIED_BYTES / copy_seconds,
        link_bytes_per_second=None,
        source="measured",
    )


def _memory_bytes(device: jax.Device) -> int:
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return of_machine // len(jax.local_devices())


def _fastest(function: Callable[[jax.Array], jax.Array], argument: jax.Array) -> float:
    function(argument).block_until_ready()
    seconds = []
    for _ in range(_REPETITIONS):
        started = time.monotonic()
        function(argument).block_until_ready()
        seconds.append(time.monotonic() - started)
    return min(seconds)
