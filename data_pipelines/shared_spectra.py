"""Spectra that the windows of neighbouring targets have in common, computed once.

Two windows share a spectrum where it begins with the very same sample: their ends lie a whole number of hops
apart. At a constant frame rate few remainders occur (3 at 30 frames a second and a hop of 10 ms), and a block
of the paper's windows has a fifth of its spectra to compute; where the rate varies there is nothing to share.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np

from data_pipelines.media.spectrogram import MelPower

_TILE = 128
MOST_REMAINDERS = 16
"""With more of them in a recording, windows are taken to have nothing in common."""


class SharedSpectra:
    """Keeps mel power spectra by the sample that they begin with; threads share it.

    Args:
      hop_samples, window_samples, mels: Of the spectra.
      max_bytes: Most that they take up in memory, in each process.
    """

    def __init__(self, hop_samples: int, window_samples: int, mels: int, max_bytes: int) -> None:
        self._hop, self._window, self._mels = hop_samples, window_samples, mels
        self._most = max(1, max_bytes // (4 * mels * _TILE))
        self._clear()

    def power(self, maker: MelPower, source: int, clip: np.ndarray, begin: int, end: int) -> np.ndarray:
        """Mel power of a clip, float32 [mels, steps], the same bits as ``maker(clip)``.

        Args:
          maker: Makes what is not known yet.
          source: What the clip is of.
          clip: [T].
          begin, end: Which samples of the source it shows; it is 0 before them.
        """
        start = end - len(clip)
        first = start + maker.begins
        own = np.flatnonzero((first >= begin) & (first + self._window <= end))
        if not len(own):
            return maker(clip)
        low, high = int(own[0]), int(own[-1]) + 1
        # The spectrum at step i of the clip has number i + offset of those with the same remainder.
        number, remainder = divmod(int(first[low]), self._hop)
        offset = number - low
        power = np.empty((maker.steps, self._mels), np.float32)
        known = np.zeros(maker.steps, bool)
        tiles = []
        for tile in range(number // _TILE, (high - 1 + offset) // _TILE + 1):
            begins = tile * _TILE - offset
            here = slice(max(low, begins), min(high, begins + _TILE))
            inside = slice(here.start - begins, here.stop - begins)
            values, there = self._tile((source, remainder, tile))
            known[here] = there[inside]
            power[here] = values[inside]
            tiles.append((here, inside, values, there))
        missing = np.flatnonzero(~known)
        power[missing] = maker(clip, missing).T
        for here, inside, values, there in tiles:
            values[inside] = power[here]
            there[inside] = True
        return np.ascontiguousarray(power.T)

    def _tile(self, key: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Spectra [_TILE, mels] that follow each other, and which are known; those not used for longest go.

        A thread may read one while another one writes it: values are there before they count as known, and
        all write the same.
        """
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = np.zeros((_TILE, self._mels), np.float32), np.zeros(_TILE, bool)
                if len(self._tiles) > self._most:
                    self._tiles.popitem(last=False)
            self._tiles.move_to_end(key)
            return self._tiles[key]

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._tiles: collections.OrderedDict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]]
        self._tiles = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process computes for itself.
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_tiles")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()


def can_share(ends: np.ndarray, hop_samples: int) -> bool:
    """True if windows that end at these samples have spectra in common."""
    return len(np.unique(ends % hop_samples)) <= MOST_REMAINDERS
