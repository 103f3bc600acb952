"""Captioned clips of moving shapes, drawn when they are read: no files, no download.

An id says all there is to know of a clip: "test-00012" is scene 12 of the test part, and
"twins-00012r" is that scene played backwards.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from PIL import Image

from ttvr import synthetic, video
from ttvr.datasets._base import Dataset
from ttvr.errors import UsageError
from ttvr.records import Clip, Split, Twin
from ttvr.synthetic import FPS, FRAMES, SIZE, Scene

TRAIN = 400_000
"""Clips of the training split."""
GALLERY = 500
"""Clips of the validation and of the test split."""
TWINS = 420
"""Scenes of the twins split, each of which is there forwards and backwards."""

_SHORT = 0.3  # of the training captions leave things out, as people do
_ID = re.compile(r"(train|val|test|twins)-(\d+)(r?)")
_DIGITS = {"train": 7, "val": 5, "test": 5, "twins": 5}

_T = TypeVar("_T")


class Synthetic(Dataset):
    """Four splits; no meaning of the others is ever seen in training, nor its reversal.

    `train` has a caption per clip, full or short. `val` and `test` hold clips of pairwise
    distinct meanings with full captions, so that each caption is right for one clip alone. `twins`
    takes scenes of the test part that have a direction in time, with their reversals: what the
    gallery of `test` does not ask, since there appearance alone tells nearly all clips apart.
    """

    splits = ("train", "val", "test", "twins")
    needs_root = False

    def load(self, root: Path | None, split: str, *, limit: int | None = None) -> Split:
        """The clips and captions of a split; those of `train` are drawn when they are asked for.

        Args:
            root: not looked at.
            split: "train", "val", "test" or "twins".
            limit: only the first so many clips. Of `twins` every odd one reverses the one before.

        Raises:
            UsageError: no such split.
        """
        self.check(root, split)
        # 85 us a scene: half a minute for all of train, of which a run may see a part.
        if split == "train":
            count = TRAIN if limit is None else min(limit, TRAIN)
            clips = _Drawn(count, lambda index: _clip(_id("train", index)))
            captions = _Drawn(count, lambda index: caption_of(_id("train", index)))
            return Split("synthetic/train", clips, captions, range(count), counts="ok")
        ids = list(itertools.islice(_twins() if split == "twins" else _gallery(split), limit))
        captions = tuple(map(caption_of, ids))
        clips, owner = tuple(map(_clip, ids)), tuple(range(len(ids)))
        return Split(f"synthetic/{split}", clips, captions, owner, counts="ok")

    def frames(
        self,
        clip: Clip,
        choose: Callable[[int], list[int]],
        *,
        fps: float | None = None,
        size: int | None = None,
        timeout: float = video.TIMEOUT,
        stop: threading.Event | None = None,
    ) -> video.Frames:
        """Chosen frames of a clip, drawn at this size; the whole clip, whatever its times say.

        Args:
            clip: of any split; the id alone counts.
            choose: given the number of candidates, of 36 frames, the ascending indices of those
                wanted; repeats are returned once.
            fps: candidates per second to choose from; None: all frames, 12 per second.
            size: side of the square frames, pixels; None: 128.
            timeout: not looked at, drawing takes milliseconds.
            stop: likewise.

        Raises:
            UsageError: no clip has this id.
            VideoError: none is chosen.
        """
        del timeout, stop
        times, seconds = np.arange(FRAMES) / FPS, FRAMES / FPS
        choice = video.Choice(choose, fps=fps, start=0.0, end=None)
        chosen = choice.frames(times, seconds)
        pixels = synthetic.render(scene_of(clip.id), chosen.tolist(), size=size or SIZE)
        return video.Frames(
            pixels,
            times[chosen].astype(np.float32),
            video.Status("ok", seconds, seconds, 0),
            video.VideoInfo(SIZE, SIZE, FPS, seconds, FRAMES, "drawn", rotation=0, start=0.0),
        )

    def twin(self, clip: Clip) -> Twin | None:
        """Of the twins split, the clip whose frames are the same in the opposite order."""
        if not clip.id.startswith("twins"):
            return None
        other = clip.id.removesuffix("r") if clip.id.endswith("r") else f"{clip.id}r"
        return Twin(other, scene_of(clip.id).kind)

    def write(self, clip: Clip, path: Path) -> None:
        """Draw a clip to a file that other programs read, 128 pixels wide, whole or not at all.

        Args:
            clip: of any split; the id alone counts.
            path: to make or replace, in a folder that exists. One that ends in `.mp4` becomes a
                video of 12 frames per second; any other a folder of PNG images, which takes no
                ffmpeg, loses nothing, and is several times as large.

        Raises:
            RequirementError: an `.mp4`, and there is no ffmpeg.
            TtvrError: no clip has this id, or ffmpeg could not write it.
            OSError: the disk is full, say; names the path.
        """
        frames = self.read(clip, range, size=SIZE)
        if path.suffix == ".mp4":
            video.write(path, frames, fps=FPS)
            return
        try:
            _write_images(path, frames)
        except OSError as error:
            # A full disk names no file, others the hidden one.
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def scene_of(clip: str) -> Scene:
    """The scene that a clip shows, from its id.

    Raises:
        UsageError: no clip has this id.
    """
    return _drawn(clip)[0]


def caption_of(clip: str) -> str:
    """The caption of a clip, from its id; a reversal has the same synonyms as far as they fit.

    Raises:
        UsageError: no clip has this id.
    """
    scene, rng = _drawn(clip)
    short = clip.startswith("train") and rng.random() < _SHORT
    return synthetic.caption(scene, rng, short=short)


def _drawn(clip: str) -> tuple[Scene, np.random.Generator]:
    """The scene of a clip, and what its caption is drawn by."""
    match = _ID.fullmatch(clip)
    if match is None:
        raise UsageError(f"no synthetic clip {clip!r}; ids look like test-00012")
    split, index, is_reversed = match.groups()
    scene, rng = synthetic.nth("test" if split == "twins" else split, int(index))
    if not is_reversed:
        return scene, rng
    if split != "twins" or not synthetic.is_temporal(scene):
        raise UsageError(f"no synthetic clip {clip!r}: it has no reversal")
    return synthetic.reverse(scene), rng


def _write_images(path: Path, frames: np.ndarray) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as hidden:
        folder = Path(hidden, path.name)
        folder.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number:02d}.png")
        _put(folder, path, aside=Path(hidden))


def _put(folder: Path, path: Path, *, aside: Path) -> None:
    """Give a folder its name; what has that name moves away in one step, so no half is ever seen.

    Again and again, since another process may put its own there in between.
    """
    for number in itertools.count():
        try:
            folder.replace(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        with contextlib.suppress(FileNotFoundError):
            path.replace(aside / f"old-{number}")


def _gallery(split: str) -> Iterator[str]:
    """Ids of clips of distinct meanings."""
    seen: set[str] = set()
    found = 0
    for index in itertools.count():
        if found == GALLERY:
            return
        said = synthetic.wordings(synthetic.nth(split, index)[0])
        if said.isdisjoint(seen):
            seen |= said
            found += 1
            yield _id(split, index)


def _twins() -> Iterator[str]:
    """Ids of clips and their reversals in turn, of distinct meanings."""
    seen: set[str] = set()
    found = 0
    for index in itertools.count():
        if found == TWINS:
            return
        scene, _ = synthetic.nth("test", index)
        if not synthetic.is_temporal(scene):
            continue
        both = synthetic.wordings(scene) | synthetic.wordings(synthetic.reverse(scene))
        if both.isdisjoint(seen):
            seen |= both
            found += 1
            yield from (_id("twins", index), _id("twins", index) + "r")


def _id(split: str, index: int) -> str:
    return f"{split}-{index:0{_DIGITS[split]}d}"


def _clip(clip: str) -> Clip:
    """A clip under the name that its file would have; there is none."""
    return Clip(clip, Path(f"{clip}.mp4"))


class _Drawn(Sequence[_T]):
    """A sequence whose items are made when asked for; the same each time, and not kept."""

    def __init__(self, count: int, make: Callable[[int], _T]) -> None:
        self._indices, self._make = range(count), make

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[_T, ...]: ...
    def __getitem__(self, index: int | slice) -> _T | tuple[_T, ...]:
        found = self._indices[index]
        return self._make(found) if isinstance(found, int) else tuple(map(self._make, found))


PLUGIN = Synthetic()
