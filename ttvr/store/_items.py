"""The journal lines of the rows, parsed one by one when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from ttvr.store import _journal
from ttvr.store._files import IDS, damaged
from ttvr.wording import counted

# Quotes inside a JSON string are escaped, so no name of a file can look like this.
_FAILED = b'"status":"failed"'


class Items(Sequence[dict[str, Any]]):
    """What the journal says of each row, in row order, with the absolute path as "file".

    A ranking asks for a handful of rows: parsing a journal of a million lines would take longer
    than the ranking.

    Args:
        path: the journal.
        roots: absolute input roots.
        ids: of the rows.

    Raises:
        TtvrError: the journal has not as many rows; on access, a line is damaged or is about
            something else.
    """

    def __init__(self, path: Path, *, roots: Sequence[str], ids: Sequence[str]) -> None:
        self._path, self._roots, self._ids = path, roots, ids
        content = path.read_bytes() if path.exists() else b""  # a text folder has no journal
        whole = content.split(b"\n")[:-1]
        self._lines = [line for line in whole if _FAILED not in line]
        if len(self._lines) != len(ids):
            raise damaged(path, f"has {counted(len(self._lines), 'row')}, {IDS} has {len(ids)}")

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, row: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, row: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        entry = _journal.parse(self._lines[row])
        if entry is None or entry["id"] != self._ids[row]:
            raise damaged(self._path, f"the line of row {row} is not about {self._ids[row]!r}")
        return _journal.located(entry, self._roots)
