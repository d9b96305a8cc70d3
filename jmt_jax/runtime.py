"""Processes, devices and the mesh: the only place that asks JAX what it runs on."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.errors import UsageError
from data_pipelines.loader import Batch, Shard

DATA_AXIS, MODEL_AXIS = "data", "model"
PARALLELISMS = ("jit", "pmap")
# Of a state, these parts are cut along the model axis: every matrix of at least so many elements, by columns.
_SHARDED_PARTS = ("fusion", "head")
_SHARDED_ELEMENTS = 128 * 128
# Initialisation is many small random draws: compiling them well takes far longer than running them.
_QUICK_CPU_COMPILATION = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How a step is spread over devices.

    Attributes:
      parallelism: ``jit`` (one program over a mesh with a data axis) or ``pmap`` (one copy a device).
      mesh: All devices, ``data`` x ``model``: a batch's rows are spread along the data axis, the wide
        matrices of fusion and head along the model axis, which has one device unless asked for more.
    """

    parallelism: str
    mesh: Mesh

    @classmethod
    def of(cls, config: Any, devices: Sequence[jax.Device] | None = None) -> Runtime:
        """The runtime that a configuration asks for: ``parallelism`` and ``model_axis_devices``."""
        return cls.create(config.parallelism, devices, model_axis_devices=config.get("model_axis_devices", 1))

    @classmethod
    def create(
        cls,
        parallelism: str,
        devices: Sequence[jax.Device] | None = None,
        *,
        model_axis_devices: int = 1,
    ) -> Runtime:
        """A runtime over all devices, or over some of this process.

        Args:
          parallelism: ``jit`` or ``pmap``.
          devices: All if None.
          model_axis_devices: Devices that share one copy of the wide matrices of fusion and head.

        Raises:
          UsageError: The parallelism is unknown, or the devices do not make such a mesh.
        """
        if parallelism not in PARALLELISMS:
            raise UsageError(
                f"parallelism={parallelism!r} is unknown; it is one of {', '.join(PARALLELISMS)}"
            )
        # Linen's dropout needs automatic axes; make_mesh's default is explicit ones.
        devices = list(devices or jax.devices())
        width = model_axis_devices
        if width < 1 or len(devices) % width or (width > 1 and parallelism == "pmap"):
            raise UsageError(
                f"model_axis_devices={width} with {len(devices)} devices and parallelism={parallelism}; it "
                "has to divide their number, and more than 1 needs parallelism=jit"
            )
        mesh = jax.make_mesh(
            (len(devices) // width, width),
            (DATA_AXIS, MODEL_AXIS),
            axis_types=(AxisType.Auto, AxisType.Auto),
            devices=devices,
        )
        return cls(parallelism, mesh)

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        return self.mesh.size

    @property
    def num_row_shards(self) -> int:
        """Into how many parts a batch's rows are cut."""
        return self.mesh.shape[DATA_AXIS]

    @property
    def mesh_text(self) -> str:
        """The mesh as words for the log."""
        return f"a mesh of {self.num_row_shards} (data) x {self.mesh.shape[MODEL_AXIS]} (model)"

    @property
    def axis_name(self) -> str | None:
        """Name of the axis that a step reduces over itself; None under jit, where the compiler does."""
        return DATA_AXIS if self.parallelism == "pmap" else None

    @property
    def shard(self) -> Shard:
        """Which part of a global batch this process loads."""
        return Shard(jax.process_index(), jax.process_count())

    def shardings(self, tree: Any) -> Any:
        """Where each leaf of a state or of variables belongs: replicated, or cut along the model axis.

        Args:
          tree: Arrays or their shapes; optimizer states and averages lie as the parameters that they are of.
        """
        width = self.mesh.shape[MODEL_AXIS]

        def sharding(path: Any, leaf: Any) -> NamedSharding:
            names = {str(getattr(entry, "key", "")) for entry in path}
            shape = np.shape(leaf)
            is_wide = len(shape) == 2 and shape[0] * shape[1] >= _SHARDED_ELEMENTS and shape[1] % width == 0
            if width > 1 and is_wide and names.intersection(_SHARDED_PARTS):
                return NamedSharding(self.mesh, PartitionSpec(None, MODEL_AXIS))
            return self.replicated

        return jax.tree_util.tree_map_with_path(sharding, tree)

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
        devices, processes = self.num_row_shards, jax.process_count()
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
        return self.place(state)

    def place(self, variables: Any) -> Any:
        """One logical copy of variables, where they belong."""
        return jax.device_put(variables, self.shardings(variables))

    def single(self, tree: Any) -> Any:
        """The one logical value of what a step returned, on all devices: without pmap's leading axis."""
        return jax.tree.map(self._single, tree) if self.parallelism == "pmap" else tree

    def _single(self, copies: jax.Array) -> jax.Array:
        # Device by device: copies[0] would have devices exchange what each of them has.
        parts = [part.data[0] for part in copies.addressable_shards]
        return jax.make_array_from_single_device_arrays(copies.shape[1:], self.replicated, parts)

    def fetch_rows(self, tree: Any) -> Any:
        """All processes' rows of a step's per-row outputs as numpy arrays, in the global batch's order."""
        if self.parallelism == "pmap":
            tree = jax.tree.map(lambda x: np.reshape(x, (-1, *np.shape(x)[2:])), tree)
            return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else tree
        if jax.process_count() > 1:
            return multihost_utils.process_allgather(tree, tiled=True)
        return jax.tree.map(np.asarray, tree)

    def compile_once(self, make: Callable[..., Any]) -> Callable:
        """A function that makes a state, compiled quickly as it runs once; its value is made in its place."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        options = _QUICK_CPU_COMPILATION if on_cpu else None

        if self.mesh.shape[MODEL_AXIS] == 1:
            return jax.jit(make, out_shardings=self.replicated, compiler_options=options)
        return _ShapedStep(
            lambda *arguments: jax.jit(
                make,
                out_shardings=self.shardings(jax.eval_shape(make, *arguments)),
                compiler_options=options,
            )
        )

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
        if self.mesh.shape[MODEL_AXIS] > 1:
            return _ShapedStep(lambda *arguments: self.jit(step, donated, rows_out, arguments))
        return self.jit(step, donated, rows_out)

    def jit(
        self,
        step: Callable[..., Any],
        donated: tuple[int, ...],
        rows_out: bool,
        arguments: tuple[Any, ...] = (),
    ) -> Callable:
        """A step under jit; with a model axis the arguments' shapes say what is cut along it."""
        state_in = state_out = self.replicated
        if arguments and self.mesh.shape[MODEL_AXIS] > 1:
            state_in = self.shardings(arguments[0])
            state_out = self.shardings(jax.eval_shape(step, *arguments))
        return jax.jit(
            step,
            in_shardings=(state_in, self.by_row),
            out_shardings=self.by_row if rows_out else state_out,
            donate_argnums=donated,
        )


class _ShapedStep:
    """A step that is made at its first call, when the shapes of its arguments are known."""

    def __init__(self, make: Callable[..., Callable]) -> None:
        self._make, self._step = make, None

    def __call__(self, *arguments: Any) -> Any:
        if self._step is None:
            self._step = self._make(*arguments)
        return self._step(*arguments)


def enable_compilation_cache(cache_dir: Path) -> None:
    """Keeps compiled programs between runs; a start is some 10 to 20 s faster then."""
    folder = cache_dir / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def is_main_process() -> bool:
    """True for the one process that writes files."""
    return jax.process_index() == 0


def device_facts() -> dict[str, Any]:
    """What computes: ``platform``, ``kind`` (several are joined by commas), ``count`` and ``processes``."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": ", ".join(sorted({device.device_kind for device in devices})),
        "count": len(devices),
        "processes": jax.process_count(),
    }


def description() -> list[str]:
    """This process and all devices, for the log's first lines."""
    kinds = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    return [
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} "
        f"(pid {os.getpid()}), {os.cpu_count()} cores",
        f"{jax.device_count()} device(s) ({kinds}), {jax.local_device_count()} of this process",
    ]
