"""Draws a synthetic person's face: a still picture from named movements, or a clip from events.

Pain is drawn as the literature has it (Prkachin & Solomon 2008): lowered brows, tightened eyes, a raised
upper lip with deeper folds beside the nose, an opened mouth. Blinks, head sway, smiles and talking are there
as well and say nothing of pain.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from data_pipelines.sample.people import Event, Person, generator

MOVEMENTS = (
    "brow_lower",
    "brow_raise",
    "eye_tighten",
    "blink",
    "lip_raise",
    "mouth_open",
    "smile",
    "mouth_down",
)
"""What a face can do; each from 0 (not at all) to 1."""

_SHIFT = 4  # Coordinates are drawn in sixteenths of a pixel, so that slow movements do not jump.
_ACROSS = np.linspace(-1.0, 1.0, 9)
_BOW = 1.0 - _ACROSS**2
_TOP_ANGLES = np.linspace(math.pi, 2 * math.pi, 15)
_Point = tuple[float, float]
_Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where the head is.

    Attributes:
      right, down: Shift of the head as a share of the picture's size.
      roll_degrees: Tilt to the picture's right.
      scale: Size of the head; 1 leaves room around it, 1.15 is a tight crop.
    """

    right: float = 0.0
    down: float = 0.0
    roll_degrees: float = 0.0
    scale: float = 1.0


class _Canvas:
    """Draws shapes given in the head's coordinates: (0, 0) is its middle, 1 the picture's size."""

    def __init__(self, image: np.ndarray, pose: Pose) -> None:
        self.image = image
        self.size = image.shape[0]
        self._scale = self.size * pose.scale
        self._unit = self._scale * (1 << _SHIFT)
        self._angle = pose.roll_degrees
        cosine = math.cos(math.radians(pose.roll_degrees)) * self._unit
        sine = math.sin(math.radians(pose.roll_degrees)) * self._unit
        # Plain numbers for single points, arrays for many: each is the faster one for its use.
        self._rows = ((cosine, sine), (-sine, cosine))
        whole = self.size * (1 << _SHIFT)
        self._place = ((0.5 + pose.right) * whole, (0.5 + pose.down) * whole)
        self._turn, self._middle = np.array(self._rows), np.array(self._place)

    def _points(self, points: Sequence[_Point] | np.ndarray) -> np.ndarray:
        return np.rint(np.asarray(points) @ self._turn + self._middle).astype(np.int32)

    def polygon(self, points: Sequence[_Point] | np.ndarray, colour: _Colour) -> None:
        """A filled shape."""
        cv2.fillPoly(self.image, [self._points(points)], colour, cv2.LINE_AA, _SHIFT)

    def line(self, points: Sequence[_Point] | np.ndarray, colour: _Colour, width: float) -> None:
        """An open line; `width` as a share of the picture's size, at least one pixel."""
        pixels = max(1, round(width * self._scale))
        cv2.polylines(self.image, [self._points(points)], False, colour, pixels, cv2.LINE_AA, _SHIFT)

    def ellipse(self, middle: _Point, half_width: float, half_height: float, colour: _Colour) -> None:
        """A filled ellipse."""
        axes = (max(1, round(half_width * self._unit)), max(1, round(half_height * self._unit)))
        (a, b), (c, d) = self._rows
        right, down = self._place
        place = (round(middle[0] * a + middle[1] * c + right), round(middle[0] * b + middle[1] * d + down))
        cv2.ellipse(self.image, place, axes, self._angle, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)


def _mix(first: _Colour, second: _Colour, share: float) -> _Colour:
    """`first` with this share (0 to 1) of `second`."""
    share = min(max(share, 0.0), 1.0)
    (a, b, c), (d, e, f) = first, second
    return round(a + (d - a) * share), round(b + (e - b) * share), round(c + (f - c) * share)


def _lens(middle: float, half: float, ends: float, bow: float) -> np.ndarray:
    """A parabola [9, 2]: at height `ends` on both sides of `middle`, and at `ends` + `bow` in its middle."""
    points = np.empty((9, 2))
    np.multiply(_ACROSS, half, out=points[:, 0])
    points[:, 0] += middle
    np.multiply(_BOW, bow, out=points[:, 1])
    points[:, 1] += ends
    return points


