"""CenterCLIP with k-medoids++: `kmedoids@BLOCK:S,K`."""

from __future__ import annotations

from torch import Tensor

from ttvr.cluster import METRICS, Clusters
from ttvr.cluster.kmedoids import RULES, kmedoids
from ttvr.reducers._base import require
from ttvr.reducers._centers import ClusterReducer


class KMedoids(ClusterReducer):
    """Keeps the K medoids of each segment. Zhao et al. (SIGIR 2022), section 3.3.1.

    Args:
        width: these and the others not named here as `ClusterReducer`.
        segments: S.
        centers: K.
        metric: these and the next four as `ttvr.cluster.kmedoids`.
        p: order of the Minkowski distance; the authors' MSR-VTT models have 1.
        pre_norm: cluster unit vectors; the tokens kept are not normalized.
        rule: "medoid" as the authors' code, or "nearest_mean" as their paper.
        iterations: at most.
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
        metric: str = "euclidean",
        p: float = 2.0,
        pre_norm: bool = False,
        rule: str = "medoid",
        iterations: int = 100,
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
        require("metric", metric, among=METRICS)
        require("p", p, above=0)
        require("rule", rule, among=RULES)
        require("iterations", iterations, at_least=1)
        self.metric, self.p, self.pre_norm = metric, p, pre_norm
        self.rule, self.iterations = rule, iterations

    def cluster(self, points: Tensor, real: Tensor | None, patches: int) -> Clusters:
        """As `ClusterReducer.cluster`."""
        del patches
        return kmedoids(
            points,
            self.centers,
            iterations=self.iterations,
            metric=self.metric,
            p=self.p,
            pre_norm=self.pre_norm,
            rule=self.rule,
            mask=real,
        )


PLUGIN = KMedoids
