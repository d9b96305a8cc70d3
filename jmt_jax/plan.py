"""What a run will need on other machines: its steps compiled ahead of time, without any of them.

    python -m jmt_jax.main --mode=plan --config=configs/affwild2.py:paper --topology=v5e:4x4

A TPU topology is compiled for by libtpu (``pip install -e '.[tpu]'``), on any machine; without ``--topology``
the local compiler compiles for the local devices.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax

from data_pipelines.errors import UsageError
from jmt_jax import collectives, extract, logging
from jmt_jax.chips import GIB, Chip, Target, find_target
from jmt_jax.evaluate import abstract_variables
from jmt_jax.experiment import Experiment, make_experiment, open_data
from jmt_jax.models.backbones.convolution import CPU_FORM
from jmt_jax.optimizer import make_optimizer, make_schedule
from jmt_jax.runtime import Runtime
from jmt_jax.steps import make_eval_step, make_train_step
from jmt_jax.train_state import Params, TrainState

_MIB = 2**20
_LOADER_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One compiled step, figures of one device.

    Attributes:
      name: Stage, and ``train`` or ``eval``.
      global_batch_size: Rows.
      memory_bytes: Arguments, results and temporaries at once, without what is donated.
      argument_bytes, temporary_bytes: Parts of it.
      flops, accessed_bytes: The compiler's count.
      found: Collectives.
      gathering: Those that gather the batch.
      cpu_forms: How many instructions compute a convolution as only a CPU should.
      row_bytes: Of one row of the batch as the loader delivers it.
      compile_seconds: Here.
    """

    name: str
    global_batch_size: int
    memory_bytes: int
    argument_bytes: int
    temporary_bytes: int
    flops: float
    accessed_bytes: float
    found: tuple[collectives.Collective, ...]
    gathering: tuple[collectives.Collective, ...]
    cpu_forms: int
    row_bytes: int
    compile_seconds: float

    def floor_seconds(self, chip: Chip, num_devices: int) -> tuple[float, str]:
        """The least time that a step can take by the chip's figures, and what it is bound by."""
        # A ring sends each byte of a sum twice, but for the part that a device has itself.
        sent = 2 * sum(one.num_bytes for one in self.found) * (num_devices - 1) / num_devices
        bounds = {
            "arithmetic": self.flops / chip.flops_per_second,
            "memory": self.accessed_bytes / chip.memory_bytes_per_second,
        }
        if chip.link_bytes_per_second:
            bounds["links"] = sent / chip.link_bytes_per_second
        bound = max(bounds, key=bounds.get)
        return bounds[bound], bound


def plan(config: Any, topology: str = "") -> list[StepPlan]:
    """Compiles every stage's train step and the eval step, and says what they need.

    Args:
      config: The configuration; its data set gives the shapes.
      topology: As of `find_target`.

    Raises:
      UsageError: A step does not fit the chip's memory, or gathers the batch.
    """
    target = find_target(topology)
    runtime = Runtime.of(config, target.devices)
    data = open_data(config)
    fold = (tuple(config.protocol.folds) or (0,))[0]
    experiment = make_experiment(config, data, fold=fold, seed=tuple(config.seeds)[0])
    compiler = "libtpu, ahead of time" if topology else "the local compiler, for the local devices"
    logging.info(f"plan for {target.name}: {runtime.parallelism} over {runtime.mesh_text}; by {compiler}")
    plans = []

    def say(one: StepPlan, target: Target, measured: float | None = None) -> None:
        logging.info("\n".join(describe(one, target, measured)))
        plans.append(one)

    for stage in experiment.stages:
        if extract.is_wanted(experiment, stage):
            # From here on backbones are done with: extracted once, by each host on its own devices.
            of_model = _variables(experiment, stage, runtime)
            for stream in data.streams:
                say(plan_extraction(experiment, stream, of_model, target.one_host), target.one_host)
            experiment = extract.with_shapes(experiment, of_model)
        one = plan_train_step(experiment, stage, runtime)
        say(one, target, measure_loader(experiment.of_stage(stage), one.global_batch_size))
    say(plan_eval_step(experiment, runtime), target)
    _check(plans, target)
    return plans


def plan_extraction(experiment: Experiment, stream: str, variables: Params, host: Target) -> StepPlan:
    """The step that computes a frozen backbone's tokens, compiled for the devices of one host."""
    runtime = Runtime.create("jit", host.devices)
    tokens, example = extract.encoding(experiment, stream)
    own = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), extract.backbone_of(variables, stream)
    )
    return _compile(f"extraction of {stream}", tokens, own, example, runtime, rows_out=True)


def plan_train_step(experiment: Experiment, stage: str, runtime: Runtime) -> StepPlan:
    """The train step of one stage, compiled for the runtime's devices."""
    experiment = experiment.of_stage(stage)
    options = experiment.config.training[stage]
    model = experiment.model(stage, runtime.axis_name)
    steps_per_epoch = max(1, round(len(experiment.rows["train"]) / options.global_batch_size))
    schedule = make_schedule(options, steps_per_epoch * options.epochs, steps_per_epoch)
    optimizer = make_optimizer(options, schedule)
    variables = _variables(experiment, stage, runtime)
    trainable = experiment.trainable(stage, variables["params"])
    decay = options.get("ema_decay", 0.0)
    create = functools.partial(
        TrainState.create, optimizer=optimizer, trainable=trainable, averaged=decay > 0
    )
    step = make_train_step(
        model,
        experiment.loss,
        optimizer,
        trainable=trainable,
        seed=experiment.seed,
        accumulation_steps=options.get("accumulation_steps", 1),
        ema_decay=decay,
    )
    state = jax.eval_shape(create, variables)
    batch = _batch(experiment, options.global_batch_size)
    return _compile(f"{stage}: train step", step, state, batch, runtime)