@functools.lru_cache(maxsize=8)
def _background(person: Person, size: int) -> np.ndarray:
    """What stays still: the wall with its texture, and the shoulders."""
    rng = generator(person.seed, "background", person.index)
    texture = cv2.resize(rng.normal(0.0, 9.0, (7, 7, 1)), (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.asarray(person.background_colour) + texture[:, :, None]
    if person.signature:
        stripes = np.repeat(person.signature_pattern(8), -(-size // 8))[:size]
        image += 25.0 * person.signature * stripes[None, :, None]
    image = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
    canvas = _Canvas(image, Pose())
    canvas.ellipse((0.0, 0.66), 0.44, 0.22, person.shirt_colour)
    return image


def render_face(
    person: Person,
    expression: Mapping[str, float],
    pose: Pose = Pose(),  # noqa: B008 (frozen)
    size: int = 96,
    light: float = 1.0,
) -> np.ndarray:
    """Draws a face.

    Args:
      person: Whose.
      expression: Strength of the movements, 0 to 1 each; see `MOVEMENTS`. Those not named are 0.
      pose: Where the head is.
      size: Height and width of the picture in pixels.
      light: Factor on all colours, near 1.

    Returns:
      uint8 [size, size, 3], RGB.

    Raises:
      ValueError: The expression names a movement that there is not.
    """
    unknown = sorted(set(expression) - set(MOVEMENTS))
    if unknown:
        raise ValueError(f"a face has no movement {', '.join(unknown)}; it has {', '.join(MOVEMENTS)}")
    move = {name: float(expression.get(name, 0.0)) for name in MOVEMENTS}
    canvas = _Canvas(_background(person, size).copy(), pose)
    _draw_head(canvas, person)
    for side in (-1.0, 1.0):
        _draw_eye(canvas, person, move, side)
        _draw_brow(canvas, person, move, side)
    _draw_nose(canvas, person, move)
    _draw_mouth(canvas, person, move)
    if light != 1.0:
        return cv2.convertScaleAbs(canvas.image, alpha=light)
    return canvas.image


def _head_size(person: Person) -> tuple[float, float]:
    return 0.30 * person.face_width, 0.39 * person.face_height


@functools.lru_cache(maxsize=8)
def _hair_front(width: float, height: float, line: float) -> np.ndarray:
    top = np.stack([1.03 * width * np.cos(_TOP_ANGLES), 1.1 * height * np.sin(_TOP_ANGLES) + 0.01], 1)
    fringe = [(0.93, 0.14), (0.5, 0.03), (0.0, 0.0), (-0.45, 0.05), (-0.93, 0.14)]
    return np.concatenate([top, [(x * width, y + line) for x, y in fringe]])


def _draw_head(canvas: _Canvas, person: Person) -> None:
    width, height = _head_size(person)
    skin, hair = person.skin_colour, person.hair_colour
    shade = _mix(skin, (30, 10, 10), 0.25)
    if person.hair_style == 1:
        canvas.ellipse((0.0, 0.02), width * 1.28, height * 1.12, hair)
    canvas.polygon([(-0.12, 0.2), (0.12, 0.2), (0.14, 0.5), (-0.14, 0.5)], shade)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * width * 1.0, 0.0), 0.04, 0.075, shade)
    canvas.ellipse((0.0, -0.06), width * 1.06, height * 0.99, hair)
    canvas.ellipse((0.0, 0.01), width, height, skin)
    line = -height * (0.86 if person.hair_style == 2 else 0.66)
    canvas.polygon(_hair_front(width, height, line), hair)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * 0.17, 0.13), 0.06, 0.045, _mix(skin, (220, 90, 80), 0.13))


def _draw_eye(canvas: _Canvas, person: Person, move: Mapping[str, float], side: float) -> None:
    x, y = side * 0.128 * person.eye_spacing, -0.055
    half = 0.066 * person.eye_size
    tight = move["eye_tighten"]
    open_share = (1.0 - move["blink"]) * (1.0 - 0.3 * move["smile"])
    upper = 0.040 * person.eye_size * open_share * (1.0 - 0.62 * tight)
    lower = 0.026 * person.eye_size * open_share * (1.0 - 0.85 * tight) - 0.012 * tight
    skin, dark = person.skin_colour, _mix(person.skin_colour, (20, 8, 8), 0.75)
    top, bottom = _lens(x, half, y, -upper), _lens(x, half, y, max(lower, -upper))
    canvas.ellipse((x, y - 0.005), half * 1.25, 0.062, _mix(skin, (60, 20, 30), 0.12 + 0.1 * tight))
    if upper + lower > 0.006:
        canvas.polygon(np.concatenate([top, bottom[::-1]]), (240, 238, 235))
        middle = y + (lower - upper) / 2
        visible = min(0.030 * person.eye_size, (upper + lower) / 2 * 0.98)
        canvas.ellipse((x, middle), 0.030 * person.eye_size, visible, person.eye_colour)
        canvas.ellipse((x, middle), 0.014, min(0.014, visible), (15, 12, 12))
    canvas.line(top, dark, 0.014)
    if tight > 0.1:
        fold = _mix(skin, dark, 0.55 * tight)
        canvas.line(_lens(x, half, y + 0.035, 0.014), fold, 0.011)
        for rise in (-0.03, 0.0, 0.03):
            near, far = x + side * half * 1.15, x + side * half * 1.7
            canvas.line([(near, y + 0.3 * rise), (far, y + rise)], fold, 0.01)


