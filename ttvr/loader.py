"""Split -> batches: which captions, which frames of their clips, and the pixels, read ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
        is_pinned: as of `stacked`.

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
        is_pinned: bool = False,
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
        self._seed, self._jobs, self._is_pinned = seed, jobs, is_pinned
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
            is_pinned=self._is_pinned,
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
    wanted: Iterable[Wanted],
    read: Read,
    *,
    at_once: int,
    frames: int,
    size: int,
    jobs: int = 1,
    is_pinned: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames of clips, so many clips at a time, in order.

    The threads that read put them in their places: the caller has nothing to copy.

    Args:
        wanted: clips, and which of their frames.
        read: of their dataset.
        at_once: B, clips per item of the result; the last has what is left.
        frames: T; a clip that gives fewer is padded.
        size: side of a frame, pixels.
        jobs: clips read at once, in threads, while the caller works on those before.
        is_pinned: in memory that a GPU copies from while the caller goes on; it takes CUDA.

    Yields:
        [B, T, size, size, 3] uint8 RGB, zero where padded, and [B, T] bool, True = real.

    Raises:
        TtvrError: a clip cannot be read; names it. Nothing is invented for it.
    """
    source, shape = iter(wanted), (frames, size, size, 3)
    with ThreadPoolExecutor(jobs, thread_name_prefix="read") as pool:

        def begun() -> tuple[Tensor, list[Future[int]]]:
            some = list(islice(source, at_once))
            pixels = torch.empty(len(some), *shape, dtype=torch.uint8, pin_memory=is_pinned)
            rows = zip(some, pixels.numpy(), strict=True)
            return pixels, [pool.submit(_read_into, row, item, read, size) for item, row in rows]

        try:
            ahead = begun()
            while ahead[1]:
                (pixels, reading), ahead = ahead, begun()
                counts = torch.tensor([future.result() for future in reading])
                yield pixels, torch.arange(frames) < counts[:, None]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def shortened(ids: Tensor) -> Tensor:
    """Ids [B, L] int64 without the columns that are padding in every row."""
    return ids[:, : int(ids.argmax(dim=1).max()) + 1]  # end-of-text has the highest id


def _read_into(row: np.ndarray, wanted: Wanted, read: Read, size: int) -> int:
    """Fill [T, size, size, 3] with the frames of a clip and zeros; how many frames there are.

    Raises:
        TtvrError: the clip cannot be read; names it.
        ValueError: what is read has another shape or type.
    """
    try:
        found = read(wanted.clip, wanted.choose, size=size)
    except VideoError as error:
        raise TtvrError(
            f"{wanted.clip.id}: cannot be read ({error}); mend or remove {wanted.clip.path}"
        ) from error
    T, *frame = row.shape
    # numpy would spread one row or channel over all, and cut off what is more than a byte holds.
    if found.dtype != np.uint8 or [*found.shape[1:]] != frame or not 0 < len(found) <= T:
        got = f"{list(found.shape)} {found.dtype}"
        raise ValueError(f"{wanted.clip.id}: expected 1 to {T} frames {frame} uint8, got {got}")
    row[: len(found)], row[len(found) :] = found, 0
    return len(found)
