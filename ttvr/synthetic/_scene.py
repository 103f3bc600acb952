"""What happens in a clip: drawn at random, reversed in time, and told apart by its meaning."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
SIZES = ("small", "big")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 220, 50),
    "orange": (245, 140, 30),
    "purple": (140, 60, 190),
    "pink": (250, 140, 190),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "cyan": (60, 210, 230),
}
"""RGB of the things."""
TINTS = {
    "gray": (128, 128, 128),
    "beige": (225, 205, 170),
    "navy": (25, 35, 90),
    "olive": (110, 110, 40),
    "teal": (20, 110, 110),
    "maroon": (110, 25, 45),
}
"""RGB of the backgrounds."""
TEXTURES = ("plain", "gradient", "striped", "checkered", "noisy", "dotted")
DIRECTIONS = ("left", "right", "up", "down")
PLACES = ("left", "right", "top", "bottom", "center")
RELATIONS = ("left", "right", "above", "below")
TURNS = ("clockwise", "counterclockwise")
AXES = ("horizontal", "vertical")
KINDS = (
    *("still", "relation", "move", "move2", "circle", "bounce", "size", "blink", "recolor"),
    *("morph", "appear", "vanish", "pair", "pan", "enter", "leave", "light"),
)
"""The kinds of event. All but still, relation, bounce and blink have a time reversal."""
SPLITS = ("train", "val", "test")

_TWO_THINGS = ("relation", "appear", "vanish", "pair")
_CONTRAST = 75.0  # least RGB distance of a thing from its background, and of two colors of a scene
_JITTERS = 6
_OPPOSITE = {
    **{"left": "right", "right": "left", "up": "down", "down": "up"},
    **{"above": "below", "below": "above"},
    **{"clockwise": "counterclockwise", "counterclockwise": "clockwise"},
    **{"grow": "shrink", "shrink": "grow", "dark": "bright", "bright": "dark"},
    **{"appear": "vanish", "vanish": "appear", "enter": "leave", "leave": "enter"},
}
# Of 20 meanings, 2 are kept for the test and 1 for validation.
_PARTS, _TEST, _VAL = 20, (0, 1), (2,)


class Thing(NamedTuple):
    """A shape with a color and a size, by their names."""

    shape: str
    color: str
    size: str


class Scene(NamedTuple):
    """What a clip shows.

    Attributes:
        kind: of event, one of `KINDS`.
        how: what more there is to say of the event: directions, a place, a side, the color or
            shape that the thing turns into. For `relation` where the first thing is, seen from
            the second.
        things: one or two.
        tint: of the background.
        texture: of the background.
        jitter: numbers in [-1, 1) that place the scene and that no caption tells.
    """

    kind: str
    how: tuple[str, ...]
    things: tuple[Thing, ...]
    tint: str
    texture: str
    jitter: tuple[float, ...]


def sample(rng: np.random.Generator) -> Scene:
    """A random scene: kinds, and within a kind its variants, are equally likely.

    Args:
        rng: where all randomness comes from.
    """
    kind, tint = _pick(rng, KINDS), _pick(rng, TINTS)
    visible = [color for color, rgb in COLORS.items() if _distance(rgb, TINTS[tint]) > _CONTRAST]
    things = [Thing(_pick(rng, SHAPES), _pick(rng, visible), _pick(rng, SIZES))]
    apart = _apart(things[0].color, visible)
    if kind in _TWO_THINGS:
        other = [shape for shape in SHAPES if shape != things[0].shape]
        things.append(Thing(_pick(rng, other), _pick(rng, apart), _pick(rng, SIZES)))
    how = _how(rng, kind, things[0], apart)
    texture = _pick(rng, TEXTURES)
    jitter = tuple(rng.uniform(-1, 1, _JITTERS).tolist())
    return Scene(kind, how, tuple(things), tint, texture, jitter)


def nth(split: str, index: int, *, seed: int = 0) -> tuple[Scene, np.random.Generator]:
    """Scene number `index` of a split, the same on every machine, and what its caption is drawn by.

    Args:
        split: one of `SPLITS`.
        index: from 0, without end; the meanings of two indices may be the same.
        seed: of the whole set.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    while True:
        scene = sample(rng)
        if split_of(scene) == split:
            return scene, rng


