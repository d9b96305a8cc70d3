"""Weights as safetensors with a config beside them: written, read, and put into a model's variables.

A tensor is called by its path, such as params/backbone_visual/stem/space/kernel: the collection (`params`
or `batch_stats`), the part of the model, and the rest. A network that looks at one stream and came from
elsewhere has the part `backbone`, which fits any stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import files, torch_files
from jmt_jax.torch_networks import BACKBONE
from jmt_jax.torch_pickle import shown

COLLECTIONS = ("params", "batch_stats")
SUFFIX = ".safetensors"
OPTIONAL = ("absent", "projection", "tcn", "gru")
"""What weights from elsewhere may lack, each as a whole: the vector for an absent stream, a Linear to another
width, the TCN, a GRU after the network."""


def save_weights(path: Path, variables: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes variables, and the config beside them (same name, .json); each appears whole or not at all.

    Args:
      path: Ends with .safetensors; its folder is made if need be.
      variables: Collections of nested dicts of arrays.
      config: JSON values that say what the weights are; also stands in the file itself.

    Raises:
      UsageError: the name has another ending.
    """
    if path.suffix != SUFFIX:
        raise UsageError(f"weights are written as {SUFFIX}, not as {path.name!r}; give a name that ends so")
    tensors = {"/".join(names): np.ascontiguousarray(array) for names, array in _leaves(variables)}
    text = json.dumps(config, indent=2)
    with files.appearing(path) as temporary:
        save_file(tensors, temporary, metadata={"jmt_jax": json.dumps(config)})
    files.write_text(path.with_suffix(".json"), text + "\n")


