"""Processes, devices and the mesh: the only place that asks JAX what it runs on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import UsageError
from data_pipelines.loader import Batch, Shard

DATA_AXIS = "data"
PARALLELISMS = ("jit", "pmap")
# Initialisation is many small random draws: compiling them well takes far longer than running them.
_QUICK_CPU_COMPILATION = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How a step is spread over devices.

    Attributes:
      parallelism: ``jit`` (one program over a mesh with a data axis) or ``pmap`` (one copy a device).
      mesh: All devices along the data axis.
    """

    parallelism: str
    mesh: Mesh

    @classmethod
    def create(cls, parallelism: str, devices: Sequence[jax.Device] | None = None) -> Runtime:
        """A runtime over all devices, or over some of this process.

        Raises:
          UsageError: The parallelism is unknown.
        """
        if parallelism not in PARALLELISMS:
            raise UsageError(
                f"parallelism={parallelism!r} is unknown; it is one of {', '.join(PARALLELISMS)}"
            )
        # Linen's dropout needs automatic axes; make_mesh's default is explicit ones.
        devices = list(devices or jax.devices())
        mesh = jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
        return cls(parallelism, mesh)

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        return self.mesh.size

    @property
    def axis_name(self) -> str | None:
        """Name of the axis that a step reduces over itself; None under jit, where the compiler does."""
        return DATA_AXIS if self.parallelism == "pmap" else None

    @property
    def shard(self) -> Shard:
        """Which part of a global batch this process loads."""
        return Shard(jax.process_index(), jax.process_count())

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return jax.process_index() == 0

    @property
    def replicated(self) -> NamedSharding:
        """The same value on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_row(self) -> NamedSharding:
        """Rows of a batch spread over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

    def check_batch_size(self, name: str, global_batch_size: int) -> str:
        """The batch arithmetic as a sentence for the log.

        Raises:
          UsageError: The devices cannot share the batch equally.
        """
        devices, processes = self.num_devices, jax.process_count()
        if global_batch_size < 1 or global_batch_size % devices:
            lower = global_batch_size // devices * devices
            raise UsageError(
                f"{name}={global_batch_size} cannot be shared equally by {devices} devices; choose a "
                f"multiple of {devices}, such as {lower or devices}"
            )
        return (
            f"{name}: {global_batch_size} global, {global_batch_size // processes} per process, "
            f"{global_batch_size // devices} per device"
        )

    def put_batch(self, batch: Batch) -> Batch:
        """A local batch of numpy arrays as the arrays that a step takes."""
        if self.parallelism == "pmap":
            count = len(self.mesh.local_devices)
            return jax.tree.map(lambda x: np.reshape(x, (count, len(x) // count, *np.shape(x)[1:])), batch)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.by_row, x), batch)

    def put_state(self, state: Any) -> Any:
        """A state on all devices, one copy a device under pmap."""
        if self.parallelism == "pmap":
            count = len(self.mesh.local_devices)
            return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x)[None], (count, *np.shape(x))), state)
        return jax.device_put(state, self.replicated)

    def single(self, tree: Any) -> Any:
        """The one logical value of what a step returned: without pmap's leading axis."""
        return jax.tree.map(lambda x: x[0], tree) if self.parallelism == "pmap" else tree

    def fetch_rows(self, tree: Any) -> Any:
        """All processes' rows of a step's per-row outputs as numpy arrays, in the global batch's order."""
        if self.parallelism == "pmap":
            tree = jax.tree.map(lambda x: np.reshape(x, (-1, *np.shape(x)[2:])), tree)
            return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else tree
        if jax.process_count() > 1:
            return multihost_utils.process_allgather(tree, tiled=True)
        return jax.tree.map(np.asarray, tree)

    def wait_for_all(self, what: str) -> None:
        """Returns when every process has come here; ``what`` is the same in all of them."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(what)

    def compile_once(self, make: Callable[..., Any]) -> Callable:
        """A function that makes a state, compiled quickly as it runs once; its value is on every device."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        options = _QUICK_CPU_COMPILATION if on_cpu else None
        return jax.jit(make, out_shardings=self.replicated, compiler_options=options)

    def compile(
        self, step: Callable[..., Any], *, donate_state: bool = False, rows_out: bool = False
    ) -> Callable:
        """A step body (state, batch) -> outputs, compiled for this parallelism.

        Args:
          step: The body; it reduces over `axis_name` itself where that is not None.
          donate_state: The state's memory is reused for the new one.
          rows_out: The outputs are one a row of the batch.
        """
        donated = (0,) if donate_state else ()
        if self.parallelism == "pmap":
            return jax.pmap(
                step, axis_name=DATA_AXIS, donate_argnums=donated, devices=list(self.mesh.devices.flat)
            )
        return jax.jit(
            step,
            in_shardings=(self.replicated, self.by_row),
            out_shardings=self.by_row if rows_out else self.replicated,
            donate_argnums=donated,
        )


def enable_compilation_cache(cache_dir: Path) -> None:
    """Keeps compiled programs between runs; a start is some 10 to 20 s faster then."""
    folder = cache_dir / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def description() -> str:
    """Devices and versions, for the log's first lines."""
    kinds = {device.device_kind for device in jax.devices()}
    return (
        f"jax {jax.__version__} on {jax.device_count()} device(s) ({', '.join(sorted(kinds))}), "
        f"process {jax.process_index()} of {jax.process_count()}, {os.cpu_count()} cores"
    )
