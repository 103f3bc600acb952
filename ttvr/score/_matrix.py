"""The score of every text with every video, in blocks, and the vectors that videos have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ttvr.heads._base import Head, State
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score._blocks import (
    MEMORY,
    Features,
    Sizes,
    as_tensor,
    at_once,
    check_finite,
    device_of,
    evaluating,
    floats_of,
    read,
    scores,
    slices,
    videos_at_once,
)

Score = Callable[[State, State], Tensor]


def similarity_matrix(
    head: Head,
    text: TextFeatures,
    video: VideoFeatures,
    *,
    memory: int = MEMORY,
    block: int | None = None,
    scale: float | Tensor = 1.0,
    granularities: bool = False,
) -> Tensor:
    """The fused score of every text with every video.

    Texts are prepared once, videos are read and prepared block by block: once, or as often as there
    are groups of texts where those do not fit in memory together. The products of an offline head
    are taken in float64 and rounded, so that equal items tie exactly whatever the block; the scores
    of other heads agree between blocks to float32 rounding.

    Args:
        head: scores in evaluation mode; its own mode is restored.
        text: Nt texts. Fields are tensors, arrays or `store.Rows`, here and of the videos.
        video: Nv videos.
        memory: bytes to get by with, apart from the result and from what the head holds itself.
        block: texts, and videos, scored at once; None: what fits a processor's cache, and memory.
        scale: exp of the logit scale; 1 leaves cosines as they are.
        granularities: give the matrices that the head fuses, not multiplied by the scale.

    Returns:
        [Nt, Nv] float32 on the CPU, or [G, Nt, Nv] where granularities are wanted; empty
        where there are no texts or no videos.

    Raises:
        TtvrError: a score is not finite; names the text row and the video row.
    """
    device = device_of(text)
    sizes = Sizes.within(memory, head, text, video, device=device, block=block)
    scale = torch.as_tensor(scale, dtype=torch.float32, device=device)
    sims = torch.empty(len(text.sentence), len(video.frames))
    prepare_text, prepare_video, score = _rule(head, scale, sizes, granularities)
    with evaluating(head, device):
        for rows in slices(len(text.sentence), sizes.texts):
            texts = prepare_text(read(text, rows, device))
            for columns in slices(len(video.frames), sizes.videos):
                videos = prepare_video(read(video, columns, device))
                made = score(texts, videos).cpu()
                check_finite(made, rows.start, range(columns.start, columns.stop))
                if made.ndim > sims.ndim:
                    sims = sims.new_empty(len(made), *sims.shape)
                sims[..., rows, columns] = made
    return sims


def streamed_matrix(
    head: Head,
    text: TextFeatures,
    videos: Iterable[VideoFeatures],
    *,
    memory: int = MEMORY,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """`similarity_matrix` of videos that come some at a time and are not kept.

    Args:
        head: as `similarity_matrix`.
        text: likewise, all of them prepared at once.
        videos: parts, in order.
        memory: as `similarity_matrix`, of the pairs.
        scale: likewise.

    Returns:
        [Nt, Nv] float32 on the CPU.

    Raises:
        TtvrError: a score is not finite; names the text row and the video row.
    """
    device = device_of(text)
    scale = torch.as_tensor(scale, dtype=torch.float32, device=device)
    parts, first = [torch.empty(len(text.sentence), 0)], 0
    with evaluating(head, device):
        texts = None
        for video in videos:
            sizes = Sizes.within(memory, head, text, video, device=device)
            prepare_text, prepare_video, score = _rule(head, scale, sizes)
            if texts is None:
                texts = prepare_text(read(text, slice(None), device))
            made = score(texts, prepare_video(read(video, slice(None), device))).cpu()
            check_finite(made, 0, range(first, first + made.shape[1]))
            parts.append(made)
            first += made.shape[1]
    return torch.cat(parts, dim=1)


def text_vectors(
    head: Head, text: TextFeatures, *, device: torch.device, memory: int = MEMORY
) -> Tensor:
    """The head's vector of every text; as `video_vectors`."""
    return _vectors(head, head.vector_text, text, device, at_once(floats_of(text), memory))


def video_vectors(
    head: Head, video: VideoFeatures, *, device: torch.device, memory: int = MEMORY
) -> Tensor:
    """The head's vector of every video.

    Args:
        head: as `similarity_matrix`.
        video: likewise.
        device: where they are computed.
        memory: bytes to get by with, apart from the result.

    Returns:
        [Nv, E] float32 unit vectors on the CPU.
    """
    some = videos_at_once(video, memory, device)
    return _vectors(head, head.vector_video, video, device, some)


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
    for columns in slices(len(gallery), block):
        sims[:, columns] = exact @ as_tensor(gallery[columns]).cpu().double().T
    return sims


def _rule(
    head: Head, scale: Tensor, sizes: Sizes, granularities: bool = False
) -> tuple[Callable[..., Any], Callable[..., Any], Score]:
    """What prepares texts, what prepares videos, and what scores them; as `similarity_matrix`."""

    def score(texts: State, videos: State) -> Tensor:
        if not head.offline:
            return scores(
                head, texts, videos, scale=scale, block=sizes.block, granularities=granularities
            )
        sims = (head.vector_gain * inner_products(texts, videos)).to(scale.device).unsqueeze(0)
        return sims if granularities else head.fuse(sims, scale).float()

    if head.offline:
        return head.vector_text, head.vector_video, score
    return head.prepare_text, head.prepare_video, score


def _vectors(
    head: Head,
    vector: Callable[[Features], Tensor],
    features: Features,
    device: torch.device,
    size: int,
) -> Tensor:
    with evaluating(head, device):
        parts = [
            vector(read(features, rows, device)).float().cpu()
            for rows in slices(len(features[0]), size)
        ]
    return torch.cat(parts)
