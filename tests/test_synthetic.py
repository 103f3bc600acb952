"""Clips of moving shapes: what is drawn is what the caption says, forwards and backwards."""

from __future__ import annotations

import collections
import hashlib
import re

import numpy as np
import pytest

from ttvr import synthetic
from ttvr.synthetic import FRAMES, Scene, render
from ttvr.synthetic._scene import COLORS, SHAPES, TINTS, nth, sample

SIDE = 64
TEMPORAL = [
    kind for kind in synthetic.KINDS if kind not in ("still", "relation", "bounce", "blink")
]
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
EACH = 4  # scenes drawn of each variant of an event


def drawn_at_random(count):
    rng = np.random.default_rng(7)
    return [sample(rng) for _ in range(count)]


SCENES = drawn_at_random(5000)
VARIANTS = collections.defaultdict(list)
for one in SCENES:
    word = one.how if one.kind not in ("recolor", "morph") else ()
    VARIANTS[one.kind, word].append(one._replace(texture="plain"))


def of_kind(kind, count):
    return [scene for scene in SCENES if scene.kind == kind][:count]


def where(frames, color):
    """[T, H, W]: pixels wholly of a color."""
    return (frames == np.array(color, np.uint8)).all(-1)


def thing(frames, scene, number=0):
    return where(frames, COLORS[scene.things[number].color])


def background(frames, scene):
    return where(frames, TINTS[scene.tint])


def centers(mask):
    """[T, 2] centers of area, x and y in 0..1; NaN where there is none."""
    at = (np.arange(SIDE) + 0.5) / SIDE
    area = mask.sum((1, 2)).astype(float)
    area[area == 0] = np.nan
    return np.stack([mask.sum(1) @ at, mask.sum(2) @ at], 1) / area[:, None]


def goes(path, way, least):
    """Whether a path leads this way, all along it, and nowhere else."""
    along, across = path @ WAYS[way], path @ np.abs(WAYS[way][::-1])
    return along[-1] - along[0] > least and np.all(np.diff(along) > -0.01) and np.ptp(across) < 0.03


def shows_still(frames, scene):
    x, y = centers(thing(frames, scene))[0]
    low, high = 0.36, 0.64
    place = {
        "left": x < low,
        "right": x > high,
        "top": y < low,
        "bottom": y > high,
        "center": low < x < high and low < y < high,
    }[scene.how[0]]
    return place and (frames == frames[0]).all()


def shows_relation(frames, scene):
    way = {"above": "up", "below": "down"}.get(scene.how[0], scene.how[0])
    first, second = (centers(thing(frames[:1], scene, number))[0] for number in (0, 1))
    return (first - second) @ WAYS[way] > 0.3 and (frames == frames[0]).all()


def shows_move(frames, scene):
    return goes(centers(thing(frames, scene)), scene.how[0], 0.5)


def shows_move2(frames, scene):
    path = centers(thing(frames, scene))
    return goes(path[:18], scene.how[0], 0.35) and goes(path[18:], scene.how[1], 0.35)


def shows_circle(frames, scene):
    path = centers(thing(frames, scene))
    path = path[:-1] - path[:-1].mean(0)  # the last frame shows the first one's place again
    angles = np.unwrap(np.arctan2(path[:, 1], path[:, 0]))  # y is downwards: clockwise is positive
    turn = angles[-1] - angles[0]
    sign = 1 if scene.how[0] == "clockwise" else -1
    return sign * turn > 1.8 * np.pi


def shows_bounce(frames, scene):
    moves = np.diff(centers(thing(frames, scene)), axis=0)
    along, across = moves.T if scene.how[0] == "horizontal" else moves.T[::-1]
    big = along[np.abs(along) > 0.01]
    turns = np.count_nonzero(np.diff(np.sign(big)))
    return turns >= 3 and np.abs(across).max() < 0.02


def shows_size(frames, scene):
    area = (~background(frames, scene)).sum((1, 2)).astype(float)
    area = area if scene.how[0] == "grow" else area[::-1]
    return area[-1] > 2 * area[0] and np.all(np.diff(area) > -0.03 * area[-1])