def _draw_brow(canvas: _Canvas, person: Person, move: Mapping[str, float], side: float) -> None:
    lower = move["brow_lower"]
    lift = 0.035 * move["brow_raise"] - 0.012 * person.brow_rest
    y = -0.150 * person.brow_height - lift + 0.028 * lower
    inner, outer = side * (0.052 - 0.016 * lower), side * 0.215
    inner_y, middle_y, outer_y = y + 0.012 + 0.040 * lower, y - 0.016 + 0.012 * lower, y + 0.022
    middle = 0.55 * inner + 0.45 * outer
    thick = 0.016
    colour = _mix(person.hair_colour, (20, 14, 12), 0.45)
    canvas.polygon(
        [
            (inner, inner_y - thick),
            (middle, middle_y - thick * 0.9),
            (outer, outer_y),
            (middle, middle_y + thick * 0.8),
            (inner, inner_y + thick),
        ],
        colour,
    )
    if lower > 0.1:
        fold = _mix(person.skin_colour, (40, 15, 15), 0.55 * lower)
        canvas.line([(side * 0.018, y - 0.02), (side * 0.014, y + 0.055)], fold, 0.011)


def _draw_nose(canvas: _Canvas, person: Person, move: Mapping[str, float]) -> None:
    length = 0.12 * person.nose_length
    lift = 0.012 * move["lip_raise"]
    shade = _mix(person.skin_colour, (50, 20, 20), 0.35)
    canvas.line([(0.012, -0.04), (0.03, length - 0.03 - lift), (0.02, length - lift)], shade, 0.012)
    for side in (-1.0, 1.0):
        canvas.ellipse((side * 0.024, length - lift), 0.013, 0.008, _mix(shade, (20, 5, 5), 0.5))
    deep = max(move["lip_raise"], 0.55 * move["smile"])
    if deep > 0.08:
        fold = _mix(person.skin_colour, (60, 20, 20), 0.6 * deep)
        out = 0.125 * person.mouth_width + 0.02 * move["smile"]
        for side in (-1.0, 1.0):
            start, bend = (side * 0.055, length - 0.02 - lift), (side * (0.03 + out * 0.72), length + 0.02)
            canvas.line([start, bend, (side * out, 0.21)], fold, 0.013)


def _draw_mouth(canvas: _Canvas, person: Person, move: Mapping[str, float]) -> None:
    smile, lift, gape = move["smile"], move["lip_raise"], move["mouth_open"]
    half = person.mouth_width * (0.098 + 0.032 * smile + 0.014 * lift - 0.012 * gape)
    y = 0.215
    corner = y - 0.034 * smile + 0.04 * move["mouth_down"] - 0.008 * person.mouth_rest + 0.010 * lift
    upper = y - 0.028 * lift + 0.012 * smile
    gap = 0.085 * gape + 0.018 * lift
    lip = _mix(person.skin_colour, (170, 50, 60), 0.55)

    def curve(height: float) -> np.ndarray:
        return _lens(0.0, half, corner, height - corner)

    outer_top, outer_bottom = curve(upper - 0.020), curve(upper + gap + 0.030)
    canvas.polygon(np.concatenate([outer_top, outer_bottom[::-1]]), lip)
    inner_top, inner_bottom = curve(upper), curve(upper + gap)
    if gap > 0.008:
        canvas.polygon(np.concatenate([inner_top, inner_bottom[::-1]]), (60, 18, 22))
        if lift > 0.15 or smile > 0.4:
            teeth = curve(upper + min(gap, 0.022))
            row = np.concatenate([inner_top, teeth[::-1]]) * (0.85, 1.0)
            canvas.polygon(row, (232, 228, 220))
    else:
        canvas.line(inner_top, _mix(lip, (30, 5, 10), 0.6), 0.011)


def face_clip(
    person: Person,
    events: Sequence[Event],
    times_seconds: np.ndarray,
    rng: np.random.Generator,
    size: int = 96,
) -> Iterator[np.ndarray]:
    """Draws a clip.

    Args:
      person: Whose face, and how much it shows.
      events: Those of kind ``pain``, ``smile`` and ``talk`` move the face; others do not.
      times_seconds: float64 [N], times of the frames.
      rng: The generator of this clip's face.
      size: Height and width in pixels.

    Returns:
      N pictures, uint8 [size, size, 3], RGB, drawn one by one.
    """
    times = np.asarray(times_seconds, np.float64)
    return draw_clip(person, movements(person, events, times, rng), times, rng, size)


