"""K tokens of a segment, evenly spread over it: `sparse@BLOCK:S,K`."""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.cluster import Clusters
from ttvr.reducers._base import SegmentReducer, require

DRAWS = ("even", "published")


class Sparse(SegmentReducer):
    """The sparse sampling baseline of Zhao et al. (SIGIR 2022), Table 2.

    In evaluation the middles of K equal parts of the segment's tokens. In training one token of
    each part, drawn by torch's global generator of the CPU on any device, so that a training whose
    state of it is stored goes on exactly.

    Args:
        width: as `SegmentReducer`, the others too.
        segments: S.
        centers: K.
        draw: parts in training. "even": equal parts of all tokens, each video drawing for itself.
            "published": parts of floor(N/K) tokens, so that the last N - K floor(N/K) are never
            seen, and one draw for all videos of the batch, or of the part of it that a training
            takes at once.
        mask: leave padding out.
        segment_mask: "any" or "last".
    """

    needs_centers = True

    def __init__(
        self,
        *,
        width: int,
        segments: int,
        centers: int,
        draw: str = "even",
        mask: bool = False,
        segment_mask: str = "any",
    ) -> None:
        super().__init__(
            width=width, segments=segments, centers=centers, mask=mask, segment_mask=segment_mask
        )
        require("draw", draw, among=DRAWS)
        self.draw = draw

    def keep(
        self, points: Tensor, real: Tensor | None, patches: int
    ) -> tuple[Tensor, Clusters | None]:
        """Tokens [B*S, K, D], and no clusters."""
        del patches
        B, N, D = points.shape
        counts = torch.full((B,), N, device=points.device) if real is None else real.sum(dim=-1)
        chosen = self._drawn(counts) if self.training else middles(counts, self.centers)
        if real is not None:
            places = (~real).byte().argsort(dim=-1, stable=True)  # the real ones first, in order
            chosen = places.gather(1, chosen)
        return points.gather(1, chosen.unsqueeze(-1).expand(-1, -1, D)), None

    def _drawn(self, counts: Tensor) -> Tensor:
        """One of each part of 0..n-1, [B*S, K] int64, for counts n [B*S]."""
        K, n = self.centers, counts.unsqueeze(1)
        part = torch.arange(K, device=counts.device)
        is_shared = self.draw == "published"
        rows = self.segments if is_shared else len(counts)
        # Of the CPU and float64: the same on every device, and never rounded up to a whole part.
        u = torch.rand(rows, K, dtype=torch.float64).to(counts.device)
        if is_shared:
            u = u.repeat(len(counts) // rows, 1)
            starts, sizes = part * (n // K), n // K
        else:
            starts = part * n // K
            sizes = (part + 1) * n // K - starts
        return torch.where(n > K, starts + (u * sizes).long(), part.minimum(n - 1))


def middles(counts: Tensor, centers: int) -> Tensor:
    """Middles of K equal parts of 0..n-1: int(n/K/2 + n/K * i), in float64 as published.

    Args:
        counts: [B] int64, n of each; where it is below K, all of them and the last one again.
        centers: K.

    Returns:
        [B, K] int64, ascending.
    """
    n = counts.unsqueeze(1)
    part = torch.arange(centers, device=counts.device)
    size = n.double() / centers
    return torch.where(n > centers, (size / 2 + size * part).long(), part.minimum(n - 1))


PLUGIN = Sparse
