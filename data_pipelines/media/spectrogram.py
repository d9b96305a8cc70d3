"""The normalised log-mel spectrogram of sound.

Made clip by clip in buffers that stay in the processor's cache, and without BLAS: the bits of a clip's
spectrogram depend neither on the clips beside it nor on the number of threads.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from scipy import sparse

_LEAST_POWER = 1e-10
_DECIBELS_PER_NEPER = 10 / math.log(10)


def left_pad(wave: np.ndarray, samples: int) -> np.ndarray:
    """The sound with zeros before it, so that it ends where it did: [..., T] -> [..., max(T, samples)].

    The paper pads its clips so (facts A8, 8): the newest sample is always the last one, and the silence in
    front is a real input to the network, not masked.
    """
    missing = samples - wave.shape[-1]
    if missing <= 0:
        return wave
    return np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(missing, 0)])


def log_mel(
    wave: np.ndarray,
    sample_rate_hz: float,
    *,
    mels: int = 64,
    fft_samples: int = 1024,
    window_samples: int = 882,
    hop_samples: int = 441,
    floor_db: float = 80.0,
    mean_db: float = -14.8,
    std_db: float = 19.895,
) -> np.ndarray:
    """The paper's normalised log-mel spectrogram of whole clips (reference facts B4).

    Power spectra of a periodic Hann window centred in each FFT frame, the clip continued by reflection at
    both ends; triangular HTK mel filters from 0 to half the rate, not normalised; decibels no lower than
    `floor_db` under the clip's peak; then (x - mean_db) / std_db.

    Args:
      wave: int16 PCM, or floating in [-1, 1]: [..., T], each row one clip, all finite.
      sample_rate_hz: Its rate. Deviation: none; the reference leaves the filters at the file's own rate too.
      mels: Number of filters.
      fft_samples, window_samples, hop_samples: In samples; window and hop are 20 and 10 ms at 44.1 kHz.
      floor_db: Range below the peak that is kept.
      mean_db, std_db: What the decibels are normalised by.

    Returns:
      float32 [..., mels, 1 + T // hop_samples].

    Raises:
      ValueError: the clip is too short to be reflected, or of another type.
    """
    wave = np.asarray(wave)
    if wave.dtype != np.int16 and not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"the sound is {wave.dtype}; expected int16 PCM or floats in [-1, 1]")
    clips = wave.reshape(-1, wave.shape[-1])
    maker = MelPower(
        clips.shape[1],
        sample_rate_hz,
        mels=mels,
        fft_samples=fft_samples,
        window_samples=window_samples,
        hop_samples=hop_samples,
    )
    out = np.empty((len(clips), mels, maker.steps), np.float32)
    for clip, result in zip(clips, out, strict=True):
        normalise(maker(clip), result, floor_db=floor_db, mean_db=mean_db, std_db=std_db)
    return out.reshape(*wave.shape[:-1], mels, maker.steps)


class MelPower:
    """Mel power spectra of clips of one length; arguments and errors as `log_mel`. No two threads share one.

    Attributes:
      steps: Number of spectra of a clip.
      begins: int64 [steps], the sample of the clip that each one's window begins with; below 0 or so near the
        end that ``window_samples`` do not follow, the clip is continued by reflection.
    """

    def __init__(
        self,
        samples: int,
        sample_rate_hz: float,
        *,
        mels: int,
        fft_samples: int,
        window_samples: int,
        hop_samples: int,
    ) -> None:
        before, after = fft_samples // 2, -(-fft_samples // 2)
        if samples <= after:
            raise ValueError(
                f"a clip of {samples} samples is too short for a spectrum of {fft_samples}; give at least "
                f"{after + 1}, for instance by left_pad"
            )
        self.steps = 1 + samples // hop_samples
        first = (fft_samples - window_samples) // 2
        self.begins = first - before + hop_samples * np.arange(self.steps)
        self._before, self._after = before, after
        self._window = hann_window(window_samples)
        self._filters = _sparse_filters(sample_rate_hz, mels, fft_samples)
        self._padded = np.empty(before + samples + after, np.float32)
        pieces = np.lib.stride_tricks.sliding_window_view(self._padded[first:], window_samples)
        self._pieces = pieces[::hop_samples][: self.steps]
        self._frames = np.zeros((self.steps, fft_samples), np.float32)
        self._windowed = self._frames[:, first : first + window_samples]
        self._spectra = np.empty_like(self._frames)

    def __call__(self, clip: np.ndarray, wanted: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The wanted spectra of a clip [T], int16 or floating: float32 [mels, N]."""
        before, after = self._before, self._after
        self._padded[before : before + len(clip)] = clip
        self._padded[:before] = clip[before:0:-1]
        self._padded[before + len(clip) :] = clip[-2 : -2 - after : -1]
        # A power of two: the very bits of scaling the sound.
        window = self._window / 32768 if clip.dtype == np.int16 else self._window
        pieces = self._pieces[wanted]
        count = len(pieces)
        np.multiply(pieces, window, out=self._windowed[:count])
        packed = cv2.dft(self._frames[:count], self._spectra[:count], flags=cv2.DFT_ROWS)
        return self._filters @ _power(packed)


def normalise(
    power: np.ndarray,
    out: np.ndarray,
    *,
    floor_db: float = 80.0,
    mean_db: float = -14.8,
    std_db: float = 19.895,
) -> None:
    """Writes a clip's mel power, which is lost, as normalised decibels; as `log_mel` has it."""
    np.log(np.maximum(power, _LEAST_POWER, out=power), out=power)
    power *= _DECIBELS_PER_NEPER
    np.maximum(power, power.max() - np.float32(floor_db), out=power)
    power -= mean_db
    np.divide(power, std_db, out=out)


@functools.lru_cache(maxsize=16)
def mel_filters(sample_rate_hz: float, mels: int, fft_samples: int) -> np.ndarray:
    """Triangular filters on the HTK mel scale, with peaks of 1: float32 [fft_samples // 2 + 1, mels]."""
    highest = 2595 * math.log10(1 + sample_rate_hz / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, sample_rate_hz / 2, fft_samples // 2 + 1)[:, None]
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - low) / (peak - low), (high - frequencies) / (high - peak)
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters.setflags(write=False)  # it is shared
    return filters


@functools.lru_cache(maxsize=16)
def _sparse_filters(sample_rate_hz: float, mels: int, fft_samples: int) -> sparse.csr_array:
    """The filters but for their weights of 0 (a frequency lies in two of them), [mels, frequencies].

    Without the first frequency, 0, and half the rate, where all filters are 0.
    """
    inner = mel_filters(sample_rate_hz, mels, fft_samples)[1 : (fft_samples + 1) // 2]
    return sparse.csr_array(inner.T)


@functools.lru_cache(maxsize=16)
def hann_window(samples: int) -> np.ndarray:
    """A periodic Hann window, float32 [samples]."""
    phase = 2 * np.pi * np.arange(samples) / samples
    window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
    window.setflags(write=False)  # it is shared
    return window


def _power(packed: np.ndarray) -> np.ndarray:
    """Power of OpenCV's packed spectra, whose memory it uses: [N, fft_samples] -> [frequencies, N].

    A row holds Re 0, Re 1, Im 1, Re 2, Im 2, ..., and last Re of half the rate where the length is even;
    frequency 0 and half the rate are left out.
    """
    np.multiply(packed, packed, out=packed)
    end = 2 * ((packed.shape[1] - 1) // 2)
    return cv2.transpose(packed[:, 1:end:2] + packed[:, 2 : end + 1 : 2])
