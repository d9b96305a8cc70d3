"""The configuration of a run that exists, for ``--mode=eval``."""

from __future__ import annotations

import json

from ml_collections import config_dict

from jmt_jax import addresses


def get_config(path: str) -> config_dict.ConfigDict:
    """What a run's ``config.json`` holds.

    Args:
      path: Of the ``config.json``.
    """

    def restore(value):
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(restore(item) for item in value) if isinstance(value, list) else value

    return config_dict.ConfigDict(restore(json.loads(addresses.path_of(path).read_text())))
