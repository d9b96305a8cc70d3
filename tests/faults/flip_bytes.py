"""Flips one byte at random places of a checkpoint, one after the other, and restores it every time.

    python tests/faults/flip_bytes.py --flips=200

A restore has to be refused, fall back to the checkpoint before, or give exactly what was saved (where the
byte is of no importance). Exit code 1 if any gives other numbers without a word.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from data_pipelines.errors import BadDataError  # noqa: E402
from jmt_jax import logging  # noqa: E402
from jmt_jax.checkpoint import Checkpoints  # noqa: E402
from jmt_jax.train_state import TrainState  # noqa: E402

STEPS = (7, 14)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found, places = flip(Path(tempfile.mkdtemp(prefix="flip_bytes_")), arguments.flips, arguments.seed)
    wrong = found["silently wrong"]
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())
    print(f"{arguments.flips} flips in {len(places)} files: {outcomes}; {wrong} silently wrong")
    return 1 if wrong else 0


def flip(folder: Path, flips: int, seed: int) -> tuple[collections.Counter, set[str]]:
    """Flips and restores; how often what came of it, and the names of the files that were hit."""
    logging.LOGGER.setLevel("ERROR")
    rng = random.Random(seed)
    saved = {step: _state(step) for step in STEPS}
    checkpoints = Checkpoints(folder / "whole")
    for step, state in saved.items():
        checkpoints.save(state, _progress(step))
    checkpoints.close()
    newest = folder / "whole" / str(STEPS[-1])
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    # Every file is hit now and then, and among all bytes the large files get most.
    weights = [path.stat().st_size ** 0.5 for path in files]
    found, places = collections.Counter(), set()
    for _ in range(flips):
        path = rng.choices(files, weights)[0].relative_to(folder / "whole")
        places.add(str(path))
        shutil.rmtree(folder / "hit", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "hit")
        content = bytearray((folder / "hit" / path).read_bytes())
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        (folder / "hit" / path).write_bytes(content)
        found[_outcome(folder / "hit", saved)] += 1
    return found, places


def _outcome(folder: Path, saved: dict[int, TrainState]) -> str:
    """What going on from a damaged checkpoint comes to."""
    checkpoints = Checkpoints(folder)
    try:
        step = checkpoints.resume_step()
        if step is None:
            return "silently wrong"  # the one before is good: it has to be found
        state, progress = checkpoints.restore(step, _state(0))
    except BadDataError:
        return "refused"
    finally:
        checkpoints.close()
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), state, saved[step])
    if not all(jax.tree.leaves(same)) or progress != _progress(step):
        return "silently wrong"
    return "without effect" if step == STEPS[-1] else "fell back to the one before"


def _state(seed: int) -> TrainState:
    """A state with arrays of a few sizes, of other numbers for each seed."""
    rng = np.random.default_rng(seed)
    params = {
        "backbone_face": {"kernel": rng.standard_normal((48, 64)), "bias": rng.standard_normal(64)},
        "head": {"kernel": rng.standard_normal((64, 2))},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    stats = {"backbone_face": {"mean": jnp.asarray(rng.standard_normal(64), jnp.float32)}}
    variables = {"params": params, "batch_stats": stats}
    state = TrainState.create(variables, optax.adam(1e-3), ("backbone_face", "head"), averaged=True)
    return state.replace(step=jnp.int32(seed))


def _progress(step: int) -> dict:
    return {"best_step": step, "best_value": 1 / 3, "data": {"position": 4 * step}}


if __name__ == "__main__":
    sys.exit(main())
