"""The Joint Multimodal Transformer in JAX: models, training, evaluation and prediction."""

__version__ = "0.1.0"
