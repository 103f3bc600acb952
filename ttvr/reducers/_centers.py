"""What the clustering reducers share: CenterCLIP's segments, and what they keep of each cluster.

Zhao et al., "CenterCLIP: Token Clustering for Efficient Text-Video Retrieval" (SIGIR 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttvr.clip.model import CLIP
from ttvr.cluster import Clusters
from ttvr.reducers._base import SegmentReducer, at_least_float32, require

AGGREGATIONS = ("medoid", "mean")


class ClusterReducer(SegmentReducer):
    """Keeps the K cluster centers of each segment's tokens, in the order of space and time.

    Choosing is without gradient; gradients flow through the tokens kept and the class token. The
    order of the centers changes no feature, for attention has none, but a later stage breaks ties
    by it, and `cluster_embedding` is by place.

    Args:
        width: D of the residual stream.
        segments: S, as `SegmentReducer`.
        centers: K of a segment.
        aggregation: "medoid" keeps the center itself, unchanged; "mean" the mean of its cluster.
        cluster_embedding: add a learned vector to each of the K tokens, by its place; it starts as
            the positions 1..K of CLIP (beyond CLIP's last as zero, where the published code fails).
        mask: as `SegmentReducer`: masked tokens have no pick, no vote and no cluster.
        segment_mask: as `SegmentReducer`.
    """

    needs_centers = True

    def __init__(
        self,
        *,
        width: int,
        segments: int,
        centers: int,
        aggregation: str,
        cluster_embedding: bool,
        mask: bool,
        segment_mask: str,
    ) -> None:
        super().__init__(
            width=width, segments=segments, centers=centers, mask=mask, segment_mask=segment_mask
        )
        require("aggregation", aggregation, among=AGGREGATIONS)
        self.aggregation = aggregation
        learned = nn.Parameter(torch.zeros(centers, width)) if cluster_embedding else None
        self.cluster_embedding = learned

    @torch.no_grad()
    def init_from_clip(self, clip: CLIP) -> None:
        """Start the cluster embedding as CLIP's positions of patches."""
        if self.cluster_embedding is not None:
            positions = clip.visual.positional_embedding[1 : 1 + self.centers]
            self.cluster_embedding[: len(positions)] = positions

    def keep(
        self, points: Tensor, real: Tensor | None, patches: int
    ) -> tuple[Tensor, Clusters | None]:
        """Centers or means of clusters [B*S, K, D], and the clusters."""
        found = self.cluster(points.detach(), real, patches)
        if self.aggregation == "mean":
            kept = _means(points, found)
        else:
            kept = points.gather(1, found.centers.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
        if self.cluster_embedding is not None:
            kept = kept + self.cluster_embedding.to(kept.dtype)
        return kept, found

    def cluster(self, points: Tensor, real: Tensor | None, patches: int) -> Clusters:
        """Clusters of points; arguments as `keep`."""
        raise NotImplementedError


def _means(points: Tensor, clusters: Clusters) -> Tensor:
    """Mean of each cluster's points [B, K, D], zero for a cluster without any."""
    K = clusters.centers.shape[1]
    member = clusters.assignment.unsqueeze(1) == torch.arange(K, device=points.device)[:, None]
    member = member.to(at_least_float32(points))  # [B, K, N]
    with torch.autocast(points.device.type, enabled=False):
        total = member @ points.to(member.dtype)
    return (total / member.sum(dim=-1, keepdim=True).clamp(min=1)).to(points.dtype)
