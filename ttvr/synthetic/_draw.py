"""A scene as pixels: Pillow draws at twice the size, then halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ttvr.synthetic._scene import COLORS, TINTS, Scene, forwards

FRAMES = 36
"""Frames of a clip."""
FPS = 12
"""Frames per second."""
SIZE = 128
"""Pixels of a side of a clip as a file."""

_OVERSAMPLING = 2
_RADII = {"small": 0.12, "big": 0.2}
"""Of the circle around a thing; lengths are parts of the side of the picture."""
_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_PLACES = {
    "left": (0.24, 0.5),
    "right": (0.76, 0.5),
    "top": (0.5, 0.24),
    "bottom": (0.5, 0.76),
    "center": (0.5, 0.5),
}
_BLINK = 4  # frames on, frames off
_MARGIN = 0.25  # of background beyond the picture, where the camera may pan
_CELLS = 24  # of noise, over picture and margins
_AMPLITUDE = 22.0  # levels that a texture adds and takes away
_DARKEST = 0.35


class _Placed(NamedTuple):
    """A thing in a frame: center, radius, RGB."""

    shape: str
    x: float
    y: float
    radius: float
    color: tuple[int, int, int]


def render(scene: Scene, indices: Sequence[int], *, size: int = 64) -> np.ndarray:
    """Frames of the clip that a scene is.

    Args:
        scene: what to draw.
        indices: of frames, each in 0..FRAMES - 1.
        size: side of the square picture, pixels.

    Returns:
        [T, size, size, 3] uint8 RGB; frame i of `reverse(scene)` is frame FRAMES - 1 - i of
        `scene`, bit for bit.
    """
    scene, is_backwards = forwards(scene)
    side = size * _OVERSAMPLING
    canvas = _background(scene, side)
    margin = (canvas.width - side) // 2
    made = np.empty((len(indices), size, size, 3), np.uint8)
    for row, index in enumerate(indices):
        if not 0 <= index < FRAMES:
            raise ValueError(f"frame {index}, a clip has {FRAMES}")
        at = FRAMES - 1 - index if is_backwards else index
        u = at / (FRAMES - 1)
        dx, dy = _camera(scene, u)
        left, top = margin - round(dx * side), margin - round(dy * side)
        picture = canvas.crop((left, top, left + side, top + side))
        draw = ImageDraw.Draw(picture)
        for placed in _things(scene, at, u):
            _shape(draw, placed._replace(x=placed.x + dx, y=placed.y + dy), side)
        frame = np.asarray(picture.reduce(_OVERSAMPLING))
        made[row] = frame if scene.kind != "light" else frame * _brightness(scene, u)
    return made


def _camera(scene: Scene, u: float) -> tuple[float, float]:
    """How far the picture's content is shifted: against the camera's way."""
    if scene.kind != "pan":
        return 0.0, 0.0
    x, y = _STEPS[scene.how[0]]
    return -x * 0.4 * (u - 0.5), -y * 0.4 * (u - 0.5)


def _brightness(scene: Scene, u: float) -> float:
    gone = u if scene.how[0] == "dark" else 1 - u
    return 1 - (1 - _DARKEST) * gone


def _things(scene: Scene, at: int, u: float) -> list[_Placed]:
    """What is to be seen at frame `at`, time u in [0, 1], first to last drawn."""
    jitter, kind, how = scene.jitter, scene.kind, scene.how
    switched = u >= 0.5 + 0.12 * jitter[4]
    placed = []
    for number, thing in enumerate(scene.things):
        x, y = _position(scene, number, u)
        x, y = x + 0.05 * jitter[2 * number], y + 0.05 * jitter[2 * number + 1]
        radius, shape, color = _RADII[thing.size], thing.shape, COLORS[thing.color]
        if kind == "size":
            radius *= 0.6 + 0.7 * (u if how[0] == "grow" else 1 - u)
        if kind == "recolor" and switched:
            color = COLORS[how[0]]
        if kind == "morph" and switched:
            shape = how[0]
        placed.append(_Placed(shape, x, y, radius, color))
    if kind == "blink" and at // _BLINK % 2:
        return []
    if kind in ("appear", "vanish") and switched != (kind == "appear"):
        return placed[:1]
    return placed


def _position(scene: Scene, number: int, u: float) -> tuple[float, float]:
    """Center of a thing at time u, before jitter."""
    kind, how, jitter = scene.kind, scene.how, scene.jitter
    if kind == "still":
        return _PLACES[how[0]]
    if kind == "relation":
        x, y = _STEPS[{"above": "up", "below": "down"}.get(how[0], how[0])]
        side = 0.24 if number == 0 else -0.24
        return 0.5 + side * x, 0.5 + side * y
    if kind == "move":
        x, y = _STEPS[how[0]]
        along, across = 0.56 * (u - 0.5), 0.15 * jitter[5]
        return 0.5 + x * along + abs(y) * across, 0.5 + y * along + abs(x) * across
    if kind == "move2":
        return _two_legs(how, u)
    if kind == "circle":
        turn = u if how[0] == "clockwise" else 1 - u
        angle = 2 * math.pi * turn + math.pi * jitter[5]
        return 0.5 + 0.24 * math.cos(angle), 0.5 + 0.24 * math.sin(angle)
    if kind == "bounce":
        swing = 0.26 * math.sin(4 * math.pi * u + math.pi * jitter[5])
        return (0.5 + swing, 0.5) if how[0] == "horizontal" else (0.5, 0.5 + swing)
    if kind in ("appear", "vanish"):
        side = 0.24 if (number == 0) == (jitter[5] > 0) else -0.24
        return 0.5 + side, 0.5
    if kind == "pair":
        x, y = _STEPS[how[number]]
        along = 0.34 * (u - 0.5)
        return (0.28 if number == 0 else 0.72) + x * along, 0.5 + y * along
    if kind in ("enter", "leave"):
        x, y = _STEPS[how[0]]
        away = 0.75 * (1 - u if kind == "enter" else u)
        return 0.5 + x * away, 0.5 + y * away
    return 0.5, 0.5


def _two_legs(how: tuple[str, ...], u: float) -> tuple[float, float]:
    """A path of two legs, its bounding box in the middle of the picture."""
    first, second = np.array(_STEPS[how[0]]) * 0.42, np.array(_STEPS[how[1]]) * 0.42
    corners = np.stack([0 * first, first, first + second])
    corners += 0.5 - (corners.min(0) + corners.max(0)) / 2
    leg = 0 if u < 0.5 else 1
    x, y = corners[leg] + (corners[leg + 1] - corners[leg]) * (2 * u - leg)
    return float(x), float(y)


def _shape(draw: ImageDraw.ImageDraw, placed: _Placed, side: int) -> None:
    x, y, radius = placed.x * side, placed.y * side, placed.radius * side
    if placed.shape in ("circle", "ring"):
        box = (x - 0.9 * radius, y - 0.9 * radius, x + 0.9 * radius, y + 0.9 * radius)
        if placed.shape == "circle":
            draw.ellipse(box, fill=placed.color)
        else:
            draw.ellipse(box, outline=placed.color, width=max(1, round(0.36 * radius)))
        return
    draw.polygon(
        [(x + radius * px, y + radius * py) for px, py in _OUTLINES[placed.shape]],
        fill=placed.color,
    )


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * (k / 5 - 0.5) for k in range(10)]
    return [
        (math.cos(a) * (1, 0.42)[k % 2], math.sin(a) * (1, 0.42)[k % 2])
        for k, a in enumerate(angles)
    ]


def _heart() -> list[tuple[float, float]]:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled."""
    points = []
    for k in range(32):
        t = 2 * math.pi * k / 32
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -(y + 2.5) / 17))
    return points


