"""What all tests share: four simulated devices, the golden numbers, real recordings where there are any."""

from __future__ import annotations

import os
import pathlib

# Before anything imports jax. Four devices, so that "the same on 1, 2 and 4" is tested in one process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        # Most of the suite's time is compilation; at level 0 it takes a quarter.
        + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    ).strip()
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from affwild2_case import affwild2_prepared, affwild2_release, affwild2_root  # noqa: E402, F401
from prepare_case import decoded, raw  # noqa: E402, F401

# The examples are the same in every run: a test that failed for somebody fails for everybody.
hypothesis.settings.register_profile("repeatable", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("repeatable")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of golden numbers."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Real files to try the software on (``../shared`` or ``$JMT_SHARED``); skips where there are none."""
    folder = pathlib.Path(os.environ.get("JMT_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder} (set JMT_SHARED to their folder)")
    return folder


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One cache of samples, prepared data and compiled programs for all tests of a session."""
    from jmt_jax.runtime import enable_compilation_cache

    folder = tmp_path_factory.mktemp("cache")
    enable_compilation_cache(folder)
    return folder


# Files that take longest, in this order: with two workers the last one to start decides when all is done.
_LONGEST = "test_parity test_study test_train test_i3d test_fusion test_baselines test_prepare".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts the long files first."""
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
