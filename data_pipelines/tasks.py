"""What is asked of an annotation: which classes, or which values."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.recording import Annotation, Recording

NOT_ANNOTATED = -1


@dataclasses.dataclass(frozen=True)
class Task:
    """A question put to the annotations of a data set.

    Attributes:
      name: Its name in configs and results.
      kind: ``classification`` or ``regression``.
      columns: The annotation's columns that are used; one for a classification.
      outputs: Class names (classification) or value names (regression), in the order of the outputs.
      classes: Annotated value to class index.
      scale: Regression: the annotated values are divided by it.
      unused: Values of the data set that the task is not about, e.g. of the pain levels between two.
      value_range: Regression: lowest and highest annotated value; None where any finite number will do.
      leave_out: Values that somebody asked to leave out (``data.leave_out_labels``). Like those in `unused`
        they are labels, of no class; whatever is in none of these stops the run (`check_labels`).
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    classes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    scale: float = 1.0
    unused: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None
    leave_out: tuple[float, ...] = ()

    @property
    def is_classification(self) -> bool:
        """True for classes, False for values."""
        return self.kind == "classification"

    def labels(self, annotation: Annotation) -> tuple[np.ndarray, np.ndarray]:
        """Labels at the annotation's own moments.

        Returns:
          Classification: int32 [N] class indices and bool [N]. Regression: float32 [N, A] and bool [N, A].
          The mask is False where nobody annotated or where the task does not use the value.
        """
        values, mask = self._columns_of(annotation)
        if not self.is_classification:
            mask = mask & ~np.isin(values, np.array(self.leave_out, values.dtype))
            return np.where(mask, values / self.scale, 0).astype(np.float32), mask
        kinds, _ = self.kinds(annotation)
        known = (kinds >= 0) & (kinds < len(self.outputs))
        return np.where(known, kinds, 0).astype(np.int32), known

    def kinds(self, annotation: Annotation) -> tuple[np.ndarray, tuple[str, ...]]:
        """What label a classification's annotation has at each of its moments, left out or not.

        Returns:
          int32 [N], places in the names, `NOT_ANNOTATED` where nobody annotated; and the names: the classes,
          then one such as ``value 2`` for each value that is there and left out.
        """
        values, mask = (array[:, 0] for array in self._columns_of(annotation))
        kinds = np.full(len(values), NOT_ANNOTATED, np.int32)
        for value, class_index in self.classes.items():
            kinds[mask & (values == value)] = class_index
        kept = [value for value in self.classes if value not in self.leave_out]
        left_out = np.unique(values[mask & ~np.isin(values, np.array(kept, values.dtype))])
        for number, value in enumerate(left_out, start=len(self.outputs)):
            kinds[mask & (values == value)] = number
        return kinds, (*self.outputs, *(f"value {value:g}" for value in left_out))

    def annotated(self, annotation: Annotation) -> np.ndarray:
        """Where somebody annotated what the task uses, with whatever value: bool [N, A]."""
        return self._columns_of(annotation)[1]

    def annotated_values(self, annotation: Annotation) -> np.ndarray:
        """The values that somebody annotated, each once: float [K], ascending."""
        values, mask = self._columns_of(annotation)
        return np.unique(values[mask])

    def unknown_values(self, annotation: Annotation) -> dict[float, int]:
        """Annotated values that the task says nothing of, and how often each occurs."""
        values, mask = self._columns_of(annotation)
        known = np.isin(values, np.array(self.leave_out, values.dtype))
        if self.is_classification:
            known |= np.isin(values, np.array([*self.classes, *self.unused], values.dtype))
        else:
            low, high = self.value_range or (-np.inf, np.inf)
            known |= np.isfinite(values) & (values >= low) & (values <= high)
        found, counts = np.unique(values[mask & ~known], return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def leaving_out(self, values: float | Sequence[float]) -> Task:
        """The task without the labels of these annotated values.

        Raises:
          UsageError: One is no number.
        """
        try:
            numbers = tuple(float(v) for v in ((values,) if isinstance(values, int | float) else values))
        except (TypeError, ValueError):
            raise UsageError(
                f"data.leave_out_labels={values!r}; expected annotated values, numbers separated by commas"
            ) from None
        return dataclasses.replace(self, leave_out=numbers)

    def _columns_of(self, annotation: Annotation) -> tuple[np.ndarray, np.ndarray]:
        """Values and mask of the columns that are used, [N, A] each."""
        try:
            indices = [annotation.names.index(column) for column in self.columns]
        except ValueError as error:
            raise UsageError(
                f"task {self.name!r} needs the labels {', '.join(self.columns)}, but the data set is "
                f"annotated with {', '.join(annotation.names)}; choose another --config.data.task"
            ) from error
        return annotation.values[:, indices], annotation.mask[:, indices]


_MOST_VALUES = 10
_PAIN = ("BL1", "PA1", "PA2", "PA3", "PA4")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("bl1_vs_pa4", "classification", ("pain_class",), ("BL1", "PA4"), {0: 0, 4: 1}, unused=(1, 2, 3)),
        Task(
            "bl1_vs_any_pain",
            "classification",
            ("pain_class",),
            ("BL1", "any pain"),
            {0: 0, 1: 1, 2: 1, 3: 1, 4: 1},
        ),
        Task("bl1_vs_pa1", "classification", ("pain_class",), ("BL1", "PA1"), {0: 0, 1: 1}, unused=(2, 3, 4)),
        Task("bl1_vs_pa2", "classification", ("pain_class",), ("BL1", "PA2"), {0: 0, 2: 1}, unused=(1, 3, 4)),
        Task("bl1_vs_pa3", "classification", ("pain_class",), ("BL1", "PA3"), {0: 0, 3: 1}, unused=(1, 2, 4)),
        Task("five_classes", "classification", ("pain_class",), _PAIN, {i: i for i in range(5)}),
        Task(
            "pain_intensity",
            "regression",
            ("pain_class",),
            ("pain_intensity",),
            scale=4.0,
            value_range=(0, 4),
        ),
        Task(
            "valence_arousal",
            "regression",
            ("valence", "arousal"),
            ("valence", "arousal"),
            value_range=(-1.0, 1.0),
        ),
        Task("stress", "classification", ("stress",), ("rest", "stress"), {0: 0, 1: 1}),
    )
}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
      UsageError: There is none; the message lists those there are.
    """
    if name not in TASKS:
        raise UsageError(f"there is no task {name!r}; --config.data.task is one of {', '.join(TASKS)}")
    return TASKS[name]


def check_labels(task: Task, recordings: Sequence[Recording]) -> None:
    """Refuses annotated values that the task does not know: they would vanish without a word.

    Raises:
      BadDataError: The values with how often they occur, and what the task knows.
    """
    found: collections.Counter[float] = collections.Counter()
    holders: dict[float, str] = {}
    for recording in recordings:
        unknown = task.unknown_values(recording.annotation)
        found.update(unknown)
        for value in unknown:
            holders.setdefault(value, recording.id)
    if not found:
        return
    if task.is_classification:
        names = {value: task.outputs[index] for value, index in task.classes.items()}
        known = ", ".join(f"{value:g} ({name})" for value, name in names.items())
    else:
        known = "{:g} to {:g}".format(*(task.value_range or (-np.inf, np.inf)))
    first = sorted(found)[:_MOST_VALUES]
    listed = ", ".join(f"{value:g} ({found[value]} times, first in {holders[value]})" for value in first)
    more = f" and {len(found) - len(first)} more" if len(found) > len(first) else ""
    raise BadDataError(
        f"task {task.name!r} knows the labels {known}; these recordings are annotated with {listed}{more}: "
        "choose another --config.data.task, mend the labels, or leave values out by name, e.g. "
        f"--config.data.leave_out_labels={','.join(f'{value:g}' for value in first)},"
    )


def check_left_out(task: Task, recordings: Sequence[Recording]) -> None:
    """Refuses to leave out what is not there: it was probably meant to be another value.

    Raises:
      UsageError: A value of `Task.leave_out` occurs in no recording; the message lists those that occur.
    """
    if not task.leave_out:
        return
    occurring = np.unique(np.concatenate([task.annotated_values(one.annotation) for one in recordings]))
    # As the annotations are compared with it: in their own precision.
    missing = [value for value in task.leave_out if occurring.dtype.type(value) not in occurring]
    if not missing:
        return
    listed = ", ".join(f"{value:g}" for value in occurring.tolist())
    if len(occurring) > _MOST_VALUES:
        listed = f"{len(occurring)} ones from {occurring[0]:g} to {occurring[-1]:g}"
    raise UsageError(
        f"data.leave_out_labels names {', '.join(f'{value:g}' for value in missing)}, which no recording is "
        f"annotated with; the values that occur are {listed}: name some of these, or none"
    )
