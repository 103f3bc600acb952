"""The settings that `ttvr-train` is asked for."""

from __future__ import annotations

import argparse

from ttvr.commands import _options, _recipes
from ttvr.commands import _train_features as of_features
from ttvr.errors import UsageError
from ttvr.recipes import Recipe, from_settings, named, parse

_SETTINGS = (
    "weights",
    "head",
    "reduce",
    "batch_size",
    "accumulate",
    "frames",
    "precision",
    "seed",
    "epochs",
    "lr",
)
"""Flags that stand for settings of the recipe."""


def add(group: argparse._ArgumentGroup) -> None:
    """Add `--recipe`, and the flags that change what it says."""
    group.add_argument(
        "--recipe",
        type=_recipes.recipe_name,
        metavar="NAME",
        help="settings by name, as --list-recipes shows them; else the defaults",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the recipe, repeatable; --show-config lists all",
    )
    _options.add(
        group,
        *("weights", "head", "reduce", "batch-size", "precision", "seed"),
        weights="where training starts: a checkpoint, a name that `ttvr-weights list` shows, or "
        "scratch:SIZES, as in scratch:ttvr-tiny",
        head="similarity head; it starts with the weights that a checkpoint has for it; options go "
        "by --set head_options=NAME=VALUE,...",
        reduce="token reducer, as of `ttvr-extract`, here of the model that learns; repeatable",
        batch_size="captions per step",
        precision="autocast of the model in training",
    )
    group.add_argument(
        "--accumulate",
        type=_options.positive,
        metavar="N",
        help="parts that a process's captions of a step go through CLIP in: less memory, more "
        "time, the same gradient",
    )
    group.add_argument(
        "--frames",
        type=_options.positive,
        metavar="N",
        help="taken of a video; in training train_frames, if set",
    )
    group.add_argument("--epochs", type=_options.positive, metavar="N", help="passes over the data")
    group.add_argument("--lr", type=float, metavar="X", help="peak learning rate of what is new")


def asked(args: argparse.Namespace) -> Recipe:
    """The settings of `--recipe`, or the defaults, with what flags and `--set` change.

    Raises:
        UsageError: a setting is given twice, unknown, or out of range.
    """
    flags = [(name, getattr(args, name)) for name in _SETTINGS]
    pairs = [*map(parse, args.set), *(pair for pair in flags if pair[1] is not None)]
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{twice} is given twice; say it once, by its flag or by --set")
    base = named(args.recipe).recipe if args.recipe else None
    if args.features:
        return of_features.settle(from_settings(of_features.frozen(given), base), given, args)
    return from_settings(given, base)
