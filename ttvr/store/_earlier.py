"""Rows that earlier runs left in a folder and that were set aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr.errors import IncompatibleError
from ttvr.store import _claim, _journal
from ttvr.store._files import ITEMS, read_meta
from ttvr.store._journal import FAILED, Source
from ttvr.store._shards import is_whole, stored_array

_OF_SOURCE = (*Source._fields, "shard", "row")


class Outcome(NamedTuple):
    """What became of an input.

    Attributes:
        facts: status, and what the journal says beside it: duration, frames, rotation, error, ...
        row: the row of every array by name; None for a failed input.
    """

    facts: dict[str, Any]
    row: dict[str, np.ndarray] | None


def known(folder: Path) -> dict[Source, str]:
    """The status of every input that a folder's runs have attempted; empty where there is none."""
    statuses = {}
    for place in (*_claim.earlier(folder), folder):
        lines = _journal.read(place / ITEMS)
        roots = read_meta(place)["roots"] if lines else []
        statuses |= {Source.of(line.entry, roots): line.entry["status"] for line in lines}
    return statuses


def departed(folder: Path, sources: Iterable[Source]) -> list[Source]:
    """What has a row in a folder and is no longer among its inputs: a run drops these rows.

    A changed or renamed input is still one of them as long as its file is.

    Raises:
        IncompatibleError: that is all there is, so the inputs belong to another folder.
    """
    files = {_file(source) for source in sources}
    rows = [source for source, status in known(folder).items() if status != FAILED]
    gone = [source for source in rows if _file(source) not in files]
    if rows and len(gone) == len(rows):
        raise IncompatibleError(
            f"{folder} holds {len(rows)} other videos, none of them among these inputs, nothing "
            "was changed; choose another -o, or --overwrite"
        )
    return gone


class Earlier:
    """What earlier runs made, found by the input it was made of.

    Args:
        folder: the feature folder.
        arrays: names of the arrays of a row.
        retry_failed: forget the inputs that failed.
    """

    def __init__(self, folder: Path, arrays: Sequence[str], *, retry_failed: bool) -> None:
        self._arrays = arrays
        self._entries: dict[Source, tuple[Path, dict[str, Any]]] = {}
        self._stored: dict[tuple[Path, str, int], np.ndarray] = {}
        for place in _claim.earlier(folder):
            lines = _journal.read(place / ITEMS)
            roots = read_meta(place)["roots"] if lines else []
            for line in lines:
                if not (retry_failed and line.entry["status"] == FAILED):
                    self._entries[Source.of(line.entry, roots)] = (place, line.entry)

    def get(self, source: Source) -> Outcome | None:
        """What became of this very input, its row read now; None where it has to run."""
        if source not in self._entries:
            return None
        place, entry = self._entries[source]
        facts = {key: value for key, value in entry.items() if key not in _OF_SOURCE}
        if entry["status"] == FAILED:
            return Outcome(facts, None)
        row = {
            name: self._array(place, name, entry["shard"])[entry["row"]] for name in self._arrays
        }
        return Outcome(facts, row) if is_whole(row) else None

    def _array(self, place: Path, name: str, shard: int) -> np.ndarray:
        key = (place, name, shard)
        if key not in self._stored:
            self._stored[key] = stored_array(place, name, shard)
        return self._stored[key]


def _file(source: Source) -> Path:
    return Path(source.root, source.path)
