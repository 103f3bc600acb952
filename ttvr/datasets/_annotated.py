"""What datasets of annotation files share: ids once, captions that say something, counts."""

from __future__ import annotations

import itertools
import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from ttvr.datasets._base import Dataset
from ttvr.errors import IncompatibleError
from ttvr.records import Clip, Split
from ttvr.wording import counted

log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """How many videos and captions of a split were published; None where that is not known."""

    videos: int
    captions: int | None = None


class Entry(NamedTuple):
    """A video and what is said of it.

    Attributes:
        id: the dataset's own.
        captions: at least one.
        name: of the file below the root, as far as it is known: without suffix, with or without
            its folders; the id by default.
        start: seconds.
        end: seconds; None is the end of the video.
    """

    id: str
    captions: Sequence[str]
    name: str = ""
    start: float = 0.0
    end: float | None = None


class Annotated(Dataset):
    """A dataset whose `entries` come from annotation files; videos are never looked at."""

    counts: ClassVar[Mapping[str, Counts]] = {}
    """Published numbers by split, for those that are known."""

    def entries(self, root: Path, split: str) -> Iterable[Entry]:
        """The videos of a split in the order of the annotations.

        Args:
            root: a folder.
            split: one of `splits`.

        Raises:
            OSError, TtvrError: an annotation file is missing or wrong; names it.
        """
        raise NotImplementedError

    def load(self, root: Path | None, split: str, *, limit: int | None = None) -> Split:
        """The clips and captions of a split; runs of white space in captions become one space.

        The path of a clip is `root` and the name of its file as far as the annotations tell it;
        `datasets.coverage` finds the file.

        Args:
            root: the folder the annotations lie in, or in its folders, two deep.
            split: one of `splits`.
            limit: only the first so many clips; the whole is checked nevertheless.

        Raises:
            UsageError: no such split, or no root.
            IncompatibleError: the annotations are not those that were published.
            TtvrError: they are missing, or not UTF-8.
            OSError: they cannot be read.
        """
        self.check(root, split)
        name, entries = f"{self.name}/{split}", {}
        for entry in self.entries(root, split):
            id = unicodedata.normalize("NFC", entry.id)
            if id in entries:
                raise IncompatibleError(f"{name} in {root}: the video {id} is there twice")
            captions = tuple(" ".join(caption.split()) for caption in entry.captions)
            if fault := _fault(id, captions, Path(entry.name or id)):
                raise IncompatibleError(f"{name} in {root}: the video {id!r} {fault}")
            entries[id] = entry._replace(id=id, captions=captions)
        kept = list(itertools.islice(entries.values(), limit))
        return Split(
            name,
            tuple(Clip(e.id, Path(root, e.name or e.id), e.start, e.end) for e in kept),
            tuple(caption for entry in kept for caption in entry.captions),
            tuple(at for at, entry in enumerate(kept) for _ in entry.captions),
            root=Path(root),
            counts=self._count(split, entries, root),
        )

    def _count(self, split: str, entries: Mapping[str, Entry], root: Path) -> str:
        """Compare with the published numbers; as `Split.counts`."""
        name, published = f"{self.name}/{split}", self.counts.get(split)
        if published is None:
            videos = counted(len(entries), "video")
            log.info("%s: %s, unchecked: no published count is known", name, videos)
            return "unchecked"
        said = sum(len(entry.captions) for entry in entries.values())
        for what, count, expected in (
            ("video", len(entries), published.videos),
            ("caption", said, published.captions),
        ):
            if expected not in (None, count):
                raise IncompatibleError(
                    f"{name} in {root}: {counted(count, what)}, published are {expected}; get the "
                    "published annotations again (a part of them: --data folder)"
                )
        return "ok"


def _fault(id: str, captions: Sequence[str], name: Path) -> str | None:
    """What is wrong with a video; None where nothing is."""
    if not all(captions) or not captions:
        return "has an empty caption"
    if not id or any(ord(letter) < ord(" ") for letter in id):
        return "has an id that is empty or has control characters"
    if not _is_unicode(id) or not _is_unicode("".join(captions)):
        return "has half a character, which UTF-8 cannot write"
    if name.is_absolute() or ".." in name.parts or not name.parts:
        return "has no path below the folder"
    return None


def _is_unicode(text: str) -> bool:
    return text == text.encode(errors="replace").decode()
