"""Weights from torch into this project: ``python -m jmt_jax.convert --from=.. --network=.. --out=..``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import command_line, endings, program
from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import torch_files, torch_names
from jmt_jax.torch_networks import BACKBONE, COUNTERS, NETWORKS, Network, Plan
from jmt_jax.torch_pickle import shown
from jmt_jax.weights import SUFFIX, listed, save_weights

_MAX_PREFIX_PARTS = 8
_SHOWN_NAMES = 4
_MOST_TO_SEARCH = 5000


@dataclasses.dataclass(frozen=True)
class Conversion:
    """One network's weights out of a file, or why they cannot be had.

    Attributes:
      network: Its name in `NETWORKS`.
      prefix: Stands before all of its names in the file, e.g. "module.".
      plan: The rules and our modules.
      mapped: Names of the tensors that were taken.
      left_out: Name -> why it was not taken.
      missing: Names that the network needs and the file lacks.
      misshapen: Name -> (shape in the file, shape that the network has).
      unusable: Name -> what is wrong with its values.
      instead: Networks of which the file has everything, where it lacks something of this one.
      variables: {"params": {part: ...}, "batch_stats": {...}}, float32; {} unless all is there and fits.
    """

    network: str
    prefix: str
    plan: Plan
    mapped: list[str]
    left_out: dict[str, str]
    missing: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unusable: dict[str, str]
    instead: list[str]
    variables: dict[str, Any]

    def check(self) -> None:
        """Is silent where the conversion succeeded.

        Raises:
          BadDataError: it did not; the message names what is missing or what does not fit.
        """
        others = f" ({', '.join(self.instead)})" if self.instead else ""
        advice = f"give a file of {self.network}, or the --network that it belongs to{others}"
        if self.missing:
            raise BadDataError(
                f"the file lacks {len(self.missing)} of the {len(self.plan.rules)} tensors of "
                f"{self.network}: {listed(self.missing)}; {advice}"
            )
        for name, (found, expected) in self.misshapen.items():
            raise BadDataError(
                f"{shown(name)} has shape {found} in the file, and {expected} in {self.network}"
                + (f" (and {len(self.misshapen) - 1} more differ)" if len(self.misshapen) > 1 else "")
                + f"; {advice}"
            )
        for name, problem in self.unusable.items():
            raise BadDataError(f"{shown(name)} {problem}; such weights cannot be used, get the file again")

    def config(self) -> dict[str, Any]:
        """What stands beside the weights: the network, our modules' configuration, what was left out."""
        counts = {
            collection: sum(array.size for array in _arrays(tree))
            for collection, tree in self.variables.items()
        }
        return {
            "network": self.network,
            "model": self.plan.model,
            "prefix": self.prefix,
            "tensors": len(self.mapped),
            "parameters": counts.get("params", 0),
            "statistics": counts.get("batch_stats", 0),
            "left_out": self.left_out,
        }

    def report(self) -> str:
        """What was mapped, left out and missing, in lines."""
        where = f" (their names stand under {shown(self.prefix)})" if self.prefix else ""
        lines = [f"mapped: {len(self.mapped)} of {len(self.plan.rules)} tensors of {self.network}{where}"]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(name)
        lines.append(f"left out: {len(self.left_out)}" if self.left_out else "left out: nothing")
        lines += [
            f"  {len(names)}, {reason}: {listed(names, _SHOWN_NAMES)}" for reason, names in reasons.items()
        ]
        missing = f"{len(self.missing)}: {listed(self.missing, _SHOWN_NAMES)}" if self.missing else "nothing"
        lines.append(f"missing: {missing}")
        for name, (found, expected) in self.misshapen.items():
            lines.append(f"wrong shape: {shown(name)} is {found}, expected {expected}")
        if note := NETWORKS[self.network].note:
            lines.append(f"note: {note}")
        return "\n".join(lines)


