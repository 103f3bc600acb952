"""CenterCLIP with spectral clustering: `spectral@BLOCK:S,K`."""

from __future__ import annotations

from math import isqrt

from torch import Tensor

from ttvr.cluster import METRICS, Clusters
from ttvr.cluster.kmedoids import RULES
from ttvr.cluster.spectral import GRAPHS, neighborhood, spectral
from ttvr.errors import UsageError
from ttvr.reducers._base import require
from ttvr.reducers._centers import ClusterReducer

EDGES_PER_FRAME = 5
_FINE_GRID = 100


class Spectral(ClusterReducer):
    """Keeps K tokens of each segment, one per group of its graph.

    Zhao et al. (SIGIR 2022), section 3.3.2.

    Args:
        width: these and the others not named here as `ClusterReducer`.
        segments: S.
        centers: K.
        neighbours: edges of a token, itself included; None: 5 per frame of the segment, and 5
            more where a frame has 100 tokens or more, as published.
        sigma: these and the next four as `ttvr.cluster.spectral`.
        graph: "knn" or "dense".
        metric: of the rows that k-medoids sees; the graph is Euclidean.
        p: likewise.
        rule: likewise.
        spatial_temporal: join only tokens near in space and time: at most 4 patches apart (9 where
            a frame has 100 or more) and 3 frames. It needs the grid of a first stage.
        aggregation: "medoid" or "mean".
        cluster_embedding: add a learned vector by place.
        mask: leave padding out.
        segment_mask: "any" or "last".
    """

    def __init__(
        self,
        *,
        width: int,
        segments: int,
        centers: int,
        neighbours: int | None = None,
        sigma: float = 2.0,
        graph: str = "knn",
        metric: str = "euclidean",
        p: float = 2.0,
        rule: str = "medoid",
        spatial_temporal: bool = False,
        aggregation: str = "medoid",
        cluster_embedding: bool = False,
        mask: bool = False,
        segment_mask: str = "any",
    ) -> None:
        super().__init__(
            width=width,
            segments=segments,
            centers=centers,
            aggregation=aggregation,
            cluster_embedding=cluster_embedding,
            mask=mask,
            segment_mask=segment_mask,
        )
        require("neighbours", 1 if neighbours is None else neighbours, at_least=1)
        require("sigma", sigma, above=0)
        require("graph", graph, among=GRAPHS)
        require("metric", metric, among=METRICS)
        require("p", p, above=0)
        require("rule", rule, among=RULES)
        self.neighbours, self.sigma, self.graph = neighbours, sigma, graph
        self.metric, self.p, self.rule = metric, p, rule
        self.spatial_temporal = self.needs_grid = spatial_temporal

    def shape_after(self, frames: int, patches: int) -> tuple[int, int]:
        """As `SegmentReducer.shape_after`."""
        if self.spatial_temporal and isqrt(patches) ** 2 != patches:
            raise UsageError(f"spatial_temporal needs a square grid, not {patches} tokens")
        return super().shape_after(frames, patches)

    def cluster(self, points: Tensor, real: Tensor | None, patches: int) -> Clusters:
        """As `ClusterReducer.cluster`."""
        frames = points.shape[1] // patches
        near = neighborhood(frames, patches).to(points.device) if self.spatial_temporal else None
        return spectral(
            points,
            self.centers,
            neighbours=self.neighbours or default_neighbours(frames, patches),
            sigma=self.sigma,
            graph=self.graph,
            graph_mask=near,
            metric=self.metric,
            p=self.p,
            rule=self.rule,
            mask=real,
        )


def default_neighbours(frames: int, patches: int) -> int:
    """Edges of a token, itself included, for segments of so many frames and tokens per frame."""
    return EDGES_PER_FRAME * frames + (EDGES_PER_FRAME if patches >= _FINE_GRID else 0)


PLUGIN = Spectral
