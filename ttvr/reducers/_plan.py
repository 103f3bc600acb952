"""Which reducer acts in which block: read from `--reduce NAME@BLOCK:S,K,option=value`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ttvr import plugins
from ttvr.errors import UsageError
from ttvr.wording import meant

if TYPE_CHECKING:
    from ttvr.reducers._base import TokenReducer

GRAMMAR = "NAME[@BLOCK[:S[,K]]][,option=value]"
NONE = "none"

_MOST_DIGITS = 6
_SIZES = ("width", "segments", "centers")


class Stage(NamedTuple):
    """One `--reduce`, as it is written.

    Attributes:
        name: of the plug-in.
        block: a, the number of blocks that have run before; None: the plug-in's own choice.
        segments: S, or None.
        centers: K, or None.
        options: of the plug-in, sorted by name.
    """

    name: str
    block: int | None
    segments: int | None
    centers: int | None
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        block = "" if self.block is None else f"@{self.block}"
        segments = "" if self.segments is None else f":{self.segments}"
        centers = "" if self.centers is None else f",{self.centers}"
        options = (f",{name}={_written(value)}" for name, value in self.options)
        return "".join((self.name, block, segments, centers, *options))


class Left(NamedTuple):
    """What a plan leaves of a video.

    Attributes:
        frames: T'.
        patches: P' of each.
        has_hidden: some of them fill up where frames are padded, and attention does not see them.
    """

    frames: int
    patches: int
    has_hidden: bool


@dataclass(frozen=True)
class Plan:
    """What acts in a model's visual tower.

    Attributes:
        stages: index of the block -> what was asked for, without options that are the default;
            ascending, and one may be in several.
        reducers: index of the block -> the reducer, likewise.
        patches: P of a frame.
    """

    stages: dict[int, Stage]
    reducers: dict[int, TokenReducer]
    patches: int

    @property
    def canonical(self) -> list[str]:
        """The plan as texts that `parse` takes, in one spelling and order."""
        return list(dict.fromkeys(str(stage) for stage in self.stages.values()))

    @property
    def segments(self) -> int | None:
        """T' that is left of any T, or None where frames stay as they are."""
        counts = [stage.segments for stage in self.stages.values() if stage.segments is not None]
        return counts[-1] if counts else None

    def left_of(self, frames: int) -> Left:
        """What is left of T frames.

        Raises:
            UsageError: the plan cannot act on so many; the message has the numbers.
        """
        T, P, is_grid, has_hidden = frames, self.patches, True, False
        for block, reducer in self.reducers.items():
            try:
                if reducer.needs_grid and not is_grid:
                    raise UsageError("the tokens lie on no grid after a reducer chose some")
                if has_hidden:
                    raise UsageError("the stage before keeps tokens that may be hidden (mask=true)")
                before, (T, P) = P, reducer.shape_after(T, P)
            except UsageError as error:
                raise UsageError(f"{self.stages[block]}: {error}") from error
            is_grid = is_grid and not reducer.needs_centers
            has_hidden = reducer.is_masked and before < P
        return Left(T, P, has_hidden)


def parse(texts: Iterable[str]) -> tuple[Stage, ...]:
    """What texts of `--reduce` say, as far as that can be told without the model, or torch.

    Args:
        texts: each one reducer, in any order; "none" alone is no reduction.

    Raises:
        UsageError: a text is not of that form, or names no reducer, or "none" is not alone.
    """
    texts = tuple(texts)
    if NONE in texts:
        if len(texts) > 1:
            raise UsageError(f"{NONE!r} is no reduction, and stands alone: {' '.join(texts)}")
        return ()
    return tuple(_stage(text) for text in texts)


def build(
    stages: Sequence[Stage], *, layers: int, width: int, patches: int, frames: Iterable[int]
) -> Plan:
    """The reducers of a plan, checked against the sizes of a model.

    Args:
        stages: as `parse` gives them.
        layers: blocks of the visual tower.
        width: D of its residual stream.
        patches: P of a frame.
        frames: every T that the model is to work with.

    Raises:
        UsageError: the plan cannot act in this model; the message has the numbers.
    """
    made: dict[int, Stage] = {}
    reducers: dict[int, TokenReducer] = {}
    for stage in stages:
        try:
            reducer, blocks = _reducer(stage, layers, width)
        except UsageError as error:
            raise UsageError(f"{stage}: {error}") from error
        for block in blocks:
            if block in made:
                raise UsageError(
                    f"{stage} and {made[block]} act both in block {block}, where there is room for "
                    "one; say @BLOCK"
                )
            made[block], reducers[block] = _canonical(stage, type(reducer)), reducer
    made, reducers = _shortest(made, reducers, layers), dict(sorted(reducers.items()))
    plan = Plan(made, reducers, patches)
    for T in frames:
        plan.left_of(T)
    return plan


