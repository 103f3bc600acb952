"""The journal `items.jsonl`: one line per attempted input, in input order, append-only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ttvr.store._files import damaged, write_all

FAILED = "failed"
STATUSES = ("ok", "partial", FAILED)


class Source(NamedTuple):
    """An input as the journal knows it: a changed field makes it another input.

    Attributes:
        id: unique within the folder; one line of text.
        root: absolute path of the input root.
        path: of the video, relative to the root, `/` separators.
        size: bytes; of an image folder the sum over its images; None where there is no file.
        mtime_ns: time of the last change; of an image folder the latest of its images.
        start: seconds from the first frame.
        end: likewise; None is the end of the video.
        images: of an image folder a digest of its images' names, sizes and times: sum and latest
            stay the same when some are renamed.
    """

    id: str
    root: str
    path: str
    size: int | None
    mtime_ns: int | None
    start: float = 0.0
    end: float | None = None
    images: str | None = None

    def described(self, roots: Mapping[str, int]) -> dict[str, Any]:
        """The journal's words for it; the root by its number."""
        entry = {
            "id": self.id,
            "root": roots[self.root],
            "path": self.path,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }
        if (self.start, self.end) != (0.0, None):
            entry |= {"start": self.start, "end": self.end}
        return entry if self.images is None else entry | {"images": self.images}

    @classmethod
    def of(cls, entry: Mapping[str, Any], roots: Sequence[str]) -> Source:
        """The input that a journal line is about."""
        fields = {name: entry[name] for name in ("id", "path", "size", "mtime_ns")}
        part = {name: entry[name] for name in ("start", "end", "images") if name in entry}
        return cls(root=roots[entry["root"]], **fields, **part)


class Line(NamedTuple):
    """A journal line and the byte after it."""

    entry: dict[str, Any]
    end: int


def read(path: Path) -> list[Line]:
    """The whole lines of a journal; a torn last line, as a killed run leaves it, is left out.

    Raises:
        TtvrError: a line before the last is not a journal line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines, end = [], 0
    for number, text in enumerate(content.split(b"\n")[:-1], start=1):
        end += len(text) + 1
        entry = parse(text)
        if entry is None:
            if end == len(content):
                break
            raise damaged(path, f"line {number} is not a journal line")
        lines.append(Line(entry, end))
    return lines


def parse(text: bytes) -> dict[str, Any] | None:
    """A journal line; None where it is none."""
    try:
        entry = json.loads(text)
        whole = entry["status"] in STATUSES and {"id", "root", "path"} <= entry.keys()
    except (ValueError, TypeError, KeyError):
        return None
    return entry if whole else None


def located(entry: dict[str, Any], roots: Sequence[str]) -> dict[str, Any]:
    """A journal line with the absolute path of its input as "file".

    Of features that were imported it is that of the video they are of, where that is known.
    """
    return entry | {"file": entry.get("video") or str(Path(roots[entry["root"]], entry["path"]))}


class Journal:
    """A journal open for appending.

    A line is one `write` to a file opened for appending: it survives the death of the process at
    any point, whole or torn. `sync` makes it survive a power cut as well.

    Args:
        path: the file; made where there is none.
        keep: bytes to keep; what follows (a torn line) is cut off.
    """

    def __init__(self, path: Path, *, keep: int) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if os.fstat(self._descriptor).st_size != keep:
            os.ftruncate(self._descriptor, keep)

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line."""
        text = json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
        write_all(self._descriptor, text.encode())

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; writes nothing."""
        os.close(self._descriptor)
