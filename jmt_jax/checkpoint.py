"""Checkpoints: the state, the data position and the best-so-far, saved and restored as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from data_pipelines.errors import BadDataError
from jmt_jax.train_state import TrainState

_VARIABLES, _OPTIMIZER, _PROGRESS = "variables", "optimizer", "progress"


class Checkpoints:
    """The checkpoints of one stage: the last one and the best one are kept.

    A checkpoint holds ``variables`` (parameters and batch statistics, all that a prediction needs; the moving
    averages where the state keeps them), ``optimizer`` (step, optimizer state and, beside averages, what they
    are the averages of) and ``progress`` (the data iterator's state, best-so-far and
    whatever else the caller adds; JSON). Saving runs in the background; `close` waits for it.

    Args:
      directory: Folder of this stage's checkpoints.
      read_only: Refuses to save; for evaluation.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = directory
        policy = AnyPreservationPolicy(
            [
                LatestN(n=1),
                # A step that was the best when it was saved carries its number, any other carries -1.
                BestN(
                    get_metric_fn=lambda metrics: metrics["best_step"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            directory.resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                read_only=read_only,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_names=(_VARIABLES, _OPTIMIZER, _PROGRESS),
        )

    def latest_step(self) -> int | None:
        """The newest finished checkpoint; None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All finished checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The checkpoint with the best validation result so far; None if there is none."""
        latest = self.latest_step()
        return None if latest is None else int(self.progress(latest)["best_step"])

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Starts saving a state.

        Args:
          state: One logical copy; its ``step`` is the checkpoint's number.
          progress: JSON values with ``best_step``, the number of the best checkpoint so far, maybe this one.
        """
        step = int(state.step)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    _VARIABLES: ocp.args.StandardSave(state.evaluated_variables),
                    _OPTIMIZER: ocp.args.StandardSave(_beside_variables(state)),
                    _PROGRESS: ocp.args.JsonSave(progress),
                }
            ),
            metrics={"best_step": step if progress["best_step"] == step else -1},
        )

    def progress(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        restored = self._manager.restore(step, args=ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()}))
        return restored[_PROGRESS]

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """A whole state and its progress.

        Args:
          step: The checkpoint's number.
          like: A state of the same structure and placement.
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{
                    _VARIABLES: ocp.args.StandardRestore(_abstract(like.evaluated_variables)),
                    _OPTIMIZER: ocp.args.StandardRestore(_abstract(_beside_variables(like))),
                    _PROGRESS: ocp.args.JsonRestore(),
                }
            ),
        )
        variables, beside = restored[_VARIABLES], restored[_OPTIMIZER]
        trained, averages = beside.pop("trained", None), None
        if trained is not None:
            averages = {
                "params": {name: variables["params"][name] for name in trained["params"]},
                "batch_stats": variables["batch_stats"],
            }
            variables = {
                "params": {**variables["params"], **trained["params"]},
                "batch_stats": trained["batch_stats"],
            }
        return TrainState(**variables, **beside, averages=averages), restored[_PROGRESS]

    def restore_variables(self, step: int, like: Any) -> Any:
        """Parameters and batch statistics alone, e.g. for evaluation or for the next stage.

        Raises:
          BadDataError: The checkpoint is of another model.
        """
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(**{_VARIABLES: ocp.args.StandardRestore(_abstract(like))})
            )
        except (ValueError, KeyError) as error:
            raise BadDataError(
                f"checkpoint {step} in {self._directory} does not fit this configuration's model: {error}"
            ) from error
        return restored[_VARIABLES]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def wait(self) -> None:
        """Waits until a save under way is finished."""
        self._manager.wait_until_finished()


def to_json(value: Any) -> Any:
    """Data iterator states as JSON values."""
    return json.loads(
        json.dumps(value, default=lambda x: x.item() if isinstance(x, np.generic) else x.decode())
    )


def _beside_variables(state: TrainState) -> dict[str, Any]:
    """What training needs to go on, beside the evaluated variables."""
    beside = {"step": state.step, "opt_state": state.opt_state}
    if state.averages is None:
        return beside
    trained = {name: state.params[name] for name in state.averages["params"]}
    return {**beside, "trained": {"params": trained, "batch_stats": state.batch_stats}}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
