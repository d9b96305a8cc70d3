"""A few plain numbers about what a model sees, for the simple models that it has to beat.

Signals: mean, deviation, slope and range of every channel over the item, of what the network gets before
anything that only a network needs: a normalisation that takes a window's own level away is left out. Faces:
mean brightness, and change from frame to frame. Sound: mean and deviation of the loudness.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.frame_windows import LogMelWindows, TargetFrameWindows
from data_pipelines.item_table import ItemTable
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet
from data_pipelines.stream_windows import FrameWindows, Moment, SignalWindows

Windows = SignalWindows | FrameWindows | TargetFrameWindows | LogMelWindows
_LOUDNESS_SECONDS = 0.01
# The square of the smallest step of 16 bits: silence is -90 dB, not minus infinity.
_SILENCE_POWER = 2.0**-30


class Numbers(NamedTuple):
    """Plain numbers.

    Attributes:
      names: F names, e.g. ``skin_conductance eda: range``.
      values: float64 [N, F]; NaN where a stream is absent or nothing of it is there.
    """

    names: tuple[str, ...]
    values: np.ndarray


def has_numbers(stream: object) -> bool:
    """Whether a stream's windows are of a kind that plain numbers are known of."""
    return isinstance(stream, Windows)


def of_items(
    prepared: PreparedSet, streams: Mapping[str, Windows], items: ItemTable, rows: np.ndarray
) -> Numbers:
    """Numbers of whole items, of a ``clip`` or ``sliding`` grid.

    Args:
      prepared: The data set.
      streams: Stream name to what the model sees of it; all of them with `has_numbers`.
      items: The item table.
      rows: int [N], of the table.
    """
    names, columns = [], []
    for name, stream in streams.items():
        own = _signal_names(prepared, name, stream) if isinstance(stream, SignalWindows) else _FACE
        values = np.full((len(rows), len(own)), np.nan)
        for place, row in enumerate(rows):
            number = int(items.recording[row])
            recording = items.recordings[number]
            if name not in recording.sources:
                continue
            moment = Moment(number, float(items.start_seconds[row]), None)
            if isinstance(stream, SignalWindows):
                values[place] = signal_numbers(stream.level(recording, moment), stream.rate_hz)
            else:
                values[place] = _face_numbers(*stream.read(recording, moment))
        names += [f"{name} {number}" for number in own]
        columns.append(values)
    return Numbers(tuple(names), np.concatenate(columns, axis=1))


def of_frames(prepared: PreparedSet, streams: Mapping[str, Windows], recording: Recording) -> Numbers:
    """Numbers of every row of a recording's annotation, of a ``frames`` grid: of what ends there.

    Args:
      prepared: The data set.
      streams: Stream name to what the model sees of it; all of them with `has_numbers`.
      recording: The recording.

    Returns:
      A row for each row of the annotation.
    """
    rows = len(recording.annotation.times_seconds)
    names, columns = [], []
    for name, stream in streams.items():
        own = _SOUND if isinstance(stream, LogMelWindows) else _FACE
        values = np.full((rows, len(own)), np.nan)
        if name in recording.sources and isinstance(stream, LogMelWindows):
            begin, end = stream.spans(recording, np.arange(rows))
            values = _of_spans(_loudness(prepared, name, recording.sources[name]), begin, end)
        elif name in recording.sources:
            values = _of_reach(prepared, name, recording, stream.reach_frames)
        names += [f"{name} {number}" for number in own]
        columns.append(values)
    return Numbers(tuple(names), np.concatenate(columns, axis=1))


_SIGNAL = ("mean", "deviation", "slope", "range")
_FACE = ("brightness", "change from frame to frame")
_SOUND = ("loudness, mean", "loudness, deviation")


def signal_numbers(window: np.ndarray, rate_hz: float) -> np.ndarray:
    """Mean, population deviation, least-squares slope per second and range of every channel.

    Args:
      window: float [T, C]; NaN where a sample is missing.
      rate_hz: Samples a second.

    Returns:
      float64 [4 C]: C means, C deviations, C slopes, C ranges. NaN where there is nothing to tell: no sample
      (all four), one sample (slope).
    """
    window = np.asarray(window, np.float64)
    present = np.isfinite(window)
    count = present.sum(axis=0)
    times = np.where(present, (np.arange(len(window)) / rate_hz)[:, None], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, window, 0.0).sum(axis=0) / count
        centred = np.where(present, window - mean, 0.0)
        deviation = np.sqrt((centred**2).sum(axis=0) / count)
        times = np.where(present, times - times.sum(axis=0) / count, 0.0)
        slope = (times * centred).sum(axis=0) / (times**2).sum(axis=0)
    extent = centred.max(axis=0, initial=-np.inf) - centred.min(axis=0, initial=np.inf)
    return np.concatenate([mean, deviation, slope, np.where(count > 0, extent, np.nan)])


