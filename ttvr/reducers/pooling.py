"""Mean of a segment's frames, patch by patch: `pooling@BLOCK:S`."""

from __future__ import annotations

from torch import Tensor

from ttvr.cluster import Clusters
from ttvr.errors import UsageError
from ttvr.reducers._base import SegmentReducer, mean_of_real


class Pooling(SegmentReducer):
    """The baseline of Zhao et al. (SIGIR 2022), Table 2: P tokens per segment, whatever K is there.

    Args:
        width: as `SegmentReducer`, the others too.
        segments: S.
        centers: K; None, or P, which it keeps anyhow. The published code takes and ignores any K.
        mask: leave padding out.
        segment_mask: "any" or "last".
    """

    def __init__(
        self,
        *,
        width: int,
        segments: int,
        centers: int | None = None,
        mask: bool = False,
        segment_mask: str = "any",
    ) -> None:
        super().__init__(width=width, segments=segments, mask=mask, segment_mask=segment_mask)
        self.asked = centers

    def shape_after(self, frames: int, patches: int) -> tuple[int, int]:
        """As `SegmentReducer.shape_after`."""
        if self.asked not in (None, patches):
            raise UsageError(
                f"pooling keeps the {patches} patches of a frame, not {self.asked}: leave K out"
            )
        return super().shape_after(frames, patches)

    def keep(
        self, points: Tensor, real: Tensor | None, patches: int
    ) -> tuple[Tensor, Clusters | None]:
        """Mean of the frames at each patch [B*S, P, D]; no clusters."""
        by_patch = points.unflatten(1, (-1, patches)).transpose(1, 2)  # [B*S, P, frames, D]
        among = None if real is None else real.unflatten(1, (-1, patches)).transpose(1, 2)
        return mean_of_real(by_patch, among), None


PLUGIN = Pooling
