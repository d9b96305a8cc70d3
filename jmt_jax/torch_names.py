"""Which tensor of a torch `state_dict` is which of our parameters, and how its axes lie.

A network is a list of rules. Each rule ties one torch name to one or more of our paths, and converts both
ways: in for weights that come from elsewhere, out for weights (or gradients) that are to be compared or
handed on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Path = tuple[str, ...]
"""From the collection down, e.g. ("params", "fusion", "joint", "kernel")."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the axes of a torch tensor lie in ours.

    Attributes:
      to_ours: One torch array -> our arrays, in the order of the rule's paths.
      to_torch: Our arrays -> one torch array.
    """

    to_ours: Callable[[np.ndarray], Sequence[np.ndarray]]
    to_torch: Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One torch tensor and where it goes.

    Attributes:
      torch: Its name.
      ours: The paths that it fills.
      layout: The conversion.
    """

    torch: str
    ours: tuple[Path, ...]
    layout: Layout


SAME = Layout(lambda x: [x], lambda ours: ours[0])
LINEAR = Layout(lambda x: [x.T], lambda ours: ours[0].T)
"""(out, in) <-> (in, out)."""
CONVOLUTION = Layout(
    lambda x: [np.moveaxis(x, (0, 1), (-1, -2))], lambda ours: np.moveaxis(ours[0], (-1, -2), (0, 1))
)
"""(out, in, *kernel) <-> (*kernel, in, out)."""
POINTWISE = Layout(lambda x: [x[..., 0].T], lambda ours: ours[0].T[..., None])
"""A convolution of one tap, (out, in, 1) <-> a Linear's (in, out)."""
LENGTHS = Layout(lambda x: [x.reshape(-1)], lambda ours: ours[0][:, None, None])
"""The weight_g of torch's weight norm, (out, 1, 1) <-> (out,)."""
FRAME_CONVOLUTION = Layout(
    lambda x: [np.moveaxis(x, (0, 1), (-1, -2))[None]], lambda ours: np.moveaxis(ours[0][0], (-1, -2), (0, 1))
)
"""(out, in, height, width) <-> (1, height, width, in, out)."""
RGB_TO_MONO = Layout(
    lambda x: FRAME_CONVOLUTION.to_ours(x.mean(1, keepdims=True)),
    lambda ours: np.repeat(FRAME_CONVOLUTION.to_torch(ours), 3, axis=1),
)
"""The mean of the filters for red, green and blue (facts A6); back, each of the three is that mean."""
STACKED_KERNELS = Layout(
    lambda x: [part.T for part in np.split(x, 3)], lambda ours: np.concatenate([part.T for part in ours])
)
"""The attention's (3 dim, dim) in-projection <-> query, key and value kernels."""
STACKED_BIASES = Layout(lambda x: np.split(x, 3), np.concatenate)


def linear_after_flatten(channels: int) -> Layout:
    """A Linear over flattened positions: torch flattens the channel first, we last."""

    def to_ours(weight: np.ndarray) -> list[np.ndarray]:
        features = len(weight)
        return [weight.reshape(features, channels, -1).transpose(2, 1, 0).reshape(-1, features)]

    def to_torch(ours: Sequence[np.ndarray]) -> np.ndarray:
        features = ours[0].shape[-1]
        return ours[0].reshape(-1, channels, features).transpose(2, 1, 0).reshape(features, -1)

    return Layout(to_ours, to_torch)


