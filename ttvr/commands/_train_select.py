"""What chooses the model that `ttvr-train` keeps; where the test split does, it is said."""

from __future__ import annotations

import argparse
import logging

from ttvr.errors import UsageError
from ttvr.recipes import ENTRIES

TEST = "test"

log = logging.getLogger(__name__)


def add(group: argparse._ArgumentGroup) -> None:
    """Add `--select`."""
    group.add_argument(
        "--select",
        choices=("best", "last", TEST),
        default="best",
        help="the model that best.pt is: the best one of all validations, that of the last step, "
        "or the best one on the test split, as by --val-split test, which every result then says",
    )


def settle(args: argparse.Namespace) -> None:
    """Make `select` best or last, and `chosen_on` what results call the split it looks at.

    Raises:
        UsageError: `--select test` with another `--val-split`.
    """
    if args.select == TEST:
        if args.val_split not in (None, TEST):
            raise UsageError(f"--select test goes with --val-split test, not {args.val_split}")
        args.select, args.chosen_on = "best", TEST
        # Features are of the split that they are of: --val-features says which.
        args.val_split = None if args.features else TEST
    else:
        args.chosen_on = args.val_split or "val"


def warn(args: argparse.Namespace) -> None:
    """Say on stderr that a split chooses which papers test on, where it does."""
    if args.select == "best" and (args.chosen_on == TEST or _is_tested_on(args)):
        text = "best.pt is chosen on %s, so its measures there are too good; results say so"
        log.warning(text, args.chosen_on)


def _is_tested_on(args: argparse.Namespace) -> bool:
    """Whether the split has another name than `TEST`, as val1 of ActivityNet."""
    if not args.data:
        return False
    from ttvr import datasets

    name = datasets.load(args.data).name
    return any((name, args.chosen_on) == (entry.data, entry.split) for entry in ENTRIES.values())


def require_said(args: argparse.Namespace, split: str | None) -> None:
    """Refuse features of a test split that nobody said may choose.

    Args:
        args: settled.
        split: that the features to validate on are of, where their folder tells.

    Raises:
        UsageError: what to say.
    """
    if split == TEST and args.select == "best" and args.chosen_on != TEST:
        raise UsageError(
            f"{args.val_features} holds features of the test split: to choose best.pt by it pass "
            "--select test, which results then say, else --select last, or features of another"
        )
