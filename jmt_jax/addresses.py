"""Folders of this machine and addresses in an object store, as paths; light: JAX comes later."""

from __future__ import annotations

import importlib.util

from etils import epath

from data_pipelines.errors import UsageError


def is_remote(text: str) -> bool:
    """Whether it is an address and no folder."""
    return "://" in text


def path_of(text: str) -> epath.Path:
    """A folder, or an address such as ``gs://bucket/run``.

    Raises:
      UsageError: The address's kind of store is not known, or what reads it is not installed.
    """
    if not is_remote(text):
        return epath.Path(text)
    if not text.startswith("gs://"):
        raise UsageError(f"{text} is no folder and no gs:// address; give one of them")
    if importlib.util.find_spec("gcsfs") is None:
        raise UsageError(f"{text} is read by gcsfs, which is not installed: pip install -e '.[gcs]'")
    import fsspec

    # TensorStore and the other processes write there too, and gcsfs would not know of it.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return epath.Path(text)
