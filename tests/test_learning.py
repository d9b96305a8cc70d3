"""Every network learns: trained in a small form on the built-in sample, it predicts people whom it has not
seen better than chance.

    pytest -m slow tests/test_learning.py
"""

from __future__ import annotations

import pytest
import tiny

from jmt_jax import study

pytestmark = pytest.mark.slow

RESNET = {"stem_width": 8, "stem_stride": 2, "widths": (8, 16), "blocks": (1, 1), "reduction": "avg"}
FACES = {
    "r2plus1d": RESNET,
    "r3d": {"widths": (8, 16, 32), "blocks": (1, 1, 1)},
    "i3d": {"width": 0.125, "blocks": (1, 1, 1), "input_size": 64, "tcn_widths": (16,), "features": 16},
}
SPECTRA = {"stem_stride": 4, "widths": (8, 16), "blocks": (1, 1)}
VOICES = {
    "resnet18": SPECTRA,
    "resnet18_gru": {"name": "resnet18", **SPECTRA, "gru_layers": 1, "gru_features": 8},
    "pair": {
        "name": "pair",
        "first": {"name": "resnet18", **SPECTRA},
        "second": {"name": "resnet18", **SPECTRA, "gru_layers": 1},
        "features": 16,
        "hidden_dim": 16,
    },
}
FUSIONS = ("jmt", "concat", "unimodal", "vanilla", "vanilla_matched", "late", "bottleneck", "rjca")
PEOPLE = {
    "data__sample__subjects": 15,
    "data__sample__clips_per_class": 8,
    "data__sample__frames": 40,
    "data__sample__size": 64,
    "data__reader__size": 32,
    "data__grid__tokens": 2,
    "data__streams__visual__frames": 4,
    "model__physio__channels": (8, 16, 16),
    "model__physio__features": 16,
    "eval__global_batch_size": 24,
}
# 48 clips of three people whom training has not seen: guessing gives .5 with a deviation of .07.
LEAST_ACCURACY = 0.65


@pytest.mark.parametrize("name", [*FACES, "conv1d"])
def test_a_backbone_of_faces_or_body_signals_learns(cache_dir, tmp_path, name):
    stream = "visual" if name in FACES else "physio"
    config = tiny.shrunk(
        "biovid", cache_dir, **PEOPLE, model__streams=stream, model__fusion="unimodal",
        training__stages="joint", training__joint__global_batch_size=16,
        training__joint__epochs=40 if name == "r3d" else 30,
        training__joint__eval_every_epochs=10.0, training__joint__learning_rate=4e-3,
    )  # fmt: skip
    if name in FACES:
        with config.unlocked():
            config.model.visual = {"name": name, "weights": "", **FACES[name]}
    assert study.run(config, tmp_path)["metrics"]["accuracy"]["value"] >= LEAST_ACCURACY


@pytest.mark.parametrize("name", VOICES)
def test_a_backbone_of_voices_learns(cache_dir, tmp_path, name):
    config = tiny.shrunk(
        "affwild2", cache_dir,
        data__sample__train=4, data__sample__validation=3, data__sample__seconds=12.0,
        model__streams="audio", model__fusion="unimodal", training__stages="joint",
        training__joint__epochs=4, training__joint__eval_every_epochs=2.0,
        training__joint__learning_rate=4e-3,
    )  # fmt: skip
    with config.unlocked():
        config.model.audio = {"name": name, "weights": "", **VOICES[name]}
    # The voice carries arousal; constant or unrelated predictions have a CCC near 0.
    assert study.run(config, tmp_path)["metrics"]["ccc_arousal"]["value"] >= 0.2


@pytest.fixture(scope="module")
def trained_streams(cache_dir, tmp_path_factory):
    """A run whose streams are trained: what every fusion is trained over."""
    folder = tmp_path_factory.mktemp("streams")
    study.run(fusion_config(cache_dir, "concat"), folder)
    return folder


def fusion_config(cache_dir, fusion, **options):
    return tiny.shrunk(
        "biovid", cache_dir, **PEOPLE, model__fusion=fusion, training__extract=True,
        training__physio__epochs=30, training__physio__learning_rate=4e-3,
        training__physio__global_batch_size=16, training__physio__eval_every_epochs=10.0,
        training__visual__epochs=1, training__fusion__epochs=20, training__fusion__eval_every_epochs=10.0,
        training__fusion__learning_rate=4e-3, training__fusion__global_batch_size=16, **options,
    )  # fmt: skip


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_fusion_learns(cache_dir, tmp_path, trained_streams, fusion):
    options = {"training__backbones_from": str(trained_streams)}
    if fusion == "unimodal":
        options["model__streams"] = "physio"
    written = study.run(fusion_config(cache_dir, fusion, **options), tmp_path)
    assert written["metrics"]["accuracy"]["value"] >= LEAST_ACCURACY
