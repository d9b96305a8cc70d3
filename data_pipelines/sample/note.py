"""The file that tells a sample from real data wherever its folder goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

NOTE_NAME = "SAMPLE.json"


def write_note(out: Path, dataset: str, spec: Any) -> None:
    """Writes ``SAMPLE.json`` into the folder: who made it, as what data set, from what.

    Args:
      out: The sample's root.
      dataset: Name of the data set whose layout it has.
      spec: A dataclass of plain values.
    """
    note = {
        "maker": "jmt_jax sample",
        "dataset": dataset,
        "spec": dataclasses.asdict(spec),
        "warning": f"Synthetic people. Figures from them say nothing about {dataset} or any real person.",
    }
    (out / NOTE_NAME).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n")