def load_weights(path: Path) -> dict[str, Any]:
    """Variables out of a file that `save_weights` or `jmt_jax.convert` wrote.

    Returns:
      {"params": {part: ...}, "batch_stats": {...}}, float32 NumPy arrays; batch_stats only if there are any.

    Raises:
      UsageError: there is no such file.
      BadDataError: it is damaged or of another kind; for torch's own it says how to convert it.
    """
    tensors = torch_files.flatten(torch_files.read(path))
    variables: dict[str, Any] = {}
    for name, array in tensors.items():
        collection, *names = name.split("/")
        if collection not in COLLECTIONS or len(names) < 2 or not all(names):
            raise BadDataError(
                f"{path} holds a tensor {shown(name)}, which is no path in a model of this project; convert "
                f"it first: python -m jmt_jax.convert --from={path} --network=... --out=..."
            )
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            raise BadDataError(f"{path} holds {shown(name)} as {array.dtype}; expected floating numbers")
        place = variables.setdefault(collection, {})
        for part in names[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or names[-1] in place:
            raise BadDataError(f"{path} holds a tensor {shown(name)} inside another tensor; it is damaged")
        place[names[-1]] = np.array(array, np.float32)
    if "params" not in variables:
        raise BadDataError(f"{path} holds no parameters; give a file that jmt_jax.convert wrote")
    return variables


def apply_weights(
    variables: Mapping[str, Any],
    stream: str,
    path: Path,
    log: Callable[[str], None] | None = None,
    *,
    part: str = "",
) -> dict[str, Any]:
    """The variables with the backbone of one stream out of a file; the file has to have all of it.

    Args:
      variables: Of the model, {"params": {"backbone_<stream>": ...}, ...}; not changed.
      stream: Whose backbone.
      path: A file with a part `backbone`, or one with `backbone_<stream>` itself.
      log: Is told in a line what was taken and what keeps its initial values (see `OPTIONAL`).
      part: Where a stream has two backbones, the one that the file is of: `first` or `second`.

    Returns:
      New variables; each array is float32 and lies on the same devices as the one in whose place it stands.

    Raises:
      UsageError: the model has no such stream or part, or there is no such file.
      BadDataError: the file lacks weights, has others, or has one of another shape.
    """
    target = f"{BACKBONE}_{stream}"
    if target not in variables["params"]:
        known = sorted(variables["params"])
        raise UsageError(f"the model has no {target} to start from {path}; it has {', '.join(known)}")
    loaded = load_weights(path)
    source = target if target in loaded["params"] else BACKBONE
    if not part:
        return _replace(variables, {target: source}, loaded, path, log)
    if part not in variables["params"][target]:
        raise UsageError(
            f"{target} has no part {part} to start from {path}; only a stream with two backbones has parts, "
            "first and second"
        )
    parts = {
        collection: {f"{target}/{part}": tree[target][part]}
        for collection, tree in variables.items()
        if part in tree.get(target, {})
    }
    new = _replace(parts, {f"{target}/{part}": source}, loaded, path, log)
    return {
        collection: {**tree, target: {**tree[target], part: new[collection][f"{target}/{part}"]}}
        if collection in new
        else dict(tree)
        for collection, tree in variables.items()
    }


def apply_fusion_weights(
    variables: Mapping[str, Any], path: Path, log: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """As `apply_weights`, for the fusion and the head, as far as the file has them."""
    loaded = load_weights(path)
    parts = {part: part for part in ("fusion", "head") if part in loaded["params"]}
    return _replace(variables, parts or {"fusion": "fusion"}, loaded, path, log)


def _replace(
    variables: Mapping[str, Any],
    parts: Mapping[str, str],
    loaded: Mapping[str, Any],
    path: Path,
    log: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Variables with `parts` (ours -> the file's) taken from the file."""
    lacking = [part for part in parts.values() if part not in loaded["params"]]
    if lacking:
        raise BadDataError(
            f"{path} has no part {lacking[0]}; it has {', '.join(map(shown, loaded['params']))}. Give a "
            "file of the right network"
        )
    replaced = {collection: dict(tree) for collection, tree in variables.items()}
    kept: list[str] = []
    for part, source in parts.items():
        ours = {c: tree[part] for c, tree in variables.items() if part in tree}
        theirs = {c: tree[source] for c, tree in loaded.items() if source in tree}
        kept += [f"{part}/{name}" for name in _compare(ours, theirs, path)]
        for collection, tree in ours.items():
            replaced[collection][part] = _merge(tree, theirs.get(collection, {}))
    if log:
        rest = f"; {', '.join(kept)} keep their initial values" if kept else ""
        log(f"{', '.join(parts)}: weights of {path}{rest}")
    return replaced


def _compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Path) -> list[str]:
    """Names that stay as they are; every other difference is an error."""
    wanted, given = ({"/".join(names): x.shape for names, x in _leaves(tree)} for tree in (ours, theirs))
    for name in wanted:
        if name in given and tuple(given[name]) != tuple(wanted[name]):
            raise BadDataError(
                f"{path}: {name} has shape {tuple(given[name])}, and in this model {tuple(wanted[name])}; "
                "give a file of the same network, or change the model's widths"
            )
    missing = [name for name in wanted if name not in given]
    needed = [name for name in missing if not _dispensable(name, given)]
    foreign = [name for name in given if name not in wanted]
    for what, names in (("lacks", needed), ("has, unlike this model,", foreign)):
        if names:
            raise BadDataError(
                f"{path} {what} {listed(names)}; give a file of the same network, or configure the model as "
                f"in {path.with_suffix('.json').name}"
            )
    return missing


def _dispensable(name: str, given: Iterable[str]) -> bool:
    """Whether a missing weight belongs to an optional part of which the file has nothing at all."""
    names = name.split("/")
    for depth, part in enumerate(names, start=1):
        if part in OPTIONAL:
            whole = "/".join(names[:depth])
            return not any(other == whole or other.startswith(whole + "/") for other in given)
    return False


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    merged = {}
    for name, value in ours.items():
        if isinstance(value, Mapping):
            merged[name] = _merge(value, theirs.get(name, {}))
        elif name not in theirs:
            merged[name] = value
        else:
            merged[name] = _placed(theirs[name], value)
    return merged


def _placed(array: np.ndarray, like: Any) -> Any:
    """The array on the devices of `like`; NumPy where that is on none."""
    if getattr(like, "sharding", None) is None:
        return array
    import jax  # here, so that what only reads and writes files does not wait for it

    return jax.device_put(array, like.sharding)


def listed(names: list[str], most: int = 6) -> str:
    """Some names for a message, and how many more there are."""
    some = ", ".join(shown(name) for name in names[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"


def _leaves(tree: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*names, name))
        else:
            yield (*names, name), value