def convert(
    tensors: Mapping[str, np.ndarray],
    network: str,
    *,
    streams: Sequence[str] | None = None,
    prefix: str | None = None,
) -> Conversion:
    """One of the known networks out of named tensors.

    Args:
      tensors: Torch name -> array; only what the network needs is read.
      network: One of `NETWORKS`.
      streams: What the fused streams are called here, in the reference's order; None for the usual names.
      prefix: Stands before the network's names; None finds it ("module.", "state_dict.", ...).

    Returns:
      The conversion, also where something is missing or does not fit: see `Conversion.check`.

    Raises:
      UsageError: there is no such network, or it does not fuse so many streams.
      BadDataError: the file holds the network more than once, or nothing of it.
    """
    if network not in NETWORKS:
        raise UsageError(f"there is no network {network!r}; known are {', '.join(NETWORKS)}")
    entry = NETWORKS[network]
    streams = _checked_streams(network, entry, streams)
    if prefix is None:
        prefix = _find_prefix(tensors, network, streams)
    names = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    plan = entry.plan(_Shapes(tensors, names), streams)
    wanted = [rule.torch for rule in plan.rules]
    missing = [name for name in wanted if name not in names]
    values = {} if missing else {name: tensors[names[name]] for name in wanted}
    misshapen = {} if missing else _misshapen(plan, values)
    unusable, variables = {}, {}
    if not missing and not misshapen:
        unusable = {name: problem for name, array in values.items() if (problem := _problem(array))}
    if not missing and not misshapen and not unusable:
        variables, _, _ = torch_names.convert(
            plan.rules, {name: np.array(array, np.float32) for name, array in values.items()}
        )
    taken = set(wanted)
    left_out = {
        name: _reason(entry, prefix, name)
        for name in tensors
        if not (name.startswith(prefix) and name[len(prefix) :] in taken)
    }
    mapped = [name for name in wanted if name in names and name not in misshapen]
    instead = _complete_networks(tensors) if missing and len(tensors) <= _MOST_TO_SEARCH else []
    return Conversion(
        network, prefix, plan, mapped, left_out, missing, misshapen, unusable, instead, variables
    )


class _Shapes(Mapping[str, tuple[int, ...]]):
    """Name without prefix -> shape, looked up when asked for; those of empty tensors say nothing."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._tensors[self._names[name]].shape)
        if 0 in shape:
            raise KeyError(name)
        return shape

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self):
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _checked_streams(network: str, entry: Network, streams: Sequence[str] | None) -> tuple[str, ...]:
    if streams is None:
        return entry.streams
    if len(streams) != len(entry.streams) or len(set(streams)) != len(streams) or not all(streams):
        expected = (
            f"{len(entry.streams)} different ones" if entry.streams else "none: its weights fit any stream"
        )
        raise UsageError(f"streams are {', '.join(streams)}; {network} takes {expected}")
    return tuple(streams)


def _find_prefix(tensors: Mapping[str, np.ndarray], network: str, streams: Sequence[str]) -> str:
    """What stands before the network's names: the prefix under which most of them are found."""
    counts = _count_prefixes(tensors, {rule.torch for rule in NETWORKS[network].plan({}, streams).rules})
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if not best:
        holds = f"it holds {listed(list(tensors), 3)}" if tensors else "it holds no tensor at all"
        raise BadDataError(
            f"the file has none of the names of {network}; {holds}. Known networks: {', '.join(NETWORKS)}"
        )
    if len(best) > 1:
        raise BadDataError(
            f"the file has {network} {len(best)} times, under "
            f"{listed([prefix or '(nothing)' for prefix in best])}; choose with --prefix="
        )
    return best[0]


def _count_prefixes(tensors: Mapping[str, np.ndarray], wanted: set[str]) -> dict[str, int]:
    """Prefix -> how many of the wanted names stand behind it."""
    counts: dict[str, int] = {}
    for name in tensors:
        start = 0
        for _ in range(_MAX_PREFIX_PARTS):
            if name[start:] in wanted:
                counts[name[:start]] = counts.get(name[:start], 0) + 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


def _complete_networks(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The largest networks of which all tensors are there; a file has everything of their parts as well."""
    complete: dict[str, int] = {}
    for network, entry in NETWORKS.items():
        wanted = {rule.torch for rule in entry.plan({}, entry.streams).rules}
        if max(_count_prefixes(tensors, wanted).values(), default=0) == len(wanted):
            complete[network] = len(wanted)
    return [network for network, count in complete.items() if count == max(complete.values())]


def _reason(entry: Network, prefix: str, name: str) -> str:
    if not name.startswith(prefix):
        return f"not under {shown(prefix)}"
    bare = name.removeprefix(prefix)
    if bare.rsplit(".", 1)[-1] == COUNTERS:
        return "torch's counter of batches, which nothing reads"
    for beginning, reason in entry.dead.items():
        if bare.startswith(beginning):
            return reason
    return "no part of this network"


def _problem(array: np.ndarray) -> str:
    """What is wrong with a tensor's values, or nothing."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return f"holds {array.dtype}, not floating numbers"
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.array(array, np.float32)).all()
    return "" if finite else "holds infinite numbers or numbers that are none"


