"""Random transforms for training; each takes one explicit generator and nothing else random."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class FrameAugmentation:
    """Photometric and geometric changes of a clip's frames; one draw for all frames of a recording's item.

    Attributes:
      brightness, contrast: Factors are drawn from U(1 - x, 1 + x); the paper uses .2 (reference facts B3).
      colour: Each colour channel is multiplied by a factor from U(1 - colour, 1 + colour).
      grey_probability: Chance that all frames lose their colour (luma weights of BT.601).
      flip_probability: Chance of a left-right flip.
      shift: Greatest shift in both directions, as a share of the picture's side; the border is repeated.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    grey_probability: float = 0.0
    flip_probability: float = 0.0
    shift: float = 0.0

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes uint8 [..., H, W, 3]; always draws the same number of random values."""
        draws = rng.random(9)
        brightness = 1 + self.brightness * (2 * draws[0] - 1)
        contrast = 1 + self.contrast * (2 * draws[1] - 1)
        gains = brightness * (1 + self.colour * (2 * draws[5:8] - 1))
        if contrast != 1 or np.any(gains != 1):
            middle = brightness * np.mean(cv2.mean(frames.reshape(-1, *frames.shape[-2:]))[:3])
            tables = (np.arange(256) * gains[:, None] - middle) * contrast + middle
            tables = np.clip(np.round(tables), 0, 255).astype(np.uint8)
            frames = cv2.LUT(frames.reshape(-1, frames.shape[-2], 3), tables.T[None]).reshape(frames.shape)
        if draws[8] < self.grey_probability:
            luma = np.round(frames @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
            frames = np.repeat(luma[..., None], 3, -1)
        height, width = frames.shape[-3:-1]
        down = round(self.shift * height * (2 * draws[3] - 1))
        right = round(self.shift * width * (2 * draws[4] - 1))
        flipped = draws[2] < self.flip_probability
        if down:
            frames = np.take(frames, np.clip(np.arange(height) - down, 0, height - 1), axis=-3)
        if right or flipped:
            columns = np.clip(np.arange(width) - right, 0, width - 1)
            frames = np.take(frames, width - 1 - columns if flipped else columns, axis=-2)
        return np.ascontiguousarray(frames)


@dataclasses.dataclass(frozen=True)
class SignalAugmentation:
    """Changes of a normalised signal.

    Attributes:
      gain: The signal is multiplied by a factor from U(1 - gain, 1 + gain), one a channel.
      noise: Standard deviation of added white noise, in units of the normalised signal.
      shift_seconds: Greatest shift of the window in time. It is applied by the loader when it selects the
        samples, so that nothing has to be invented at the borders.
    """

    gain: float = 0.0
    noise: float = 0.0
    shift_seconds: float = 0.0

    def __call__(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes float32 [S, T, C]."""
        if self.gain:
            values = values * (1 + self.gain * rng.uniform(-1, 1, values.shape[-1])).astype(np.float32)
        if self.noise:
            values = values + self.noise * rng.standard_normal(values.shape, np.float32)
        return values

    def draw_shift_seconds(self, rng: np.random.Generator) -> float:
        """A shift of the window, uniform in +-``shift_seconds``."""
        return float(self.shift_seconds * rng.uniform(-1, 1)) if self.shift_seconds else 0.0
