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
from jmt_jax.models.backbones.identity import Identity
from jmt_jax.models.backbones.r2plus1d import R2Plus1D
from jmt_jax.models.backbones.r3d import R3D
from jmt_jax.models.baselines import Concat, Late, Unimodal
from jmt_jax.models.bottleneck import Bottleneck
from jmt_jax.models.fusion import JMT
from jmt_jax.models.heads import MLPHead
from jmt_jax.models.layers import draw_rows
from jmt_jax.models.rjca import RecursiveJointCrossAttention
from jmt_jax.models.vanilla import Vanilla, VanillaMatched

BACKBONES: dict[str, type[nn.Module]] = {
    "r2plus1d": R2Plus1D,
    "r3d": R3D,
    "conv1d": SignalCNN,
    "identity": Identity,
}
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
            [B, S, D]. A stream with S = 1 beside longer ones is one window that all moments share.
          masks: Stream -> bool [B, S of that stream], True = real; None = all real. What stands under a mask,
            be it NaN, changes no bit of any output.
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
    ) -> dict[str, jax.Array]:
        """A checked mask for every stream."""
        full = {}
        for stream in self.backbone:
            if stream not in inputs:
                raise ValueError(f"the batch has streams {sorted(inputs)}; the model also needs {stream!r}")
            shape = inputs[stream].shape[:2]
            mask = jnp.ones(shape, bool) if masks is None or stream not in masks else masks[stream]
            if mask.shape != shape:
                raise ValueError(f"the mask of {stream!r} has shape {mask.shape}; expected {shape}")
            full[stream] = mask
        return full

    def _encode_stream(self, stream: str, values: jax.Array, mask: jax.Array, *, train: bool) -> jax.Array:
        """Backbone tokens of one stream, with nothing under the mask ever reaching the backbone."""
        shaped = mask.reshape(*mask.shape, *(1,) * (values.ndim - 2))
        values = jnp.where(shaped, values, jnp.zeros((), values.dtype))
        frozen = stream in self.frozen
        tokens = self.backbone[stream](values, mask, train=train and not frozen)
        return lax.stop_gradient(tokens) if frozen else tokens

    def _tokens(
        self, inputs: Mapping[str, jax.Array], masks: Mapping[str, jax.Array], *, train: bool
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Tokens and masks of all streams with the same S."""
        steps = max(mask.shape[1] for mask in masks.values())
        tokens, broadcast = {}, {}
        for stream, mask in masks.items():
            if mask.shape[1] not in (1, steps):
                lengths = {name: other.shape[1] for name, other in masks.items()}
                raise ValueError(
                    f"streams have {lengths} tokens; expected the same number, or 1 for a shared window"
                )
            encoded = self._encode_stream(stream, inputs[stream], mask, train=train)
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


def present(masks: Mapping[str, jax.Array]) -> jax.Array:
    """Where a prediction rests on anything: bool [B, S], True if any stream is there.

    Args:
      masks: Stream -> bool [B, S or 1], as the model takes them.
    """
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
            stream: _build("backbone", BACKBONES, backbones[stream], axis_name=axis_name, dtype=dtype)
            for stream in streams
        },
        fusion=_build("fusion", FUSIONS, fusion, streams=streams, axis_name=axis_name, dtype=dtype),
        head=built_head,
        frozen=tuple(frozen),
        modality_dropout=modality_dropout,
        axis_name=axis_name,
    )


def _build(
    kind: str, known: Mapping[str, type[nn.Module]], config: Mapping[str, Any], **given: Any
) -> nn.Module:
    """An instance of the class that `config["name"]` names, with the rest of `config` as its arguments."""
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(known)}")
    fields = {field.name for field in dataclasses.fields(known[name])} - {"parent", "name"}
    settable = sorted(fields - set(given))
    unknown = sorted(set(arguments) - set(settable))
    if unknown:
        raise ValueError(
            f"{kind} {name!r} has no argument {unknown[0]!r}; it has {', '.join(settable) or 'none'}"
        )
    # Configurations hold lists where a module, which must be hashable, needs tuples.
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    given = {key: value for key, value in given.items() if key in fields}
    return known[name](**arguments, **given)
