"""Speed and memory of the networks on this machine, as shares of its matrix-product rate in the same run.

A row's share is the floating-point operations of its direct convolutions and linear layers a second, over
those of a float32 product of two 2048 x 2048 matrices; where fewer operations do the same, it may pass 1. The
fusion's training step is set against a plain PyTorch implementation of the same layers where PyTorch is
installed (the project itself never needs it). Every row runs in a process of its own, so that peak memory
(the process's, with about 250 MiB of Python and JAX in it) is its own; network and yardstick run in turn, and
the share is the median over neighbouring runs. Nothing is asserted.

    python benchmarks/models.py --rounds=5
    python benchmarks/models.py --row=r2plus1d_forward
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.memory import peak_mib  # noqa: E402
from data_pipelines import command_line  # noqa: E402
from jmt_jax.models import BACKBONES  # noqa: E402
from jmt_jax.models.fusion import JMT  # noqa: E402
from jmt_jax.models.layers import Conv3D, Linear  # noqa: E402

MATRIX = 2048
BATCH, TOKENS, WIDTH = 32, 16, 512
LEARNING_RATE = 1e-3
PAUSE_SECONDS = 0.05  # Threads of the one library stop spinning before the other is timed.

CLIPS = ((16, 1, 8, 112, 112, 3), np.uint8)
FEW_CLIPS = ((4, 1, 8, 112, 112, 3), np.uint8)  # enlarged to 224 x 224 by the network
SPECTROGRAMS = ((64, 1, 64, 104), np.float32)
NETWORKS = {
    # row: backbone, its arguments, the input's shape and type, whether it trains, the goal
    "r2plus1d_forward": ("r2plus1d", {}, *CLIPS, False, ">= .65"),
    "r2plus1d_training": ("r2plus1d", {}, *CLIPS, True, ">= .50"),
    "r3d_forward": ("r3d", {}, *CLIPS, False, ""),
    "r3d_training": ("r3d", {}, *CLIPS, True, ""),
    "resnet18_forward": ("resnet18", {}, *SPECTROGRAMS, False, ">= .5"),
    "resnet18_training": ("resnet18", {}, *SPECTROGRAMS, True, ""),
    "i3d_forward": ("i3d", {}, *FEW_CLIPS, False, ""),
    "i3d_training": ("i3d", {}, *FEW_CLIPS, True, ""),
}
FUSIONS = {"fusion_self_attention": ("self_attention", "<= .75"), "fusion_fc": ("fc", "<= 1")}


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes until its results are there."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def in_turn(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[list, list]:
    """Seconds of both, each run `rounds` times next to the other."""
    times: tuple[list, list] = ([], [])
    for work in (first, second):
        jax.block_until_ready(work())
    for _ in range(rounds):
        for work, found in zip((first, second), times, strict=True):
            time.sleep(PAUSE_SECONDS)
            found.append(seconds(work))
    return times


def direct_operations(network: nn.Module, inputs: jax.ShapeDtypeStruct, variables: Any, train: bool) -> float:
    """Floating-point operations of the convolutions and linear layers as they are written down.

    A gradient counts twice as much again: by the inputs, which the first layer does not need, and the kernel.
    """
    found = []

    def count(call: Callable, arguments: tuple, options: dict, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*arguments, **options)
        if isinstance(context.module, Conv3D | Linear) and context.method_name == "__call__":
            kernel = context.module.get_variable("params", "kernel")
            found.append(2 * outputs.size * kernel.size // kernel.shape[-1])
        return outputs

    with nn.intercept_methods(count):
        # As in training, where no two layers run as one.
        jax.eval_shape(
            lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"], rngs=_rngs()),
            variables,
            inputs,
        )
    return sum(found) * 3 - found[0] if train else sum(found)


def _rngs() -> dict[str, jax.Array]:
    return {"dropout": jax.random.key(0)}


def some_variables(template: Any) -> Any:
    """Weights of a network's kind without the seconds that its initialisation takes to compile."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return jnp.asarray(values / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(0.1 * values + (path[-1].key in ("scale", "var", "g")))

    return jax.tree_util.tree_map_with_path(draw, template)


def measure_network(row: str, rounds: int) -> dict[str, float]:
    """A backbone beside the matrix product."""
    name, options, shape, dtype, train, _ = NETWORKS[row]
    network = BACKBONES[name](**options)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, shape, np.uint8) if dtype == np.uint8 else rng.standard_normal(shape, dtype)
    inputs = jnp.asarray(values)
    template = jax.eval_shape(network.init, jax.random.key(0), inputs)
    variables = some_variables(template)

    def loss(params: Any, batch_stats: Any, inputs: jax.Array) -> tuple[jax.Array, Any]:
        tokens, updates = network.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            train=True,
            mutable=["batch_stats"],
            rngs=_rngs(),
        )
        return jnp.mean(jnp.square(tokens)), updates

    if train:
        gradient = jax.jit(jax.grad(loss, has_aux=True))
        run = lambda: gradient(variables["params"], variables["batch_stats"], inputs)  # noqa: E731
    else:
        forward = jax.jit(network.apply)
        run = lambda: forward(variables, inputs)  # noqa: E731
    matrix = jnp.asarray(rng.standard_normal((MATRIX, MATRIX), np.float32))
    multiply = jax.jit(jnp.matmul)
    yardstick, network_times = in_turn(lambda: multiply(matrix, matrix), run, rounds)
    operations = direct_operations(network, inputs, variables, train)
    shares = [
        operations / ours / (2 * MATRIX**3 / theirs)
        for ours, theirs in zip(network_times, yardstick, strict=True)
    ]
    return {
        "seconds": statistics.median(network_times),
        "rate": operations / statistics.median(network_times) / 1e9,
        "yardstick": 2 * MATRIX**3 / statistics.median(yardstick) / 1e9,
        "share": statistics.median(shares),
        "low": min(shares),
        "high": max(shares),
        "peak_mib": peak_mib(),
    }