def _misshapen(plan: Plan, values: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple, tuple]]:
    """Name -> (its shape, that of our modules in torch's layout), where they differ."""
    expected = torch_names.export(plan.rules, _template(plan))
    return {
        name: (values[name].shape, array.shape)
        for name, array in expected.items()
        if values[name].shape != array.shape
    }


def _template(plan: Plan) -> dict[str, Any]:
    """Our variables with the right shapes and nothing in them."""
    # Here, so that --help and a file that is refused need not wait for JAX.
    import jax

    from jmt_jax.models import FUSIONS, build_backbone, build_model

    def abstract(shape: tuple) -> Any:
        if isinstance(shape[0], tuple):
            return tuple(abstract(one) for one in shape)
        return jax.ShapeDtypeStruct(shape, np.float32)

    inputs = {name: abstract(shape) for name, shape in plan.inputs.items()}
    key = jax.random.key(0)
    if BACKBONE in plan.model:
        module = build_backbone(plan.model[BACKBONE])
        variables = jax.eval_shape(module.init, key, inputs[BACKBONE])
        variables = {collection: {BACKBONE: tree} for collection, tree in variables.items()}
    else:
        fusion = plan.model["fusion"]
        if "absent" in FUSIONS[fusion["name"]].__dataclass_fields__:
            fusion = fusion | {"absent": "drop"}  # the reference has no vector for what is absent
        head = plan.model.get("head", {"name": "mlp", "outputs": 1})
        identity = {"name": "identity"}
        model = build_model(plan.model["streams"], dict.fromkeys(inputs, identity), fusion, head)
        variables = jax.eval_shape(model.init, key, inputs)
    return jax.tree.map(lambda leaf: np.broadcast_to(np.False_, leaf.shape), variables)


def _arrays(tree: Mapping[str, Any]) -> list[np.ndarray]:
    arrays = []
    for value in tree.values():
        arrays += _arrays(value) if isinstance(value, Mapping) else [value]
    return arrays


# --- the command line ---


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, NETWORKS))
    known = "\n".join(f"  {name:{width}}  {entry.summary}" for name, entry in NETWORKS.items())
    parser = command_line.Parser(
        prog="python -m jmt_jax.convert",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description=(
            "Takes a network's weights out of a torch or safetensors file (.pt, .pth, .t7, .safetensors)\n"
            "and writes them as safetensors with a .json beside them. Needs no torch and executes nothing\n"
            "of the file. Says what was mapped, what was left out and why, and what is missing."
        ),
        epilog=(
            f"networks:\n{known}\n\nexample:\n"
            "  python -m jmt_jax.convert --from=r2plus1d_18-91a641e6.pth --network=r2plus1d_18 \\\n"
            "      --out=kinetics.safetensors\n"
            "  python -m jmt_jax.main --config=configs/biovid.py:paper "
            "--config.model.visual.weights=kinetics.safetensors\n\n"
            "exit codes: 0 done, 2 usage, 3 bad data"
        ),
    )
    parser.add_argument("--from", dest="source", required=True, type=Path, metavar="FILE", help="the weights")
    parser.add_argument("--network", required=True, metavar="NAME", help="what they are of; see below")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help=f"where to; ends with {SUFFIX}"
    )
    parser.add_argument(
        "--streams",
        metavar="A,B",
        help="what a fusion's streams are called in your configuration, in the reference's order",
    )
    parser.add_argument(
        "--prefix", help="what stands before the network's names, where the file holds it more than once"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Converts one file.

    Raises:
      UsageError, BadDataError: as the parts do.
    """
    source, out = arguments.source, arguments.out
    if arguments.network not in NETWORKS:
        raise UsageError(f"there is no network {arguments.network!r}; known are {', '.join(NETWORKS)}")
    if out.suffix != SUFFIX:
        raise UsageError(f"--out is {out}; give a name that ends with {SUFFIX}")
    if out.parent.exists() and not out.parent.is_dir():
        raise UsageError(f"--out is {out}, but {out.parent} is a file; name a folder for it")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"--out is {out}, the very file that is read; give another name")
    tensors = torch_files.flatten(torch_files.read(source))
    streams = arguments.streams.split(",") if arguments.streams is not None else None
    conversion = convert(tensors, arguments.network, streams=streams, prefix=arguments.prefix)
    print(conversion.report())
    conversion.check()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = {"source": {"file": source.name, "sha256": digest}, **conversion.config()}
    save_weights(out, conversion.variables, config)
    print(
        f"written: {out} ({config['parameters']:,} parameters, {config['statistics']:,} statistics) and "
        f"{out.with_suffix('.json').name}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return endings.guarded(lambda: run(arguments))


if __name__ == "__main__":
    program.run(main)