_OUTLINES = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0, -0.95), (0.95, 0.75), (-0.95, 0.75)],
    "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
    "cross": [
        *((-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3)),
        *((0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)),
    ],
    "star": _star(),
    "heart": _heart(),
}
"""Corners of the shapes in a circle of radius 1, y downwards."""


def _background(scene: Scene, side: int) -> Image.Image:
    """The background, with a margin on every side where the camera pans."""
    margin = round(_MARGIN * side) if scene.kind == "pan" else 0
    ticks = (np.arange(-margin, side + margin) + 0.5) / side
    pattern = _pattern(scene, ticks)[:, :, None]
    levels = np.array(TINTS[scene.tint]) + _AMPLITUDE * pattern
    flat = np.broadcast_to(levels, (len(ticks), len(ticks), 3))
    return Image.fromarray(flat.clip(0, 255).astype(np.uint8))


def _pattern(scene: Scene, ticks: np.ndarray) -> np.ndarray:
    """[H, W] in [-1, 1] at pixels of these coordinates, 0 to 1 inside the picture."""
    x, y = ticks[None, :], ticks[:, None]
    phase = scene.jitter[5]
    if scene.texture == "plain":
        return np.zeros((len(ticks), len(ticks)))
    if scene.texture == "gradient":
        return np.broadcast_to(((y - 0.5) * 2.4).clip(-1, 1), (len(ticks), len(ticks)))
    if scene.texture == "striped":
        return np.sign(np.sin(2 * np.pi * (4 * (x + y) + phase)))
    if scene.texture == "checkered":
        return np.sign(np.sin(np.pi * (6 * x + phase)) * np.sin(np.pi * (6 * y + phase)))
    if scene.texture == "dotted":
        dx, dy = ((6 * axis + phase) % 1 - 0.5 for axis in (x, y))
        return np.where(dx**2 + dy**2 < 0.06, 1.0, -0.4)
    cells = np.random.default_rng(int((phase + 1) * (1 << 30))).uniform(-1, 1, (_CELLS, _CELLS))
    at = ((ticks + _MARGIN) / (1 + 2 * _MARGIN) * _CELLS).astype(int).clip(0, _CELLS - 1)
    return cells[np.ix_(at, at)]
