"""Videos of one's own in a folder, with what is said of them in one file."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Entry
from ttvr.errors import TtvrError
from ttvr.video import VIDEO_SUFFIXES

FILES = ("captions.tsv", "captions.jsonl")
DEFAULT = "test"
"""The split of what says none."""

_FIX = "write captions.tsv, a line each: video<TAB>caption, or video<TAB>caption<TAB>split"
_KNOWN = ("video", "caption", "captions", "split", "id", "start", "end")


class _Line(NamedTuple):
    """What a line of the file says."""

    video: str
    captions: tuple[str, ...]
    split: str
    id: str
    start: float
    end: float | None


class Folder(Annotated):
    """A video is named by its path below the root (or below `videos/` there), suffix or not.

    `captions.tsv` has lines of `video<TAB>caption`, or `video<TAB>caption<TAB>split`.
    `captions.jsonl` has an object a line: `video`; `caption`, or `captions`, a list; and where they
    are wanted `split`, and `start` and `end` (seconds) of a part of the video with an `id` of its
    own. What says no split is in `test`. An id is by default the video without suffix; one that
    comes in several lines has several captions. UTF-8, blank lines are passed over.
    """

    splits = ("train", "val", "test")

    def splits_of(self, root: Path | None) -> Sequence[str]:
        """Those that the file names; all where it names none, or cannot be read: `load` says why.

        Raises:
            UsageError: no such folder.
        """
        self.check(root, DEFAULT)
        named = set()
        with contextlib.suppress(TtvrError, OSError):
            path = _files.find(root, *FILES, fix=_FIX)
            read = _of_json if path.suffix == ".jsonl" else _of_tsv
            for _, text in _files.lines(path):
                with contextlib.suppress(ValueError):
                    named.add(read(text).split)
        return [split for split in self.splits if split in named] or self.splits

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        path = _files.find(root, *FILES, fix=_FIX)
        read = _of_json if path.suffix == ".jsonl" else _of_tsv
        made: dict[str, Entry] = {}
        for number, text in _files.lines(path):
            try:
                line = read(text)
            except ValueError as error:
                raise _files.malformed(path, number, str(error)) from None
            if line.split != split:
                continue
            entry = Entry(line.id, line.captions, line.video, line.start, line.end)
            before = made.setdefault(line.id, entry._replace(captions=()))
            if before._replace(captions=()) != entry._replace(captions=()):
                said = f"{line.id} was another video, or part of it, before"
                raise _files.malformed(path, number, said)
            made[line.id] = before._replace(captions=(*before.captions, *entry.captions))
        if not made:
            raise _files.malformed(path, None, f"nothing of the split {split}")
        yield from made.values()


def _of_tsv(text: str) -> _Line:
    parts = [part.strip() for part in text.split("\t")]
    if len(parts) not in (2, 3):
        raise ValueError(f"expected video<TAB>caption or a third column, found {len(parts)}")
    video, caption, *split = parts
    return _line(video, (caption,), split[0] if split else DEFAULT)


def _of_json(text: str) -> _Line:
    try:
        facts = json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(facts, dict) or (unknown := [key for key in facts if key not in _KNOWN]):
        what = unknown if isinstance(facts, dict) else type(facts).__name__
        raise ValueError(f"expected an object of {', '.join(_KNOWN)}; found {what}")
    said = [facts["caption"]] if "caption" in facts else facts.get("captions")
    if not isinstance(said, list) or not said or {"caption", "captions"} <= set(facts):
        raise ValueError("expected either a caption or a list of captions")
    start, end = _seconds(facts, "start") or 0.0, _seconds(facts, "end")
    if end is not None and end <= start:
        raise ValueError(f"it ends at {end:g} s, not after its start at {start:g}")
    video = facts.get("video")
    split, id = facts.get("split", DEFAULT), facts.get("id")
    return _line(video, tuple(said), split, id=id, start=start, end=end)


def _line(
    video: Any,
    captions: tuple[Any, ...],
    split: Any,
    *,
    id: Any = None,
    start: float = 0.0,
    end: float | None = None,
) -> _Line:
    """A line whose parts are what they should be.

    Raises:
        ValueError: one is not; says which.
    """
    if not isinstance(video, str) or not video:
        raise ValueError("no video")
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError("an empty caption, or one that is no text")
    if split not in Folder.splits:
        raise ValueError(f"the split {split!r} is none of {', '.join(Folder.splits)}")
    if id is not None and (not isinstance(id, str) or not id.strip()):
        raise ValueError("an id that is no text")
    stem, dot, suffix = video.rpartition(".")
    id = id or (stem if f"{dot}{suffix.lower()}" in VIDEO_SUFFIXES else video)
    return _Line(video, captions, split, id, start, end)


def _seconds(facts: dict[str, Any], name: str) -> float | None:
    value = facts.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ValueError(f"{name} is no number of seconds")
    return float(value)


PLUGIN = Folder()
