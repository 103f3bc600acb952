"""ttvr-train --features: a head learns from folders of features."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ttvr.commands._train_select import require_said
from ttvr.errors import UsageError
from ttvr.recipes import Recipe
from ttvr.wording import counted, first_of

if TYPE_CHECKING:
    from ttvr.train import StoredData

_OWN = ("text_features", "val_features", "val_text_features", "missing")
_OF_CLIPS = ("root", "limit", "val_split", "eval_limit", "jobs", "cache", "compile")
_SKIP = "skip"

log = logging.getLogger(__name__)


def add(group: argparse._ArgumentGroup) -> None:
    """Add the flags that go with --features."""
    for flag, metavar, what in (
        ("text-features", "TFEATS", "captions to learn, with their gt.tsv"),
        ("val-features", "FEATS", "videos to validate on; needed unless --select last"),
        ("val-text-features", "TFEATS", "captions to validate on, with their gt.tsv"),
    ):
        group.add_argument(f"--{flag}", metavar=metavar, help=what)
    group.add_argument(
        "--missing",
        choices=("error", _SKIP),
        help="captions whose video has no features: refuse (default), or leave out (exit 3)",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UsageError: which, and what they go with.
    """
    unfit = _OF_CLIPS if args.features else _OWN
    given = ["--" + name.replace("_", "-") for name in unfit if getattr(args, name) is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)}: only with --{'data' if args.features else 'features'}"
        )
    if not args.features:
        return
    if args.text_features is None:
        raise UsageError("--features goes with --text-features: the captions to learn")
    if (args.val_features is None) != (args.val_text_features is None):
        raise UsageError("--val-features and --val-text-features go together")
    if args.val_features is None and args.select == "best" and not args.show_config:
        raise UsageError(
            "nothing to choose the best model by: pass --val-features and --val-text-features, or "
            "--select last"
        )


def frozen(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, after what training from features has by default."""
    return {"clip_lr": 0.0, **given}


def settle(recipe: Recipe, given: Mapping[str, Any], args: argparse.Namespace) -> Recipe:
    """A recipe with what the features were made with.

    Args:
        recipe: made of a recipe by name and of the settings given.
        given: the settings given.
        args: of the command.

    Raises:
        UsageError: a setting is given that the features tell.
        TtvrError: there are no features.
    """
    from ttvr import train
    from ttvr.store import Features

    features = Features.open(args.features)
    if told := [name for name in train.SETTINGS if name in given]:
        raise UsageError(f"{', '.join(told)}: {args.features} tells what it was made with")
    model, pixels = features.meta["model"], features.meta.get("preprocess", {})
    made = {name: pixels[name] for name in train.SETTINGS if name in pixels}
    args.activation = args.activation or model["activation"]
    return replace(
        recipe,
        **made,
        reduce=tuple(model["reduce"]),
        weights=given.get("weights", model["source"]),
        train_frames=None,
    )


def load(args: argparse.Namespace) -> tuple[StoredData, int]:
    """The folders, and a number of jobs that nothing needs."""
    from ttvr import train

    missing = args.missing or "error"
    learned = train.Stored.open(args.features, args.text_features, missing=missing)
    ranked = None
    if args.val_features is not None:
        ranked = train.Stored.open(args.val_features, args.val_text_features, missing=missing)
        require_said(args, (ranked.videos.meta.get("data") or {}).get("split"))
    return train.StoredData(learned, ranked), 1


def tell_absent(data: StoredData) -> int:
    """List the videos that have no features; how many there are."""
    parts = [part for part in data if part is not None]
    for part in filter(lambda part: part.absent, parts):
        named = first_of([f"{video} ({reason})" for video, reason in part.absent.items()])
        count = counted(len(part.absent), "video")
        log.warning("%s: no features of %s, left out: %s", part.videos.path, count, named)
        for video, reason in part.absent.items():
            log.debug("%s: %s: %s", part.videos.path, video, reason)
    return sum(len(part.absent) for part in parts)
