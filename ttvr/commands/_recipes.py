"""Recipes by name on the command line: a list of them, and their numbers beside measured ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ttvr.commands._table import MEASURES
from ttvr.errors import UsageError
from ttvr.recipes import ENTRIES, Recipe, named, settings_of

if TYPE_CHECKING:
    from ttvr.train import AnyData

_UNKNOWN = "no published numbers are known here"
_COLUMNS = ("recipe", "data", "split", "t2v R@1", "SumR", "source")


def recipe_name(text: str) -> str:
    """A recipe by name, for argparse."""
    try:
        named(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def listing(*, as_json: bool) -> str:
    """All recipes with their sources and published numbers, a line each, or a list of JSON."""
    if as_json:
        rows = [facts(name) for name in ENTRIES]
        return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    lines = ["\t".join(_COLUMNS)]
    for name, entry in ENTRIES.items():
        known = entry.published.as_json()
        numbers = (known.get("t2v", {}).get("R@1"), known.get("SumR"))
        lines.append("\t".join((name, entry.data, entry.split, *map(_one, numbers), entry.source)))
    return "\n".join((*lines, f"# -: {_UNKNOWN}; --json has all numbers, and notes", ""))


def facts(name: str) -> dict[str, Any]:
    """What is known of a recipe beside its settings; `published` may be empty."""
    entry = ENTRIES[name]
    told = {"data": entry.data, "split": entry.split, "source": entry.source, "note": entry.note}
    return {"recipe": name, **told, "published": entry.published.as_json()}


def rows(name: str) -> list[str]:
    """The published numbers of a recipe as rows of the table of measures; none known: no rows."""
    made = []
    for part, values in ENTRIES[name].published.as_json().items():
        cells = (
            [_one(values.get(measure)) for measure in MEASURES]
            if isinstance(values, dict)
            else [_one(values)]
        )
        made.append("\t".join((f"{part}_published", *cells)))
    return made


def comment(
    name: str, changed: Sequence[str] = (), *, coverage: Mapping[str, int] | None = None
) -> str:
    """A line that says whose the published numbers are, and what to know of them.

    Args:
        name: of the recipe.
        changed: settings in which the model that was measured differs from it.
        coverage: "found" and "expected" videos of the split that was measured, where known.
    """
    entry = ENTRIES[name]
    parts = [f"published: {name}, {entry.source}" if rows(name) else f"{name}: {_UNKNOWN}"]
    parts += [entry.note] * bool(entry.note)
    parts += [f"measured with other {', '.join(changed)}"] * bool(changed)
    if coverage is not None and coverage["found"] < coverage["expected"]:
        part = f"{coverage['found']} of the split's {coverage['expected']} videos"
        parts.append(f"measured on {part}: not comparable")
    return f"# {'; '.join(parts)}\n"


def beside(
    args: argparse.Namespace, data: AnyData, recipe: Recipe, found: Mapping[str, Any]
) -> dict[str, Any]:
    """What `ttvr-train` found, beside it: "published", where it was measured on the same split.

    Args:
        args: of `ttvr-train`.
        data: it learned from, and was validated on.
        recipe: its settings, which may be others than those of the named recipe.
        found: as `metrics.summary`, with "protocol"; without measures nothing is beside them.

    Returns:
        As `facts`, with "changed", names of settings, and "limit" where a part of the training
        split was learned; empty where nothing is to be compared.
    """
    if not (args.recipe and args.data and "SumR" in found) or args.eval_limit:
        return {}
    entry = named(args.recipe)
    if (data.name, args.val_split or "val") != (entry.data, entry.split):
        return {}
    own = settings_of(entry.recipe)
    changed = [name for name, value in settings_of(recipe).items() if value != own[name]]
    changed += ["limit"] * (args.limit is not None)
    return {"published": {**facts(args.recipe), "changed": changed}}


def _one(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
