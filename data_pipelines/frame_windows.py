"""What tokens of a ``frames`` grid see: frames that end at their target, and sound that ends there."""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines import windows
from data_pipelines.augment import FrameAugmentation
from data_pipelines.errors import UsageError
from data_pipelines.frame_items import PADDING, usable_frames
from data_pipelines.grid import Grid
from data_pipelines.media import audio, spectrogram
from data_pipelines.recording import Recording
from data_pipelines.shared_spectra import SharedSpectra, can_share
from data_pipelines.source import PreparedSet
from data_pipelines.stream_windows import Moment, StoredSignal, decode_picture

# Five blocks of 512 crops of 112 x 112: those that training mixes, and one.
DEFAULT_DECODED_BYTES = 88 * 2**20
DEFAULT_SPECTRA_BYTES = 32 * 2**20


class TargetFrameWindows:
    """Frames that end at each token's target, uint8 [S, F, H, W, 3] (`windows.paper_token_frames`).

    Frames that are not stored (no face was found) are passed over; a token that none is stored for is masked.
    Decoded frames are kept while items of the same block follow each other: each is decoded once for all of
    them, not once for each token that sees it.

    Args:
      prepared, stream: Where the frames are.
      grid: A ``frames`` grid.
      frames: F.
      reach_frames: How many frames, the target among them, a token looks back on.
      decoded_bytes: Most that decoded frames take up in memory, in each process.
      augmentation: Applied in training; one draw for all frames of an item.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        stream: str,
        grid: Grid,
        *,
        frames: int = windows.PAPER_FRAMES_PER_TOKEN,
        reach_frames: int = windows.PAPER_STEP_FRAMES,
        decoded_bytes: int = DEFAULT_DECODED_BYTES,
        augmentation: FrameAugmentation | None = None,
    ) -> None:
        if frames < 1 or reach_frames < frames:
            raise UsageError(
                f"stream {stream!r} has frames={frames} out of reach_frames={reach_frames}; expected at "
                "least 1, and no more than there are"
            )
        self._prepared, self._stream, self._grid = prepared, stream, grid
        self._frames, self.reach_frames = frames, reach_frames
        self._augmentation = augmentation
        spec = prepared.streams[stream]
        self.shape = (grid.tokens, frames, spec.height, spec.width, 3)
        self.dtype = np.uint8
        self.mask_length = grid.tokens
        self._decoded = _DecodedFrames(decoded_bytes)

    def read(self, recording: Recording, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """The frames of one item and the mask [S]."""
        targets = moment.targets
        nothing = np.zeros(self.shape, np.uint8), np.zeros(len(targets), bool)
        real = targets[targets != PADDING]
        if not len(real):
            return nothing
        first = max(int(real.min()) - self.reach_frames + 1, 0)
        if first >= len(recording.annotation.times_seconds):
            return nothing
        seen = usable_frames(self._prepared, recording, self._stream, self._grid, first, int(real.max()))
        numbers = windows.paper_token_frames(
            targets.astype(np.int64) + 1,
            seen.numbers,
            frames_per_token=self._frames,
            reach_frames=self.reach_frames,
        )
        mask = (numbers[:, -1] != windows.NO_FRAME) & (targets != PADDING)
        if not mask.any():
            return nothing
        pictures = np.empty((int(mask.sum()), *self.shape[1:]), np.uint8)
        places = seen.places[np.searchsorted(seen.numbers, numbers[mask].ravel())]
        self._fill(pictures.reshape(-1, *self.shape[2:]), recording, places)
        if moment.rng is not None and self._augmentation is not None:
            pictures = self._augmentation(pictures, moment.rng)
        if mask.all():
            return pictures, mask
        nothing[0][mask] = pictures
        return nothing[0], mask

    def _fill(self, pictures: np.ndarray, recording: Recording, places: np.ndarray) -> None:
        """Writes the frames at these places within the recording's source, uint8 [N, H, W, 3]."""
        table = self._prepared.table(self._stream)
        rows = table.rows_of(recording.sources[self._stream])
        first_of_chunk = np.concatenate([[0], np.cumsum(table.length[rows])])
        chunk_of = np.searchsorted(first_of_chunk, places, side="right") - 1
        for number in np.unique(chunk_of):
            row, chunk = int(rows[number]), None
            there = self._decoded.of_chunk(row)
            wanted = np.flatnonzero(chunk_of == number)
            inside = (places[wanted] - first_of_chunk[number]).tolist()
            for at, place in zip(wanted.tolist(), inside, strict=True):
                picture = there.get(place)
                if picture is None:
                    if chunk is None:
                        (chunk,) = self._prepared.read(self._stream, [row])
                    picture = decode_picture(chunk.frames[place], self.shape[2:], recording)
                    self._decoded.add(row, place, picture)
                    there = self._decoded.of_chunk(row)
                pictures[at] = picture