def reverse(scene: Scene) -> Scene:
    """The scene whose frames are those of this one in the opposite order.

    A scene that is symmetric in time, as left and then right, is its own reversal.

    Raises:
        ValueError: this kind of event has no reversal.
    """
    kind, how, first = scene.kind, scene.how, scene.things[0]
    if kind in ("move", "circle", "size", "pair", "pan", "light"):
        how = tuple(_OPPOSITE[word] for word in how)
    elif kind == "move2":
        how = (_OPPOSITE[how[1]], _OPPOSITE[how[0]])
    elif kind == "recolor":
        first, how = first._replace(color=how[0]), (first.color,)
    elif kind == "morph":
        first, how = first._replace(shape=how[0]), (first.shape,)
    elif kind in ("appear", "vanish", "enter", "leave"):
        kind = _OPPOSITE[kind]
    else:
        raise ValueError(f"a scene of kind {kind} has no reversal")
    return scene._replace(kind=kind, how=how, things=(first, *scene.things[1:]))


def is_temporal(scene: Scene) -> bool:
    """Whether the clip and its time reversal show different events."""
    if scene.kind in ("still", "relation", "bounce", "blink"):
        return False
    return reverse(scene) != scene


def meaning(scene: Scene) -> str:
    """All that a full caption tells, as one line: kind, how, things, background."""
    things = ", ".join(" ".join(thing) for thing in scene.things)
    return f"{scene.kind} {' '.join(scene.how)} | {things} | {scene.texture} {scene.tint}"


def wordings(scene: Scene) -> set[str]:
    """All meanings that fit the same event: "A is left of B" says that B is right of A."""
    said = {meaning(scene)}
    things = scene.things[::-1]
    if scene.kind == "relation":
        said.add(meaning(scene._replace(how=(_OPPOSITE[scene.how[0]],), things=things)))
    if scene.kind == "pair":
        said.add(meaning(scene._replace(how=scene.how[::-1], things=things)))
    return said


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to, by a hash of its meaning.

    Its reversal, and the same event in other words, go with it: what is tested was never trained
    on, neither forwards nor backwards.
    """
    ways = wordings(scene) | (wordings(reverse(scene)) if is_temporal(scene) else set())
    part = zlib.crc32(min(ways).encode()) % _PARTS
    return "test" if part in _TEST else "val" if part in _VAL else "train"


def forwards(scene: Scene) -> tuple[Scene, bool]:
    """Of a scene and its reversal the one that is drawn, and whether that is the reversal.

    Both are drawn from the same one, so that they are each other's reversal to the last bit.
    """
    if not is_temporal(scene):
        return scene, False
    other = reverse(scene)
    return (scene, False) if scene < other else (other, True)


def _how(rng: np.random.Generator, kind: str, thing: Thing, apart: list[str]) -> tuple[str, ...]:
    if kind == "move2":
        first = _pick(rng, DIRECTIONS)
        return first, _pick(rng, [way for way in DIRECTIONS if way != first])
    if kind == "pair":
        return _pick(rng, DIRECTIONS), _pick(rng, DIRECTIONS)
    choices = {
        "still": PLACES,
        "relation": RELATIONS,
        "circle": TURNS,
        "bounce": AXES,
        "size": ("grow", "shrink"),
        "recolor": apart,
        "morph": [shape for shape in SHAPES if shape != thing.shape],
        "light": ("dark", "bright"),
        **dict.fromkeys(("move", "pan", "enter", "leave"), DIRECTIONS),
    }
    return (_pick(rng, choices[kind]),) if kind in choices else ()


def _apart(color: str, visible: list[str]) -> list[str]:
    return [other for other in visible if _distance(COLORS[other], COLORS[color]) > _CONTRAST]


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def _pick(rng: np.random.Generator, choices: object) -> str:
    names = tuple(choices)
    return names[int(rng.integers(len(names)))]
