"""Imports go one way: the arrows of the project's plan, read from the source by ast."""

from __future__ import annotations

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("data_pipelines", "jmt_jax", "configs", "launch", "benchmarks")
OURS = (*PACKAGES, "tests")

# Where a third-party package with state, files or processes may be named. A folder covers what is in it.
ONLY_IN = {
    "orbax": ("jmt_jax/checkpoint.py",),
    "grain": ("data_pipelines/loader.py",),
    "tensorflow_datasets": ("data_pipelines/builder.py", "data_pipelines/source.py"),
    "apache_beam": ("data_pipelines/",),
    "tensorboardX": ("jmt_jax/logging.py",),
    "av": ("data_pipelines/",),
    "cv2": ("data_pipelines/",),
}
NOWHERE = ("tensorflow", "torch", "torchvision", "keras")
# These modules of clu import TensorFlow; its others do not.
CLU_WITH_TENSORFLOW = set(
    "metric_writers periodic_actions checkpoint deterministic_data preprocess_spec".split()
)
# What the pure part of the program never touches: files, processes, clocks, configs.
IMPURE = set(
    """absl argparse av cv2 etils fsspec glob grain h5py importlib_resources io logging matplotlib
    ml_collections multiprocessing orbax os pathlib pickle safetensors shutil socket subprocess sys tempfile
    tensorboardX tensorflow_datasets threading time tqdm""".split()
)
PURE = (
    "jmt_jax/models/",
    "jmt_jax/losses.py",
    "jmt_jax/metrics.py",
    "jmt_jax/steps.py",
    "jmt_jax/train_state.py",
)
FILE_CALLS = {"open", "print", "input", "load", "loadtxt", "save", "savez", "savetxt", "fromfile", "memmap"}
DEVICE_CALLS = {
    "devices",
    "local_devices",
    "device_count",
    "local_device_count",
    "process_index",
    "process_count",
}


def sources(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: pathlib.Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it; relative ones resolved."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            found.update(str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))
    return found


def tops(path: pathlib.Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def within(path: pathlib.Path, places: tuple[str, ...]) -> bool:
    name = name_of(path)
    return any(name.startswith(place) if place.endswith("/") else name == place for place in places)


def wrong(folder: str, forbidden: set[str]) -> dict[str, set[str]]:
    return {name_of(path): bad for path in sources(folder) if (bad := tops(path) & forbidden)}


def test_there_is_something_to_read():
    assert sources("data_pipelines") and sources("jmt_jax")


def test_data_pipelines_know_nothing_of_the_model():
    assert wrong("data_pipelines", set(OURS) - {"data_pipelines"} | {"jax", "jaxlib", "flax", "optax"}) == {}


def test_the_contract_is_numpy_only():
    allowed = {"numpy", *sys.stdlib_module_names}
    assert tops(ROOT / "data_pipelines" / "recording.py") <= allowed
    assert tops(ROOT / "data_pipelines" / "errors.py") <= allowed


def test_the_model_knows_no_configs_and_no_tests():
    assert wrong("jmt_jax", set(OURS) - {"jmt_jax", "data_pipelines"}) == {}


def test_readers_and_sample_know_nothing_behind_them():
    behind = {"prepare", "builder", "source", "loader", "items", "datasets", "splits", "augment"}
    for path in sources("data_pipelines/readers", "data_pipelines/sample", "data_pipelines/media"):
        names = {name.split(".")[1] for name in imported(path) if name.startswith("data_pipelines.")}
        assert not names & behind, name_of(path)


def test_configs_import_ml_collections_only():
    for path in sources("configs"):
        assert tops(path) <= {"__future__", "ml_collections"}, name_of(path)


def test_launch_imports_nothing_of_ours():
    assert wrong("launch", set(OURS) - {"launch"}) == {}


@pytest.mark.parametrize("package", ONLY_IN)
def test_one_place_for(package: str):
    at_fault = [
        name_of(path)
        for path in sources(*PACKAGES)
        if package in tops(path) and not within(path, ONLY_IN[package])
    ]
    assert not at_fault, f"only {', '.join(ONLY_IN[package])} may import {package}"


def test_no_second_framework():
    at_fault = {name_of(path): bad for path in sources(*OURS) if (bad := tops(path) & set(NOWHERE))}
    # The one comparison with another framework, where somebody has installed it.
    assert at_fault == {"benchmarks/models.py": {"torch"}}
    for path in sources(*OURS):
        of_clu = {name.split(".")[1] for name in imported(path) if name.startswith("clu.")}
        assert not of_clu & CLU_WITH_TENSORFLOW, name_of(path)


def pure_files() -> list[pathlib.Path]:
    return [path for path in sources("jmt_jax") if within(path, PURE)]


def test_pure_files_import_nothing_impure():
    assert {name_of(path): bad for path in pure_files() if (bad := tops(path) & IMPURE)} == {}


def test_pure_files_know_only_their_like():
    for path in pure_files():
        ours = {name for name in imported(path) if name.split(".")[0] in OURS}
        for name in ours:
            parts = name.split(".")
            places = [ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(2, len(parts) + 1)]
            found = [place for place in places if place.is_file()]
            is_package = ROOT.joinpath(*parts).is_dir() and within(ROOT.joinpath(*parts, "x.py"), PURE)
            is_errors = name.startswith("data_pipelines.errors.")
            assert is_package or is_errors or any(within(place, PURE) for place in found), (
                f"{name_of(path)}: {name}"
            )


def test_pure_files_open_no_file_and_ask_no_device():
    for path in pure_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            parts = called.split(".")
            assert called not in FILE_CALLS, f"{name_of(path)}:{node.lineno} {called}"
            if parts[0] in ("np", "numpy", "jnp"):
                assert parts[-1] not in FILE_CALLS, f"{name_of(path)}:{node.lineno} {called}"
            if parts[0] == "jax":
                assert parts[-1] not in DEVICE_CALLS, f"{name_of(path)}:{node.lineno} {called}"


def test_the_reading_of_imports_itself(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "jmt_jax" / "models" / "net.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import os.path as p\nfrom ..losses import ccc\nfrom . import heads\n"
        "def f():\n    from torch.nn import Linear\n    import importlib\n"
        "    importlib.import_module('keras')\n"
    )
    expected = {
        "os.path",
        "jmt_jax.losses.ccc",
        "jmt_jax.models.heads",
        "torch.nn.Linear",
        "importlib",
        "keras",
    }
    assert imported(path) == expected
