"""Which videos there are: files, image folders, and what lies below folders."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ttvr import datasets, video
from ttvr.datasets._base import Dataset
from ttvr.errors import UsageError
from ttvr.records import Clip
from ttvr.store import DRAWN, Source

Read = Callable[..., video.Frames]
"""A bound `Dataset.frames`."""

read_file: Read = Dataset().frames
"""Frames of a clip that is a file, as datasets of files have them."""


class Input(NamedTuple):
    """A video to extract: where it is, and how the feature folder knows it."""

    clip: Clip
    source: Source


class Inputs(NamedTuple):
    """What was found.

    Attributes:
        items: in the order of the arguments; within a folder by name, each folder in its place.
        skipped: files below folders that are no videos by their suffix.
        unnamed: videos left out since their names cannot be ids, each with the reason. They have
            no line in the journal either, which knows inputs by their ids.
        read: what gives the frames of an input.
        data: the dataset and the split that they are, for `meta.json`; None where they are files.
        absent: clips of the split left out since their videos are not there, each with the reason.
        has_files: whether there are files; if not, `read` draws the clips.
    """

    items: list[Input]
    skipped: int = 0
    unnamed: Sequence[tuple[Path, str]] = ()
    read: Read = read_file
    data: Mapping[str, str] | None = None
    has_files: bool = True
    absent: Mapping[str, str] = MappingProxyType({})


def find_inputs(
    paths: Iterable[str | Path],
    *,
    listed: Iterable[str | Path] = (),
    root: str | Path | None = None,
) -> Inputs:
    """The videos of files, image folders and folders that are searched.

    An id is the path below the input root without suffix: the root is the folder given, or the
    folder of the file given, or `root`. A file or image folder named here is always taken; below
    a folder hidden files are passed over and other suffixes counted. Linked folders are followed,
    but not into themselves. What is named twice is taken once, where it comes first.

    Args:
        paths: each has to be there.
        listed: from a list; one that is missing becomes an input that fails.
        root: what all ids are relative to.

    Raises:
        UsageError: nothing found, a path is missing or not below `root`, the name of one of
            `paths` cannot be an id, or two videos have one id; names both.
    """
    base = None if root is None else _absolute(Path(root))
    found: list[Input] = []
    unnamed: dict[Path, str] = {}
    skipped = 0
    for path, must_exist in [*((p, True) for p in paths), *((p, False) for p in listed)]:
        path = _absolute(Path(path))
        if must_exist and not os.path.lexists(path):
            raise UsageError(f"{path}: no such file or folder")
        if path.is_dir() and not video.is_video(path):
            for child in _search(path):
                if child is None:
                    skipped += 1
                elif reason := _unfit(child, base or path):
                    unnamed[child] = reason
                else:
                    found.append(_input(child, base or path))
        elif not (reason := _unfit(path, base or path.parent)):
            found.append(_input(path, base or path.parent))
        elif must_exist:
            raise UsageError(f"{str(path)!r}: its name cannot be an id ({reason}); rename it")
        else:
            unnamed[path] = reason
    if not found:
        odd = f", {len(unnamed)} with names that cannot be ids" if unnamed else ""
        raise UsageError(f"no videos found ({skipped} other files passed over{odd})")
    return Inputs(_without_repeats(found), skipped, list(unnamed.items()))


def dataset_inputs(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    missing: str = "error",
) -> Inputs:
    """The clips of a dataset's split, under the ids that the dataset gives them.

    Args:
        name: as `datasets.load` takes it.
        split: one of its splits.
        root: the folder the dataset lies in, where it needs one.
        limit: only the first so many clips.
        missing: what becomes of clips whose video is not there: "error", or "skip" leaves them out.

    Raises:
        UsageError, TtvrError: as `Dataset.load`.
        TtvrError: videos are missing, or with "skip" all of them.
    """
    dataset = datasets.load(name)
    found = dataset.load(None if root is None else Path(root), split, limit=limit)
    data = {"dataset": dataset.name, "split": split}
    if not dataset.needs_root:
        items = [_drawn(clip, found.name) for clip in found.clips]
        return Inputs(items, read=dataset.frames, data=data, has_files=False)
    covered = datasets.coverage(found)
    if missing != "skip" or not covered.split.clips:
        hint = "or pass --missing skip to leave them out" if covered.split.clips else ""
        datasets.require_all(covered, hint=hint)
    items = [_of_file(clip, Path(root).resolve()) for clip in covered.split.clips]
    return Inputs(items, read=dataset.frames, data=data, absent=covered.missing)


def _of_file(clip: Clip, root: Path) -> Input:
    """A clip of a dataset, which is a file or a part of one."""
    path, id = _absolute(clip.path), _normal(clip.id)
    # A link in the dataset's folder may lead out of it.
    root = root if path.is_relative_to(root) else path.parent
    source = _source(path, id, str(root), path.relative_to(root).as_posix())
    return Input(clip._replace(id=id, path=path), source._replace(start=clip.start, end=clip.end))


def _drawn(clip: Clip, split: str) -> Input:
    """A clip without a file: the place that stands for one is no path of any disk."""
    id = _normal(clip.id)
    return Input(clip._replace(id=id), Source(id, f"{DRAWN}{split}", id, None, None))


def _search(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path | None]:
    """Videos below a folder, by name; None for each file that is none."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in above:
        return
    above = (*above, (status.st_dev, status.st_ino))
    for path in sorted(folder.iterdir(), key=lambda path: _normal(path.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not video.is_video(path):
            yield from _search(path, above)
        else:
            yield path if video.is_video(path) else None


def _unfit(path: Path, root: Path) -> str | None:
    """Why the name of a file below the root cannot be an id; None where it can."""
    if not path.is_relative_to(root):
        raise UsageError(f"{path} is not below --root {root}")
    below = path.relative_to(root).as_posix()
    if "\n" in below:
        return "it has a line break"
    return None if _is_unicode(below) else "it is not UTF-8"


def _input(path: Path, root: Path) -> Input:
    if not _is_unicode(str(root)):
        raise UsageError(f"{str(root)!r}: a root that is not UTF-8 cannot be recorded; rename it")
    below = path.relative_to(root).as_posix()
    name = below if path.is_dir() else below.removesuffix(path.suffix)
    id = _normal(name)
    return Input(Clip(id, path), _source(path, id, str(root), below))


def _absolute(path: Path) -> Path:
    """The whole path; the last part is kept as it is named, even if it is a link."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _source(path: Path, id: str, root: str, below: str) -> Source:
    """A video with size and time of change; for an image folder those of the images it shows."""
    return Source(id, root, below, **video.stamp(path)._asdict())


def _without_repeats(found: Iterable[Input]) -> list[Input]:
    """Each input once: a folder and a file below it may both be named.

    Raises:
        UsageError: two different videos have one id.
    """
    first: dict[str, Input] = {}
    for item in found:
        other = first.setdefault(item.clip.id, item)
        if other.clip.path != item.clip.path:
            is_alike = other.source.root == item.source.root
            mend = "rename one" if is_alike else "give a folder above both, or --root"
            raise UsageError(
                f"two inputs have the id {item.clip.id!r}: {other.clip.path} and "
                f"{item.clip.path}; {mend}"
            )
    return list(first.values())


def _is_unicode(name: str) -> bool:
    return name == name.encode(errors="replace").decode()


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