def shows_blink(frames, scene):
    there = thing(frames, scene).any((1, 2))
    return np.count_nonzero(np.diff(there)) >= 4 and 0.3 < there.mean() < 0.7


def shows_recolor(frames, scene):
    old, new = thing(frames, scene).any((1, 2)), where(frames, COLORS[scene.how[0]]).any((1, 2))
    return old[0] and new[-1] and (old != new).all() and np.count_nonzero(np.diff(new)) == 1


def shows_morph(frames, scene):
    still = scene._replace(kind="still", how=("center",))
    before = render(still, [0], size=SIDE)
    shown = scene.things[0]._replace(shape=scene.how[0])
    after = render(still._replace(things=(shown,)), [0], size=SIDE)
    is_before, is_after = ((frames == other).all((1, 2, 3)) for other in (before, after))
    return is_before[0] and is_after[-1] and (is_before != is_after).all()


def shows_appear(frames, scene):
    first, second = (thing(frames, scene, number).any((1, 2)) for number in (0, 1))
    there = second if scene.kind == "appear" else second[::-1]
    return first.all() and not there[0] and there[-1] and np.count_nonzero(np.diff(there)) == 1


def shows_pair(frames, scene):
    """Judged by first and last frame: one may hide a part of the other."""
    paths = (centers(thing(frames[[0, -1]], scene, number)) for number in (0, 1))
    moves = [path[1] - path[0] for path in paths]
    return all(move @ WAYS[way] > 0.2 for move, way in zip(moves, scene.how, strict=True))


def shows_pan(frames, scene):
    """What the camera sees goes the other way."""
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[scene.how[0]]
    return goes(centers(thing(frames, scene)), opposite, 0.3)


def shows_enter(frames, scene):
    frames = frames if scene.kind == "enter" else frames[::-1]
    mask = thing(frames, scene)
    seen = mask.any((1, 2))
    path = centers(mask)[seen]
    at_first = (path[0] - 0.5) @ WAYS[scene.how[0]]
    return not seen[0] and at_first > 0.25 and np.abs(path[-1] - 0.5).max() < 0.1


def shows_light(frames, scene):
    levels = frames.astype(float).mean((1, 2, 3))
    levels = levels if scene.how[0] == "bright" else levels[::-1]
    return levels[-1] > 2 * levels[0] and np.all(np.diff(levels) > 0)


SHOWS = {
    **{name.removeprefix("shows_"): what for name, what in globals().items() if "shows_" in name},
    "vanish": shows_appear,
    "leave": shows_enter,
}


def test_every_variant_of_every_event_is_drawn():
    assert {kind for kind, _ in VARIANTS} == set(synthetic.KINDS) == set(SHOWS)
    counts = collections.Counter(kind for kind, _ in VARIANTS)
    four = dict.fromkeys(("relation", "move", "pan", "enter", "leave"), 4)
    two = dict.fromkeys(("circle", "bounce", "size", "light"), 2)
    one = dict.fromkeys(("blink", "appear", "vanish", "recolor", "morph"), 1)
    assert counts == {**four, **two, **one, "still": 5, "move2": 12, "pair": 16}


@pytest.mark.parametrize(
    ("kind", "how"),
    sorted(VARIANTS),
    ids=lambda part: part if isinstance(part, str) else "-".join(part),
)
def test_what_a_scene_says_is_what_its_pixels_show(kind, how):
    """And no other variant of the event: the check fails on the others' pixels."""
    scenes = VARIANTS[kind, how][:EACH]
    assert len(scenes) == EACH
    for scene in scenes:
        frames = render(scene, range(FRAMES), size=SIDE)
        assert SHOWS[kind](frames, scene), scene
    for other_kind, other in VARIANTS:
        if other_kind == kind and other != how:
            assert not SHOWS[kind](frames, scene._replace(how=other)), (scene, other)


