"""`ttvr-train --seeds N`: one recipe with several seeds, and how far its measures scatter."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttvr.commands import _options, _recipes, _results
from ttvr.commands._protocol import in_words
from ttvr.commands._table import MEASURES, aligned, rows, table
from ttvr.errors import UsageError
from ttvr.recipes import Recipe, settings_of

_WAYS = ("t2v", "v2t", "v2t_sentence")


def add(group: argparse._ArgumentGroup) -> None:
    """Add `--seeds`."""
    group.add_argument(
        "--seeds",
        type=_options.positive,
        default=1,
        metavar="N",
        help="train N times, one after the other, with seeds from --seed on, into OUT/seed0, ...; "
        "then tell mean and standard deviation (of the sample, N - 1)",
    )


def runs(args: argparse.Namespace, recipe: Recipe) -> list[tuple[Path, Recipe]]:
    """The folder and the recipe of each training; a single one has the output for itself."""
    if args.seeds == 1:
        return [(Path(args.out), recipe)]
    seeds = range(recipe.seed, recipe.seed + args.seeds)
    return [(Path(args.out, f"seed{seed}"), replace(recipe, seed=seed)) for seed in seeds]


def check(args: argparse.Namespace, recipe: Recipe) -> None:
    """Refuse what does not go with several seeds, or an output that holds something else.

    Args:
        args: of the command.
        recipe: with the first seed.

    Raises:
        UsageError: which.
    """
    if args.seeds == 1:
        return
    if args.dry_run:
        raise UsageError("--dry-run takes one step of one training: leave --seeds out")
    if recipe.seed + args.seeds - 1 > _options.LARGEST_SEED:
        raise UsageError(
            f"--seeds {args.seeds} from seed {recipe.seed} on goes beyond {_options.LARGEST_SEED}: "
            "pass a smaller --seed"
        )
    out = Path(args.out)
    found = [path.name for path in out.iterdir()] if out.is_dir() else []
    shown = [name for name in found if not name.startswith(".")]
    if "recipe.json" in shown:
        raise UsageError(
            f"{out} holds a run of a single seed, nothing was changed; pass another -o"
        )
    if other := [name for name in shown if not re.fullmatch(r"seed\d+|results\.jsonl", name)]:
        raise UsageError(
            f"{out} holds {sorted(other)[0]}, with --seeds it holds a folder per seed alone, "
            "nothing was changed; pass another -o"
        )


def forget(args: argparse.Namespace) -> None:
    """Remove what several trainings came to, the first of which `--overwrite` has begun anew.

    To be called once its folder is claimed: until then another process may be writing it.
    """
    from ttvr import train

    if args.seeds > 1 and args.overwrite:
        Path(args.out, train.RESULTS).unlink(missing_ok=True)


def require_measures(args: argparse.Namespace, *, has_validation: bool) -> None:
    """Refuse several seeds where nothing is measured.

    Raises:
        UsageError: there is no validation.
    """
    if args.seeds > 1 and not has_validation:
        raise UsageError("--seeds: nothing is measured without a split or features to validate on")


def summed_up(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation (N - 1) of results.

    Args:
        found: two or more, each as `metrics.summary`, with "protocol".

    Returns:
        "mean" and "sd": each the measures of every direction and SumR; "runs": `found`.
    """
    return {
        "mean": _over(found, statistics.fmean),
        "sd": _over(found, statistics.stdev),
        "runs": list(found),
    }


def in_rows(facts: dict[str, Any], beside: Sequence[str] = ()) -> str:
    """A table: the rows of the means, of the standard deviations, and what is put `beside`."""
    kinds = ("mean", "sd")
    measured = [line for kind in kinds for line in rows(facts[kind], _labels(kind))]
    return aligned([*measured, *beside])


def tell(args: argparse.Namespace, found: list[dict[str, Any]], recipe: Recipe) -> None:
    """Print what the trainings came to; of several the output keeps it.

    Args:
        args: of the command.
        found: of each training, as `metrics.summary`, with "protocol"; of a single one that was
            not validated with that alone.
        recipe: with the first seed.
    """
    if args.seeds > 1:
        _several(args, found, recipe)
    else:
        _one(args, found[0])


def _several(args: argparse.Namespace, found: list[dict[str, Any]], recipe: Recipe) -> None:
    """Print what several seeds came to, and keep it."""
    from ttvr import train

    facts, kept = summed_up(found), Path(args.out, train.RESULTS)
    # What is known of others is told, not kept, as of a single run.
    own = [{k: v for k, v in one.items() if k != "published"} for one in found]
    stored = {**facts, "runs": own, "recipe": settings_of(recipe)}
    _results.append_new(kept, "ttvr-train", stored)
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    lines = [f"# {in_words(one['protocol'], one)}\n" for one in found]
    beside, comment = _published(found[0])
    sys.stdout.write(in_rows(facts, beside) + "".join(lines) + comment)


def _one(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Print what one training came to."""
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    is_measured = "SumR" in facts
    line = in_words(facts["protocol"], facts if is_measured else None)
    beside, comment = _published(facts)
    told = table(facts, line, published=beside) if is_measured else f"# {line}\n"
    sys.stdout.write(told + comment)


def _published(facts: dict[str, Any]) -> tuple[list[str], str]:
    """Rows and a comment of the numbers of the recipe, where they can be compared."""
    if "published" not in facts:
        return [], ""
    name, changed = (facts["published"][key] for key in ("recipe", "changed"))
    return _recipes.rows(name), _recipes.comment(name, changed)


def _labels(kind: str) -> dict[str, str]:
    return dict.fromkeys((*_WAYS, "SumR"), kind)


def _over(
    found: Sequence[dict[str, Any]], statistic: Callable[[list[float]], float]
) -> dict[str, Any]:
    made: dict[str, Any] = {
        way: {name: statistic([one[way][name] for one in found]) for name in MEASURES}
        for way in _WAYS
        if way in found[0]
    }
    return {**made, "SumR": statistic([one["SumR"] for one in found])}
