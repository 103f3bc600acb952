"""What reducers and heads find in place of frames that a video lacks."""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.records import VideoFeatures


def with_last_repeated(frames: Tensor, mask: Tensor) -> Tensor:
    """Frames [B, T, ...], each that is padding [B, T] replaced by the last real one before it."""
    B, T = mask.shape
    place = torch.arange(T, device=mask.device)
    last = place.where(mask, 0).cummax(dim=1).values  # [B, T]
    return frames[torch.arange(B, device=mask.device)[:, None], last]


def filled(video: VideoFeatures, padding: VideoFeatures) -> VideoFeatures:
    """The same with the last frame of `padding` in all that is masked."""
    real = video.mask.unsqueeze(-1)  # [B, T, 1]
    frames = torch.where(real, video.frames, padding.frames[0, -1])
    if video.patches is None:
        return video._replace(frames=frames)
    patches = torch.where(real.unsqueeze(-1), video.patches, padding.patches[0, -1])
    return video._replace(frames=frames, patches=patches)
