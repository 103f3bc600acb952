"""DRL's score as its equations read: the baseline that the head `drl` is timed against."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ttvr.heads.drl import DRL
    from ttvr.records import TextFeatures, VideoFeatures


def drl(head: DRL, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> Tensor:
    """Logits [Nt, Nv] of ti or wti in the published way: all cosines at once, times both masks.

    Args:
        head: with ti or wti, and without `mask`.
        text: Nt texts of L words.
        video: Nv videos of T frames; the temporal step is taken here, as the head takes it.
        scale: exp of the logit scale.
    """
    import torch

    frames = head.temporal_frames(video)
    of_words, of_frames = text.mask.to(frames.dtype), video.mask.to(frames.dtype)
    if head.interaction == "wti":
        alpha = head.text_weight_fc(text.words).squeeze(2)
        alpha = alpha.masked_fill(~text.mask, -torch.inf).softmax(dim=-1)
        beta = head.video_weight_fc(frames).squeeze(2)
        beta = beta.masked_fill(~video.mask, -torch.inf).softmax(dim=-1)
    else:
        alpha = of_words / of_words.sum(dim=-1, keepdim=True)
        beta = of_frames / of_frames.sum(dim=-1, keepdim=True)
    words = text.words / text.words.norm(dim=-1, keepdim=True)
    frames = frames / frames.norm(dim=-1, keepdim=True)
    cosines = torch.einsum("tid,vjd->tvij", words, frames)
    cosines = torch.einsum("tvij,ti->tvij", cosines, of_words)
    cosines = torch.einsum("tvij,vj->tvij", cosines, of_frames)
    by_words = torch.einsum("tvi,ti->tv", cosines.max(dim=3).values, alpha)
    by_frames = torch.einsum("tvj,vj->tv", cosines.max(dim=2).values, beta)
    return scale * (by_words + by_frames) / 2
