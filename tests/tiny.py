"""The shipped configurations, shrunk by overrides, on samples that take seconds to make."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ml_collections import config_dict

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def load(name: str, *arguments: str) -> config_dict.ConfigDict:
    """A shipped configuration as it is."""
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)


# The same as dotted overrides, for configurations and for command lines.
BIOVID = {
    "data.reader.size": 16,
    "data.sample.subjects": 5,
    "data.sample.clips_per_class": 2,
    "data.sample.frames": 24,
    "data.sample.size": 32,
    "data.prepare_workers": 1,
    "model.visual.stem_width": 4,
    "model.visual.widths": (4,),
    "model.visual.blocks": (1,),
    "model.physio.channels": (4, 4, 4),
    "model.physio.features": 8,
    "model.jmt.dim": 8,
    "model.jmt.hidden_dim": 8,
    "model.concat.dim": 8,
    **{f"model.{name}.dim": 8 for name in ("vanilla", "late", "bottleneck", "rjca")},
    **{f"model.{name}.hidden_dim": 8 for name in ("vanilla", "bottleneck", "rjca")},
    "model.late.hidden": (8,),
    "model.head.hidden": (8,),
    "model.unimodal_head.hidden": (8,),
    "eval.global_batch_size": 4,
    "eval.num_resamples": 50,
    **{f"training.{stage}.global_batch_size": 4 for stage in ("visual", "physio", "fusion", "joint")},
    **{f"training.{stage}.epochs": 1 for stage in ("visual", "physio", "fusion", "joint")},
    **{f"training.{stage}.eval_every_epochs": 1.0 for stage in ("visual", "physio", "fusion", "joint")},
}

STRESS_STREAMS = ("pulse", "skin_conductance", "temperature")
STRESS = {
    "data.sample.subjects": 5,
    "data.sample.seconds": 400.0,
    "data.sample.blocks": 4,
    "data.prepare_workers": 1,
    "protocol.folds": (0,),
    "eval.global_batch_size": 16,
    "eval.num_resamples": 50,
    **{f"training.{stage}.global_batch_size": 8 for stage in (*STRESS_STREAMS, "fusion", "joint")},
    **{f"training.{stage}.epochs": 1 for stage in (*STRESS_STREAMS, "fusion", "joint")},
}

AFFWILD2 = {
    "data.reader.size": 16,
    "data.reader.sound_rate_hz": 8000,
    "data.sample.train": 2,
    "data.sample.validation": 2,
    "data.sample.test": 1,
    "data.sample.seconds": 2.5,
    "data.sample.size": 32,
    "data.prepare_workers": 1,
    "data.grid.tokens": 4,
    "data.grid.token_step_frames": 8,
    "data.streams.visual.frames": 2,
    "data.streams.visual.reach_frames": 8,
    "data.streams.audio.window_seconds": 0.5,
    "data.streams.audio.mels": 16,
    "data.streams.audio.fft_samples": 256,
    "data.streams.audio.window_samples": 160,
    "data.streams.audio.hop_samples": 200,
    "model.visual.stem_width": 4,
    "model.visual.widths": (4,),
    "model.visual.blocks": (1,),
    "model.audio.widths": (4,),
    "model.audio.blocks": (1,),
    "model.jmt.dim": 8,
    "model.jmt.hidden_dim": 8,
    "model.head.hidden": (8,),
    "model.unimodal_head.hidden": (8,),
    "eval.global_batch_size": 8,
    "eval.num_resamples": 50,
    "eval.frames.smoothing_frames": (3, 5),
    **{f"training.{stage}.global_batch_size": 8 for stage in ("visual", "audio", "fusion", "joint")},
    **{f"training.{stage}.epochs": 1 for stage in ("visual", "audio", "fusion", "joint")},
}
SHRUNK = {"biovid": BIOVID, "stress": STRESS, "affwild2": AFFWILD2}


def shrunk(name: str, cache_dir: Path, **overrides: Any) -> config_dict.ConfigDict:
    """A shipped configuration in a size for tests.

    Args:
      name: ``biovid``, ``stress`` or ``affwild2``.
      cache_dir: Where samples and prepared data are kept during the tests.
      **overrides: Further values; ``__`` stands for a dot.
    """
    config = load(name)
    changes = dict(SHRUNK[name])
    changes.update({key.replace("__", "."): value for key, value in overrides.items()})
    changes["data.cache_dir"] = str(cache_dir)
    with config.unlocked():
        config.update_from_flattened_dict({key: value for key, value in changes.items()})
    return config


def arguments(name: str, cache_dir: Path) -> list[str]:
    """The same overrides as a command line's arguments."""
    changes = {**SHRUNK[name], "data.cache_dir": str(cache_dir)}
    return [f"--config.{key}={value}" for key, value in changes.items()]
