"""Batches of features that are there already: which captions, and what the folders hold of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ttvr import distributed
from ttvr.clip import tokenizer
from ttvr.errors import UsageError
from ttvr.records import EncodedBatch, Split, TextFeatures, VideoFeatures
from ttvr.score import read
from ttvr.wording import counted

_ORDER = 0  # what the random numbers of an epoch are for, as in `Loader`


class FeatureLoader:
    """Batches for a head alone; a row is a caption with its video.

    As `Loader`'s, batch k of an epoch is a pure function of (seed, epoch, k), and what makes no
    whole batch is left out. Beyond that, no batch has two captions of one video, which the loss
    would take for a mismatch, as far as that can be: see `dealt`.

    Of several processes each makes its own rows of a batch, as in `Loader`.

    Args:
        split: captions, and clips which are rows of the videos.
        text: rows as the captions; words and mask are tensors, arrays or views of them, sentence is
            a tensor, on the device that batches go to.
        video: rows as the clips.
        batch_size: B, of all processes together.
        words: L, tokens of a caption at most.
        seed: of the order.
        rank: number of this process.
        world: how many processes there are.

    Raises:
        UsageError: the split has too few captions for one batch.
    """

    def __init__(
        self,
        split: Split,
        text: TextFeatures,
        video: VideoFeatures,
        *,
        batch_size: int,
        words: int,
        seed: int,
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
        self._text, self._video, self._device = text, video, text.sentence.device
        self._words, self._seed = words, seed
        self._owner = np.array(split.owner)
        self._own = distributed.part(batch_size, rank=rank, world=world)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._owner) // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[EncodedBatch]:
        """The batches of an epoch from number `start` on."""
        generator = np.random.default_rng([self._seed, epoch, _ORDER])
        order = generator.permutation(len(self._owner)).tolist()
        rows = dealt(order, self._owner.tolist(), self.batch_size)
        for batch in range(start, len(self)):
            first = batch * self.batch_size
            yield self._batch(np.array(rows[first : first + self.batch_size][self._own]))

    def _batch(self, rows: np.ndarray) -> EncodedBatch:
        owner = self._owner[rows]
        captions = [self.split.captions[row] for row in rows]
        return EncodedBatch(
            tokenizer.tokenize(captions, self._words),
            read(self._text, rows, self._device),
            read(self._video, owner, self._device),
            torch.from_numpy(owner),
        )


def dealt(order: Sequence[int], videos: Sequence[int], batch_size: int) -> list[int]:
    """An order of captions in which every batch has distinct videos, where that can be.

    Captions are taken as they come; one whose video is in the batch already waits for the next
    batch that is without it. Where too few videos are left, at the end of an epoch, a batch is
    filled up with captions that wait. With fewer videos than a batch has rows nothing is changed.

    Args:
        order: captions, each once.
        videos: the video of each caption.
        batch_size: B.

    Returns:
        The captions of all whole batches, one after the other.
    """
    whole = len(order) // batch_size * batch_size
    if len(set(videos)) < batch_size:
        return list(order[:whole])
    source, waiting, made = iter(order), [], []
    while len(made) < whole:
        batch, seen, left = [], set(), []
        for queue in (iter(waiting), source):
            while len(batch) < batch_size and (row := next(queue, None)) is not None:
                (left if videos[row] in seen else batch).append(row)
                seen.add(videos[row])
            if queue is not source:
                left += queue
        short = batch_size - len(batch)
        made += batch + left[:short]
        waiting = left[short:]
    return made
