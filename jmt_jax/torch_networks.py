"""The networks whose torch files `jmt_jax.convert` knows: their rules, and which of our modules they fill.

To add one, write a function that makes its `Plan` and give it an entry in `NETWORKS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jmt_jax import torch_names
from jmt_jax.torch_names import Rule

Shapes = Mapping[str, tuple[int, ...]]
"""Torch name -> shape in the file; a plan reads what differs between files from it, such as the layers."""

BACKBONE = "backbone"
"""Part of a network that looks at one stream; in a model it is called backbone_<stream>."""
MAX_LAYERS = 64


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one file becomes ours.

    Attributes:
      rules: Torch name -> our paths, ("params", part, ...); a part is `backbone`, `fusion` or `head`.
      model: The configuration of our modules, by part; beside `fusion` stand the `streams` it fuses.
      inputs: Input shape of the backbone ({"backbone": [B, S, ...]}, two where it takes two inputs), or
        [B, S, D] of each fused stream.
    """

    rules: list[Rule]
    model: dict[str, Any]
    inputs: dict[str, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that others train with torch.

    Attributes:
      summary: What it is and where its files come from; for --help.
      plan: (shapes in the file, stream names) -> `Plan`. Without any shapes it plans the usual form.
      streams: What the streams of a fusion are called unless the user says otherwise; () for a backbone.
      dead: Beginning of a torch name -> why it is left out.
      note: What the user has to know beside what the file says.
    """

    summary: str
    plan: Callable[[Shapes, Sequence[str]], Plan]
    streams: tuple[str, ...] = ()
    dead: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""


_VIDEO_CLIP = (1, 1, 8, 112, 112, 3)
_SPECTROGRAM = (1, 1, 64, 104)
_CLASSIFIER = "the classifier of the data it was trained on"
_NEVER_READ = "built by the reference and never read"
_HEADS = (
    "the number of attention heads stands in no weight; give the model as many as the file was trained with"
)


def _r2plus1d(shapes: Shapes, streams: Sequence[str]) -> Plan:
    del shapes, streams
    rules = torch_names.under(torch_names.r2plus1d(), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: {"name": "r2plus1d"}}, {BACKBONE: _VIDEO_CLIP})


def _r2plus1d_flatten(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """The reference's third reduction (facts A6): 512 channels at 49 positions through a Linear."""
    del shapes, streams
    projection = torch_names.linear(
        "vision_r2d1_fc.", ("projection",), torch_names.linear_after_flatten(channels=512)
    )
    rules = [
        *torch_names.under(torch_names.r2plus1d(), "vision_r2d1.", (BACKBONE,)),
        *torch_names.under(projection, "", (BACKBONE,)),
    ]
    config = {"name": "r2plus1d", "reduction": "flatten", "features": 512}
    return Plan(rules, {BACKBONE: config}, {BACKBONE: _VIDEO_CLIP})


def _r3d(shapes: Shapes, streams: Sequence[str]) -> Plan:
    del shapes, streams
    rules = torch_names.under(torch_names.r3d(), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: {"name": "r3d", "reduction": "avg"}}, {BACKBONE: _VIDEO_CLIP})


def _resnet18_audio(shapes: Shapes, streams: Sequence[str]) -> Plan:
    del shapes, streams
    rules = torch_names.under(torch_names.resnet18(), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: {"name": "resnet18"}}, {BACKBONE: _SPECTROGRAM})


def _resnet18(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """The one for pictures, its three stem filters made one (facts A6)."""
    del shapes, streams
    rules = torch_names.under(torch_names.resnet18(stem=torch_names.RGB_TO_MONO), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: {"name": "resnet18"}}, {BACKBONE: _SPECTROGRAM})


def _inputs_of_linear(shapes: Shapes, name: str, otherwise: int) -> int:
    """How many values a Linear reads; `otherwise` where the file has none that could be one."""
    shape = shapes.get(name, ())
    return shape[1] if len(shape) == 2 else otherwise


