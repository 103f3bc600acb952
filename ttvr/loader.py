"""Split -> batches: which captions, which frames of their clips, and the pixels, read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ttvr import distributed
from ttvr import frames as framing
from ttvr.clip import tokenizer
from ttvr.errors import TtvrError, UsageError, VideoError
from ttvr.records import Batch, Clip, Split
from ttvr.wording import counted

Choose = Callable[[int], Sequence[int]]
_ORDER, _FRAMES = 0, 1  # what the random numbers of an epoch are for


class Read(Protocol):
    """A bound `Dataset.read`: [T, size, size, 3] uint8 of chosen frames of a clip."""

    def __call__(self, clip: Clip, choose: Choose, *, size: int) -> np.ndarray:
        """Read the frames."""


class Wanted(NamedTuple):
    """Frames to be read: `choose` of a clip's n frames."""

    clip: Clip
    choose: Choose


class Loader:
    """Batches of a training split; a row is a caption with frames of its clip.

    Batch k of an epoch is a pure function of (seed, epoch, k), so a training that was stopped goes
    on with the very batches it would have had. The last incomplete batch of an epoch is left out:
    the contrastive loss depends on the size.

    Of several processes each makes its rows of a batch alone, as `distributed.part` cuts them; the
    batch is the same one, whatever their number, and texts are as long as if it were whole.

    Args:
        split: captions and clips.
        read: of the split's dataset.
        batch_size: B, captions per batch, of all processes together.
        frames: T; a clip with fewer is padded.
        size: side of a frame, pixels.
        words: L, tokens of a caption at most; longer ones are cut.
        is_padded: every batch has L tokens per caption, for heads that count padding in. Otherwise
            it is as long as its longest caption: text attention is causal, so padding would change
            nothing.
        sampler: which frames: "random", one of each of T equal parts, or of `frames.SAMPLERS`.
        seed: of the order and of the frames that are taken.
        jobs: clips read at once, in threads, a batch ahead of the caller.
        rank: number of this process.
        world: how many processes there are.

    Raises:
        UsageError: the split has too few captions for one batch.
    """

    def __init__(
        self,
        split: Split,
        read: Read,
        *,
        batch_size: int,
        frames: int,
        size: int,
        words: int,
        is_padded: bool = False,
        sampler: str = "random",
        seed: int,
        jobs: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(split.captions) < batch_size:
            have = counted(len(split.captions), "caption")
            raise UsageError(
                f"{split.name} has {have}, fewer than one batch of "
                f"{batch_size}: pass a smaller --batch-size"
            )
        self.split, self.batch_size = split, batch_size
        self._read, self._frames, self._size = read, frames, size
        self._words, self._is_padded = words, is_padded
        self._sampler = None if sampler == "random" else framing.SAMPLERS[sampler]
        self._seed, self._jobs = seed, jobs
        self._own = distributed.part(batch_size, rank=rank, world=world)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.split.captions) // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on.

        Raises:
            TtvrError: a clip cannot be read; names it.
        """
        order = np.random.default_rng([self._seed, epoch, _ORDER])
        order = order.permutation(len(self.split.captions))
        whole = order[: len(self) * self.batch_size].reshape(len(self), self.batch_size)[start:]
        wanted = (self._wanted(epoch, row) for rows in whole for row in rows[self._own].tolist())
        pixels = stacked(
            wanted,
            self._read,
            at_once=self._own.stop - self._own.start,
            frames=self._frames,
            size=self._size,
            jobs=self._jobs,
        )
        for rows, (frames, mask) in zip(whole.tolist(), pixels, strict=True):
            ids = tokenizer.tokenize([self.split.captions[row] for row in rows], self._words)
            ids = ids if self._is_padded else shortened(ids)
            owner = torch.tensor([self.split.owner[row] for row in rows[self._own]])
            yield Batch(ids[self._own], frames, mask, owner)

    def _wanted(self, epoch: int, row: int) -> Wanted:
        """Frames of a caption's clip."""

        def choose(n: int) -> list[int]:
            if self._sampler is not None:
                return self._sampler(n, self._frames)
            generator = np.random.default_rng([self._seed, epoch, _FRAMES, row])
            return framing.random_indices(n, self._frames, generator=generator)

        return Wanted(self.split.clips[self.split.owner[row]], choose)


def stacked(
    wanted: Iterable[Wanted], read: Read, *, at_once: int, frames: int, size: int, jobs: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames of clips as CLIP takes them, so many clips at a time, in order.

    Args:
        wanted: clips, and which of their frames.
        read: of their dataset.
        at_once: B, clips per item of the result; the last has what is left.
        frames: T; a clip that gives fewer is padded.
        size: side of a frame, pixels.
        jobs: clips read at once, in threads, while the caller works on those before.

    Yields:
        [B, T, 3, size, size] float32 normalized, zero where padded, and [B, T] bool, True = real.

    Raises:
        TtvrError: a clip cannot be read; names it. Nothing is invented for it.
    """
    source = iter(wanted)
    with ThreadPoolExecutor(jobs, thread_name_prefix="read") as pool:
        try:
            ahead = [pool.submit(_pixels, item, read, size) for item in islice(source, at_once)]
            while ahead:
                ready = ahead
                ahead = [pool.submit(_pixels, item, read, size) for item in islice(source, at_once)]
                yield _stack([future.result() for future in ready], frames)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def shortened(ids: Tensor) -> Tensor:
    """Ids [B, L] int64 without the columns that are padding in every row."""
    return ids[:, : int(ids.argmax(dim=1).max()) + 1]  # end-of-text has the highest id


def _pixels(wanted: Wanted, read: Read, size: int) -> np.ndarray:
    try:
        return read(wanted.clip, wanted.choose, size=size)
    except VideoError as error:
        raise TtvrError(
            f"{wanted.clip.id}: cannot be read ({error}); mend or remove {wanted.clip.path}"
        ) from error


def _stack(videos: list[np.ndarray], frames: int) -> tuple[Tensor, Tensor]:
    _, height, width, _ = videos[0].shape
    pixels = np.zeros((len(videos), frames, height, width, 3), np.uint8)
    mask = torch.zeros(len(videos), frames, dtype=torch.bool)
    for number, video in enumerate(videos):
        pixels[number, : len(video)] = video
        mask[number, : len(video)] = True
    batch = framing.normalize(pixels)  # [B, T, 3, H, W]
    batch[~mask] = 0
    return batch, mask
