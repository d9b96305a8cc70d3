"""What is asked of an annotation: which classes, or which values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.recording import Annotation


@dataclasses.dataclass(frozen=True)
class Task:
    """A question put to the annotations of a data set.

    Attributes:
      name: Its name in configs and results.
      kind: ``classification`` or ``regression``.
      columns: The annotation's columns that are used; one for a classification.
      outputs: Class names (classification) or value names (regression), in the order of the outputs.
      classes: Annotated value to class index; a value that is not in it leaves the recording out.
      scale: Regression: the annotated values are divided by it.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    classes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    scale: float = 1.0

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
        try:
            indices = [annotation.names.index(column) for column in self.columns]
        except ValueError as error:
            raise UsageError(
                f"task {self.name!r} needs the labels {', '.join(self.columns)}, but the data set is "
                f"annotated with {', '.join(annotation.names)}; choose another --config.data.task"
            ) from error
        values, mask = annotation.values[:, indices], annotation.mask[:, indices]
        if not self.is_classification:
            return np.where(mask, values / self.scale, 0).astype(np.float32), mask
        labels = np.full(len(values), -1, np.int32)
        for value, class_index in self.classes.items():
            labels[mask[:, 0] & (values[:, 0] == value)] = class_index
        return np.maximum(labels, 0), labels >= 0


_PAIN = ("BL1", "PA1", "PA2", "PA3", "PA4")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("bl1_vs_pa4", "classification", ("pain_class",), ("BL1", "PA4"), {0: 0, 4: 1}),
        Task(
            "bl1_vs_any_pain",
            "classification",
            ("pain_class",),
            ("BL1", "any pain"),
            {0: 0, 1: 1, 2: 1, 3: 1, 4: 1},
        ),
        Task("bl1_vs_pa1", "classification", ("pain_class",), ("BL1", "PA1"), {0: 0, 1: 1}),
        Task("bl1_vs_pa2", "classification", ("pain_class",), ("BL1", "PA2"), {0: 0, 2: 1}),
        Task("bl1_vs_pa3", "classification", ("pain_class",), ("BL1", "PA3"), {0: 0, 3: 1}),
        Task("five_classes", "classification", ("pain_class",), _PAIN, {i: i for i in range(5)}),
        Task("pain_intensity", "regression", ("pain_class",), ("pain_intensity",), scale=4.0),
        Task("valence_arousal", "regression", ("valence", "arousal"), ("valence", "arousal")),
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
