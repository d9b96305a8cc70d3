"""BioVid's table of clips, ``starting_point/samples.csv``: who is in a clip, how strong the stimulus was."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from data_pipelines.errors import BadDataError
from data_pipelines.media import signals

CLASS_NAMES = ("BL1", "PA1", "PA2", "PA3", "PA4")
"""Names of the class ids 0 to 4: no stimulus, then four of growing strength."""
COLUMNS = ("subject_id", "subject_name", "class_id", "class_name", "sample_id", "sample_name")

_SUBJECT_NAME = re.compile(r"\w+_([wm])_(\d{1,3})")
_SAMPLE_NAME = re.compile(r"\w[\w.-]*")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One line of the table.

    Attributes:
      subject: The subject's name, which is also a folder's, e.g. ``071309_w_21``.
      sex: ``w`` or ``m``, as the subject's name has it.
      age: In years, as the subject's name has it.
      class_id: 0 (BL1) to 4 (PA4).
      name: The clip's name, which begins its files', e.g. ``071309_w_21-PA4-001``.
    """

    subject: str
    sex: str
    age: int
    class_id: int
    name: str


def read_samples(path: Path) -> list[Clip]:
    """Reads the table; columns are found by their names.

    Returns:
      The clips in the order of the lines.

    Raises:
      BadDataError: A column is missing, or a line is not what it has to be (the message has its number).
    """
    names = signals.read_column_names(path)
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise BadDataError(
            f"{path} has no column {' and no '.join(missing)}; expected {', '.join(COLUMNS)}, "
            "separated by TAB"
        )
    clips: list[Clip] = []
    seen: set[str] = set()
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(names):
            raise BadDataError(
                f"{path}, line {number}: {len(cells)} cells; expected {len(names)}, separated by TAB"
            )
        values = dict(zip(names, cells, strict=True))
        problem = _problem(values, seen)
        if problem:
            raise BadDataError(f"{path}, line {number}: {problem}")
        seen.add(values["sample_name"])
        subject = values["subject_name"]
        sex, age = _SUBJECT_NAME.fullmatch(subject).groups()
        clips.append(Clip(subject, sex, int(age), int(values["class_id"]), values["sample_name"]))
    if not clips:
        raise BadDataError(f"{path} names no clip; expected a line for each")
    return clips


def _problem(values: dict[str, str], seen: set[str]) -> str:
    """What is wrong with a line, as a sentence; "" if nothing."""
    subject, sample, class_id = values["subject_name"], values["sample_name"], values["class_id"]
    if not _SUBJECT_NAME.fullmatch(subject):
        return f"subject_name is {subject!r}; expected a code, w or m, and the age, as in 071309_w_21"
    if not _SAMPLE_NAME.fullmatch(sample):
        return f"sample_name is {sample!r}; expected a name as 071309_w_21-PA4-001"
    if sample in seen:
        return f"sample_name {sample!r} is there for the second time; expected one line a clip"
    if class_id not in ("0", "1", "2", "3", "4"):
        return f"class_id is {class_id!r}; expected 0 (BL1) to 4 (PA4)"
    if values["class_name"] != CLASS_NAMES[int(class_id)]:
        return (
            f"class_name is {values['class_name']!r} with class_id {class_id}; "
            f"expected {CLASS_NAMES[int(class_id)]}"
        )
    return ""
