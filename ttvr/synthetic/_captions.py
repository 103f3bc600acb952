"""What a scene says in words: a template grammar with synonyms and right articles."""

from __future__ import annotations

import numpy as np

from ttvr.synthetic._scene import Scene, Thing

_SYNONYMS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
    "small": ("small", "tiny", "little"),
    "big": ("big", "large"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
    "move": ("moves", "slides", "drifts", "travels"),
    "turn": ("turns", "changes"),
    "clockwise": ("clockwise",),
    "counterclockwise": ("counterclockwise", "anticlockwise"),
}
_PLACES = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "center": ("in the middle", "in the center"),
}
_RELATIONS = {
    "left": ("is left of", "is to the left of"),
    "right": ("is right of", "is to the right of"),
    "above": ("is above", "is over"),
    "below": ("is below", "is under"),
}
_SIDES = {
    "left": ("the left",),
    "right": ("the right",),
    "up": ("the top",),
    "down": ("the bottom",),
}
_EVENTS = {
    "grow": ("grows", "gets bigger"),
    "shrink": ("shrinks", "gets smaller"),
    "horizontal": ("bounces from side to side", "bounces left and right"),
    "vertical": ("bounces up and down",),
    "blink": ("blinks", "flashes"),
    "appear": ("appears", "shows up"),
    "vanish": ("vanishes", "disappears"),
    "enter": ("enters", "comes in"),
    "leave": ("leaves", "goes out"),
    "dark": ("the light goes down", "it gets dark"),
    "bright": ("the light goes up", "it gets bright"),
}
# A short caption leaves out each attribute with this probability.
_DROPPED = 0.5


def caption(scene: Scene, rng: np.random.Generator, *, short: bool = False) -> str:
    """A sentence about the scene, lower case, without a full stop.

    Args:
        scene: what to describe.
        rng: chooses among synonyms, and what a short caption leaves out.
        short: leave out sizes, colors and the background at random, as people do; such a
            caption may fit other clips as well.
    """
    names = [_thing(thing, rng, short=short) for thing in scene.things]
    text = _event(scene, names, rng)
    if short and rng.random() < _DROPPED:
        return text
    tint = _word(scene.tint, rng)
    return f"{text} on {_with_article(f'{scene.texture} {tint}')} background"


def _event(scene: Scene, names: list[str], rng: np.random.Generator) -> str:
    """The sentence without its background."""
    kind, how, a = scene.kind, scene.how, names[0]
    b = names[-1]
    if kind == "still":
        return f"{a} {_one(rng, ('stays', 'rests', 'is'))} {_one(rng, _PLACES[how[0]])}"
    if kind == "relation":
        return f"{a} {_one(rng, _RELATIONS[how[0]])} {b}"
    if kind == "move":
        return f"{a} {_word('move', rng)} {_towards(how[0], rng)}"
    if kind == "move2":
        return f"{a} {_word('move', rng)} {how[0]} and then {how[1]}"
    if kind == "circle":
        return f"{a} {_one(rng, ('circles', 'goes around'))} {_word(how[0], rng)}"
    if kind == "recolor":
        return f"{a} {_word('turn', rng)} {_one(rng, ('to', 'into'))} {_word(how[0], rng)}"
    if kind == "morph":
        return f"{a} {_word('turn', rng)} into {_with_article(_word(how[0], rng))}"
    if kind in ("appear", "vanish"):
        return f"{b} {_one(rng, _EVENTS[kind])} {_one(rng, ('next to', 'beside'))} {a}"
    if kind == "pair":
        first, second = (f"{_word('move', rng)} {_towards(way, rng)}" for way in how)
        return f"{a} {first} while {b} {second}"
    if kind == "pan":
        return f"the camera {_one(rng, ('pans', 'turns'))} {_towards(how[0], rng)} over {a}"
    if kind in ("enter", "leave"):
        way = "from" if kind == "enter" else _one(rng, ("to", "at"))
        return f"{a} {_one(rng, _EVENTS[kind])} {way} {_one(rng, _SIDES[how[0]])}"
    if kind == "light":
        return f"{_one(rng, _EVENTS[how[0]])} around {a}"
    return f"{a} {_one(rng, _EVENTS[how[0] if how else kind])}"


def _thing(thing: Thing, rng: np.random.Generator, *, short: bool) -> str:
    kept = [word for word in (thing.size, thing.color) if not short or rng.random() >= _DROPPED]
    return _with_article(" ".join(_word(word, rng) for word in (*kept, thing.shape)))


def _towards(direction: str, rng: np.random.Generator) -> str:
    if direction in ("up", "down"):
        return direction
    return _one(rng, (direction, f"to the {direction}"))


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _word(name: str, rng: np.random.Generator) -> str:
    return _one(rng, _SYNONYMS.get(name, (name,)))


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))] if len(choices) > 1 else choices[0]
