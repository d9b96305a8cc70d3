"""Networks as pure functions of (variables, batch): backbones, fusions, heads, and what joins them."""

from __future__ import annotations

from jmt_jax.models.model import (
    BACKBONES,
    FUSIONS,
    HEADS,
    MultimodalModel,
    build_backbone,
    build_model,
    present,
)
from jmt_jax.models.parameters import count_parameters, parameter_table

__all__ = [
    "BACKBONES",
    "FUSIONS",
    "HEADS",
    "MultimodalModel",
    "build_backbone",
    "build_model",
    "count_parameters",
    "parameter_table",
    "present",
]
