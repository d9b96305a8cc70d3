"""The model that joins the parts: one backbone a stream, one fusion over all of them, one head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jmt_jax.models.backbones.conv1d import SignalCNN
from jmt_jax.models.backbones.i3d import I3D
from jmt_jax.models.backbones.identity import Identity
from jmt_jax.models.backbones.pair import Pair
from jmt_jax.models.backbones.r2plus1d import R2Plus1D
from jmt_jax.models.backbones.r3d import R3D
from jmt_jax.models.backbones.resnet18 import ResNet18
from jmt_jax.models.baselines import Concat, Late, Unimodal
from jmt_jax.models.bottleneck import Bottleneck
from jmt_jax.models.fusion import JMT
from jmt_jax.models.gru import GRU
from jmt_jax.models.heads import MLPHead
from jmt_jax.models.layers import draw_rows
from jmt_jax.models.rjca import RecursiveJointCrossAttention
from jmt_jax.models.vanilla import Vanilla, VanillaMatched

BACKBONES: dict[str, type[nn.Module]] = {
    "r2plus1d": R2Plus1D,
    "r3d": R3D,
    "i3d": I3D,
    "resnet18": ResNet18,
    "conv1d": SignalCNN,
    "identity": Identity,
    "gru": GRU,
    "pair": Pair,
}
# These look at an item's tokens together: what they say of one depends on the others.
READING_TOKENS_TOGETHER = frozenset({"gru"})
FUSIONS: dict[str, type[nn.Module]] = {
    "jmt": JMT,
    "concat": Concat,
    "unimodal": Unimodal,
    "vanilla": Vanilla,
    "vanilla_matched": VanillaMatched,
    "late": Late,
    "bottleneck": Bottleneck,
    "rjca": RecursiveJointCrossAttention,
}
# These have no options of their own: they take those of another, whatever the command line made of them.
OPTIONS_OF: Mapping[str, str] = {"vanilla_matched": "jmt"}
HEADS: dict[str, type[nn.Module]] = {"mlp": MLPHead}


class MultimodalModel(nn.Module):
    """backbones -> tokens -> fusion -> head.

    Attributes:
      backbone: Stream -> network; its order is the order of the streams.
      fusion: Tokens and masks of all streams -> features and their mask.
      head: Features and mask -> float32 logits.
      frozen: Streams whose backbone runs as in evaluation and gets no gradient.
      axis_name: The pmap axis over which random draws are made; None under jit.
      modality_dropout: Probability with which training hides a stream of a sample (rng `modality`); one that
        is present always stays.
    """

    backbone: Mapping[str, nn.Module]
    fusion: nn.Module
    head: nn.Module
    frozen: tuple[str, ...] = ()
    modality_dropout: float = 0.0
    axis_name: str | None = None

    def __call__(
        self,
        inputs: Mapping[str, jax.Array],
        masks: Mapping[str, jax.Array] | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Predicts.

        Args:
          inputs: Stream -> [B, S, ...]: frames uint8 [B, S, F, H, W, 3], samples [B, S, T, C], features
            [B, S, D]. A stream with S = 1 beside longer ones is one window that all moments share. A stream
            with two backbones (`Pair`) may have a tuple, one array for each.
          masks: Stream -> bool [B, S of that stream], True = real; None = all real. For a tuple one mask for
            both or a tuple. What stands under a mask, be it NaN, changes no bit of any output.
          train: Whether batch statistics, dropout (rng `dropout`) and modality dropout (rng `modality`) are
          on.

        Returns:
          float32 [B, K], or [B, S, K] where the head keeps all steps. Finite where all streams are absent;
          `present` says where that is.
        """
        tokens, masks = self._tokens(inputs, self._full_masks(inputs, masks), train=train)
        if train and self.modality_dropout:
            masks = self._hide_streams(masks)
        features, mask = self.fusion(tokens, masks, train=train)
        return self.head(features, mask, train=train)

    def encode(
        self,
        inputs: Mapping[str, jax.Array],
        masks: Mapping[str, jax.Array] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Stream -> tokens [B, S of that stream, D] out of its backbone; for extraction."""
        masks = self._full_masks(inputs, masks)
        return {
            stream: self._encode_stream(stream, inputs[stream], masks[stream], train=train)
            for stream in self.backbone
        }

    def _full_masks(
        self, inputs: Mapping[str, jax.Array], masks: Mapping[str, jax.Array] | None
    ) -> dict[str, Any]:
        """A checked mask for every stream; two where it has two inputs."""
        full = {}
        for stream in self.backbone:
            if stream not in inputs:
                raise ValueError(f"the batch has streams {sorted(inputs)}; the model also needs {stream!r}")
            values, mask = inputs[stream], None if masks is None else masks.get(stream)
            if not isinstance(values, tuple):
                full[stream] = _full_mask(stream, values, mask)
                continue
            if not isinstance(self.backbone[stream], Pair) or len(values) != 2:
                raise ValueError(
                    f"stream {stream!r} has {len(values)} inputs; only a backbone 'pair' takes more than "
                    "one, and it takes two"
                )
            both = mask if isinstance(mask, tuple) else (mask, mask)
            full[stream] = tuple(_full_mask(stream, x, m) for x, m in zip(values, both, strict=True))
        return full

    def _encode_stream(self, stream: str, values: Any, mask: Any, *, train: bool) -> jax.Array:
        """Backbone tokens of one stream, with nothing under the mask ever reaching the backbone."""
        values = jax.tree.map(_hidden, values, mask)
        frozen = stream in self.frozen
        tokens = self.backbone[stream](values, mask, train=train and not frozen)
        return lax.stop_gradient(tokens) if frozen else tokens

    def _tokens(
        self, inputs: Mapping[str, Any], full_masks: Mapping[str, Any], *, train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Tokens and masks of all streams with the same S."""
        masks = {stream: _either(mask) for stream, mask in full_masks.items()}
        steps = max(mask.shape[1] for mask in masks.values())
        tokens, broadcast = {}, {}
        for stream, mask in masks.items():
            if mask.shape[1] not in (1, steps):
                lengths = {name: other.shape[1] for name, other in masks.items()}
                raise ValueError(
                    f"streams have {lengths} tokens; expected the same number, or 1 for a shared window"
                )
            encoded = self._encode_stream(stream, inputs[stream], full_masks[stream], train=train)
            tokens[stream] = jnp.broadcast_to(encoded, (len(encoded), steps, *encoded.shape[2:]))
            broadcast[stream] = jnp.broadcast_to(mask, (len(mask), steps))
        return tokens, broadcast

    def _hide_streams(self, masks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Masks that hide whole streams at random, sample by sample, but never a sample's last one."""
        stacked = jnp.stack(list(masks.values()))  # [M, B, S]
        present = stacked.any(-1)
        key = self.make_rng("modality")
        # Rows first: a device draws its own rows of the whole batch.
        draws = draw_rows(lambda shape: jax.random.uniform(key, shape), present.T.shape, self.axis_name).T
        draws = jnp.where(present, draws, -1.0)
        luckiest = jnp.arange(len(draws))[:, None] == jnp.argmax(draws, axis=0)
        kept = (draws >= self.modality_dropout) | luckiest
        return {stream: mask & kept[row][:, None] for row, (stream, mask) in enumerate(masks.items())}


def _full_mask(stream: str, values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mask of one input, checked; all real where there is none."""
    shape = values.shape[:2]
    if mask is None:
        return jnp.ones(shape, bool)
    if mask.shape != shape:
        raise ValueError(f"the mask of {stream!r} has shape {mask.shape}; expected {shape}")
    return mask


def _hidden(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Zeros under the mask."""
    shaped = mask.reshape(*mask.shape, *(1,) * (values.ndim - 2))
    return jnp.where(shaped, values, jnp.zeros((), values.dtype))


def _either(mask: Any) -> jax.Array:
    """Where a stream is there: its mask, or that one of its two inputs is."""
    return mask[0] | mask[1] if isinstance(mask, tuple) else mask


def present(masks: Mapping[str, Any]) -> jax.Array:
    """Where a prediction rests on anything: bool [B, S], True if any stream is there.

    Args:
      masks: Stream -> bool [B, S or 1], as the model takes them.
    """
    masks = {stream: _either(mask) for stream, mask in masks.items()}
    steps = max(mask.shape[1] for mask in masks.values())
    return jnp.stack([jnp.broadcast_to(mask, (len(mask), steps)) for mask in masks.values()]).any(0)


def build_model(
    streams: Sequence[str],
    backbones: Mapping[str, Mapping[str, Any]],
    fusion: Mapping[str, Any],
    head: Mapping[str, Any],
    *,
    frozen: Sequence[str] = (),
    axis_name: str | None = None,
    modality_dropout: float = 0.0,
    dtype: jnp.dtype = jnp.float32,
) -> MultimodalModel:
    """The model that a configuration describes.

    Args:
      streams: Their names, in the order in which they enter the fusion.
      backbones: Stream -> {"name": one of BACKBONES, its arguments...}; entries of other streams are not
        looked at.
      fusion: {"name": one of FUSIONS, its arguments...}.
      head: {"name": one of HEADS, its arguments...}.
      frozen: Streams whose backbone is not trained.
      axis_name: The pmap axis over which batch statistics are reduced; None under jit.
      modality_dropout: See `MultimodalModel`.
      dtype: Type of the computation, float32 or bfloat16. Parameters, statistics, softmax and logits stay
        float32.

    Raises:
      ValueError: for an unknown name or argument, or a stream without a backbone; it names the known ones.
        For late fusion before a head that is not linear.
    """
    streams = tuple(streams)
    if not streams or len(set(streams)) != len(streams):
        raise ValueError(f"streams are {streams}; expected at least one, each once")
    for stream in streams:
        if stream not in backbones:
            raise ValueError(
                f"stream {stream!r} has no backbone; backbones are given for {sorted(backbones)}"
            )
    unknown = sorted(set(frozen) - set(streams))
    if unknown:
        raise ValueError(f"frozen names {unknown}, which are not among the streams {streams}")
    if not 0 <= modality_dropout < 1:
        raise ValueError(f"modality_dropout is {modality_dropout}; expected a probability in [0, 1)")
    built_head = _build("head", HEADS, head, axis_name=axis_name, dtype=dtype)
    if fusion.get("name") == "late" and built_head.hidden:
        raise ValueError(
            "late fusion averages predictions, so the head after it must be linear, but it has hidden widths "
            f"{built_head.hidden}; set hidden=() there, and the streams' own widths in the fusion's `hidden`"
        )
    return MultimodalModel(
        backbone={
            stream: build_backbone(backbones[stream], axis_name=axis_name, dtype=dtype) for stream in streams
        },
        fusion=_build("fusion", FUSIONS, fusion, streams=streams, axis_name=axis_name, dtype=dtype),
        head=built_head,
        frozen=tuple(frozen),
        modality_dropout=modality_dropout,
        axis_name=axis_name,
    )


def build_backbone(
    config: Mapping[str, Any], *, axis_name: str | None = None, dtype: jnp.dtype = jnp.float32
) -> nn.Module:
    """One stream's network by itself; arguments and errors as `build_model`."""
    return _build("backbone", BACKBONES, config, axis_name=axis_name, dtype=dtype)


def reads_tokens_together(config: Mapping[str, Any]) -> bool:
    """Whether a backbone, or one that it is made of, looks at an item's tokens together."""
    parts = (value for value in config.values() if isinstance(value, Mapping))
    return config.get("name") in READING_TOKENS_TOGETHER or any(map(reads_tokens_together, parts))


def _build(
    kind: str, known: Mapping[str, type[nn.Module]], config: Mapping[str, Any], **given: Any
) -> nn.Module:
    """An instance of the class that `config["name"]` names, with the rest of `config` as its arguments."""
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(known)}")
    declared = [field for field in dataclasses.fields(known[name]) if field.name not in ("parent", "name")]
    fields = {field.name for field in declared}
    settable = sorted(fields - set(given))
    unknown = sorted(set(arguments) - set(settable))
    if unknown:
        raise ValueError(
            f"{kind} {name!r} has no argument {unknown[0]!r}; it has {', '.join(settable) or 'none'}"
        )
    needed = {field.name for field in declared if field.default is dataclasses.MISSING} - set(given)
    if missing := sorted(needed - set(arguments)):
        raise ValueError(
            f"{kind} {name!r} needs {', '.join(missing)}; its arguments are {', '.join(settable)}"
        )
    # A network that is made of others of its kind has their configurations as arguments.
    arguments = {
        key: _build(kind, known, value, **given) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
    }
    # Configurations hold lists where a module, which must be hashable, needs tuples.
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    given = {key: value for key, value in given.items() if key in fields}
    return known[name](**arguments, **given)
