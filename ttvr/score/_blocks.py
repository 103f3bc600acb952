"""How texts and videos are read, prepared and scored some at a time, within a budget of memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ttvr.errors import TtvrError
from ttvr.heads._base import Head, State, without_autocast
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score._precision import full_precision

MEMORY = 1 << 30
"""Bytes that scoring may take by default."""
CACHE = 1 << 23
"""Bytes of the temporaries of a block on a CPU; with more they go through memory, not a cache.

Measured on one core (EPYC, 512 wide, 32 words, 12 frames), microseconds per pair: products of all
words and frames (1152 numbers) 4.9 at 0.3 MiB, as calls are many, 3.1 from 2 to 18, 3.6 at 40, 4.9
at 72; X-Pool's low-rank form (132) 0.45 at 0.5 MiB, 0.31 from 8 to 33.
"""
VIDEOS_AT_ONCE = 128
"""Prepared together on a CPU at most.

A transformer of four layers over 12 frames of 512 takes 13 ms per video of one, 3.0 of 8, 2.3 of
128 and 2.6 of 512, on one core.
"""
DEVICE_VIDEOS_AT_ONCE = 1024

_FLOAT = 4  # bytes
_PREPARING = 8  # what preparing an item holds at once, about, in sizes of the item

Features = TypeVar("Features", TextFeatures, VideoFeatures)


class Sizes(NamedTuple):
    """How many are worked on at once.

    Attributes:
        texts: prepared and kept.
        videos: read and prepared.
        block: texts and videos of one call of `similarities`.
    """

    texts: int
    videos: int
    block: tuple[int, int]

    @classmethod
    def within(
        cls,
        memory: int,
        head: Head,
        text: TextFeatures,
        video: VideoFeatures,
        *,
        device: torch.device,
        block: int | None = None,
    ) -> Sizes:
        """What fits in so many bytes: a quarter each for texts and videos, half for their pairs.

        Args:
            memory: bytes; at least one text and one video are taken, whatever it is.
            head: says what a pair takes.
            text: all of them.
            video: likewise.
            device: where scores are computed.
            block: texts, and videos, of a call; None chooses.
        """
        texts = min(len(text.sentence), at_once(floats_of(text), memory)) or 1
        videos = videos_at_once(video, memory, device)
        if block is not None:
            return cls(texts, videos, (block, block))
        room = memory // 2
        if device.type == "cpu":
            room = min(room, CACHE)
        pairs = max(1, room // (_FLOAT * head.pair_floats()))
        across = min(videos, max(math.isqrt(pairs), pairs // texts))
        return cls(texts, videos, (max(1, pairs // across), across))


@contextlib.contextmanager
def evaluating(head: Head, device: torch.device) -> Iterator[None]:
    """A head in evaluation mode, without gradients, in float32 that is float32."""
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode(), without_autocast(device), full_precision():
            yield
    finally:
        head.train(was_training)


def scores(
    head: Head,
    texts: State,
    videos: State,
    *,
    scale: Tensor,
    block: tuple[int, int],
    granularities: bool = False,
) -> Tensor:
    """The fused scores of prepared texts and videos [Nt, Nv] float32, on their device.

    With `granularities` what the head fuses, [G, Nt, Nv].
    """

    def score(texts: State, videos: State) -> Tensor:
        sims = head.similarities(texts, videos)
        return (sims if granularities else head.fuse(sims, scale)).float()

    Nt, Nv = count(texts), count(videos)
    if not Nt or (Nt <= block[0] and Nv <= block[1]):
        return score(texts, videos)
    made = None
    for columns in slices(Nv, block[1]):
        some = take(videos, columns)
        for rows in slices(Nt, block[0]):
            part = score(take(texts, rows), some)
            made = part.new_empty(*part.shape[:-2], Nt, Nv) if made is None else made
            made[..., rows, columns] = part
    return made


def slices(total: int, size: int) -> Iterator[slice]:
    """The ranges of so many, one after the other, the last with what is left.

    Of none an empty one: a head then says what shape its scores have.
    """
    for start in range(0, max(1, total), size):
        yield slice(start, min(start + size, total))


def count(state: State) -> int:
    """Items of a state."""
    return len(state) if isinstance(state, Tensor) else len(state[0])


def take(state: State, rows: slice | Tensor) -> State:
    """Some items of a state: a tensor, or a NamedTuple of them."""
    if isinstance(state, Tensor):
        return state[rows]
    return type(state)(*(field[rows] for field in state))


def joined(states: Sequence[State]) -> State:
    """States of one head, one after the other, as one."""
    return type(states[0])(*(torch.cat(fields) for fields in zip(*states, strict=True)))


def at_once(floats: int, memory: int) -> int:
    """How many items of so many numbers can be read and prepared in a quarter of so many bytes.

    At least one.
    """
    return max(1, memory // (4 * _PREPARING * _FLOAT * max(1, floats)))


def videos_at_once(video: VideoFeatures, memory: int, device: torch.device) -> int:
    """How many videos are read and prepared together within so many bytes."""
    most = VIDEOS_AT_ONCE if device.type == "cpu" else DEVICE_VIDEOS_AT_ONCE
    return min(most, at_once(floats_of(video), memory))


def floats_of(features: TextFeatures | VideoFeatures) -> int:
    """Numbers that an item has."""
    return sum(math.prod(field.shape[1:]) for field in features if field is not None)


def read(
    features: Features, rows: slice | Sequence[int] | np.ndarray, device: torch.device
) -> Features:
    """Some items, as tensors on the device: masks bool, all else float32."""
    return type(features)(*(_field(values, rows, device) for values in features))


def device_of(text: TextFeatures) -> torch.device:
    """Where scores of these texts are computed."""
    return text.sentence.device if isinstance(text.sentence, Tensor) else torch.device("cpu")


def check_finite(scores: Tensor, texts: int, videos: Sequence[int] | np.ndarray | range) -> None:
    """Refuse scores [..., Nt, Nv] that are not finite.

    Args:
        scores: of consecutive texts with some videos.
        texts: the row of the first text.
        videos: the rows of the videos.

    Raises:
        TtvrError: there is one; names its rows.
    """
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        row, column = bad[0, -2:].tolist()
        raise TtvrError(
            f"the score of text row {texts + row} and video row {int(videos[column])} is not a "
            "finite number"
        )


def as_tensor(part: np.ndarray | Tensor) -> Tensor:
    """A tensor that may be written to."""
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def _field(values: Any, rows: Any, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    part = as_tensor(values[rows])
    return part.to(device, part.dtype if part.dtype == torch.bool else torch.float32)
