"""Where a run's results on a part are: of its training, or of one of its ``evaluations``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import BadDataError
from jmt_jax import evaluate, evaluations


class Place(NamedTuple):
    """Where results were found.

    Attributes:
      folder: Holds them, with ``config.json`` and ``predictions``.
      note: A sentence on which one was taken, where there are several; else "".
    """

    folder: Path
    note: str = ""


def find(run: Path, part: str) -> Place:
    """The run's own results on a part, else the newest of its evaluations of the best checkpoint on it.

    Args:
      run: The run's folder, or an evaluation's.
      part: The part.

    Raises:
      BadDataError: There are none; the message says what there is, and the command that makes them.
    """
    if evaluate.results_path(run, part).is_file():
        return Place(run)
    pattern = re.compile(rf"{part}_best(?:_(\d+))?")
    found = {
        folder: (evaluate.results_path(folder, part).stat().st_mtime_ns, int(match[1] or 1))
        for folder in _evaluations(run)
        if (match := pattern.fullmatch(folder.name)) and evaluate.results_path(folder, part).is_file()
    }
    if not found:
        raise BadDataError(
            f"{run} has no results on its {part} part; it has {_held(run)}; make them with "
            f"`{_command(run, part)}`"
        )
    newest = max(found, key=lambda folder: found[folder])
    if len(found) == 1:
        return Place(newest)
    return Place(
        newest,
        f"{run.name}: of {len(found)} evaluations of its {part} part the newest is taken, "
        f"{newest.relative_to(run)}.",
    )


def _command(run: Path, part: str) -> str:
    root = evaluations.run_of(run)
    return f"python -m jmt_jax.main --mode=eval --workdir={shlex.quote(str(root))} --config.eval.split={part}"


def _held(run: Path) -> str:
    """What results there are, by name."""
    own = sorted(path.name for path in run.glob("results*.json"))
    others = [str(path.relative_to(run)) for path in _evaluations(run) if any(path.glob("results*.json"))]
    return ", ".join([*own, *others]) or "no results at all"


def _evaluations(run: Path) -> list[Path]:
    return sorted(path for path in (run / evaluations.FOLDER).glob("*") if (path / "config.json").is_file())
