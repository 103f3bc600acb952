"""Annotation files: where they lie, and how they are read; each error names the file."""

from __future__ import annotations

import csv
import fnmatch
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ttvr.errors import IncompatibleError, TtvrError, UsageError, not_utf8

DEPTH = 2
"""Folders below the root that annotations are looked for in: they often come in their own."""


def find(root: Path, *patterns: str, fix: str = "get it from the dataset's authors") -> Path:
    """The file whose name fits the first pattern that any file's name fits.

    Args:
        root: searched with its folders, two deep; what lies higher comes first.
        patterns: names, or as `fnmatch` takes them.
        fix: what to do where there is none.

    Raises:
        TtvrError: there is none; the message says what it is called.
        UsageError: two fit equally well.
    """
    files = list(_files(root))
    for pattern in patterns:
        fit = [(depth, path) for depth, path in files if fnmatch.fnmatchcase(path.name, pattern)]
        highest = [path for depth, path in fit if depth == min(fit)[0]]
        if len(highest) > 1:
            first, second = sorted(map(str, highest))[:2]
            raise UsageError(
                f"{first} and {second}: which is it? leave one of the two below {root}"
            )
        if highest:
            return highest[0]
    raise TtvrError(f"{root}: no {' or '.join(patterns)} in it; {fix}")


def has(root: Path, *patterns: str) -> bool:
    """Whether `find` would find something."""
    return any(
        fnmatch.fnmatchcase(path.name, pattern) for _, path in _files(root) for pattern in patterns
    )


def wrong(path: Path, what: str) -> IncompatibleError:
    """The error for a file that is not as it was published."""
    return IncompatibleError(f"{path}: {what}; get the published file again")


def malformed(path: Path, line: int | None, what: str) -> IncompatibleError:
    """The error for a line of a file that the user writes."""
    return IncompatibleError(f"{path}{'' if line is None else f':{line}'}: {what}; mend the file")


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte order mark or none; `.gz` is unpacked.

    Raises:
        OSError: it cannot be read.
        TtvrError: it is in another encoding, or not what its suffix says.
    """
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise wrong(path, f"damaged gzip ({error})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise not_utf8(f"{path}:{line}", content) from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError, TtvrError: as `read_text`.
        IncompatibleError: it is no JSON.
    """
    return _parsed(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object, such as id -> facts of a video; no key comes twice.

    Raises:
        OSError, TtvrError: as `read_json`.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for at, name in enumerate(names) if name in names[:at])
            raise wrong(path, f"{twice} is there twice")
        return made

    made = _parsed(path, once)
    if not isinstance(made, dict):
        raise wrong(path, "expected one JSON object")
    return made


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, without the blank ones.

    Raises:
        OSError, TtvrError: as `read_text`.
    """
    # Not splitlines: a caption may hold U+2028 and its like.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def ids(path: Path) -> list[str]:
    """A list of ids, one a line.

    Raises:
        OSError, TtvrError: as `read_text`.
        IncompatibleError: one is there twice, or there is none.
    """
    return unique(path, (line.strip() for _, line in lines(path)))


def unique(path: Path, names: Iterable[str]) -> list[str]:
    """Ids in order.

    Raises:
        IncompatibleError: one is there twice, or there is none.
    """
    seen: dict[str, None] = {}
    for name in names:
        if name in seen:
            raise wrong(path, f"{name} is there twice")
        seen[name] = None
    if not seen:
        raise wrong(path, "it lists nothing")
    return list(seen)


def table(path: Path, *columns: str) -> Iterator[tuple[str, ...]]:
    """Of each row of a .csv file with a header the values in these columns.

    Raises:
        OSError, TtvrError: as `read_text`.
        IncompatibleError: a column is missing, or a row is short; names the line.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        head = reader.fieldnames or []
        if absent := [name for name in columns if name not in head]:
            raise wrong(path, f"no column {', '.join(absent)}; it has: {', '.join(head) or 'none'}")
        for row in reader:
            values = tuple(row[name] for name in columns)
            if None in values:
                raise wrong(path, f"line {reader.line_num} is short")
            yield values
    except csv.Error as error:
        raise wrong(path, f"line {reader.line_num}: {error}") from error


def _parsed(path: Path, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:
        raise wrong(path, f"damaged JSON ({error})") from error


def _files(root: Path, depth: int = 0) -> Iterator[tuple[int, Path]]:
    with os.scandir(root) as inside:
        entries = [entry for entry in inside if not entry.name.startswith(".")]
    for entry in entries:
        if not entry.is_dir():
            yield depth, root / entry.name
        elif depth < DEPTH:
            yield from _files(root / entry.name, depth + 1)