def _stage(text: str) -> Stage:
    place, *rest = text.split(",")
    name, at, where = place.partition("@")
    if name not in (choices := plugins.names("reducers")):
        have = ", ".join(choices) + meant(name, choices)
        raise UsageError(f"{text!r}: no reducer {name!r}; there are: {have}")
    block, colon, segments = where.partition(":")
    centers = rest.pop(0) if colon and rest and "=" not in rest[0] else None
    numbers = [
        _whole(text, what, number, least)
        for what, number, least in (
            ("BLOCK", block if at else None, 0),
            ("S", segments if colon else None, 1),
            ("K", centers, 1),
        )
    ]
    options: dict[str, Any] = {}
    for part in rest:
        option, equals, value = part.partition("=")
        if not equals or not option or option in options:
            what = "is given twice" if option in options else "is no option=value"
            raise UsageError(f"{text!r}: {part!r} {what}; expected {GRAMMAR}")
        options[option] = _plain(value)
    return Stage(name, *numbers, tuple(sorted(options.items())))


def _whole(text: str, what: str, number: str | None, least: int) -> int | None:
    if number is None:
        return None
    is_whole = number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS
    if not is_whole or int(number) < least:
        raise UsageError(
            f"{text!r}: {what} is a whole number of at least {least}, got {number!r}; "
            f"expected {GRAMMAR}"
        )
    return int(number)


def _plain(text: str) -> int | float | bool | str | None:
    """A number or a truth value where the text is one, as in JSON, else the text."""
    try:
        value = json.loads({"none": "null"}.get(text, text))
    except ValueError:
        return text
    return text if isinstance(value, list | dict | str) else value


def _written(value: Any) -> str:
    """The opposite of `_plain`."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _reducer(stage: Stage, layers: int, width: int) -> tuple[TokenReducer, Iterable[int]]:
    """A stage's reducer, and the blocks it acts in."""
    plugin = plugins.load("reducers", stage.name)
    if stage.block is not None and stage.block >= layers:
        raise UsageError(f"BLOCK is 0 to {layers - 1}, for the model has {layers} blocks")
    sizes: dict[str, Any] = {"width": width}
    if plugin.is_staged:
        if stage.segments is None or (plugin.needs_centers and stage.centers is None):
            form = "@BLOCK:S,K" if plugin.needs_centers else "@BLOCK:S"
            raise UsageError(f"expected {stage.name}{form}")
        sizes.update(segments=stage.segments, centers=stage.centers)
    elif stage.segments is not None:
        raise UsageError(f"{stage.name} merges no frames: leave out what follows the block")
    if taken := sorted({name for name, _ in stage.options} & set(_SIZES)):
        raise UsageError(f"{taken[0]} is no option; expected {GRAMMAR}")
    blocks = plugin.blocks(layers) if stage.block is None else [stage.block]
    return plugins.construct(plugin, dict(stage.options), **sizes), blocks


def _shortest(
    made: dict[int, Stage], reducers: dict[int, TokenReducer], layers: int
) -> dict[int, Stage]:
    """Stages by ascending block, the block said unless all are there that the plug-in chooses."""
    made = {block: made[block]._replace(block=block) for block in sorted(made)}
    acting: dict[Stage, list[int]] = {}
    for block, stage in made.items():
        if stage.segments is None:
            acting.setdefault(stage._replace(block=None), []).append(block)
    for stage, blocks in acting.items():
        if blocks == list(reducers[blocks[0]].blocks(layers)):
            made.update(dict.fromkeys(blocks, stage))
    return made


def _canonical(stage: Stage, plugin: type[TokenReducer]) -> Stage:
    """Without what is said though it is the default, or ignored."""
    parameters = inspect.signature(plugin).parameters
    options = tuple(
        (name, value)
        for name, value in plugins.typed(plugin, dict(stage.options)).items()
        if value != parameters[name].default
    )
    centers = stage.centers if plugin.needs_centers else None
    return stage._replace(centers=centers, options=options)
