"""Frozen backbones computed once: the same results, each token once, the same bytes however it comes about."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny

from data_pipelines import features
from jmt_jax import results, study

NO_AUGMENTATION = {
    f"data__streams__visual__augment__{name}": 0.0
    for name in ("brightness", "contrast", "flip_probability", "shift")
}
SMALL = {"model__fusion": "concat", "model__concat__dim": 8, **NO_AUGMENTATION}


@pytest.fixture(scope="module")
def raw(cache_dir, tmp_path_factory):
    """A finished run whose fusion has the backbones compute everything again: (folder, results)."""
    workdir = tmp_path_factory.mktemp("raw")
    config = tiny.shrunk("affwild2", cache_dir, training__extract=False, **SMALL)
    return workdir, study.run(config, workdir)


def _fusion_rows(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == "fusion"]


def test_the_fusion_on_features_is_the_fusion_on_raw_streams(raw, cache_dir, tmp_path, monkeypatch):
    computed = []
    plain = features.FeatureReader._encode_batch

    def counted(self, rows, found):
        computed.extend(
            (self._stream, row.recording, row.first + i) for row in rows for i in range(row.count)
        )
        return plain(self, rows, found)

    monkeypatch.setattr(features.FeatureReader, "_encode_batch", counted)
    options = {**SMALL, "training__backbones_from": str(raw[0])}
    config = tiny.shrunk("affwild2", cache_dir, **options)
    written = study.run(config, tmp_path / "features")
    assert computed and len(set(computed)) == len(computed)
    for ours, theirs in zip(_fusion_rows(tmp_path / "features"), _fusion_rows(raw[0]), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert (
                ours[name] == value
                if isinstance(value, str)
                else ours[name] == pytest.approx(value, abs=1e-4)
            )
    table, _ = results.load_predictions(tmp_path / "features" / "predictions" / "validation.csv")
    wanted, _ = results.load_predictions(raw[0] / "predictions" / "validation.csv")
    np.testing.assert_allclose(table.outputs, wanted.outputs, atol=1e-4)
