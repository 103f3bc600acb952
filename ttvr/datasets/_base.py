"""The contract of every dataset."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ttvr import video
from ttvr.errors import UsageError
from ttvr.records import Clip, Split, Twin
from ttvr.wording import meant


class Dataset:
    """Clips with captions, in splits, and the pixels of a clip."""

    splits: tuple[str, ...] = ()
    needs_root: ClassVar[bool] = True
    """Whether there are files that `root` has to name; if not, clips are drawn by `frames`."""
    variants: tuple[str, ...] = ()
    """Other ways to split the same videos, as `NAME:VARIANT`; the first is meant without one."""

    @property
    def name(self) -> str:
        """As `--data` takes it."""
        return type(self).__module__.rpartition(".")[2]

    def variant(self, name: str) -> Dataset:
        """The same dataset split another way.

        Raises:
            UsageError: there is no such variant.
        """
        stem = self.name.partition(":")[0]
        have = f"there are: {', '.join(self.variants)}" if self.variants else "it has none"
        near = meant(name, self.variants)
        raise UsageError(f"dataset {stem} has no variant {name!r}; {have}{near}")

    def splits_of(self, root: Path | None) -> Sequence[str]:
        """The splits that there are below a root; all of `splits`, but where they are one's own."""
        return self.splits

    def load(self, root: Path | None, split: str, *, limit: int | None = None) -> Split:
        """The clips and captions of a split.

        Args:
            root: the folder the dataset lies in; None where it needs none.
            split: one of `splits`.
            limit: only the first so many clips, with their captions.

        Raises:
            UsageError: no such split, or no root where one is needed.
            TtvrError: files are missing or are not those that were published.
        """
        raise NotImplementedError

    def read(self, clip: Clip, choose: Callable[[int], Sequence[int]], *, size: int) -> np.ndarray:
        """Chosen frames of a clip, decoded from its file.

        Args:
            clip: of a split of this dataset.
            choose: given the number n of frames, the ascending indices 0..n-1 of those wanted;
                repeats are returned once.
            size: side of the square frames, pixels: short side scaled, middle cropped.

        Returns:
            [T, size, size, 3] uint8 RGB, at least one frame.

        Raises:
            VideoError: no frame could be had.
        """
        return self.frames(clip, lambda n: list(choose(n)), size=size).pixels

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
        """Chosen frames of a clip with their times and all that is known of it.

        Args:
            clip: of a split of this dataset.
            choose: likewise, all as `video.read_frames` takes it.
            fps: candidates per second to choose from; None: all frames.
            size: side of the square frames, pixels; None: frames as they are.
            timeout: seconds for all of it.
            stop: setting it from another thread ends the decoding.

        Raises:
            VideoError: no frame could be had.
        """
        return video.read_frames(
            clip.path,
            choose,
            fps=fps,
            size=size,
            start=clip.start,
            end=clip.end,
            timeout=timeout,
            stop=stop,
        )

    def twin(self, clip: Clip) -> Twin | None:
        """The clip of the same split that differs from this one in a single respect, if any.

        Whether a caption prefers its clip to that one is measured beside the ranks.
        """
        return None

    def check(self, root: Path | None, split: str) -> None:
        """Refuse a split that there is not, and a missing root; for `load`.

        Raises:
            UsageError: says which splits there are, or to pass --root.
        """
        stem, colon, _ = self.name.partition(":")
        if split not in self.splits:
            of = f" (of {self.name})" if colon else ""
            have = ", ".join(self.splits) + of + meant(split, self.splits)
            raise UsageError(f"dataset {stem} has no split {split!r}; there are: {have}")
        if not self.needs_root:
            return
        if root is None:
            raise UsageError(f"dataset {stem} needs its folder: pass --root DIR")
        if not root.is_dir():
            raise UsageError(f"{root}: no such folder; --root is where dataset {stem} lies")
