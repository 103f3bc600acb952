"""Of many similarities the few that count, and one number of these: TC-MGC's two steps.

Jing et al., "TC-MGC: Text-Conditioned Multi-Grained Contrastive Learning for Text-Video Retrieval"
(2025): similarity reorganization (SR) and interactive similarity aggregation (ISA).

What is reduced stands in front, [m, ...], with pairs behind it: each step is then a few operations
on long rows, where sorting m numbers for each pair would take most of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.heads._contrasts import Contrasts

FILL = -1e30  # below any similarity, and still finite when added up or multiplied by a sharpness
_MOST = 8  # ranks, up to which merging is faster than sorting


class Kept(NamedTuple):
    """Of the similarities of pairs the largest, by rank, in descending order.

    Attributes:
        vw: [k, Nv, Nt] video-word.
        sf: [k+1, Nv, Nt] sentence-frame, the last one for the rest; [k, ...] if there is no rest.
        fw: [k, k, Nv, Nt], frames by words: of each frame the words, then of each rank of these
            the frames. It is no part of the matrix: the words of a rank differ between frames.
    """

    vw: Tensor
    sf: Tensor
    fw: Tensor


def reorganized(contrasts: Contrasts, k: int, mask: Tensor | None) -> Kept:
    """Similarity reorganization (SR): the largest similarities of each pair.

    Args:
        contrasts: of Nv videos and Nt texts of L words.
        k: how many are kept, at most L.
        mask: [Nt, L] bool; None: padded words count too.

    Returns:
        What is kept; near `FILL` where a text has fewer words.
    """
    words, to_frames = contrasts.to_video[1:], contrasts.to_frames
    if mask is not None:
        words = words.masked_fill(~mask.T.unsqueeze(1), FILL)
        real = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        to_frames = to_frames.masked_fill(~(real.unsqueeze(2) & mask.unsqueeze(1)), FILL)
    kept = largest(to_frames[:, :, 1:].permute(2, 0, 1, 3), k)  # [k, Nv, Nt, L]
    frames = to_frames[:, :, 0].permute(2, 0, 1)
    parts = [words.unsqueeze(1), frames.unsqueeze(1), kept.permute(3, 0, 1, 2)]
    ranks = largest(torch.cat(parts, dim=1), min(k + 1, len(words)))  # [.., 2+k, Nv, Nt]
    vw, sf, fw = ranks[:k, 0], ranks[:, 1], ranks[:k, 2:]
    if k < len(words):
        sf = torch.cat([sf[:k], fused(frames.contiguous(), k, sf[k]).unsqueeze(0)])
    return Kept(vw, sf, fw)


def largest(x: Tensor, k: int) -> Tensor:
    """The k largest along the first axis, in descending order.

    Halves are merged: with a and b in descending order, rank n of both together is the greatest of
    min(a_i, b_j) over i + j = n, counted from 1, where rank 0 is infinite.

    Args:
        x: [m, ...].
        k: at most m.

    Returns:
        [k, ...].
    """
    if k > _MOST:
        return x.topk(k, dim=0).values
    ranks, spare = [x], []
    while (m := len(ranks[0])) > 1:
        halves = [rank.split(m // 2) for rank in ranks]
        if m % 2:
            spare.append([half[2] for half in halves])
        ranks = _merged([half[0] for half in halves], [half[1] for half in halves], k)
    for odd in spare:
        ranks = _merged(ranks, odd, k)
    return torch.cat(ranks)


def _merged(a: list[Tensor], b: list[Tensor], k: int) -> list[Tensor]:
    """The ranks, at most k, of two lists of ranks together."""
    ranks = []
    for n in range(1, min(k, len(a) + len(b)) + 1):
        best = None
        for i in range(max(0, n - len(b)), min(n, len(a)) + 1):
            j = n - i
            pair = [part[rank - 1] for part, rank in ((a, i), (b, j)) if rank]
            least = torch.minimum(*pair) if len(pair) == 2 else pair[0]
            best = least if best is None else torch.maximum(best, least)
        ranks.append(best)
    return ranks


def fused(x: Tensor, k: int, top: Tensor) -> Tensor:
    """One number of what is not among the k largest: its sum weighted by a softmax of itself.

    Args:
        x: [m, ...]; what is `FILL` is not there.
        k: below m.
        top: [...] the greatest of the rest, number k+1 of all.

    Returns:
        [...].
    """
    is_less = x < top
    weights = (x - top).clamp(max=0.0).exp() * is_less
    # Those of the rest that equal its greatest, weight 1 each, need not be told from equal ones.
    equal = len(x) - k - is_less.sum(dim=0)
    return ((weights * x).sum(dim=0) + equal * top) / (weights.sum(dim=0) + equal)


def interactive(
    x: Tensor, matrices: Tensor, *, sharpness: float, real: Tensor | None = None
) -> Tensor:
    """Interactive similarity aggregation (ISA) of several at once.

    Weights are softmax(sharpness softmax(sharpness x) @ matrix), as row vectors.

    Args:
        x: [S, k, ...] similarities, to be aggregated over k.
        matrices: [S, k, k] or larger, of which the first k rows and columns are used.
        sharpness: of both softmaxes.
        real: broadcasts to x, bool; what is not has no weight; None: all is. One at least is.

    Returns:
        [S, ...].
    """
    k = x.shape[1]

    def share(scores: Tensor) -> Tensor:
        scores = sharpness * scores
        return (scores if real is None else scores.masked_fill(~real, -torch.inf)).softmax(dim=1)

    weights = matrices[:, :k, :k].mT @ share(x).flatten(2)
    return (share(weights.view(x.shape)) * x).sum(dim=1)


def decorrelation(sims: Tensor) -> Tensor:
    """Similarity decorrelation regularization (SDR): how granularities of matched pairs differ.

    Args:
        sims: [G, B, B], matched pairs on the diagonal.

    Returns:
        Scalar: the variance over G, unbiased as in the code, its mean over the B pairs.
    """
    return sims.diagonal(dim1=1, dim2=2).var(dim=0).mean()