class LogMelWindows:
    """Log-mel spectrograms of the sound that ends at each token's target, float32 [S, mels, frames].

    Spectra that neighbouring targets have in common are computed once (`data_pipelines.shared_spectra`).
    Silence stands before the first sample, as in the paper (facts A8, 8). A token is masked where nothing was
    recorded in all of its window, or its target lies past the recording's end.

    Args:
      prepared, stream: Where the sound is: one channel.
      grid: A ``frames`` grid.
      window_seconds: Length of the window. The paper's is 45599 samples at 44.1 kHz, 1.034 s.
      reach_frames: Above 0, what is older than the time of the frame that many before the target is silence
        too, as the paper has it with 32. Deviation: where so many frames are longer than the window, the
        newest part is kept; the reference's spectrograms would differ in length.
      mels, fft_samples, window_samples, hop_samples: As `media.spectrogram.log_mel` has them.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        stream: str,
        grid: Grid,
        *,
        window_seconds: float = audio.PAPER_CLIP_SAMPLES / audio.PAPER_RATE_HZ,
        reach_frames: int = 0,
        mels: int = 64,
        fft_samples: int = 1024,
        window_samples: int = 882,
        hop_samples: int = 441,
    ) -> None:
        spec = prepared.streams[stream]
        if len(spec.channels) != 1:
            raise UsageError(
                f"features='log_mel' is for one channel of sound; stream {stream!r} has "
                f"{', '.join(spec.channels)}"
            )
        samples = round(window_seconds * spec.rate_hz)
        if (
            samples <= fft_samples // 2
            or not 0 < window_samples <= fft_samples
            or hop_samples < 1
            or mels < 1
        ):
            raise UsageError(
                f"stream {stream!r}: a window of {samples} samples cannot give {mels} mels with fft_samples="
                f"{fft_samples}, window_samples={window_samples}, hop_samples={hop_samples}; expected a "
                "window longer than half of fft_samples, and window_samples no longer than fft_samples"
            )
        self._signal = StoredSignal(prepared, stream)
        self._shared = SharedSpectra(hop_samples, window_samples, mels, DEFAULT_SPECTRA_BYTES)
        self._samples, self._reach = samples, reach_frames
        self._recordings_share: dict[str, bool] = {}
        self._options = {
            "mels": mels,
            "fft_samples": fft_samples,
            "window_samples": window_samples,
            "hop_samples": hop_samples,
        }
        self.shape = (grid.tokens, mels, 1 + samples // hop_samples)
        self.dtype = np.float32
        self.mask_length = grid.tokens

    def read(self, recording: Recording, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """The spectrograms of one item and the mask [S]."""
        targets = moment.targets
        spectrograms = np.zeros(self.shape, np.float32)
        mask = (targets != PADDING) & (targets < len(recording.annotation.times_seconds))
        if not mask.any():
            return spectrograms, mask
        rows = self._signal.rows_of(recording)
        rate, _ = self._signal.clock(rows)
        begin, end = self.spans(recording, targets[mask])
        waves, heard = self._signal.gather_trailing(rows, rate, begin, end, self._samples)
        mask[mask] = heard
        maker = spectrogram.MelPower(self._samples, rate, **self._options)
        shares = self._shares(recording)
        for at, token in zip(np.flatnonzero(heard), np.flatnonzero(mask), strict=True):
            if shares:
                power = self._shared.power(maker, int(rows[0]), waves[at], int(begin[at]), int(end[at]))
            else:
                power = maker(waves[at])
            spectrogram.normalise(power, spectrograms[token])
        return spectrograms, mask

    def waves(self, recording: Recording, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sound that ends at these rows of the annotation, all of them in it.

        Returns:
          [N, T] in the type that is stored; bool [N], False where nothing was recorded.
        """
        rows = self._signal.rows_of(recording)
        rate, _ = self._signal.clock(rows)
        return self._signal.gather_trailing(rows, rate, *self.spans(recording, targets), self._samples)

    def spans(self, recording: Recording, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last sample (not in it) of the sound of these rows, int64 [N] each."""
        clock = recording.annotation.times_seconds
        rate, first = self._signal.clock(self._signal.rows_of(recording))
        end = np.round((clock[targets] - first) * rate).astype(np.int64)
        begin = end - self._samples
        if self._reach:
            oldest = clock[np.maximum(targets - self._reach, 0)]
            begin = np.maximum(begin, np.round((oldest - first) * rate).astype(np.int64))
        return begin, end

    def _shares(self, recording: Recording) -> bool:
        """True if neighbouring targets have spectra in common."""
        known = self._recordings_share.get(recording.id)
        if known is None:
            every = np.arange(len(recording.annotation.times_seconds))
            known = can_share(self.spans(recording, every)[1], self._options["hop_samples"])
            self._recordings_share[recording.id] = known
        return known


class _DecodedFrames:
    """Decoded frames of the chunks that were asked for last, up to a number of bytes; threads share it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._clear()

    def of_chunk(self, row: int) -> Mapping[int, np.ndarray]:
        """The decoded frames of the chunk in this row, by their number in it; those added later come in."""
        with self._lock:
            if row not in self._chunks:
                return {}
            self._chunks.move_to_end(row)
            return self._chunks[row]

    def add(self, row: int, inside: int, picture: np.ndarray) -> None:
        """Keeps a frame; the chunks that were not asked for longest go."""
        with self._lock:
            chunk = self._chunks.setdefault(row, {})
            self._chunks.move_to_end(row)
            if inside not in chunk:
                chunk[inside] = picture
                self._bytes += picture.nbytes
            while self._bytes > self._max_bytes and self._chunks:
                _, old = self._chunks.popitem(last=False)
                self._bytes -= sum(picture.nbytes for picture in old.values())

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._chunks: collections.OrderedDict[int, dict[int, np.ndarray]] = collections.OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        # A worker process decodes for itself.
        return {"_max_bytes": self._max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()
