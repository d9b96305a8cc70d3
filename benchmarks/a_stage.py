"""A training stage outside of a run: its compiled step, a fresh state and its endless batches."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jmt_jax.experiment import Experiment
from jmt_jax.optimizer import make_optimizer, make_schedule
from jmt_jax.runtime import Runtime
from jmt_jax.steps import make_train_step
from jmt_jax.train_state import Params, TrainState


def shipped_config(name: str, variant: str, cache_dir: str) -> Any:
    """A configuration of ``configs/`` whose data and programs are kept in a folder of their own."""
    path = Path(__file__).resolve().parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    config.data.cache_dir = cache_dir
    return config


def fresh_variables(experiment: Experiment, stage: str, runtime: Runtime) -> Params:
    """Variables as a stage initialises them."""
    model, example = experiment.model(stage), experiment.loader.example_batch(1)

    def init(batch: Any) -> Params:
        return model.init(jax.random.key(0), batch["inputs"], batch["masks"], train=False)

    return {"batch_stats": {}, **runtime.compile_once(init)(example)}


@dataclasses.dataclass
class TrainingStage:
    """What a stage's loop works with.

    Attributes:
      step: Compiled; (state, batch) to (state, what was measured).
      state: On the devices.
      batches: Endless, with ``get_state``.
      runtime: Of both.
    """

    step: Callable[..., Any]
    state: TrainState
    batches: Any
    runtime: Runtime

    @classmethod
    def create(
        cls,
        experiment: Experiment,
        stage: str,
        variables: Params,
        runtime: Runtime,
        *,
        donate_state: bool = False,
    ) -> TrainingStage:
        """A stage at its first step.

        Args:
          experiment: As the stage looks at it; on features where it has them.
          stage: Its name.
          variables: To begin with.
          runtime: Devices.
          donate_state: As a run does: the memory of a state is used for the next.
        """
        options = experiment.config.training[stage]
        optimizer = make_optimizer(options, make_schedule(options, 1000, 100))
        trainable = experiment.trainable(stage, variables["params"])
        body = make_train_step(
            experiment.model(stage, runtime.axis_name),
            experiment.loss,
            optimizer,
            trainable=trainable,
            seed=0,
            axis_name=runtime.axis_name,
        )
        batches = experiment.model_loader.train(
            experiment.rows["train"],
            global_batch_size=options.global_batch_size,
            seed=0,
            shard=runtime.shard,
        )
        state = runtime.put_state(TrainState.create(variables, optimizer, trainable))
        return cls(runtime.compile(body, donate_state=donate_state), state, batches, runtime)

    def run(self, steps: int) -> None:
        """Trains for some steps, loading included, and waits for the last one."""
        for _ in range(steps):
            self.state, measured = self.step(self.state, self.runtime.put_batch(next(self.batches)))
        if steps:
            jax.block_until_ready(measured)