def measure_fusion(row: str, rounds: int) -> dict[str, float]:
    """One step of plain gradient descent on the fusion of two streams, beside PyTorch's where it is there."""
    output, _ = FUSIONS[row]
    fusion = JMT(("visual", "audio"), dim=WIDTH, hidden_dim=WIDTH, output=output)
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((BATCH, TOKENS, WIDTH), np.float32) for _ in range(2)]
    tokens = dict(zip(fusion.streams, map(jnp.asarray, features), strict=True))
    masks = {stream: jnp.ones((BATCH, TOKENS), bool) for stream in tokens}
    params = some_variables(jax.eval_shape(fusion.init, jax.random.key(0), tokens, masks))["params"]

    @jax.jit
    def step(params: Any, tokens: Any, masks: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(fusion.apply({"params": params}, tokens, masks, train=True)[0] - 1))

        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, jax.grad(loss)(params))

    run = lambda: step(params, tokens, masks)  # noqa: E731
    jax.block_until_ready(run())
    found = {"seconds": statistics.median(seconds(run) for _ in range(rounds)), "peak_mib": peak_mib()}
    if importlib.util.find_spec("torch") is None:
        return found
    ours, theirs = in_turn(run, torch_step(features, output), 4 * rounds)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "seconds": statistics.median(ours),
        "torch_seconds": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "peak_mib": found["peak_mib"],
    }


def torch_step(features: list[np.ndarray], output: str) -> Callable[[], None]:
    """The same layers and the same step as a PyTorch user writes them."""
    torch = importlib.import_module("torch")  # no import statement: the project must run without it
    torch.manual_seed(0)
    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )

    def encoder() -> torch.nn.Module:
        return torch.nn.TransformerEncoderLayer(WIDTH, 1, WIDTH, dropout=0.0, batch_first=True)

    def attention() -> torch.nn.Module:
        return torch.nn.MultiheadAttention(WIDTH, 1, batch_first=True)

    names = ("visual", "audio", "joint")
    layers = torch.nn.ModuleDict(
        {"joint": torch.nn.Linear(2 * WIDTH, WIDTH)}
        | {f"encoder_{name}": encoder() for name in names}
        | {f"attention_{name}": attention() for name in names}
    )
    if output == "fc":
        layers["output"] = torch.nn.Linear(6 * WIDTH, 2 * WIDTH)
    else:
        layers.update({"token_encoder": encoder(), "token_attention": attention()})
    visual, audio = map(torch.from_numpy, features)
    optimizer = torch.optim.SGD(layers.parameters(), LEARNING_RATE)

    def step() -> None:
        streams = {
            "visual": torch.nn.functional.normalize(visual, dim=-1),
            "audio": torch.nn.functional.normalize(audio, dim=-1),
        }
        streams["joint"] = layers["joint"](torch.cat([streams["visual"], streams["audio"]], -1))
        encoded = {name: layers[f"encoder_{name}"](streams[name]) for name in names}
        pairs = [("visual", "audio"), ("audio", "visual"), ("joint", "visual")]
        pairs += [("visual", "joint"), ("joint", "audio"), ("audio", "joint")]
        crossed = [
            layers[f"attention_{query}"](encoded[query], encoded[key], encoded[key], need_weights=False)[0]
            for query, key in pairs
        ]
        if output == "fc":
            result = layers["output"](torch.cat(crossed, -1))
        else:
            stacked = layers["token_encoder"](torch.stack(crossed, 2).flatten(0, 1))
            result = layers["token_attention"](stacked, stacked, stacked, need_weights=False)[0][:, -1]
        loss = torch.mean(torch.square(result - 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def line(row: str, found: dict[str, float]) -> tuple[str, ...]:
    """What the table says of a row."""
    peak = f"{found['peak_mib']:,.0f}"
    if row in NETWORKS:
        share = f"{found['share']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        rates = f"{found['rate']:.0f} of {found['yardstick']:.0f} GF/s"
        return row, f"{found['seconds']:.3f}", rates, share, NETWORKS[row][-1], peak
    if "ratio" not in found:
        return row, f"{found['seconds']:.3f}", "PyTorch is not installed", "", FUSIONS[row][-1], peak
    ratio = f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
    theirs = f"PyTorch {found['torch_seconds']:.3f} s"
    return row, f"{found['seconds']:.3f}", theirs, ratio, FUSIONS[row][-1], peak


def main() -> None:
    """Measures every row in a process of its own and prints the table."""
    rows = [*NETWORKS, *FUSIONS]
    parser = command_line.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=command_line.whole(1), default=5, help="times that each is measured (default: 5)"
    )
    parser.add_argument("--row", choices=rows, help="measure this row only")
    parser.add_argument("--measure", choices=rows, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure = measure_network if arguments.measure in NETWORKS else measure_fusion
        print(json.dumps(measure(arguments.measure, arguments.rounds)))
        return
    table = [("row", "seconds", "rate", "share, or ratio to PyTorch", "goal", "peak MiB")]
    for row in [arguments.row] if arguments.row else rows:
        print(f"measuring {row} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, f"--measure={row}", f"--rounds={arguments.rounds}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        table.append(line(row, json.loads(output.splitlines()[-1])))
        print("  ".join(table[-1]), file=sys.stderr, flush=True)  # what is measured survives the rows to come
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
