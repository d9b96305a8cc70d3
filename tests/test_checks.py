"""All that can be known is checked before anything is made, written or trained."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import jax
import pytest
import tiny

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import config_checks, config_rules
from jmt_jax.runtime import Runtime

VARIANTS = (("biovid",), ("biovid", "paper"), ("affwild2",), ("affwild2", "paper"), ("stress",))


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_the_shipped_configurations_can_run(variant):
    config_checks.check(tiny.load(*variant))


MAY_BE_BELOW_ZERO = ("data.reader.label_offset_seconds", "data.reader.electrode_off_microsiemens")


def _wrong_values(value):
    """Values that no key with such a value may hold."""
    if isinstance(value, bool):
        return ["perhaps"]
    if isinstance(value, (int, float)):
        return [float("nan"), float("inf"), -1, "many"]
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return [(-1,), ("a",), (0.5,)]
    return []


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_no_key_takes_a_number_that_is_none(variant):
    tree = tiny.load(*variant).to_dict()
    tried = 0
    for key, value in config_rules.leaves(tree):
        for wrong in _wrong_values(value):
            if wrong == -1 and key in MAY_BE_BELOW_ZERO:
                continue
            *path, name = key.split(".")
            parent = tree
            for part in path:
                parent = parent[part]
            parent[name] = wrong
            with pytest.raises(UsageError) as caught:
                config_rules.check_values(tree)
            assert str(caught.value).startswith(f"{key}=") and "expected" in str(caught.value)
            parent[name] = value
            tried += 1
    assert tried > 200


WRONG = [
    ("model.modality_dropout", -0.1, "below 1"),
    ("model.streams", "", "name one or more streams"),
    ("model.pulse.features", 0, "from 1 up"),
    ("model.pulse.kernel_sizes", (0, 3, 3), "from 1 up"),
    ("model.jmt.num_layers", -1, "from 0 up"),
    ("model.bottleneck.num_bottlenecks", 0, "from 1 up"),
    ("training.joint.momentum", 1.0, "below 1"),
    ("training.joint.weight_decay", -1.0, "from 0 up"),
    ("training.joint.clip_gradient_norm", float("inf"), "from 0 up"),
    ("training.joint.ema_decay", 1.0, "below 1"),
    ("training.joint.eval_every_epochs", 0.0, "above 0"),
    ("training.joint.decay_factor", 1.5, "at most 1"),
    ("training.joint.decay_every_epochs", 0, "above 0"),
    ("training.label_smoothing", 1.0, "below 1"),
    ("training.checkpoint_every_steps", -1, "from 0 up"),
    ("training.max_bad_steps", 0, "from 1 up"),
    ("training.extract_draws", -1, "from 0 up"),
    ("training.stages", "", "training.stages"),
    ("protocol.num_folds", 1, "from 2 up"),
    ("protocol.folds", (-1,), "from 0 up"),
    ("model.pulse.normalization", "layer2", "none, batch or layer"),
    ("protocol.seed", -1, "from 0 up"),
    ("protocol.selection", "best", "one of "),
    ("protocol.test_subjects", "everybody", "one of"),
    ("seeds", (-1,), "from 0 up"),
    ("data.leave_out_labels", ("rest",), "numbers"),
    ("data.prepare_workers", -1, "from 0 up"),
    ("data.loader_threads", 0, "from 1 up"),
    ("data.sample.seed", -1, "from 0 up"),
    ("data.grid.mixed", "half", "one of drop, majority"),
    ("data.grid.label_shift_seconds", -1.0, "from 0 up"),
    ("data.streams.pulse.window_seconds", -1.0, "from 0 up"),
    ("data.streams.pulse.samples", -1, "from"),
    ("data.streams.pulse.augment.noise", -1.0, "from 0 up"),
    ("model.fusion", "concatenation", "jmt, concat, unimodal, vanilla, vanilla_matched, late"),
    ("model.dtype", "bf16", "one of float32, bfloat16"),
    ("model.dtype", "float16", "float16 is not offered: its gradients vanish"),
    ("model.streams", "puls", "this configuration describes pulse"),
    ("model.streams", "pulse,pulse", "each once"),
    ("model.pulse.name", "conv2d", "one of r2plus1d"),
    ("model.pulse.pooling", "max", "flatten or mean"),
    ("model.pulse.strides", (1,), "strides"),
    ("model.pulse.weights", "nowhere.safetensors", "model.pulse.weights=nowhere.safetensors is no file"),
    ("model.fusion_weights", "nowhere.safetensors", "model.fusion_weights=nowhere.safetensors is no file"),
    ("model.head.name", "conv", "one of mlp"),
    ("model.head.pooling", "max", "last, mean or none"),
    ("model.jmt.num_heads", 5, "32"),
    ("model.jmt.output", "sum", "self_attention, fc or sequence"),
    ("model.jmt.dropout", 1.0, "below 1"),
    ("model.modality_dropout", 1.0, "below 1"),
    ("training.pulse.learning_rate", -1.0, "above 0"),
    ("training.fusion.learning_rate", float("nan"), "above 0"),
    ("training.fusion.epochs", 0, "from 1 up"),
    ("training.fusion.warmup_epochs", 11.0, "longer than the whole stage"),
    ("training.fusion.learning_rate_floor", 1.0, "is above training.fusion.learning_rate"),
    ("training.fusion.optimizer", "lion", "one of sgd, adam, adamw"),
    ("training.fusion.schedule", "linear", "one of constant, cosine, step"),
    ("training.fusion.global_batch_size", 0, "from 1 up"),
    ("training.fusion.global_batch_size", 63, "choose a multiple of 4"),
    ("training.fusion.accumulation_steps", 5, "accumulation_steps=5 cannot divide"),
    ("eval.global_batch_size", 2, "choose a multiple of 4"),
    ("training.loss", "focal", "cross_entropy"),
    ("training.loss", "ccc", "no loss for the classification task"),
    ("training.stages", "pulse,everything", "training.stages names 'everything'"),
    ("training.stages", "pulse", "the last of training.stages"),
    ("training.backbones_from", "nowhere", "training.backbones_from=nowhere is no run"),
    ("protocol.name", "kfold", "subject_kfold, loso"),
    ("protocol.folds", (5,), "0 to 4"),
    ("protocol.folds", (0, 0), "name each once"),
    ("protocol.validation_share", 1.0, "below 1"),
    ("protocol.exclude", "everybody", "biovid_non_reactive"),
    ("seeds", (), "at least one"),
    ("seeds", (1, 1), "name each once"),
    ("controls", "chance", "a control is one of"),
    ("data.name", "e5", "one of affwild2, biovid, e4"),
    ("data.task", "arousal", "one of bl1_vs_pa4"),
    ("data.dir", "nowhere", "there is no folder nowhere"),
    ("eval.data_dir", "nowhere", "is for --mode=eval"),
    ("data.dir", __file__, "is a file"),
    ("data.shuffle_labels", "all", "within_subject"),
    ("data.grid.kind", "window", "one of clip, sliding, frames"),
    ("data.grid.window_seconds", 0.0, "above 0"),
    ("data.grid.step_seconds", -1.0, "above 0"),
    ("data.grid.tokens", 0, "from 1 up"),
    ("data.sample.subjects", 0, "from 1 up"),
    ("data.sample.seconds", 5.0, "60 s"),
    ("data.reader.streams_used", ("pulse", "breath"), "a wristband has no stream 'breath'"),
    ("data.streams.pulse.normalise", "zscore", "one of none, window"),
    ("data.streams.pulse.augment.gain", 2.0, "at most 1"),
    ("eval.split", "all", "one of train, validation, test"),
    ("eval.split", "set_aside", "one of train, validation, test"),
    ("eval.select", "acc", "accuracy"),
    ("eval.checkpoint", "newest", "best, last or a step"),
    ("eval.num_resamples", 0, "from 1 up"),
    ("parallelism", "tpu", "one of jit, pmap"),
    ("model_axis_devices", 3, "model_axis_devices=3"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=lambda x: str(x)[:40])
def test_what_cannot_run_is_refused(key, value, words, tmp_path, monkeypatch):
    config = tiny.load("stress")
    config.data.cache_dir = str(tmp_path / "cache")
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    started = time.monotonic()
    with pytest.raises((UsageError, BadDataError)) as caught:
        config_checks.check(config, Runtime.of(config, jax.devices()[:4]))
    assert words in str(caught.value)
    assert time.monotonic() - started < 5 and not (tmp_path / "cache").exists()


def test_a_trained_run_is_evaluated_without_what_its_training_began_from():
    config = tiny.load("stress")
    config.training.backbones_from, config.training.fusion.global_batch_size = "gone", 63
    config_checks.check(config, Runtime.of(config, jax.devices()[:4]), trains=False)


def test_a_refused_start_leaves_the_folder_as_it_was(tmp_path):
    command = [
        sys.executable,
        "-m",
        "jmt_jax.main",
        "--config=configs/biovid.py",
        "--config.model.fusion=sum",
    ]
    environment = {**os.environ, "JMT_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=tiny.CONFIGS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "model.fusion='sum'; expected one of jmt" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
