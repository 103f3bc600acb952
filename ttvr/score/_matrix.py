"""The score of every text with every video, in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ttvr.errors import TtvrError
from ttvr.heads._base import Head, without_autocast
from ttvr.records import TextFeatures, VideoFeatures

Features = TypeVar("Features", TextFeatures, VideoFeatures)


def similarity_matrix(
    head: Head,
    text: TextFeatures,
    video: VideoFeatures,
    *,
    block: int = 128,
    scale: float | Tensor = 1.0,
    granularities: bool = False,
) -> Tensor:
    """The fused score of every text with every video.

    Each text and each video is prepared once, and videos are read block by block. The products of
    an offline head are taken in float64 and rounded, so that equal items tie exactly whatever the
    block; the scores of other heads agree between blocks to float32 rounding.

    Args:
        head: scores in evaluation mode; its own mode is restored.
        text: Nt texts.
        video: Nv videos. Fields are tensors, arrays or `store.Rows`.
        block: texts, and videos, scored at once.
        scale: exp of the logit scale; 1 leaves cosines as they are.
        granularities: give the matrices that the head fuses, not multiplied by the scale.

    Returns:
        [Nt, Nv] float32 on the CPU, or [G, Nt, Nv] where granularities are wanted.

    Raises:
        TtvrError: a score is not finite; names the text row and the video row.
    """
    device = text.sentence.device if isinstance(text.sentence, Tensor) else torch.device("cpu")
    scale = torch.as_tensor(scale, dtype=torch.float32, device=device)
    sims = torch.empty(len(text.sentence), len(video.frames))
    prepare_text, prepare_video, score = _rule(head, device)
    training = head.training
    head.eval()
    try:
        with torch.inference_mode(), without_autocast(device):
            texts = [
                (rows, prepare_text(_read(text, rows, device)))
                for rows in _blocks(len(sims), block)
            ]
            for columns in _blocks(sims.shape[-1], block):
                videos = prepare_video(_read(video, columns, device))
                for rows, prepared in texts:
                    made = score(prepared, videos)
                    made = (made if granularities else head.fuse(made, scale)).float().cpu()
                    if made.ndim > sims.ndim:
                        sims = sims.new_empty(len(made), *sims.shape)
                    sims[..., rows, columns] = made
                _check(sims[..., columns], columns.start)
    finally:
        head.train(training)
    return sims


def inner_products(text: Tensor, gallery: Any, *, block: int = 4096) -> Tensor:
    """Inner products of vectors, taken in float64 and rounded so that equal rows tie exactly.

    Args:
        text: [Nt, D].
        gallery: [Nv, D]: a tensor, an array or `store.Rows`.
        block: rows of the gallery multiplied at once.

    Returns:
        [Nt, Nv] float32 on the CPU: not every device has float64.
    """
    exact = text.cpu().double()
    sims = torch.empty(len(text), len(gallery))
    for columns in _blocks(len(gallery), block):
        sims[:, columns] = exact @ _tensor(gallery[columns]).cpu().double().T
    return sims


def _rule(head: Head, device: torch.device) -> tuple[Callable[..., Any], ...]:
    """What prepares texts, what prepares videos, and what scores them: [G, Nt, Nv]."""
    if not head.offline:
        return head.prepare_text, head.prepare_video, head.similarities

    def score(text: Tensor, video: Tensor) -> Tensor:
        return (head.vector_gain * inner_products(text, video)).to(device).unsqueeze(0)

    return head.vector_text, head.vector_video, score


def _blocks(count: int, block: int) -> Iterator[slice]:
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))


def _read(features: Features, rows: slice, device: torch.device) -> Features:
    """Some items, as tensors on the device: masks bool, all else float32."""
    return type(features)(*(_field(values, rows, device) for values in features))


def _field(values: Any, rows: slice, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    part = _tensor(values[rows])
    return part.to(device, part.dtype if part.dtype == torch.bool else torch.float32)


def _tensor(part: np.ndarray | Tensor) -> Tensor:
    """A tensor that may be written to."""
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def _check(sims: Tensor, first: int) -> None:
    bad = (~sims.isfinite()).nonzero()
    if len(bad):
        text, video = bad[0, -2:].tolist()
        raise TtvrError(
            f"the score of text row {text} and video row {first + video} is not a finite number"
        )
