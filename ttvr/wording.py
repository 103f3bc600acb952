"""How messages count and list things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

SHOWN = 5
"""Of a long list, how many a message names."""


def counted(count: int, noun: str) -> str:
    """A number and what it counts: `1 video`, `2 videos`, `0 queries`.

    Args:
        count: how many.
        noun: for one of them; others end in s, or ies.
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{count} {noun}s"


def meant(name: str, names: Iterable[str]) -> str:
    """What follows the list of names that there are: `; did you mean test?`, or nothing."""
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_of(parts: Sequence[str], most: int = SHOWN) -> str:
    """The first of a list, and how many more there are: `a, b and 7 more`."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