def plan_eval_step(experiment: Experiment, runtime: Runtime) -> StepPlan:
    """The evaluation step of the whole model, compiled for the runtime's devices."""
    model = experiment.model("evaluation", runtime.axis_name)
    variables = _variables(experiment, "evaluation", runtime)
    batch = _batch(experiment, experiment.config.eval.global_batch_size)
    return _compile("eval step", make_eval_step(model), variables, batch, runtime, rows_out=True)


def _variables(experiment: Experiment, stage: str, runtime: Runtime) -> Params:
    """Shapes of a model's variables, those of backbones whose work is done among them."""
    whole = dataclasses.replace(experiment, features=None)
    return abstract_variables(whole, whole.model(stage, runtime.axis_name), runtime)


def _batch(experiment: Experiment, global_batch_size: int) -> Any:
    """Shapes and types of a global batch."""
    row = experiment.model_loader.example_batch(1)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((global_batch_size, *x.shape[1:]), x.dtype), row)


def _compile(
    name: str, step: Any, state: Any, batch: Any, runtime: Runtime, *, rows_out: bool = False
) -> StepPlan:
    shapes = jax.tree.leaves(batch)
    global_batch_size = shapes[0].shape[0]
    runtime.check_batch_size(f"global_batch_size of the {name}", global_batch_size)
    started = time.monotonic()
    donated = () if rows_out else (0,)
    compiled = runtime.jit(step, donated, rows_out, (state, batch)).lower(state, batch).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    text = compiled.as_text()
    found = tuple(collectives.find(text))
    return StepPlan(
        name=name,
        global_batch_size=global_batch_size,
        memory_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=float(cost.get("flops", 0.0)),
        accessed_bytes=float(cost.get("bytes accessed", 0.0)),
        found=found,
        gathering=tuple(collectives.batch_gathering(found, global_batch_size)),
        cpu_forms=text.count(f"/{CPU_FORM}/"),
        row_bytes=sum(x.size * x.dtype.itemsize for x in shapes) // global_batch_size,
        compile_seconds=time.monotonic() - started,
    )


def measure_loader(experiment: Experiment, global_batch_size: int) -> float | None:
    """Rows a second that our loader delivers here, from the files of this data set; some seconds' measure.

    None where it would deliver features, which are not there yet.
    """
    if experiment.features is not None:
        return None
    size = min(global_batch_size, 32)
    batches = experiment.loader.train(experiment.rows["train"], global_batch_size=size, seed=0)
    next(batches)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < _LOADER_SECONDS:
        next(batches)
        count += size
    return count / (time.monotonic() - started)


def describe(one: StepPlan, target: Target, loader_rows_per_second: float | None) -> list[str]:
    """A step's figures as lines for people."""
    chip, devices = target.chip, len(target.devices)
    rows = one.global_batch_size
    lines = [
        f"{one.name}: {rows} rows global, {rows // target.hosts} a host "
        f"(compiled in {one.compile_seconds:.0f} s)",
        f"  memory a device   {_size(one.memory_bytes)} of {chip.memory_bytes / GIB:.0f} GiB (arguments "
        f"{_size(one.argument_bytes)}, temporaries {_size(one.temporary_bytes)})",
        f"  arithmetic        {one.flops / 1e9:,.3f} GFLOP a device and step; memory traffic "
        f"{_size(one.accessed_bytes)}",
    ]
    kinds = collectives.by_kind(one.found)
    lines += [f"  {kind:<17} {count} of {_size(size)} together" for kind, (count, size) in kinds.items()]
    if not kinds:
        lines.append("  collectives       none")
    lines += [f"  GATHERS THE BATCH {bad.kind} of {bad.shapes}" for bad in one.gathering]
    if chip.link_bytes_per_second is None and one.found:
        lines.append("  links             rate not known, left out of the next figure")
    seconds, bound = one.floor_seconds(chip, devices)
    needed = rows / seconds / target.hosts
    lines.append(
        f"  step at least     {seconds * 1e3:.2f} ms by the device's {chip.source} rates (bound by {bound})"
    )
    lines.append(
        f"  a host must read  {needed:,.0f} rows/s, {needed * one.row_bytes / 1e6:,.0f} MB/s of them in "
        "memory, at that step time"
    )
    if loader_rows_per_second is not None:
        lines.append(f"  our loader here   {loader_rows_per_second:,.0f} rows/s, measured now, here")
    return lines


def _size(num_bytes: float) -> str:
    """Bytes for people."""
    for unit, size in (("GiB", GIB), ("MiB", _MIB)):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes / 1024:.1f} KiB"


def _check(plans: Sequence[StepPlan], target: Target) -> None:
    for one in plans:
        if one.memory_bytes > target.chip.memory_bytes:
            raise UsageError(
                f"{one.name} needs {one.memory_bytes / GIB:.1f} GiB a device, {target.name} has "
                f"{target.chip.memory_bytes / GIB:.0f}; lower its global_batch_size, raise "
                "accumulation_steps, or take more chips"
            )
        if one.gathering:
            raise UsageError(
                f"{one.name} brings all rows of the batch to every device ({one.gathering[0].kind}); that is "
                "a defect of the model's code, please report it with the configuration"
            )
        if one.cpu_forms and target.devices[0].platform != "cpu":
            raise UsageError(
                f"{one.name} has {one.cpu_forms} instructions of convolutions as they are computed on a CPU; "
                "that is a defect of the model's code, please report it with the configuration"
            )