def convert(
    rules: Iterable[Rule], state_dict: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Our variables from a torch `state_dict`.

    Returns:
      The nested variables; the names that no rule reads; the names that rules look for in vain.
    """
    variables: dict[str, Any] = {}
    missing, wanted = [], set()
    for rule in rules:
        wanted.add(rule.torch)
        if rule.torch not in state_dict:
            missing.append(rule.torch)
            continue
        for path, array in zip(rule.ours, rule.layout.to_ours(state_dict[rule.torch]), strict=True):
            place = variables
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = array
    return variables, [name for name in state_dict if name not in wanted], missing


def export(rules: Iterable[Rule], variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Torch names and layouts of our variables, or of gradients in the same tree, as far as present."""
    exported = {}
    for rule in rules:
        try:
            ours = [_at(variables, path) for path in rule.ours]
        except KeyError:
            continue
        exported[rule.torch] = rule.layout.to_torch(ours)
    return exported


def _at(tree: Mapping[str, Any], path: Path) -> np.ndarray:
    for part in path:
        tree = tree[part]
    return np.asarray(tree)


def under(rules: Iterable[Rule], torch: str, ours: Path) -> list[Rule]:
    """The same rules with a prefix before the torch names, and `ours` after the collection of our paths."""
    return [
        Rule(torch + rule.torch, tuple((path[0], *ours, *path[1:]) for path in rule.ours), rule.layout)
        for rule in rules
    ]


# --- layers: torch prefix (with its dot, or empty) and our path below "params" ---


def linear(torch: str, ours: Path, layout: Layout = LINEAR) -> list[Rule]:
    """A Linear with bias."""
    return [
        Rule(torch + "weight", (("params", *ours, "kernel"),), layout),
        Rule(torch + "bias", (("params", *ours, "bias"),), SAME),
    ]


def norm(torch: str, ours: Path) -> list[Rule]:
    """Scale and bias of a layer norm."""
    return [
        Rule(torch + "weight", (("params", *ours, "scale"),), SAME),
        Rule(torch + "bias", (("params", *ours, "bias"),), SAME),
    ]


def batch_norm(torch: str, ours: Path) -> list[Rule]:
    """Scale, bias and running statistics."""
    return [
        *norm(torch, ours),
        Rule(torch + "running_mean", (("batch_stats", *ours, "mean"),), SAME),
        Rule(torch + "running_var", (("batch_stats", *ours, "var"),), SAME),
    ]


def convolution(torch: str, ours: Path, *, bias: bool = False, layout: Layout = CONVOLUTION) -> list[Rule]:
    """A convolution of any number of axes."""
    rules = [Rule(torch + "weight", (("params", *ours, "kernel"),), layout)]
    if bias:
        rules.append(Rule(torch + "bias", (("params", *ours, "bias"),), SAME))
    return rules


def attention(torch: str, ours: Path) -> list[Rule]:
    """A `MultiheadAttention` with its stacked in-projection."""
    parts = ("query", "key", "value")
    return [
        Rule(
            torch + "in_proj_weight",
            tuple(("params", *ours, part, "kernel") for part in parts),
            STACKED_KERNELS,
        ),
        Rule(
            torch + "in_proj_bias", tuple(("params", *ours, part, "bias") for part in parts), STACKED_BIASES
        ),
        *linear(torch + "out_proj.", (*ours, "out")),
    ]


def encoder(torch: str, ours: Path, num_layers: int) -> list[Rule]:
    """The reference's post-norm encoder."""
    rules = []
    for layer in range(num_layers):
        there, here = f"{torch}layers.{layer}.", (*ours, f"layer{layer}")
        rules += attention(there + "attention.", (*here, "attention"))
        rules += linear(there + "feed_forward.0.", (*here, "linear1"))
        rules += linear(there + "feed_forward.2.", (*here, "linear2"))
        rules += norm(there + "layer_norm1.", (*here, "norm1"))
        rules += norm(there + "layer_norm2.", (*here, "norm2"))
    return rules


# --- networks: rules for our module on its own; `under` puts them into a model ---


def jmt(streams: tuple[str, str], num_layers: int = 1, output: str = "self_attention") -> list[Rule]:
    """The reference's fusion of two streams: its visual and physiological are ours in this order."""
    first, second = streams
    rules = linear("out_layer_pv.", ("joint",))
    names = {"visual": first, "physiological": second, "joint_representation": "joint"}
    for torch, ours in names.items():
        rules += encoder(f"{torch}_encoder.", (f"encoder_{ours}",), num_layers)
    for torch, ours in {"v": first, "p": second, "pv": "joint"}.items():
        rules += attention(f"cross_attention_{torch}.", (f"attention_{ours}",))
    if output == "self_attention":
        rules += encoder("final_visual_encoder.", ("token_encoder",), num_layers)
        rules += attention("final_self_attention.", ("token_attention",))
    elif output == "fc":
        rules += linear("out_layer1.", ("output",))
    else:
        rules += encoder("final_encoder.", ("sequence_encoder",), num_layers)
    return rules


def vanilla(streams: tuple[str, str], num_layers: int = 1, output: str = "fc") -> list[Rule]:
    """The reference's cross-attention without the joint branch, over two streams as in `jmt`."""
    first, second = streams
    rules = []
    for torch, ours in {"visual": first, "physiological": second}.items():
        rules += encoder(f"{torch}_encoder.", (f"encoder_{ours}",), num_layers)
    for torch, ours in {"v": first, "p": second}.items():
        rules += attention(f"cross_attention_{torch}.", (f"attention_{ours}",))
    return rules + (linear("final_layer.", ("output",)) if output == "fc" else [])


def concat() -> list[Rule]:
    """The reference's concatenation baseline."""
    return linear("fc.", ("joint",))


def mlp_head(torch_layers: Sequence[str], prefix: str = "") -> list[Rule]:
    """A head whose torch layers are named in order, without the dot; `prefix` as `MLPHead` names towers."""
    *hidden, output = torch_layers
    rules = []
    for layer, torch in enumerate(hidden):
        rules += linear(torch + ".", (f"{prefix}hidden{layer}",))
    return rules + linear(output + ".", (f"{prefix}output",))


def valence_arousal_head() -> list[Rule]:
    """The Affwild2 model's two regressors."""
    valence = mlp_head(["vregressor.0", "vregressor.3"], "tower0_")
    return valence + mlp_head(["aregressor.0", "aregressor.3"], "tower1_")


def conv1d(channels: int = 64) -> list[Rule]:
    """The physiological 1-D CNN; `channels` of its last convolution."""
    return [
        *convolution("conv1.", ("conv1",), bias=True),
        *convolution("conv2.", ("conv2",), bias=True),
        *linear("fc1.", ("projection",), linear_after_flatten(channels)),
    ]


def r2plus1d(widths: Sequence[int] = (64, 128, 256, 512), blocks: Sequence[int] = (2, 2, 2, 2)) -> list[Rule]:
    """R(2+1)D of torchvision without its classifier."""

    def factorised(torch: str, ours: Path) -> list[Rule]:
        return [
            *convolution(torch + "0.", (*ours, "space")),
            *batch_norm(torch + "1.", (*ours, "norm")),
            *convolution(torch + "3.", (*ours, "time")),
        ]

    stem = [*factorised("stem.", ("stem",)), *batch_norm("stem.4.", ("stem_norm",))]
    return stem + _stages(widths, blocks, factorised)


def r3d(widths: Sequence[int] = (64, 128, 256, 512), blocks: Sequence[int] = (2, 2, 2, 2)) -> list[Rule]:
    """R3D of torchvision without its classifier."""

    def full(torch: str, ours: Path) -> list[Rule]:
        return convolution(torch, (*ours, "full"))

    stem = [*convolution("stem.0.", ("stem",)), *batch_norm("stem.1.", ("stem_norm",))]
    return stem + _stages(widths, blocks, full)


def resnet18(
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (2, 2, 2, 2),
    stem: Layout = FRAME_CONVOLUTION,
) -> list[Rule]:
    """ResNet of torchvision without its classifier; its stem of one channel, or of three that become one."""

    def frame(torch: str, ours: Path) -> list[Rule]:
        return convolution(torch, (*ours, "frame"), layout=FRAME_CONVOLUTION)

    first = [*convolution("conv1.", ("stem",), layout=stem), *batch_norm("bn1.", ("stem_norm",))]
    return first + _stages(widths, blocks, frame, ("conv{}.", "bn{}."), FRAME_CONVOLUTION)


def gru(num_layers: int, bidirectional: bool) -> list[Rule]:
    """A `GRU` of torch."""
    directions = {"": "forward", "_reverse": "backward"} if bidirectional else {"": "forward"}
    rules = []
    for layer in range(num_layers):
        for suffix, direction in directions.items():
            here = ("params", f"layer{layer}_{direction}")
            for kind, reads in (("ih", "input"), ("hh", "state")):
                there = f"{kind}_l{layer}{suffix}"
                rules.append(Rule(f"weight_{there}", ((*here, f"{reads}_kernel"),), LINEAR))
                rules.append(Rule(f"bias_{there}", ((*here, f"{reads}_bias"),), SAME))
    return rules


def intra_modal() -> list[Rule]:
    """The reference's attention over two backbones of one stream, the second of another width (facts A5)."""
    return [
        *encoder("final_visual_encoder.", ("token_encoder",), 1),
        *attention("final_self_attention.", ("token_attention",)),
        *linear("fc.", ("projection_second",)),
    ]


def _stages(
    widths: Sequence[int],
    blocks: Sequence[int],
    conv: Callable[[str, Path], list[Rule]],
    names: tuple[str, str] = ("conv{}.0.", "conv{}.1."),
    shortcut: Layout = CONVOLUTION,
) -> list[Rule]:
    """The residual stages, layer1 .. layer4 in torchvision; `names` of a convolution and its batch norm."""
    rules = []
    channels = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(count):
            there, here = f"layer{stage}.{block}.", f"stage{stage}_block{block}"
            for index in (1, 2):
                rules += conv(there + names[0].format(index), (here, f"conv{index}"))
                rules += batch_norm(there + names[1].format(index), (here, f"norm{index}"))
            if block == 0 and (stage > 1 or channels != width):
                rules += convolution(f"{there}downsample.0.", (here, "shortcut"), layout=shortcut)
                rules += batch_norm(f"{there}downsample.1.", (here, "shortcut_norm"))
            channels = width
    return rules


def i3d() -> list[Rule]:
    """I3D of the Kinetics release without its classifier."""

    def unit(torch: str, ours: Path) -> list[Rule]:
        return [
            *convolution(torch + "conv3d.", (*ours, "conv")),
            *batch_norm(torch + "bn.", (*ours, "norm")),
        ]

    stem = {"Conv3d_1a_7x7.": "stem1", "Conv3d_2b_1x1.": "stem2_reduce", "Conv3d_2c_3x3.": "stem2"}
    rules = [rule for torch, ours in stem.items() for rule in unit(torch, (ours,))]
    branches = {
        "b0.": "branch0",
        "b1a.": "branch1_reduce",
        "b1b.": "branch1",
        "b2a.": "branch2_reduce",
        "b2b.": "branch2",
        "b3b.": "branch3",
    }
    for module in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
        for torch, ours in branches.items():
            rules += unit(f"Mixed_{module}.{torch}", (f"stage{module}", ours))
    return rules


def tcn(levels: int = 4) -> list[Rule]:
    """The TCN after the reference's I3D; its first level alone has a shortcut.

    Each convolution stands in a file twice, as conv1 or conv2 and in the sequence `net`, and is one tensor
    in torch. The sequence is what runs, so its names are read.
    """
    rules = []
    for level in range(levels):
        there, here = f"network.{level}.", f"level{level}"
        for torch, ours in (("net.0.", "conv1"), ("net.4.", "conv2")):
            rules += [
                Rule(f"{there}{torch}weight_v", (("params", here, ours, "direction"),), CONVOLUTION),
                Rule(f"{there}{torch}weight_g", (("params", here, ours, "scale"),), LENGTHS),
                Rule(f"{there}{torch}bias", (("params", here, ours, "bias"),), SAME),
            ]
    return rules + linear("network.0.downsample.", ("level0", "shortcut"), POINTWISE)
