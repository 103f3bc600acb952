"""Token-wise interaction: each word finds its best frame and each frame its best word.

One product per block of texts and videos, the maxima over its cosines while they are in cache.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

_HELD, _HELD_BY_DEVICE = 3 << 17, 1 << 26
"""Cosines in work at once: on a CPU what stays in its cache between the product and the maxima."""


class Parts(NamedTuple):
    """The words of texts, or the frames of videos.

    Attributes:
        units: [N, R, D] unit vectors; padded rows repeat a real one, so no maximum sees them.
        weights: [N, R], one altogether, zero for padding.
        floor: [N], what a maximum over the rows is at least.
        length: [N] int64, behind the last real row.
    """

    units: Tensor
    weights: Tensor
    floor: Tensor
    length: Tensor


def interact(text: Parts, video: Parts) -> Tensor:
    """Weighted means of maxima of cosines: S [Nt, Nv] of all texts and videos.

    S = 1/2 [sum_i alpha_i max(floor_v, max_j A_ij) + sum_j beta_j max(floor_t, max_i A_ij)].

    Texts are taken in the order of their lengths, so that a block is as long as its longest text:
    what is padding throughout is not computed.
    """
    side = _side(text.units, video.units)
    frames = _frame_blocks(video, side)
    order = text.length.argsort()
    lengths = text.length[order].tolist()
    rows = []
    for start in range(0, max(1, len(order)), side):  # of no texts an empty block
        chosen = order[start : start + side]
        longest = max(lengths[start : start + side], default=1)
        units = text.units.transpose(0, 1)[:longest, chosen]  # [L, c, D]
        weights = text.weights.T[:longest, chosen].unsqueeze(-1)  # [L, c, 1]
        floor = text.floor[chosen, None, None]
        rows.append(torch.cat([_block(units, weights, floor, one) for one in frames], dim=1))
    return torch.cat(rows)[order.argsort()]


def with_first_repeated(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows [N, R, D], each that is padding [N, R] replaced by the item's first real one."""
    first = mask.int().argmax(dim=1)
    real = rows[torch.arange(len(rows), device=rows.device), first]
    return torch.where(mask.unsqueeze(-1), rows, real.unsqueeze(1))


def _side(words: Tensor, frames: Tensor) -> int:
    """How many texts, and how many videos, are taken at once."""
    held = _HELD if words.device.type == "cpu" else _HELD_BY_DEVICE
    return max(1, isqrt(held // (words.shape[1] * frames.shape[1])))


def _frame_blocks(video: Parts, side: int) -> list[Parts]:
    """Videos, `side` at a time, laid out as `_block` takes them."""
    longest = max(video.length.tolist(), default=1)
    blocks = []
    for start in range(0, max(1, len(video.units)), side):
        part = slice(start, start + side)
        units = video.units[part, :longest].permute(2, 1, 0).contiguous()  # [D, T, c]
        weights = video.weights[part, :longest].T
        blocks.append(Parts(units, weights, video.floor[part], video.length[part]))
    return blocks


def _block(words: Tensor, alpha: Tensor, floor: Tensor, video: Parts) -> Tensor:
    """S [Nt, Nv]: one product, with neither of the axes of maxima innermost.

    Args:
        words: [L, Nt, D].
        alpha: [L, Nt, 1].
        floor: [Nt, 1, 1], of maxima over words.
        video: units [D, T, Nv], weights [T, Nv], floor [Nv] of maxima over frames.
    """
    L, Nt, D = words.shape
    T, Nv = video.weights.shape
    cosines = (words.reshape(-1, D) @ video.units.view(D, -1)).view(L, Nt, T, Nv)
    of_words = torch.maximum(cosines.amax(dim=2), video.floor)  # [L, Nt, Nv]
    of_frames = torch.maximum(cosines.amax(dim=0), floor)  # [Nt, T, Nv]
    return ((of_words * alpha).sum(dim=0) + (of_frames * video.weights).sum(dim=1)) / 2
