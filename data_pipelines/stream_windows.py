"""What each stream sees of itself: from stored chunks to the arrays of one item.

Each class reads one stream of one item: [S, ...] values and a mask [S], or [1, ...] where one window
serves all tokens.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from data_pipelines import windows
from data_pipelines.augment import FrameAugmentation, SignalAugmentation
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.grid import Grid
from data_pipelines.normalise import LOSES_LEVEL, Normaliser
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet


@dataclasses.dataclass(frozen=True)
class Moment:
    """Where an item lies: its recording, its token grid and what randomness it may use.

    Attributes:
      recording: Index of the recording in the prepared set.
      start_seconds: Where the item begins.
      rng: Explicit generator in training, else None.
      targets: int32 [S] of a ``frames`` grid (``ItemTable.targets``), else None.
    """

    recording: int
    start_seconds: float
    rng: np.random.Generator | None
    targets: np.ndarray | None = None


class FrameWindows:
    """Consecutive frames for each token of a clip, uint8 [S, F, H, W, 3].

    Args:
      prepared, stream: Where the frames are.
      grid: The token grid; frames take a ``clip`` grid.
      frames: F.
      first_frame, last_frame: The part of the clip that is used; 0, 0 for all of it.
      augmentation: Applied in training.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        stream: str,
        grid: Grid,
        *,
        frames: int,
        first_frame: int = 0,
        last_frame: int = 0,
        augmentation: FrameAugmentation | None = None,
    ) -> None:
        if grid.kind != "clip":
            raise UsageError(
                f"stream {stream!r} holds frames, which need grid.kind='clip', not {grid.kind!r}"
            )
        self._prepared, self._stream, self._grid = prepared, stream, grid
        self._frames, self._first, self._last = frames, first_frame, last_frame
        self._augmentation = augmentation
        spec = prepared.streams[stream]
        self.shape = (grid.tokens, frames, spec.height, spec.width, 3)
        self.dtype = np.uint8
        self.mask_length = grid.tokens

    def read(self, recording: Recording, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """The frames of one item and the mask [S]."""
        rows = self._prepared.table(self._stream).rows_of(recording.sources[self._stream])
        lengths = self._prepared.table(self._stream).length[rows]
        indices = windows.segment_frames(
            int(lengths.sum()),
            self._grid.tokens,
            self._frames,
            first_frame=self._first,
            last_frame=self._last,
            rng=moment.rng,
        )
        first_of_chunk = np.concatenate([[0], np.cumsum(lengths)])
        wanted, position = np.unique(indices, return_inverse=True)
        chunk_of = np.searchsorted(first_of_chunk, wanted, side="right") - 1
        pictures = np.empty((len(wanted), *self.shape[2:]), np.uint8)
        for chunk_number, chunk in zip(
            needed := np.unique(chunk_of), self._prepared.read(self._stream, rows[needed]), strict=True
        ):
            for place in np.flatnonzero(chunk_of == chunk_number):
                encoded = chunk.frames[wanted[place] - first_of_chunk[chunk_number]]
                pictures[place] = decode_picture(encoded, self.shape[2:], recording)
        frames = pictures[position.reshape(indices.shape)]
        if moment.rng is not None and self._augmentation is not None:
            frames = self._augmentation(frames, moment.rng)
        return frames, np.ones(self._grid.tokens, bool)


class SignalWindows:
    """Samples of some channels, float32 [S, T, C], or [1, T, C] where one window covers the whole clip.

    Missing samples are 0 after normalisation; a window counts as present (mask) if at least
    ``least_present`` of its samples are. With ``presence_channel`` a further channel says which samples
    are real (1) and which are filled in (0). Channels without a deviation in the training subjects
    (`Normaliser.constants`; here ``masked_channels``) are 0 for everybody, and do not decide what is real.

    Args:
      prepared, stream: Where the samples are.
      grid: The token grid.
      normaliser: Applied to each window.
      channels: Names of the channels, in this order; empty for all.
      samples: T of the one window of a ``clip`` grid.
      window_seconds: Length of each token's trailing window in a ``sliding`` grid; 0 for the token's part.
      least_present: Share of real samples below which a window is masked, in (0, 1].
      presence_channel: Adds the channel that says which samples are real.
      augmentation: Applied in training.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        stream: str,
        grid: Grid,
        normaliser: Normaliser,
        *,
        channels: tuple[str, ...] = (),
        samples: int = 0,
        window_seconds: float = 0.0,
        least_present: float = 0.5,
        presence_channel: bool = False,
        augmentation: SignalAugmentation | None = None,
    ) -> None:
        spec = prepared.streams[stream]
        unknown = [name for name in channels if name not in spec.channels]
        if unknown:
            raise UsageError(
                f"stream {stream!r} has no channel {', '.join(unknown)}; this copy of the data has "
                f"{', '.join(spec.channels)}"
            )
        if grid.kind == "frames":
            raise UsageError(
                f"stream {stream!r} holds samples, which need features='log_mel' in a grid of kind 'frames'"
            )
        self._signal, self._grid, self._normalise = StoredSignal(prepared, stream), grid, normaliser
        self._columns = [spec.channels.index(name) for name in channels] or list(range(len(spec.channels)))
        self._least_present, self._presence_channel = least_present, presence_channel
        self._augmentation = augmentation or SignalAugmentation()
        self.channel_names = tuple(spec.channels[column] for column in self._columns)
        self._alive = self._channels_with_deviation()
        self.masked_channels = tuple(
            name for name, alive in zip(self.channel_names, self._alive, strict=True) if not alive
        )
        width = len(self._columns) + presence_channel
        if grid.kind == "clip":
            if samples < 1:
                raise UsageError(f"stream {stream!r} needs the window's length in samples, got {samples}")
            self._whole, self._window_seconds = True, 0.0
            self.shape = (1, samples, width)
        else:
            self._whole = False
            self._window_seconds = window_seconds or grid.window_seconds / grid.tokens
            self.shape = (grid.tokens, max(1, round(self._window_seconds * (spec.rate_hz or 0))), width)
        self.rate_hz = float(spec.rate_hz or 0)
        self.dtype = np.float32
        self.mask_length = self.shape[0]

    @property
    def constants(self) -> dict[str, list[float | None]] | None:
        """What normalisation keeps of the training subjects (`Normaliser.constants`)."""
        return self._normalise.constants

    def read(self, recording: Recording, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """The samples of one item and the mask, [S] or [1]."""
        shift = self._augmentation.draw_shift_seconds(moment.rng) if moment.rng is not None else 0.0
        values = self._samples(recording, moment, self._grid.tokens, self._window_seconds, shift)
        present = np.isfinite(values[..., self._alive]).all(-1)
        values = np.where(np.isfinite(values), values, 0).astype(np.float32)
        if moment.rng is not None:
            values = self._augmentation(values, moment.rng) * present[..., None]
        if self._presence_channel:
            values = np.concatenate([values, present[..., None].astype(np.float32)], -1)
        return values, present.mean(-1) >= self._least_present

    def _channels_with_deviation(self) -> np.ndarray:
        """bool [C] of the channels in use."""
        constants = self._normalise.constants
        if constants is None:
            return np.ones(len(self._columns), bool)
        alive = np.isfinite(np.array(constants["deviation"], float)[self._columns])
        if not alive.any():
            raise BadDataError(
                f"the training part has no sample of stream {self._signal.stream!r}, or one value all along, "
                f"in {', '.join(self.channel_names)}; leave it out of --config.model.streams, or train on "
                "people who have it"
            )
        return alive

    def level(self, recording: Recording, moment: Moment) -> np.ndarray:
        """The item's whole signal in one piece, with its level: float32 [T, C], NaN where missing.

        Normalised as the network's, unless that takes away every window's own mean.
        """
        normalise = self._normalise.mode not in LOSES_LEVEL
        return self._samples(recording, moment, 1, self._grid.window_seconds, 0.0, normalise)[0]

    def _samples(
        self,
        recording: Recording,
        moment: Moment,
        tokens: int,
        window_seconds: float,
        shift_seconds: float,
        normalise: bool = True,
    ) -> np.ndarray:
        """Normalised windows [tokens, T, C], NaN where missing; a clip has one window whatever is asked."""
        rows = self._signal.rows_of(recording)
        rate, first = self._signal.clock(rows)
        if self._whole:
            indices = np.arange(self.shape[1])[None] + round(shift_seconds * rate)
            end_seconds = first + (int(indices[0, -1]) + 1) / rate
        else:
            begin = moment.start_seconds + shift_seconds
            ends = windows.token_ends(begin, self._grid.window_seconds, tokens)
            indices = windows.trailing_samples(ends, window_seconds, first, rate)
            end_seconds = float(ends[-1])
        values = self._signal.gather(rows, rate, indices)
        if normalise:
            values = self._normalise(values, moment.recording, end_seconds)
        return values[..., self._columns]


class StoredSignal:
    """A stream of samples, to be read by index.

    Args:
      prepared, stream: Where the samples are.
    """

    def __init__(self, prepared: PreparedSet, stream: str) -> None:
        self._prepared, self._stream = prepared, stream

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._stream

    def rows_of(self, recording: Recording) -> np.ndarray:
        """The chunks of a recording's source, in time order."""
        return self._prepared.table(self._stream).rows_of(recording.sources[self._stream])

    def clock(self, rows: np.ndarray) -> tuple[float, float]:
        """The source's rate in Hz and the time of its first sample."""
        table = self._prepared.table(self._stream)
        rate = float(table.rate_hz[rows[0]])
        nominal = self._prepared.streams[self._stream].rate_hz
        if nominal is not None and abs(rate - nominal) > 1e-6 * nominal:
            raise BadDataError(
                f"source {table.source_ids[table.source[rows[0]]]!r} of stream {self._stream!r} runs at "
                f"{rate} Hz, the data set's other sources at {nominal} Hz; resample it before preparing"
            )
        return rate, float(table.start_seconds[rows[0]])

    def gather(self, rows: np.ndarray, rate: float, indices: np.ndarray) -> np.ndarray:
        """Samples [S, T, all C] at the indices; NaN where nothing was recorded."""
        table = self._prepared.table(self._stream)
        begins = np.round((table.start_seconds[rows] - table.start_seconds[rows[0]]) * rate).astype(np.int64)
        low, high = int(indices.min()), int(indices.max()) + 1
        span = np.full((high - low, table.moment_count.shape[1]), np.nan, np.float32)
        touched = np.flatnonzero((begins < high) & (begins + table.length[rows] > low))
        for begin, chunk in zip(
            begins[touched], self._prepared.read(self._stream, rows[touched]), strict=True
        ):
            values = _as_float(chunk.values)
            source_low, source_high = max(low, begin), min(high, begin + len(values))
            span[source_low - low : source_high - low] = values[source_low - begin : source_high - begin]
        return span[indices - low]

    def gather_trailing(
        self, rows: np.ndarray, rate: float, begin: np.ndarray, end: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples begin[i] to end[i] of a stream of one channel, as stored, at the end of zeros.

        Args:
          rows: The chunks of the source.
          rate: Its rate in Hz.
          begin, end: int64 [S]; samples that were not recorded, or are older than ``length`` before the end,
            are zeros.
          length: T.

        Returns:
          [S, T] in the type that is stored, and bool [S]: False where nothing was recorded in the window.
        """
        table = self._prepared.table(self._stream)
        begin = np.maximum(begin, end - length)
        starts = np.round((table.start_seconds[rows] - table.start_seconds[rows[0]]) * rate).astype(np.int64)
        stops = starts + table.length[rows]
        touched = np.flatnonzero((starts < end.max()) & (stops > begin.min()))
        waves = np.zeros((len(end), length), self._prepared.streams[self._stream].dtype)
        heard = np.zeros(len(end), bool)
        chunks = self._prepared.read(self._stream, rows[touched])
        for start, stop, chunk in zip(starts[touched], stops[touched], chunks, strict=True):
            for token in np.flatnonzero((begin < stop) & (end > start)):
                low, high = max(begin[token], start), min(end[token], stop)
                first = end[token] - length
                samples = chunk.values[low - start : high - start, 0]
                if samples.dtype != np.int16:
                    missing = np.isnan(samples)
                    samples = np.where(missing, 0, samples)
                    heard[token] |= not missing.all()
                else:
                    heard[token] = True
                waves[token, low - first : high - first] = samples
        return waves, heard


def decode_picture(encoded: bytes, shape: tuple[int, ...], recording: Recording) -> np.ndarray:
    """A stored frame as uint8 [H, W, 3], RGB.

    Raises:
      BadDataError: It is no image of this shape.
    """
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != shape:
        found = "no image" if picture is None else f"an image of shape {picture.shape}"
        raise BadDataError(
            f"a stored frame of recording {recording.id!r} holds {found}, not {shape}; "
            "the prepared data are damaged: delete the folder and prepare again"
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _as_float(values: np.ndarray) -> np.ndarray:
    """PCM to [-1, 1); floats as they are."""
    return values.astype(np.float32) / 32768 if values.dtype == np.int16 else values
