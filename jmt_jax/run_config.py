"""The configuration of a run that exists, for ``--mode=eval``."""

from __future__ import annotations

import json

from ml_collections import config_dict

from jmt_jax import addresses, files

ADVICE = "bring back the file as the run wrote it, or train again in a new --workdir"


def text(config: config_dict.ConfigDict) -> str:
    """What ``config.json`` holds."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def get_config(path: str) -> config_dict.ConfigDict:
    """What a run's ``config.json`` holds.

    Args:
      path: Of the ``config.json``.

    Raises:
      BadDataError: It is damaged.
    """

    def restore(value):
        if isinstance(value, dict):
            return {key: restore(item) for key, item in value.items()}
        return tuple(restore(item) for item in value) if isinstance(value, list) else value

    return config_dict.ConfigDict(restore(files.read_object(addresses.path_of(path), ADVICE)))
