"""Our numbers are the reference's: one test a case of the golden folder ($JMT_GOLDEN_DIR for another).

The weights of a case go through `jmt_jax.convert.convert`, as those of a user's file do.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden_case import GoldenCase, quick_jit, relative_error

from data_pipelines import windows
from data_pipelines.media import spectrogram
from jmt_jax import convert, losses, metrics, torch_names
from jmt_jax.models import FUSIONS, build_backbone, build_model
from jmt_jax.models.attention import Encoder

OUTPUTS_WITHIN, GRADIENTS_WITHIN = 1e-4, 1e-3


def check_outputs(found: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray]) -> None:
    """All golden outputs are found, and equal."""
    assert set(golden) <= set(found)
    errors = {name: relative_error(found[name], expected) for name, expected in golden.items()}
    assert {name: np.shape(found[name]) for name in golden} == {n: x.shape for n, x in golden.items()}
    assert max(errors.values()) <= OUTPUTS_WITHIN, errors


def converted(case: GoldenCase, network: str, streams: tuple[str, ...] | None = None) -> convert.Conversion:
    conversion = convert.convert(case.state_dict, network, streams=streams)
    conversion.check()
    assert "no part of this network" not in conversion.left_out.values(), conversion.left_out
    return conversion


def check_network(case: GoldenCase, conversion: convert.Conversion, apply: Callable) -> None:
    """`apply(variables)` -> outputs by name in the golden layout; their loss, and its gradients where golden.

    The loss is the sum of the squares of all outputs.
    """

    def loss(variables):
        outputs = apply(variables)
        return sum(jnp.sum(jnp.square(output)) for output in outputs.values()), outputs

    norms = case.gradient_norms()
    if norms:
        step = quick_jit(jax.value_and_grad(loss, has_aux=True))
        (value, outputs), gradients = step(conversion.variables)
    else:
        (value, outputs), gradients = quick_jit(loss)(conversion.variables), {}
    golden = {name: x for name, x in case.outputs.items() if not name.startswith("gradnorm:")}
    check_outputs({**outputs, "loss": value}, golden)
    exported = torch_names.export(conversion.plan.rules, gradients)
    ours = {name: np.linalg.norm(exported[name.removeprefix(conversion.prefix)]) for name in norms}
    assert ours == pytest.approx(norms, rel=GRADIENTS_WITHIN)


# --- fusions and whole models ---


def attend_over_batch(next_function, arguments, keywords, context):
    """The slip of the reference: its modality encoders take the batch axis for time."""
    module = context.module
    if not (isinstance(module, Encoder) and context.method_name == "__call__"):
        return next_function(*arguments, **keywords)
    if not module.name.startswith("encoder_"):
        return next_function(*arguments, **keywords)
    turned = next_function(*(x.swapaxes(0, 1) for x in arguments), **keywords)
    return turned.swapaxes(0, 1)


def legacy(is_legacy: bool) -> contextlib.AbstractContextManager:
    return nn.intercept_methods(attend_over_batch) if is_legacy else contextlib.nullcontext()


def is_time_first(case: GoldenCase) -> bool:
    """Another slip: these come out as (S, B, ...)."""
    config = case.spec["config"]
    return (
        config.get("output_format") == "FC" and config.get("joint_modalities", "TRANSFORMER") == "TRANSFORMER"
    )


def check_fusion(case: GoldenCase, network: str) -> None:
    """A fusion on its own, behind the normalisation of its inputs."""
    conversion = converted(case, network, tuple(case.inputs))
    config = {**conversion.plan.model["fusion"], "l2_norm": False, "absent": "drop"}
    if "num_heads" in case.spec["config"]:
        config["num_heads"] = case.spec["config"]["num_heads"]
    fusion = FUSIONS[config.pop("name")](tuple(case.inputs), **config)
    masks = {stream: np.ones(x.shape[:2], bool) for stream, x in case.inputs.items()}

    def apply(variables):
        output, _ = fusion.apply({"params": variables["params"]["fusion"]}, case.inputs, masks)
        return {"out0": output.swapaxes(0, 1) if is_time_first(case) else output}

    check_network(case, conversion, apply)


def check_model(case: GoldenCase, network: str, *, is_legacy: bool = False) -> None:
    """Fusion and head, as the converter describes them."""
    conversion = converted(case, network, tuple(case.inputs))
    described = conversion.plan.model
    fusion = dict(described["fusion"])
    if "absent" in FUSIONS[fusion["name"]].__dataclass_fields__:
        fusion["absent"] = "drop"
    backbones = {stream: {"name": "identity"} for stream in case.inputs}
    model = build_model(described["streams"], backbones, fusion, described["head"])

    def apply(variables):
        with legacy(is_legacy):
            output = model.apply(variables, case.inputs)
        if "logits" in case.outputs:
            return {"logits": output}
        output = output.swapaxes(0, 1) if is_time_first(case) else output
        return {"valence": output[..., 0], "arousal": output[..., 1]}

    check_network(case, conversion, apply)


def check_jmt(name: str) -> None:
    check_fusion(golden_case.load(name), "jmt")


def check_concat(name: str) -> None:
    check_fusion(golden_case.load(name), "concat")


def check_affwild2(name: str) -> None:
    case = golden_case.load(name)
    networks = {"TRANSFORMER": "affwild2", "FC": "affwild2_concat"}
    check_model(case, networks[case.spec["config"]["joint_modalities"]])


def check_affwild2_vanilla(name: str) -> None:
    check_model(golden_case.load(name), "affwild2_vanilla", is_legacy="corrected" not in name)


def check_regressor(name: str) -> None:
    check_model(golden_case.load(name), "affwild2_regressor")


def check_biovid(name: str) -> None:
    check_model(golden_case.load(name), "biovid", is_legacy="legacy" in name)


def check_biovid_vanilla(name: str) -> None:
    check_model(golden_case.load(name), "biovid_vanilla", is_legacy="legacy" in name)


# --- backbones ---


def backbone_of(conversion: convert.Conversion, **options) -> tuple[nn.Module, Callable]:
    """The module, and `variables` as it takes them."""
    module = build_backbone(conversion.plan.model["backbone"] | options)
    return module, lambda variables: {name: tree["backbone"] for name, tree in variables.items()}


def check_video(name: str) -> None:
    """Torch's clips N,C,T,H,W are one token a sample here, [B, S, F, H, W, 3]."""
    case = golden_case.load(name)
    conversion = converted(case, "r3d_18" if name.startswith("r3d") else "r2plus1d_18")
    module, own = backbone_of(conversion, reduction="none")
    clips = case.inputs["clip"].transpose(0, 2, 3, 4, 1)[:, None]

    def apply(variables):
        mutable = ["batch_stats"]
        positions, _ = module.apply(own(variables), clips, train=case.spec["train"], mutable=mutable)
        positions = positions[:, 0]
        mean = positions.mean((1, 2, 3))
        outputs = {
            "spatial": positions.transpose(0, 4, 1, 2, 3),
            "max": positions.max((1, 2, 3)),
            "avg": mean,
            "pooled": mean,
        }
        return {key: outputs[key] for key in case.spec["outputs"] if key in outputs}

    check_network(case, conversion, apply)


