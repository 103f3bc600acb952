"""Which videos of a split there are, wherever below the root they lie."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ttvr import video
from ttvr.errors import TtvrError
from ttvr.records import Clip, Split
from ttvr.wording import first_of

VIDEOS = "videos"
"""The folder of a root that is searched if there is one; else all of the root is."""

_ABSENT = "no such video"

Parts = tuple[str, ...]
"""A path below the searched folder: its folders, and its name with or without suffix."""


class Coverage(NamedTuple):
    """What of a split can be decoded.

    Attributes:
        split: the clips whose videos are there, with the paths of the files, and their captions.
        missing: ids of the others, each with the reason.
        expected: clips of the whole split.
    """

    split: Split
    missing: Mapping[str, str]
    expected: int


def coverage(split: Split) -> Coverage:
    """Find the videos of a split.

    They are looked for in `ROOT/videos` if that is a folder, else in all of `ROOT`, however deep:
    files of any suffix that a video has, or none, and folders of images. A path of several parts,
    `film/clip`, fits where all of them do. Of several files that fit, the one directly at that
    path counts; if there is none, the video is missing, for nobody can tell which is meant.
    Nothing is opened but folders.

    Args:
        split: of `Dataset.load`. Without `root` its paths have to be there as they are.
    """
    if split.root is None:
        found = {clip.id: clip.path if clip.path.exists() else _ABSENT for clip in split.clips}
    else:
        found = _found(split, split.root)
    missing = {id: reason for id, reason in found.items() if isinstance(reason, str)}
    rows = [row for row, clip in enumerate(split.clips) if clip.id not in missing]
    clips = tuple(split.clips[row]._replace(path=found[split.clips[row].id]) for row in rows)
    place = {row: at for at, row in enumerate(rows)}
    kept = [at for at, owner in enumerate(split.owner) if owner in place]
    captions = tuple(split.captions[at] for at in kept)
    owner = tuple(place[split.owner[at]] for at in kept)
    made = split._replace(clips=clips, captions=captions, owner=owner)
    return Coverage(made, missing, len(split.clips))


def require_all(found: Coverage, *, hint: str = "") -> Split:
    """The split with the paths of its files.

    Args:
        found: by `coverage`.
        hint: what else can be done about missing videos, as in "or pass --missing skip".

    Raises:
        TtvrError: a video is missing.
    """
    missing, split = found.missing, found.split
    if not missing:
        return split
    named = [id if reason == _ABSENT else f"{id} ({reason})" for id, reason in missing.items()]
    where = "" if split.root is None else f" below {_searched(split.root)}"
    mend = ", ".join(filter(None, ("Add them (`ttvr-data check` lists all)", hint)))
    raise TtvrError(
        f"{len(missing)} of {found.expected} videos of {split.name} are not there{where}: "
        f"{first_of(named)}. {mend}"
    )


def _searched(root: Path) -> Path:
    return root / VIDEOS if (root / VIDEOS).is_dir() else root


def _found(split: Split, root: Path) -> dict[str, Path | str]:
    """Of each clip its file, or why there is none."""
    folder = _searched(root)
    wanted = {clip.id: _wanted(clip, root) for clip in split.clips}
    names = {place[-1] for places in wanted.values() for place in places}
    files: dict[str, list[tuple[Parts, Path]]] = {}
    for path in _walk(folder):
        above = tuple(map(_normal, path.relative_to(root).parts[:-1]))
        for name in _stripped(_normal(path.name)):
            if name in names:
                files.setdefault(name, []).append(((*above, name), path))
    return {clip.id: _pick(wanted[clip.id], files) for clip in split.clips}


def _pick(wanted: list[Parts], files: Mapping[str, list[tuple[Parts, Path]]]) -> Path | str:
    for place in wanted:
        fit = [(at, path) for at, path in files.get(place[-1], ()) if at[-len(place) :] == place]
        fit = [pair for pair in fit if pair[0] in (place, (VIDEOS, *place))] or fit
        fit = [pair for pair in fit if pair[1].name == place[-1]] or fit
        if len(fit) > 1:
            first, second = sorted(str(path) for _, path in fit)[:2]
            return f"several files fit, {first} and {second}: keep one"
        if fit:
            return fit[0][1]
    return _ABSENT


def _wanted(clip: Clip, root: Path) -> list[Parts]:
    """Where the file of a clip may be, best first: as its path says, or under its id."""
    named = tuple(map(_normal, clip.path.relative_to(root).parts))
    names = [*_stripped(named[-1]), *_stripped(clip.id.split("/")[-1])]
    return [(*named[:-1], name) for name in dict.fromkeys(names)]


def _stripped(name: str) -> Iterator[str]:
    """A name without none, one, ... of its suffixes of videos: DiDeMo has `a.` and `a.mov.mp4`."""
    yield name
    stem, dot, suffix = name.rpartition(".")
    if stem and (not suffix or f"{dot}{suffix.lower()}" in video.VIDEO_SUFFIXES):
        yield from _stripped(stem)


def _walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Files and folders below a folder, hidden ones left out; links are followed, not in circles.

    An entry's path has the folder's own in front, as it was given.
    """
    facts = folder.stat()
    if (facts.st_dev, facts.st_ino) in above:
        return
    above = (*above, (facts.st_dev, facts.st_ino))
    with os.scandir(folder) as inside:
        entries = sorted(inside, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_file() or (entry.is_dir() and video.is_video(path)):
            yield path
        elif entry.is_dir():
            yield from _walk(path, above)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
