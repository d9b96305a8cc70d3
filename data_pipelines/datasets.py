"""Opens a data set by name: from a prepared folder, a raw release, or the built-in sample."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.augment import FrameAugmentation, SignalAugmentation
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.frame_windows import LogMelWindows, TargetFrameWindows
from data_pipelines.grid import Grid
from data_pipelines.identity import check_reader
from data_pipelines.loader import StreamWindows
from data_pipelines.normalise import Normaliser
from data_pipelines.prepare import make_reader, prepare
from data_pipelines.raw_files import no_folder
from data_pipelines.recording import Reader
from data_pipelines.source import CARD_FORMAT, DEFAULT_CACHE_BYTES, PreparedSet, is_prepared, read_card
from data_pipelines.stream_windows import FrameWindows, SignalWindows

_NAME_A_CACHE = (
    "name one that can: JMT_CACHE_DIR=DIR before the command, or --config.data.cache_dir=DIR (samples, "
    "prepared data and compiled programs are kept there)"
)
DATASETS = ("affwild2", "biovid", "e4")


def default_cache_dir() -> Path:
    """``$JMT_CACHE_DIR``, else ``jmt_jax`` in the user's cache folder.

    Raises:
      UsageError: There is no home folder; the message names the variable.
    """
    if os.environ.get("JMT_CACHE_DIR"):
        return Path(os.environ["JMT_CACHE_DIR"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "jmt_jax"
    try:
        return Path.home() / ".cache" / "jmt_jax"
    except RuntimeError as error:
        raise UsageError(f"there is no home folder for the cache ({error}); {_NAME_A_CACHE}") from error


def usable_cache_dir(text: str) -> Path:
    """The cache folder, made if need be.

    Args:
      text: ``config.data.cache_dir``; "" for `default_cache_dir`.

    Raises:
      UsageError: It cannot be written; the message says what to name instead.
    """
    folder = Path(text) if text else default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        said = error.strerror or error
        raise UsageError(f"the cache folder {folder} cannot be written ({said}); {_NAME_A_CACHE}") from error


def check_directory(text: str) -> Path:
    """``config.data.dir`` as a path.

    Raises:
      BadDataError: It is no folder.
    """
    path = Path(text)
    if path.is_dir():
        return path
    raise BadDataError(f"{no_folder(path)}; --config.data.dir is a raw or a prepared folder")


def open_dataset(
    name: str,
    directory: str,
    *,
    reader_options: Mapping[str, Any],
    sample_options: Mapping[str, Any],
    cache_dir: Path,
    workers: int,
    log: Callable[[str], None],
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
    max_damaged_share: float = 0.05,
) -> PreparedSet:
    """Opens what ``config.data`` names, preparing it first where that has not been done.

    Args:
      name: ``affwild2``, ``biovid`` or ``e4``.
      directory: A prepared folder, a raw folder (prepared into the cache), or "" for the sample.
      reader_options: Options of the reader; a prepared folder has to have been made with them.
      sample_options: What the sample is made of.
      cache_dir: Where samples and prepared data are kept.
      workers: Processes for the preparation; 0 for one a core.
      log: Called with sentences about what happens.
      max_cache_bytes: See `PreparedSet.open`.
      max_damaged_share: See `prepare`.

    Raises:
      UsageError, BadDataError: As the reader and the preparation do.
    """
    if name not in DATASETS:
        raise UsageError(f"there is no data set {name!r}; --config.data.name is one of {', '.join(DATASETS)}")
    if directory:
        path = check_directory(directory)
        if is_prepared(path):
            check_reader(path, read_card(path), name, reader_options)
            log(f"prepared data: {path}")
            return _open(path, max_cache_bytes, log)
        raw = path
    else:
        log(f"no --config.data.dir given: using the built-in sample in the layout of {name}")
        raw = make_sample(name, sample_options, cache_dir)
    reader = make_reader(name, raw, **reader_options)
    out = cache_dir / "prepared" / f"{name}-{_key(reader, raw)}"
    log(f"preparing {raw} in {out}" if not is_prepared(out) else f"prepared data: {out}")
    prepare(reader, out, workers=workers or os.cpu_count() or 1, max_damaged_share=max_damaged_share)
    return _open(out, max_cache_bytes, log)


def _open(path: Path, max_cache_bytes: int, log: Callable[[str], None]) -> PreparedSet:
    """Opens a prepared folder, and says what its card warns of."""
    prepared = PreparedSet.open(path, max_cache_bytes=max_cache_bytes)
    for text in prepared.card.get("warnings", ()):
        log(f"warning: {text}")
    return prepared


def make_sample(name: str, options: Mapping[str, Any], cache_dir: Path) -> Path:
    """The raw folder of the built-in sample, made where it is not there yet.

    Raises:
      UsageError: An option does not exist or is out of range.
    """
    # Only a run without data needs the generator of people.
    from data_pipelines.sample.store import sample_dir

    spec = sample_spec(name, options)
    return sample_dir(cache_dir / "samples", name, spec)


def sample_spec(name: str, options: Mapping[str, Any]) -> Any:
    """What a sample is to be made of; nothing is made yet.

    Raises:
      UsageError: An option does not exist or is out of range.
    """
    from data_pipelines.sample.affwild2 import Affwild2SampleSpec
    from data_pipelines.sample.biovid import BioVidSampleSpec
    from data_pipelines.sample.e4 import E4SampleSpec

    specs = {"affwild2": Affwild2SampleSpec, "biovid": BioVidSampleSpec, "e4": E4SampleSpec}
    try:
        return specs[name](**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"config.data.sample does not describe a {name} sample: {error}") from error


def make_stream_windows(
    prepared: PreparedSet,
    stream: str,
    grid: Grid,
    options: Mapping[str, Any],
    *,
    training: frozenset[int],
    constants: Mapping[str, Sequence[float | None]] | None = None,
) -> StreamWindows:
    """The windows of one stream, from the options in ``config.data.streams.<stream>``.

    Args:
      prepared: The data set.
      stream: Name of the stream.
      grid: The token grid.
      options: Arguments of `FrameWindows` or `SignalWindows`, with ``normalise`` and ``augment``; in a
        ``frames`` grid those of `TargetFrameWindows`, with ``augment``, or with ``features="log_mel"`` those
        of `LogMelWindows`.
      training: Indices of the recordings that training may see; normalisation may ask them.
      constants: What normalisation found in those of another data set (`Normaliser.constants`), to be used.
    """
    if stream not in prepared.streams:
        raise UsageError(
            f"the data set has no stream {stream!r}; it has {', '.join(prepared.streams)}. "
            "Change --config.model.streams"
        )
    options = dict(options)
    augment = {key: value for key, value in dict(options.pop("augment", {})).items()}
    try:
        features = options.pop("features", "")
        if features not in ("", "log_mel") or (features and grid.kind != "frames"):
            raise UsageError(
                f"config.data.streams.{stream}.features={features!r} with grid.kind={grid.kind!r}; it is '', "
                "or 'log_mel' where grid.kind is 'frames'"
            )
        if features:
            return LogMelWindows(prepared, stream, grid, **options)
        if prepared.streams[stream].kind == "frames" and grid.kind == "frames":
            augmentation = FrameAugmentation(**augment)
            return TargetFrameWindows(prepared, stream, grid, augmentation=augmentation, **options)
        if prepared.streams[stream].kind == "frames":
            return FrameWindows(prepared, stream, grid, augmentation=FrameAugmentation(**augment), **options)
        normaliser = Normaliser(
            options.pop("normalise", "none"),
            stream,
            prepared.table(stream),
            prepared.recordings,
            training,
            constants=constants,
            window_seconds=grid.window_seconds if grid.kind == "sliding" else 0.0,
        )
        return SignalWindows(
            prepared, stream, grid, normaliser, augmentation=SignalAugmentation(**augment), **options
        )
    except TypeError as error:
        raise UsageError(f"config.data.streams.{stream} has an option that does not fit: {error}") from error


def _key(reader: Reader, raw: Path) -> str:
    """A short name for (layout, reader, settings, raw folder)."""
    facts = [CARD_FORMAT, reader.name, reader.version, dict(reader.settings()), os.path.realpath(raw)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
