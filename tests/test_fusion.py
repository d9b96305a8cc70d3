from __future__ import annotations

import functools
import itertools

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error

from jmt_jax import torch_names
from jmt_jax.models import build_model
from jmt_jax.models.attention import EncoderLayer, MultiHeadAttention
from jmt_jax.models.baselines import Concat, Unimodal
from jmt_jax.models.fusion import JMT, token_order
from jmt_jax.models.heads import MLPHead

OUTPUTS = ("self_attention", "fc", "sequence")


def check_case(case, rules, apply, names, expected_template, transpose=False):
    """`apply(variables)` -> outputs in the order of `names`; gradients of the sum of their squares."""
    variables, _, missing = torch_names.convert(rules, case.state_dict)
    assert not missing
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected_template)

    def loss(variables):
        outputs = apply(variables)
        return sum(jnp.sum(jnp.square(output)) for output in outputs), outputs

    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    for name, output in zip(names, outputs, strict=True):
        golden = case.outputs[name]
        assert relative_error(output, golden.swapaxes(0, 1) if transpose else golden) < 1e-4
    norms = case.gradient_norms()
    exported = torch_names.export(rules, gradients)
    assert set(norms) <= set(exported)
    for name, norm in norms.items():
        assert np.linalg.norm(exported[name]) == pytest.approx(norm, rel=1e-3), name


def shapes(module, *arguments):
    return jax.eval_shape(module.init, jax.random.key(0), *arguments)


@pytest.mark.parametrize(
    "name", ["jmt_self_atten_h1_l1", "jmt_self_atten_h4_l2", "jmt_fc_h1_l1", "jmt_fc_h4_l2"]
)
def test_jmt_equals_the_reference(name):
    case = golden_case.load(name)
    config = case.spec["config"]
    output = {"SELF_ATTEN": "self_attention", "FC": "fc"}[config["output_format"]]
    module = JMT(
        ("visual", "audio"),
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        output=output,
        l2_norm=False,
        absent="drop",
    )
    masks = {stream: np.ones(x.shape[:2], bool) for stream, x in case.inputs.items()}
    check_case(
        case,
        torch_names.jmt(("visual", "audio"), config["num_layers"], output),
        lambda variables: [module.apply(variables, case.inputs, masks)[0]],
        ["out0"],
        shapes(module, case.inputs, masks),
        transpose=output == "fc",
    )


def test_concat_equals_the_reference():
    case = golden_case.load("concat_fc")
    module = Concat(("visual", "audio"), l2_norm=False, absent="drop")
    masks = {stream: np.ones(x.shape[:2], bool) for stream, x in case.inputs.items()}
    check_case(
        case,
        torch_names.concat(),
        lambda variables: [module.apply(variables, case.inputs, masks)[0]],
        ["out0"],
        shapes(module, case.inputs, masks),
    )


def model_of(case, fusion, head, rules):
    identity = {"name": "identity"}
    model = build_model(
        tuple(case.inputs), {stream: identity for stream in case.inputs}, {"absent": "drop"} | fusion, head
    )
    return model, rules, shapes(model, case.inputs)


def test_affwild2_model_equals_the_reference():
    case = golden_case.load("model_transformer_self_atten_512")
    model, rules, template = model_of(
        case,
        {"name": "jmt"},
        {"name": "mlp", "outputs": 2, "separate": True, "pooling": "none"},
        [
            *torch_names.under(torch_names.jmt(("visual", "audio")), "mm_transformer.", ("fusion",)),
            *torch_names.under(torch_names.valence_arousal_head(), "", ("head",)),
        ],
    )

    def apply(variables):
        output = model.apply(variables, case.inputs)
        return output[..., 0], output[..., 1]

    check_case(case, rules, apply, ["valence", "arousal"], template)


def test_biovid_model_equals_the_reference():
    case = golden_case.load("biovid_jmt")
    layers = ["out_layer1", "out_layer2", "out_layer3", "out_layer4", "out_layer5"]
    layers = [name for name in case.state_dict if name.startswith("out_layer") and name.endswith("weight")]
    layers = sorted(name.removesuffix(".weight") for name in layers if name[len("out_layer")].isdigit())
    model, rules, template = model_of(
        case,
        {"name": "jmt", "output": "sequence", "l2_norm": False},
        {"name": "mlp", "outputs": 2, "hidden": (1024, 512, 256, 64)},
        [
            *torch_names.under(torch_names.jmt(("visual", "physio"), output="sequence"), "", ("fusion",)),
            *torch_names.under(torch_names.mlp_head(layers), "", ("head",)),
        ],
    )
    check_case(case, rules, lambda v: [model.apply(v, case.inputs)], ["logits"], template)