def _signal_names(prepared: PreparedSet, name: str, stream: SignalWindows) -> list[str]:
    channels = stream.channel_names
    return [f"{channel}: {kind}" for kind in _SIGNAL for channel in channels]


def _face_numbers(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of uint8 [S, F, H, W, 3] and the mask [S]: mean brightness, mean absolute change; float64 [2]."""
    if not mask.any():
        return np.full(len(_FACE), np.nan)
    grey = frames[mask].mean(axis=-1, dtype=np.float32)
    change = np.abs(np.diff(grey, axis=1)).mean() if grey.shape[1] > 1 else np.nan
    return np.array([grey.mean(), change], np.float64)


@functools.lru_cache(maxsize=4096)  # every fold and seed asks again
def _pictures(prepared: PreparedSet, stream: str, source: str) -> np.ndarray:
    """Brightness of every stored frame, and change since the one before (NaN for the first): float32 [N, 2].

    Looks at pictures of an eighth of the size, which is quick.
    """
    found, before = [], None
    for row in prepared.table(stream).rows_of(source):
        for encoded in prepared.read(stream, [row])[0].frames:
            picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
            if picture is None:
                raise BadDataError(
                    f"a stored frame of source {source!r} of stream {stream!r} is no image; the prepared "
                    "data are damaged: delete the folder and prepare again"
                )
            picture = picture.astype(np.float32)
            found.append((picture.mean(), np.nan if before is None else np.abs(picture - before).mean()))
            before = picture
    return np.array(found, np.float32).reshape(-1, len(_FACE))


def _of_reach(prepared: PreparedSet, stream: str, recording: Recording, reach: int) -> np.ndarray:
    """Means over the stored frames among the last ``reach`` rows, for every row; float64 [N, 2]."""
    source, clock = recording.sources[stream], recording.annotation.times_seconds
    table = prepared.table(stream)
    rows = table.rows_of(source)
    times = table.times_seconds[table.offsets[rows[0]] : table.offsets[rows[-1] + 1]]
    low = np.searchsorted(times, clock[np.maximum(np.arange(len(clock)) - reach + 1, 0)])
    return _means(_pictures(prepared, stream, source), low, np.searchsorted(times, clock, side="right"))[0]


class _Loudness(NamedTuple):
    """Decibels of each stretch of `samples` samples of a source, float32 [N]; NaN where nothing is."""

    decibels: np.ndarray
    samples: int


@functools.lru_cache(maxsize=4096)
def _loudness(prepared: PreparedSet, stream: str, source: str) -> _Loudness:
    """The loudness of a source of sound, in stretches of 10 ms."""
    table = prepared.table(stream)
    rows = table.rows_of(source)
    rate, first = float(table.rate_hz[rows[0]]), float(table.start_seconds[rows[0]])
    samples = max(1, round(rate * _LOUDNESS_SECONDS))
    begins = np.round((table.start_seconds[rows] - first) * rate).astype(np.int64)
    length = -(-int(begins[-1] + table.length[rows[-1]]) // samples)
    power, count = np.zeros(length), np.zeros(length)
    for row, begin in zip(rows, begins, strict=True):
        values = prepared.read(stream, [row])[0].values[:, 0]
        scale = 32768.0 if values.dtype == np.int16 else 1.0
        squares = (values.astype(np.float64) / scale) ** 2
        known = np.isfinite(squares)
        stretch = (begin + np.arange(len(values)))[known] // samples
        power += np.bincount(stretch, squares[known], minlength=length)
        count += np.bincount(stretch, minlength=length)
    with np.errstate(invalid="ignore", divide="ignore"):
        decibels = 10 * np.log10(power / count + _SILENCE_POWER)
    return _Loudness(decibels.astype(np.float32), samples)


def _of_spans(loudness: _Loudness, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Mean and deviation of the loudness from sample to sample, float64 [N, 2]."""
    low = np.clip(begin // loudness.samples, 0, len(loudness.decibels))
    high = np.clip(end // loudness.samples, low, len(loudness.decibels))
    mean, deviation = _means(loudness.decibels[:, None], low, high)
    return np.concatenate([mean, deviation], axis=1)


def _means(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of values [T, C] from ``low`` to ``high``, [N, C] each; NaN where none is known."""
    known = np.isfinite(values)
    # Sums of what is far from zero would lose the deviation.
    centre = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values - centre, 0.0)
    first = np.zeros((1, values.shape[1]))
    sums = (np.concatenate([first, x.cumsum(axis=0)]) for x in (known, filled, filled**2))
    count, total, square = (x[high] - x[low] for x in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        deviation = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    return mean + centre, deviation