def draw_clip(
    person: Person,
    moves: Mapping[str, np.ndarray],
    times_seconds: np.ndarray,
    rng: np.random.Generator,
    size: int = 96,
) -> Iterator[np.ndarray]:
    """Draws a clip from its movements (float64 [N] each); other arguments and pictures as `face_clip`."""
    times = np.asarray(times_seconds, np.float64)
    sway = 0.010 * person.sway
    right, down = sway * wander(rng, times, 1.6), sway * wander(rng, times, 1.9)
    roll = 2.4 * person.sway * wander(rng, times, 2.2)
    # In pain the head goes down a little.
    down = down + 0.012 * moves["brow_lower"]
    home = rng.normal(0.0, 0.012, 2)
    scale = float(np.clip(rng.normal(1.12, 0.02), 1.06, 1.18))
    light = float(rng.uniform(0.9, 1.08))
    for index in range(len(times)):
        pose = Pose(home[0] + right[index], home[1] + down[index], roll[index], scale)
        yield render_face(person, {name: values[index] for name, values in moves.items()}, pose, size, light)


def movements(
    person: Person, events: Sequence[Event], times_seconds: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The movements over a clip: float64 [N] each, 0 to 1; arguments as `face_clip`."""
    times = np.asarray(times_seconds, np.float64)
    moves = {name: np.zeros(len(times)) for name in MOVEMENTS}
    shows = 0.45 + 0.55 * person.expressiveness
    for event in events:
        if event.kind == "pain":
            strength = event.intensity * shows * rng.uniform(0.85, 1.1)
            course = strength * _course(times, event, rng.uniform(0.3, 0.8), 0.35, 1.5)
            course = course * (1.0 + 0.12 * wander(rng, times, 0.7))
            moves["brow_lower"] += course
            moves["eye_tighten"] += course * rng.uniform(0.8, 1.1)
            moves["lip_raise"] += course * rng.uniform(0.6, 1.0)
            moves["mouth_open"] += course * rng.uniform(0.1, 0.7)
        elif event.kind == "smile":
            course = event.intensity * shows * _course(times, event, 0.0, 0.4, 0.8)
            moves["smile"] += course
            moves["eye_tighten"] += 0.25 * course
        elif event.kind == "talk":
            syllables = 0.5 + 0.5 * np.sin(2 * np.pi * (3.5 * times + 0.6 * wander(rng, times, 0.5)))
            moves["mouth_open"] += 0.5 * event.intensity * syllables * _course(times, event, 0.0, 0.15, 0.2)
    add_idle_movements(moves, person, times, rng)
    return {name: np.clip(values, 0.0, 1.0) for name, values in moves.items()}


def add_idle_movements(
    moves: dict[str, np.ndarray], person: Person, times: np.ndarray, rng: np.random.Generator
) -> None:
    """Adds, in place, what a face does anyway: small movements and blinks."""
    for name, amount in (("brow_raise", 0.12), ("brow_lower", 0.05), ("smile", 0.06), ("mouth_open", 0.03)):
        moves[name] += amount * np.abs(wander(rng, times, 2.0))
    length = float(times[-1] - times[0]) if len(times) else 0.0
    for start in rng.uniform(0.0, max(length, 1e-9), rng.poisson(person.blink_rate_hz * length)):
        moves["blink"] += np.clip(1.6 - np.abs(times - times[0] - start) / 0.07, 0.0, 1.0)


def _course(times: np.ndarray, event: Event, delay: float, rise: float, fall: float) -> np.ndarray:
    """0 before the event, 1 while it lasts, and back; `delay`, `rise` and `fall` in seconds."""
    since = times - event.onset_seconds - delay
    up = np.clip(since / rise, 0.0, 1.0)
    after = np.maximum(since - max(event.duration_seconds, rise), 0.0)
    return up * up * (3.0 - 2.0 * up) * np.exp(-after / fall)


def wander(rng: np.random.Generator, times: np.ndarray, period_seconds: float) -> np.ndarray:
    """Smooth noise of about unit deviation that changes over `period_seconds`."""
    if not len(times):
        return np.zeros(0)
    place = (times - times[0]) / period_seconds + rng.random()
    knots = rng.normal(size=int(place[-1]) + 2)
    low = place.astype(int)
    ease = 0.5 - 0.5 * np.cos(np.pi * (place - low))
    return knots[low] * (1.0 - ease) + knots[low + 1] * ease
