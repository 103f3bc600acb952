"""Every hyper-parameter of a system, and the published settings by name."""

from __future__ import annotations

from difflib import get_close_matches

from ttvr.errors import UsageError
from ttvr.recipes import _centerclip, _clip4clip, _cret, _tiny, _xpool
from ttvr.recipes._entry import Entry, Published
from ttvr.recipes._recipe import Options, Recipe, from_settings, parse, settings_of

__all__ = [
    "ENTRIES",
    "RECIPES",
    "Entry",
    "Options",
    "Published",
    "Recipe",
    "from_settings",
    "named",
    "parse",
    "settings_of",
]

ENTRIES: dict[str, Entry] = {
    **_tiny.ENTRIES,
    **_centerclip.ENTRIES,
    **_clip4clip.ENTRIES,
    **_xpool.ENTRIES,
    **_cret.ENTRIES,
}
"""Recipes by name with their sources: SYSTEM-DATA-TOWER, and what else tells rows apart."""

RECIPES: dict[str, Recipe] = {name: entry.recipe for name, entry in ENTRIES.items()}
"""Settings by name: "ttvr-tiny" made the model that ttvr carries."""


def named(name: str) -> Entry:
    """The recipe of that name.

    Raises:
        UsageError: there is none; the message has the nearest names.
    """
    if name not in ENTRIES:
        near = get_close_matches(name, ENTRIES) or ["ttvr-tiny", "tc_mgc-msrvtt9k-b32"]
        raise UsageError(
            f"no recipe {name!r}; ttvr-train --list-recipes shows all, as {', '.join(near)}"
        )
    return ENTRIES[name]