def test_what_the_camera_sees_moves_as_a_whole():
    """The background goes with the thing: some shift makes rows at the edge equal."""
    for way in WAYS:
        scene = VARIANTS["pan", (way,)][0]._replace(texture="noisy")
        first, last = render(scene, [0, FRAMES - 1], size=SIDE).astype(int)
        x, y = WAYS[way]
        if y:
            first, last = first.swapaxes(0, 1), last.swapaxes(0, 1)
        first, last = first[:8], last[:8]  # above the thing
        errors = {
            shift: np.abs(
                first[:, max(shift, 0) : SIDE + min(shift, 0)]
                - last[:, max(-shift, 0) : SIDE + min(-shift, 0)]
            ).mean()
            for shift in range(-SIDE // 2, SIDE // 2 + 1)
        }
        # The camera goes by 0.4 of the picture: what was at x + 0.4 is at x in the end.
        best = min(errors, key=errors.get)
        assert best == pytest.approx((x + y) * 0.4 * SIDE, abs=1), way


@pytest.mark.parametrize("kind", TEMPORAL)
@pytest.mark.parametrize("side", [SIDE, 33])
def test_a_reversal_is_exact(kind, side):
    for scene in of_kind(kind, 6):
        other = synthetic.reverse(scene)
        frames = render(scene, range(FRAMES), size=side)
        np.testing.assert_array_equal(render(other, range(FRAMES), size=side), frames[::-1])
        assert synthetic.reverse(other) == scene
        if synthetic.is_temporal(scene):
            assert not np.array_equal(frames, frames[::-1])
            assert synthetic.meaning(other) != synthetic.meaning(scene)


@pytest.mark.parametrize("kind", sorted(set(synthetic.KINDS) - set(TEMPORAL)))
def test_some_events_have_no_reversal(kind):
    scene = of_kind(kind, 1)[0]
    assert not synthetic.is_temporal(scene)
    with pytest.raises(ValueError, match=f"kind {kind} has no reversal"):
        synthetic.reverse(scene)


def test_frames_do_not_depend_on_those_asked_for_with_them():
    for scene in (of_kind(kind, 1)[0] for kind in synthetic.KINDS):
        frames = render(scene, range(FRAMES), size=SIDE)
        assert frames.shape == (FRAMES, SIDE, SIDE, 3)
        assert frames.dtype == np.uint8
        np.testing.assert_array_equal(render(scene, [31, 4, 4], size=SIDE), frames[[31, 4, 4]])
    for wrong in (-1, FRAMES):
        with pytest.raises(ValueError, match=f"frame {wrong}"):
            render(scene, [wrong], size=SIDE)


def test_no_two_shapes_look_alike():
    plain = VARIANTS["still", ("center",)][0]
    masks = []
    for shape in SHAPES:
        shown = plain._replace(things=(plain.things[0]._replace(shape=shape, size="big"),))
        masks.append(~background(render(shown, [0], size=SIDE), shown)[0])
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert np.count_nonzero(mask != other) > 0.1 * mask.sum()


def test_colors_are_told_apart():
    """Any two that are seen side by side or one after the other: also in the darkest frame."""

    def gap(a, b):
        return float(np.linalg.norm(np.subtract(a, b)))

    for scene in SCENES:
        colors = [COLORS[shown.color] for shown in scene.things]
        colors += [COLORS[scene.how[0]]] if scene.kind == "recolor" else []
        colors.append(TINTS[scene.tint])
        assert all(gap(a, b) > 75 for at, a in enumerate(colors) for b in colors[:at]), scene


# The grammar once more, the other way round: from a full caption to the meaning.
SAME = {
    **dict.fromkeys(("disc", "ball"), "circle"),
    **{"box": "square", "plus sign": "cross", "hoop": "ring", "rhombus": "diamond"},
    **{"tiny": "small", "little": "small", "large": "big", "violet": "purple", "grey": "gray"},
    **{"anticlockwise": "counterclockwise", "middle": "center"},
}
THING = r"an? (\w+ \w+ \w+)"
MOVES, WAY = r"(?:moves|slides|drifts|travels)", r"(?:to the )?(left|right|up|down)"
TURNS, SIDES = r"(?:turns|changes)", r"the (left|right|top|bottom)"
SENTENCES = {
    "still": rf"{THING} (?:stays|rests|is) (?:on|at|in) the (left|right|top|bottom|center)"
    r"(?: side)?",
    "relation": rf"{THING} is (?:to the )?(left|right|above|below|over|under)(?: of)? {THING}",
    "move": rf"{THING} {MOVES} {WAY}",
    "move2": rf"{THING} {MOVES} (left|right|up|down) and then (left|right|up|down)",
    "circle": rf"{THING} (?:circles|goes around) (clockwise|counterclockwise)",
    "bounce": rf"{THING} bounces (from side to side|left and right|up and down)",
    "size": rf"{THING} (grows|gets bigger|shrinks|gets smaller)",
    "blink": rf"{THING} (?:blinks|flashes)",
    "recolor": rf"{THING} {TURNS} (?:to|into) (\w+)",
    "morph": rf"{THING} {TURNS} into an? (\w+)",
    "appear": rf"{THING} (?:appears|shows up) (?:next to|beside) {THING}",
    "vanish": rf"{THING} (?:vanishes|disappears) (?:next to|beside) {THING}",
    "pair": rf"{THING} {MOVES} {WAY} while {THING} {MOVES} {WAY}",
    "pan": rf"the camera (?:pans|turns) {WAY} over {THING}",
    "enter": rf"{THING} (?:enters|comes in) from {SIDES}",
    "leave": rf"{THING} (?:leaves|goes out) (?:to|at) {SIDES}",
    "light": rf"(?:the light goes|it gets) (up|down|bright|dark) around {THING}",
}
HOW = {
    "relation": {"over": "above", "under": "below"},
    "bounce": {"from side to side": "horizontal", "left and right": "horizontal"}
    | {"up and down": "vertical"},
    "size": {"grows": "grow", "gets bigger": "grow", "shrinks": "shrink", "gets smaller": "shrink"},
    "enter": {"top": "up", "bottom": "down"},
    "leave": {"top": "up", "bottom": "down"},
    "light": {"up": "bright", "down": "dark"},
}


def understood(caption):
    """The meanings that a full caption has."""
    text = re.sub(rf"\b(?:{'|'.join(SAME)})\b", lambda match: SAME[match[0]], caption)
    found = set()
    for kind, sentence in SENTENCES.items():
        if not (match := re.fullmatch(rf"{sentence} on an? (\w+) (\w+) background", text)):
            continue
        *parts, texture, tint = match.groups()
        things = [part for part in parts if part.count(" ") == 2 and part[:2] in ("sm", "bi")]
        how = [HOW.get(kind, {}).get(part, part) for part in parts if part not in things]
        ordered = things[::-1] if kind in ("appear", "vanish") else things
        named = ", ".join(" ".join((name.split()[2], *name.split()[1::-1])) for name in ordered)
        found.add(f"{kind} {' '.join(how)} | {named} | {texture} {tint}")
    return found


def test_a_full_caption_says_all_that_it_means_and_nothing_else():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        caption = synthetic.caption(scene, rng)
        assert understood(caption) == {synthetic.meaning(scene)}, caption


def test_articles_are_right():
    rng = np.random.default_rng(1)
    captions = [synthetic.caption(scene, rng, short=n % 2 == 0) for n, scene in enumerate(SCENES)]
    text = "\n".join(captions)
    assert re.search(r"\ban [aeiou]", text)
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
    assert re.fullmatch(r"[a-z \n]+", text)
    assert "  " not in text


def test_a_short_caption_leaves_out_half_of_the_words_that_tell_more():
    rng = np.random.default_rng(2)
    scenes = [scene for scene in SCENES if scene.kind == "move"]
    captions = [synthetic.caption(scene, rng, short=True) for scene in scenes]
    for word in (r"small|tiny|little|big|large", "|".join((*COLORS, "violet")), "background"):
        share = np.mean([bool(re.search(rf"\b({word})\b", caption)) for caption in captions])
        assert share == pytest.approx(0.5, abs=5 * (0.25 / len(scenes)) ** 0.5)
    assert all(scene.how[0] in caption for scene, caption in zip(scenes, captions, strict=True))


def test_parts_are_disjoint_and_of_the_promised_size():
    parts = collections.Counter(synthetic.split_of(scene) for scene in SCENES)
    for part, share in (("train", 0.85), ("val", 0.05), ("test", 0.1)):
        # Five standard deviations of 5000 draws.
        assert parts[part] / len(SCENES) == pytest.approx(share, abs=5 * (share / 5000) ** 0.5)
    homes = collections.defaultdict(set)
    for scene in SCENES:
        homes[synthetic.meaning(scene)].add(synthetic.split_of(scene))
        if synthetic.is_temporal(scene):
            assert synthetic.split_of(synthetic.reverse(scene)) == synthetic.split_of(scene)
    assert {len(parts) for parts in homes.values()} == {1}
    for part in synthetic.SPLITS:
        assert {synthetic.split_of(nth(part, index)[0]) for index in range(50)} == {part}


def test_kinds_are_equally_likely():
    counts = collections.Counter(scene.kind for scene in SCENES)
    for kind in synthetic.KINDS:
        assert counts[kind] == pytest.approx(5000 / 17, abs=5 * (5000 / 17) ** 0.5)


def test_scenes_are_the_same_on_every_machine():
    """A change here makes the shipped model's gallery, and its numbers, another one."""
    scene, rng = nth("test", 0)
    assert isinstance(scene, Scene)
    assert synthetic.meaning(scene) == (
        "appear  | triangle orange big, ring purple small | plain navy"
    )
    assert synthetic.caption(scene, rng) == (
        "a small violet hoop appears beside a big orange triangle on a plain navy background"
    )
    assert nth("test", 0, seed=1)[0] != scene
    lines = []
    for part in synthetic.SPLITS:
        for index in range(200):
            scene, rng = nth(part, index)
            lines.append(synthetic.caption(scene, rng, short=index % 2 == 1))
            lines.append(" ".join(f"{number:.6f}" for number in scene.jitter))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "dab3fb2836755bf1d8eeb72ac5affc99862d973c8747c3bd302360a1183a431d"


def test_pictures_are_the_same_on_every_machine():
    """Their mean colors: another Pillow may draw an edge otherwise, but no shape elsewhere."""
    found = [
        render(nth("test", index)[0], [0, FRAMES - 1], size=SIDE).mean((1, 2)).tolist()
        for index in range(6)
    ]
    np.testing.assert_allclose(found, MEANS, atol=0.5)
    again = [render(nth("test", index)[0], [9], size=SIDE) for index in (3, 3)]
    np.testing.assert_array_equal(*again)


MEANS = [
    [[40.1, 42.2, 85.9], [43.1, 42.9, 88.5]],
    [[109.3, 110.5, 41.2], [107.7, 113.6, 47.2]],
    [[58.1, 50.6, 92.0], [42.7, 43.4, 85.2]],
    [[113.6, 113.1, 40.2], [128.0, 116.1, 38.9]],
    [[116.9, 111.2, 39.0], [116.3, 110.7, 38.5]],
    [[45.8, 116.5, 115.9], [44.8, 113.2, 118.6]],
]


def test_the_same_event_in_other_words_goes_with_it():
    """A is left of B where B is right of A: what is tested was not trained in other words."""
    told = 0
    for index in range(300):
        scene = sample(np.random.default_rng(index))
        things, how = scene.things[::-1], scene.how
        if scene.kind == "pair":
            other = scene._replace(things=things, how=how[::-1])
        elif scene.kind == "relation":
            opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
            other = scene._replace(things=things, how=(opposite[how[0]],))
        else:
            assert synthetic.wordings(scene) == {synthetic.meaning(scene)}
            continue
        told += 1
        assert synthetic.wordings(scene) == synthetic.wordings(other)
        assert len(synthetic.wordings(scene)) == 2
        assert synthetic.split_of(scene) == synthetic.split_of(other)
    assert told > 20