def check_signal(name: str) -> None:
    """The feature, and the reference's classifier on it, which is no part of ours."""
    case = golden_case.load(name)
    conversion = converted(case, "physio_conv1d")
    module, own = backbone_of(conversion)
    signal = case.inputs["signal"].transpose(0, 2, 1)[:, None]
    weight, bias = case.state_dict["fc2.weight"], case.state_dict["fc2.bias"]

    def apply(variables):
        feature = module.apply(own(variables), signal)[:, 0]
        return {"feature": feature, "logits": feature @ weight.T + bias}

    check_network(case, conversion, apply)
    for torch_name, array in torch_names.export(conversion.plan.rules, conversion.variables).items():
        np.testing.assert_array_equal(array, case.state_dict[torch_name])


def check_i3d(name: str) -> None:
    """What the TCN says at each of the trunk's steps, and its maximum."""
    case = golden_case.load(name)
    conversion = converted(case, "i3d_tcn")
    module, own = backbone_of(conversion, reduction="none")
    clips = case.inputs["clip"].transpose(0, 2, 3, 4, 1)[:, None]

    def apply(variables):
        sequence = module.apply(own(variables), clips)[:, 0]
        return {"sequence": sequence, "max": sequence.max(1)}

    check_network(case, conversion, apply)


def check_spectrogram(name: str) -> None:
    """Torch's one channel is the one token here."""
    case = golden_case.load(name)
    conversion = converted(case, "resnet18_audio")
    module, own = backbone_of(conversion)

    def apply(variables):
        train, mutable = case.spec["train"], ["batch_stats"]
        tokens, _ = module.apply(own(variables), case.inputs["spectrogram"], train=train, mutable=mutable)
        return {"out0": tokens[:, 0]}

    check_network(case, conversion, apply)


def check_gru(name: str) -> None:
    case = golden_case.load(name)
    conversion = converted(case, "gru")
    module, own = backbone_of(conversion)

    def apply(variables):
        outputs, last = module.apply(own(variables), case.inputs["x"], method="states")
        return {"out": outputs, "h": last}

    check_network(case, conversion, apply)