def _gru(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """Of any size; by default that of a two-layer GRU both ways from 512 to 512."""
    del streams
    layers = 1 if "weight_ih_l0" in shapes else 2
    while layers < MAX_LAYERS and f"weight_ih_l{layers}" in shapes:
        layers += 1
    both = not shapes or "weight_ih_l0_reverse" in shapes
    hidden = _inputs_of_linear(shapes, "weight_hh_l0", 256)
    width = _inputs_of_linear(shapes, "weight_ih_l0", 512)
    config = {
        "name": "gru",
        "features": hidden * (2 if both else 1),
        "num_layers": layers,
        "bidirectional": both,
    }
    rules = torch_names.under(torch_names.gru(layers, both), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: config}, {BACKBONE: (1, 2, width)})


def _intra_modal(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """What combines two backbones of one stream, over their ready-made features (facts A5)."""
    del streams
    width = _inputs_of_linear(shapes, "fc.weight", 768)
    identity = {"name": "identity"}
    config = {
        "name": "pair",
        "first": identity,
        "second": identity,
        "combine": "encoder_plus_self_attention",
    }
    rules = torch_names.under(torch_names.intra_modal(), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: config}, {BACKBONE: ((1, 2, 512), (1, 2, width))})


def _physio_conv1d(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """Any number of channels and any length: the file says which."""
    del streams
    widths = (32, 64)
    channels = shapes.get("conv1.weight", (32, 1, 5))[1:2] or (1,)
    features, values = (*shapes.get("fc1.weight", (512, 22336)), 0, 0)[:2]
    steps = max(values // widths[-1], 1)
    samples = ((2 * steps + 4) * 2 - 1) * 2 + 5  # the fewest that leave so many steps
    config = {"name": "conv1d", "channels": list(widths), "features": max(features, 1)}
    rules = torch_names.under(torch_names.conv1d(widths[-1]), "", (BACKBONE,))
    return Plan(rules, {BACKBONE: config}, {BACKBONE: (1, 1, samples, *channels)})


def _count_layers(shapes: Shapes, prefix: str) -> int:
    """Number of layers of the reference's encoders; 1 where there is none to count."""
    layers = 1
    while layers < MAX_LAYERS and f"{prefix}visual_encoder.layers.{layers}.layer_norm1.weight" in shapes:
        layers += 1
    return layers


def _jmt(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """The fusion alone, with whichever of the two outputs the file has."""
    return _jmt_of_affwild2(shapes, streams, "")


def _jmt_of_affwild2(shapes: Shapes, streams: Sequence[str], prefix: str) -> Plan:
    output = "fc" if f"{prefix}out_layer1.weight" in shapes else "self_attention"
    layers = _count_layers(shapes, prefix)
    first, second = streams
    fusion = {"name": "jmt", "num_layers": layers, "output": output}
    rules = torch_names.under(torch_names.jmt((first, second), layers, output), prefix, ("fusion",))
    inputs = {first: (1, 2, 512), second: (1, 2, 512)}
    return Plan(rules, {"streams": [first, second], "fusion": fusion}, inputs)


_AFFWILD2_HEAD = {"name": "mlp", "outputs": 2, "hidden": [128], "separate": True, "pooling": "none"}


def _affwild2(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """The reference's fusion_w.pt (facts A1, A3): fusion, two regressors, a Linear before wide visuals."""
    plan = _jmt_of_affwild2(shapes, streams, "mm_transformer.")
    rules = [*plan.rules, *torch_names.under(torch_names.valence_arousal_head(), "", ("head",))]
    inputs = dict(plan.inputs)
    if width := shapes.get("linear.weight", ())[1:2]:
        first = streams[0]
        projection = torch_names.linear("linear.", (f"input_{first}", "projection"))
        rules += torch_names.under(projection, "", ("fusion",))
        inputs[first] = (1, 2, *width)
    return Plan(rules, {**plan.model, "head": _AFFWILD2_HEAD}, inputs)


def _affwild2_concat(shapes: Shapes, streams: Sequence[str]) -> Plan:
    del shapes
    first, second = streams
    rules = [
        *torch_names.under(torch_names.concat(), "mm_transformer.", ("fusion",)),
        *torch_names.under(torch_names.valence_arousal_head(), "", ("head",)),
    ]
    model = {"streams": [first, second], "fusion": {"name": "concat"}, "head": _AFFWILD2_HEAD}
    return Plan(rules, model, {first: (1, 2, 512), second: (1, 2, 512)})


def _affwild2_regressor(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """The reference's backbone_pretrainer_w.pt (facts A4): the head over one backbone."""
    del shapes
    rules = torch_names.under(torch_names.mlp_head(["regressor.0", "regressor.3"]), "", ("head",))
    head = {"name": "mlp", "outputs": 2, "hidden": [128], "pooling": "none"}
    model = {"streams": list(streams), "fusion": {"name": "unimodal"}, "head": head}
    return Plan(rules, model, {streams[0]: (1, 2, 512)})


def _biovid(shapes: Shapes, streams: Sequence[str]) -> Plan:
    """The BioVid model (facts A7): tokens side by side, an encoder over time, an MLP."""
    first, second = streams
    layers = _count_layers(shapes, "")
    head_layers = [f"out_layer{number}" for number in range(1, 6)]
    rules = [
        *torch_names.under(torch_names.jmt((first, second), layers, "sequence"), "", ("fusion",)),
        *torch_names.under(torch_names.mlp_head(head_layers), "", ("head",)),
    ]
    fusion = {"name": "jmt", "num_layers": layers, "output": "sequence", "l2_norm": False}
    outputs = (*shapes.get("out_layer5.weight", ()), 2)[0]
    head = {"name": "mlp", "outputs": outputs, "hidden": [1024, 512, 256, 64]}
    model = {"streams": [first, second], "fusion": fusion, "head": head}
    return Plan(rules, model, {first: (1, 4, 512), second: (1, 4, 512)})


NETWORKS: dict[str, Network] = {
    "r2plus1d_18": Network(
        "R(2+1)D-18 for video: torchvision's Kinetics-400 weights, or the reference's vision_r2d1.pt",
        _r2plus1d,
        dead={"fc.": _CLASSIFIER},
    ),
    "r2plus1d_18_flatten": Network(
        "R(2+1)D-18 with the Linear over its positions, both out of the reference's all_backbones.pt",
        _r2plus1d_flatten,
        dead={"vision_r2d1.fc.": _CLASSIFIER},
    ),
    "r3d_18": Network(
        "R3D-18 for video: torchvision's Kinetics-400 weights", _r3d, dead={"fc.": _CLASSIFIER}
    ),
    "resnet18_audio": Network(
        "ResNet18 for log-mel spectrograms (one channel), the reference's audio network",
        _resnet18_audio,
        dead={"fc.": _CLASSIFIER},
    ),
    "resnet18": Network(
        "ResNet18 for log-mel spectrograms: torchvision's ImageNet weights, their RGB stem made mono",
        _resnet18,
        dead={"fc.": _CLASSIFIER},
    ),
    "gru": Network("torch's GRU of any size, one way or both ways", _gru),
    "intra_modal": Network(
        "the attention over two backbones of one stream, the second of another width (such as WavLM's 768)",
        _intra_modal,
        note=_HEADS,
    ),
    "physio_conv1d": Network(
        "the 1-D CNN for physiological signals, of any length and number of channels",
        _physio_conv1d,
        dead={"fc2.": _CLASSIFIER},
    ),
    "jmt": Network(
        "the joint multimodal transformer alone, out of the reference's fusion_w.pt",
        _jmt,
        streams=("visual", "audio"),
        dead={"final_encoder.": _NEVER_READ},
        note=_HEADS,
    ),
    "affwild2": Network(
        "the Affwild2 model: the transformer and its two regressors, the reference's fusion_w.pt",
        _affwild2,
        streams=("visual", "audio"),
        dead={"mm_transformer.final_encoder.": _NEVER_READ},
        note=_HEADS,
    ),
    "affwild2_concat": Network(
        "the Affwild2 baseline by concatenation and its two regressors, the reference's fusion_w.pt",
        _affwild2_concat,
        streams=("visual", "audio"),
    ),
    "affwild2_regressor": Network(
        "the head over one backbone, the reference's backbone_pretrainer_w.pt",
        _affwild2_regressor,
        streams=("visual",),
    ),
    "biovid": Network(
        "the BioVid model: the transformer over four segments and its MLP",
        _biovid,
        streams=("visual", "physio"),
        dead={
            name: _NEVER_READ
            for name in ("cross_attention_all.", "out_layer_ca.", "out_layerAll1.", "out_layerAll2.")
        },
        note=_HEADS,
    ),
}

COUNTERS = "num_batches_tracked"
"""Last part of a name that torch's batch norm adds and nothing reads."""
