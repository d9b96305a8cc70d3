"""Checkpoints: the state, the data position and the best-so-far, saved and restored as one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import addresses, checkpoint_manifest, logging, moves, packing
from jmt_jax.train_state import TrainState

_VARIABLES, _OPTIMIZER, _PROGRESS = "variables", "optimizer", "progress"
_TEMPORARY, _DAMAGED = "orbax-checkpoint-tmp", ".damaged"
MOST_FAILED_SAVES = 3
# What storage says, out of what the libraries above it wrap around that.
_OF_THE_SYSTEM = re.compile(
    "|".join(os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))
)


class Checkpoints:
    """The checkpoints of one stage, each in a folder with the number of its step.

    A checkpoint holds ``variables`` (parameters and batch statistics, all that a prediction needs; the moving
    averages where the state keeps them), ``optimizer`` (step, optimizer state and, beside averages, what they
    are the averages of; packed) and ``progress`` (the data iterator's state, best-so-far and
    whatever else the caller adds; JSON), and a manifest of its files, without which it does not count.
    Saving runs in the background: a checkpoint is there under its name only when all of it is, and only then
    older ones go. The newest two are kept, each with what was the best when it was saved; of a finished stage
    the last and the best (`keep_last_and_best`). Every checkpoint is verified before it is used.

    With several processes all of them make the same calls; the first verifies, lists and removes.

    Args:
      directory: Folder of this stage's checkpoints; local, or ``gs://``.
      read_only: Refuses to save; for evaluation.
    """

    def __init__(self, directory: epath.PathLike, *, read_only: bool = False) -> None:
        path = addresses.path_of(str(directory))
        self._directory = path if addresses.is_remote(str(directory)) else path.resolve()
        self._read_only = read_only
        self._verified: dict[int, str] = {}
        self._under_way: int | None = None
        self._failed: list[str] = []
        handlers = {_VARIABLES: ocp.StandardCheckpointHandler, _OPTIMIZER: ocp.StandardCheckpointHandler}
        self._checkpointer = _Checkpointer(
            ocp.CompositeCheckpointHandler(
                **{name: handler() for name, handler in handlers.items()},
                **{_PROGRESS: ocp.JsonCheckpointHandler()},
            )
        )
        if not read_only and ocp.multihost.process_index() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()

    def steps(self) -> list[int]:
        """All finished checkpoints, good or bad, ascending."""
        names = [path.name for path in self._contents()]
        return sorted(int(name) for name in names if name.isdigit() and self._is_committed(int(name)))

    def latest_step(self) -> int | None:
        """The newest finished checkpoint of which every byte is right; None if there is none.

        Says in the log which ones are not, and why.
        """
        found = None
        if ocp.multihost.process_index() == 0:
            found = next((step for step in reversed(self.steps()) if self._is_good(step)), None)
        return _from_first_process(found)

    def best_step(self) -> int | None:
        """The checkpoint with the best validation result so far; None if there is none."""
        latest = self.latest_step()
        return None if latest is None else int(self.progress(latest)["best_step"])

    def find(self, wanted: str) -> int:
        """The number of a checkpoint that is there.

        Args:
          wanted: ``best``, ``last`` or a number.

        Raises:
          BadDataError: There is no good one at all.
          UsageError: There is none of that number.
        """
        steps, latest = self.steps(), self.latest_step()
        if latest is None:
            raise BadDataError(
                f"there is no good checkpoint in {self._directory}; train first, with that --workdir"
            )
        if wanted in ("best", "last"):
            return self.best_step() if wanted == "best" else latest
        if not wanted.isdigit() or int(wanted) not in steps:
            raise UsageError(f"eval.checkpoint={wanted!r} is not there; it is best, last or one of {steps}")
        return int(wanted)

    def resume_step(self) -> int | None:
        """The newest checkpoint to go on from: good itself, and its best one as well; None if there is none.

        Those after it are set aside, as ``<step>.damaged``.
        """
        found = None
        if ocp.multihost.process_index() == 0:
            for step in reversed(self.steps()):
                if self._is_good(step):
                    best = _best_step(self._folder(step))
                    if best in (-1, step) or self._is_good(best):
                        found = step
                        break
                    logging.warning(f"checkpoint {step} is passed over: its best one, {best}, is not good")
            for step in self.steps():
                if found is None or step > found:
                    self._set_aside(step)
        return _from_first_process(found)

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Starts saving a state, in place of a checkpoint with the same number if there is one.

        Args:
          state: One logical copy; its ``step`` is the checkpoint's number.
          progress: JSON values, numpy's and an iterator's state, as they are now; ``best_step`` among them,
            the number of the best checkpoint so far, maybe this one.

        Raises:
          BadDataError: It was the last of `MOST_FAILED_SAVES` in a row that could not be saved.
        """
        self.wait()
        step = int(state.step)
        moves.made(f"saving step {step}")
        self._verified.pop(step, None)
        self._under_way = step
        try:
            self._checkpointer.save(
                self._folder(step),
                args=ocp.args.Composite(
                    **{
                        _VARIABLES: ocp.args.StandardSave(state.evaluated_variables),
                        _OPTIMIZER: ocp.args.StandardSave(packing.pack(_beside_variables(state))),
                        # As it is now: the file is written while training goes on.
                        _PROGRESS: ocp.args.JsonSave(_to_json(progress)),
                    }
                ),
                force=True,
            )
        except Exception as error:  # storage fails in as many ways as there are kinds of storage
            self._save_failed(error)

    def progress(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          BadDataError: It is damaged or gone.
        """
        return self._restore(step, {_PROGRESS: ocp.args.JsonRestore()})[_PROGRESS]

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """A whole state and its progress.

        Args:
          step: The checkpoint's number.
          like: A state of the same structure and placement.

        Raises:
          BadDataError: It is damaged, gone or of another model.
        """
        like_beside = _beside_variables(like)
        wanted = {
            _VARIABLES: ocp.args.StandardRestore(_abstract(like.evaluated_variables)),
            _OPTIMIZER: ocp.args.StandardRestore(_abstract(packing.shapes(like_beside))),
            _PROGRESS: ocp.args.JsonRestore(),
        }
        restored = self._restore(step, wanted)
        variables = restored[_VARIABLES]
        beside = self._unpack(step, restored[_OPTIMIZER], like_beside)
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
          BadDataError: The checkpoint is damaged, gone or of another model.
        """
        return self._restore(step, {_VARIABLES: ocp.args.StandardRestore(_abstract(like))})[_VARIABLES]

    def wait(self) -> None:
        """Waits until a save under way is finished, then removes what need not be kept.

        Raises:
          BadDataError: It was the last of `MOST_FAILED_SAVES` in a row that could not be saved.
        """
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:  # as in `save`
            self._save_failed(error)
        if self._under_way is not None:
            self._under_way, self._failed = None, []
            self._remove_old(newest=2)

    def finish(self) -> None:
        """As `wait`, where the newest state has to be on disk before anything else happens.

        Raises:
          BadDataError: It is not.
        """
        self.wait()
        if self._failed:
            raise self._disk_error()

    def keep_last_and_best(self) -> None:
        """Removes all others; for a stage that is finished."""
        self.finish()
        self._remove_old(newest=1)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self.wait()
        self._checkpointer.close()

    def _folder(self, step: int) -> epath.Path:
        return self._directory / str(step)

    def _contents(self) -> list[epath.Path]:
        """What is in the directory; an object store has no empty ones."""
        try:
            return list(self._directory.iterdir())
        except FileNotFoundError:
            return []

    def _is_committed(self, step: int) -> bool:
        """Whether all of it is there: an object store knows no renaming, so it may be half written."""
        return (self._folder(step) / "commit_success.txt").exists()

    def _is_good(self, step: int) -> bool:
        return not self._problem(step)

    def _problem(self, step: int) -> str:
        """What is wrong with a checkpoint, said in the log once; "" if nothing is."""
        if step not in self._verified:
            self._verified[step] = checkpoint_manifest.problem(self._folder(step))
            if self._verified[step]:
                logging.warning(f"checkpoint {self._folder(step)} is not used: {self._verified[step]}")
        return self._verified[step]

    def _restore(self, step: int, wanted: dict[str, Any]) -> Any:
        if ocp.multihost.process_index() == 0 and (problem := self._problem(step)):
            raise BadDataError(
                f"checkpoint {step} in {self._directory} is damaged: {problem}; evaluate another one, or "
                "remove that folder and run the training command again"
            )
        try:
            return self._checkpointer.restore(self._folder(step), args=ocp.args.Composite(**wanted))
        except (ValueError, KeyError, TypeError) as error:
            raise self._does_not_fit(step, error) from error
        except FileNotFoundError as error:
            raise BadDataError(f"checkpoint {step} in {self._directory} is gone: {error}") from error

    def _unpack(self, step: int, packed: dict[str, Any], like: Any) -> Any:
        try:
            return packing.unpack(packed, like)
        except (ValueError, KeyError) as error:
            raise self._does_not_fit(step, error) from error

    def _does_not_fit(self, step: int, error: Exception) -> BadDataError:
        return BadDataError(
            f"checkpoint {step} in {self._directory} does not fit this configuration's model: {error}"
        )

    def _save_failed(self, error: Exception) -> None:
        """Counts a save that failed; what is on disk stays as it is."""
        step, self._under_way = self._under_way, None
        found = _OF_THE_SYSTEM.search(str(error))
        reason = found[0] if found else f"{type(error).__name__}: {error}".splitlines()[0]
        self._failed.append(reason)
        logging.warning(f"checkpoint {step} could not be saved in {self._directory}: {reason}")
        if ocp.multihost.process_index() == 0:
            # A disk that takes no writes may refuse this too; what it leaves is removed at the next start.
            with contextlib.suppress(OSError):
                self._remove_unfinished()
        if len(self._failed) >= MOST_FAILED_SAVES:
            raise self._disk_error()

    def _disk_error(self) -> BadDataError:
        return BadDataError(
            f"{len(self._failed)} checkpoint(s) in a row could not be saved in {self._directory} "
            f"({self._failed[-1]}); what was saved before is kept ({self.steps() or 'nothing'}): make room "
            "or give write permission, then run the same command again"
        )

    def _remove_old(self, newest: int) -> None:
        """Removes all but the newest few and what was the best when each of them was saved."""
        if ocp.multihost.process_index() != 0:
            return
        steps, kept = self.steps(), set()
        for step in steps[-newest:]:
            kept |= {step, _best_step(self._folder(step))}
        for step in set(steps) - kept:
            self._folder(step).rmtree(missing_ok=True)
            self._verified.pop(step, None)

    def _remove_unfinished(self) -> None:
        """Removes what a save left that was killed or failed."""
        for path in self._contents():
            unfinished = path.name.isdigit() and not self._is_committed(int(path.name))
            if unfinished or _TEMPORARY in path.name:
                path.rmtree(missing_ok=True)

    def _set_aside(self, step: int) -> None:
        aside = self._directory / f"{step}{_DAMAGED}"
        if aside.exists():
            aside.rmtree()
        self._folder(step).rename(aside)
        self._verified.pop(step, None)


class _Checkpointer(ocp.AsyncCheckpointer):
    """Orbax's, with a manifest written among the files before they get their final name."""

    def __init__(self, handler: ocp.CompositeCheckpointHandler) -> None:
        self._temporary: Any = None
        options = ocp.options.AsyncOptions(post_finalization_callback=self._write_manifest)
        super().__init__(handler, async_options=options)

    def get_temporary_path(self, directory: epath.Path) -> Any:
        """Where the files are until they are all there."""
        self._temporary = super().get_temporary_path(directory)
        return self._temporary

    def _write_manifest(self) -> None:
        checkpoint_manifest.write(epath.Path(self._temporary.get()))


def _to_json(value: Any) -> Any:
    """Data iterator states as JSON values."""
    return json.loads(
        json.dumps(value, default=lambda x: x.item() if isinstance(x, np.generic) else x.decode())
    )


def _best_step(folder: epath.Path) -> int:
    """Of a checkpoint's progress, read without Orbax: no other process takes part."""
    return int(json.loads((folder / _PROGRESS / "metadata").read_text())["best_step"])


def _from_first_process(step: int | None) -> int | None:
    """What the first process says, in all of them."""
    if ocp.multihost.process_count() > 1:
        step = int(ocp.multihost.broadcast_one_to_all(np.int64(-1 if step is None else step)))
        return None if step < 0 else step
    return step


def _beside_variables(state: TrainState) -> dict[str, Any]:
    """What training needs to go on, beside the evaluated variables."""
    beside = {"step": state.step, "opt_state": state.opt_state}
    if state.averages is None:
        return beside
    trained = {name: state.params[name] for name in state.averages["params"]}
    return {**beside, "trained": {"params": trained, "batch_stats": state.batch_stats}}


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