def check_intra_modal(name: str) -> None:
    """Two backbones of one stream; here both are ready-made features."""
    case = golden_case.load(name)
    conversion = converted(case, "intra_modal")
    module, own = backbone_of(conversion)

    def apply(variables):
        return {"out0": module.apply(own(variables), (case.inputs["a"], case.inputs["b"]))}

    check_network(case, conversion, apply)


# --- losses, metrics and data ---


def check_logmel(name: str) -> None:
    golden = golden_case.read_arrays(name)
    found = {}
    for case, rate in golden_case.read_json(name)["sample_rates"].items():
        wave = golden[f"wave:{case}"]
        found[f"logmel:{case}"] = spectrogram.log_mel(wave, rate)
        np.testing.assert_allclose(
            spectrogram.log_mel(wave / 32768, rate), found[f"logmel:{case}"], atol=1e-5
        )
    check_outputs(found, {key: x for key, x in golden.items() if not key.startswith("wave:")})


def check_windows(name: str) -> None:
    """Every sequence of 16 clips, to the index."""
    videos = sorted(golden_case.read_json(f"{name}_videos"), key=lambda video: video["video"])
    for part, expected in golden_case.read_json(name).items():
        split, end = {"train": ("train", "audio_end"), "val": ("validation", "end")}[part]
        found = []
        for video in videos:
            sequences = windows.paper_sequences(video["frames"], np.array(video["labelled"]), split)
            for targets, frames, mask in zip(
                sequences.targets, sequences.frames, sequences.mask, strict=True
            ):
                clips = [clip if real else [] for clip, real in zip(frames.tolist(), mask, strict=True)]
                found.append((video["video"], clips, targets.tolist()))
        assert found == [(sequence["video"], sequence["clips"], sequence[end]) for sequence in expected]


def check_ccc(name: str) -> None:
    """The loss with the deviations of a sample, its gradient, and the metric with those of a population."""
    golden = golden_case.read_arrays(name)
    found = {}
    for index in (key.removeprefix("pred") for key in golden if key.startswith("pred")):
        prediction, target = (golden[f"{key}{index}"][:, None] for key in ("pred", "target"))
        mask = np.ones(prediction.shape, bool)

        def value(prediction, unbiased, target=target, mask=mask):
            loss = losses.ccc(1, unbiased=unbiased)
            return loss.value(loss.moments(prediction, target, mask))

        @quick_jit
        def both(prediction, value=value):
            return jax.value_and_grad(value)(prediction, True), value(prediction, False)

        (found[f"loss{index}"], gradient), biased = both(prediction)
        found[f"grad{index}"] = gradient[:, 0]
        values = metrics.regression(target, prediction, names=["valence"])
        found[f"metric{index}"] = values["ccc_valence"]
        assert 1 - biased == pytest.approx(values["ccc_valence"], rel=OUTPUTS_WITHIN, abs=1e-6)
    check_outputs(found, {key: x for key, x in golden.items() if not key.startswith(("pred", "target"))})


CHECKS: dict[str, Callable[[str], None]] = {
    # fusions and whole models
    r"jmt_(fc|self_atten)_.*": check_jmt,
    r"concat_fc.*": check_concat,
    r"model_(transformer|fc)_.*": check_affwild2,
    r"model_none_.*": check_affwild2_vanilla,
    r"single_backbone_regressor.*": check_regressor,
    r"biovid_jmt.*": check_biovid,
    r"biovid_vanilla.*": check_biovid_vanilla,
    # backbones
    r"(r2plus1d_18|r3d_18)_.*": check_video,
    r"physio_conv1d.*": check_signal,
    r"i3d_tcn_.*": check_i3d,
    r"resnet18_audio_.*": check_spectrogram,
    r"gru_.*": check_gru,
    r"intra_modal_.*": check_intra_modal,
    # losses, metrics and data
    r"ccc.*": check_ccc,
    r"logmel.*": check_logmel,
    r"windows.*": check_windows,
}
"""Name of a case, as a regular expression, to what checks it."""


def test_there_are_cases():
    assert golden_case.names(), f"no golden case in {golden_case.GOLDEN_DIR}"


@pytest.mark.parametrize("name", golden_case.names())
def test_case(name):
    checks = [check for pattern, check in CHECKS.items() if re.fullmatch(pattern, name)]
    assert len(checks) == 1, f"case {name!r} is known to {len(checks)} of the checks; give it one in CHECKS"
    checks[0](name)
