"""The contract of every token reducer, and what those that merge frames into segments share."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ttvr.clip.model import CLIP
from ttvr.cluster import Clusters
from ttvr.errors import UsageError

SEGMENT_MASKS = ("any", "last")


class Reduced(NamedTuple):
    """What a reducer leaves.

    Attributes:
        tokens: [B, T', 1+P', D]; index 0 of dim 2 is the class token.
        mask: [B, T'] bool, True = real.
        clusters: centers [B, T', K] and assignment [B, T', N], token ids within a segment (frame by
            frame, then row by row; the class token is not counted); None where there are none.
        real: [B, T', 1+P'] bool, the tokens that attention may look at; None means all.
    """

    tokens: Tensor
    mask: Tensor
    clusters: Clusters | None = None
    real: Tensor | None = None


class TokenReducer(nn.Module):
    """Makes fewer tokens of a video between the layers of a block, or moves them over frames.

    T' divides T: output s stands for the input frames s*T/T' .. (s+1)*T/T'-1.

    Args:
        width: D of the residual stream.
        mask: padded frames have no part in it.
    """

    sites: ClassVar[tuple[str, ...]] = ("block",)
    """Where it is called: "block" (before attention), "attention" (its normalized input), "mlp"."""
    is_staged: ClassVar[bool] = False
    """Takes `@BLOCK:S` and merges frames into S segments."""
    needs_centers: ClassVar[bool] = False
    """Takes K, the tokens that a segment keeps."""
    needs_grid: bool = False
    """Takes the P tokens of a frame as a square of patches, which they are until one has chosen."""

    def __init__(self, *, width: int, mask: bool = False) -> None:
        super().__init__()
        self.width, self.is_masked = width, mask

    @classmethod
    def blocks(cls, layers: int) -> range:
        """Where it acts when the plan does not say: in every one of the `layers` blocks."""
        return range(layers)

    def shape_after(self, frames: int, patches: int) -> tuple[int, int]:
        """T' and P' that are left of T frames with P patches each.

        Raises:
            UsageError: it cannot act on so many; the message has the numbers.
        """
        return frames, patches

    def init_from_clip(self, clip: CLIP) -> None:
        """Copy what this reducer takes over from CLIP; by default nothing."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Reduced:
        """Tokens [B, T, 1+P, D] and the mask of their frames [B, T] -> what is left."""
        raise NotImplementedError


class SegmentReducer(TokenReducer):
    """Merges T frames into S segments; a subclass says which patch tokens a segment keeps.

    The class token of a segment is the mean of those of its frames (CenterCLIP, section 3.2).

    Args:
        width: D of the residual stream.
        segments: S, divides T; segment s has the frames s*T/S .. (s+1)*T/S-1.
        centers: K, tokens kept of a segment; None where that is not a choice.
        mask: padded frames have no part in tokens and class token. Where a segment has less than K
            real tokens, the surplus repeats the last one and is hidden from attention. Off, padded
            frames take part, as published.
        segment_mask: a segment is real if any of its frames is ("any"), or if the last one is
            ("last", as published). A video left without a segment by that falls back to "any",
            where the authors' code gives NaN.

    Raises:
        UsageError: a value out of range.
    """

    is_staged: ClassVar[bool] = True

    def __init__(
        self,
        *,
        width: int,
        segments: int,
        centers: int | None = None,
        mask: bool = False,
        segment_mask: str = "any",
    ) -> None:
        super().__init__(width=width, mask=mask)
        require("segments", segments, at_least=1)
        require("centers", 1 if centers is None else centers, at_least=1)
        require("segment_mask", segment_mask, among=SEGMENT_MASKS)
        self.segments, self.centers = segments, centers
        self.segment_mask = segment_mask

    def shape_after(self, frames: int, patches: int) -> tuple[int, int]:
        """S, and K or P; as `TokenReducer.shape_after`."""
        S, K = self.segments, self.centers
        if frames % S:
            raise UsageError(f"{frames} frames do not divide into {S} segments")
        N = frames // S * patches
        if K is not None and K > N:
            raise UsageError(
                f"{K} centers of the {N} tokens of a segment ({frames // S} frames of {patches})"
            )
        return S, patches if K is None else K

    def forward(self, tokens: Tensor, mask: Tensor) -> Reduced:
        """As `TokenReducer.forward`; T' = S, P' = K, or P where K is no choice."""
        B, T, L, D = tokens.shape
        S, kept = self.shape_after(T, L - 1)
        N = T // S * (L - 1)
        real = None
        if self.is_masked:
            # Padding may hold anything, and a segment of padding alone has to give finite numbers,
            # although nobody looks at them.
            tokens = torch.where(mask[:, :, None, None], tokens, 0.0)
            real = mask.unflatten(1, (S, -1))  # [B, S, T/S]
            real = real | ~real.any(dim=-1, keepdim=True)
        first = mean_of_real(tokens[:, :, 0].unflatten(1, (S, -1)), real)  # [B, S, D]
        points = tokens[:, :, 1:].reshape(B * S, N, D)
        among = None if real is None else real.flatten(0, 1).repeat_interleave(L - 1, dim=1)
        chosen, clusters = self.keep(points, among, L - 1)
        if clusters is not None:
            clusters = Clusters(*(ids.unflatten(0, (B, S)) for ids in clusters))
        left = torch.cat([first.unsqueeze(2), chosen.unflatten(0, (B, S))], dim=2)
        attended = None
        if real is not None and kept > L - 1:
            counts = real.sum(dim=-1, keepdim=True) * (L - 1)
            attended = torch.arange(-1, kept, device=mask.device) < counts
        return Reduced(left, merged_mask(mask, S, self.segment_mask), clusters, attended)

    def keep(
        self, points: Tensor, real: Tensor | None, patches: int
    ) -> tuple[Tensor, Clusters | None]:
        """The tokens that segments keep.

        Args:
            points: [B*S, N, D] tokens, frame by frame.
            real: [B*S, N] bool, those to choose from, at least one; None: all.
            patches: P of a frame, divides N.

        Returns:
            [B*S, P', D], and the clusters they stand for (centers [B*S, K], assignment [B*S, N]).
        """
        raise NotImplementedError


def merged_mask(mask: Tensor, segments: int, rule: str) -> Tensor:
    """Mask of frames [B, T] -> mask of segments [B, S] by the rule "any" or "last"."""
    frames = mask.unflatten(1, (segments, -1))
    has_any = frames.any(dim=-1)
    if rule == "any":
        return has_any
    last = frames[:, :, -1]
    return torch.where(last.any(dim=-1, keepdim=True), last, has_any)


def mean_of_real(x: Tensor, real: Tensor | None) -> Tensor:
    """Mean of x [B, S, n, D] over n, of the entries that are real [B, S, n] alone if given."""
    if real is None:
        return x.mean(dim=2)
    total = torch.where(real.unsqueeze(-1), x, 0.0).sum(dim=2, dtype=at_least_float32(x))
    return (total / real.sum(dim=2, keepdim=True)).to(x.dtype)


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype to sum x in: its own, or float32 if that is narrower."""
    return torch.promote_types(x.dtype, torch.float32)


def require(
    name: str,
    value: float | str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    among: tuple[str, ...] = (),
) -> None:
    """Refuse an option out of its range.

    Raises:
        UsageError: below `at_least`, not above `above`, or not one of `among`.
    """
    if among and value not in among:
        raise UsageError(f"{name} is one of {', '.join(among)}, got {value!r}")
    if at_least is not None and value < at_least:
        raise UsageError(f"{name} is at least {at_least}, got {value}")
    if above is not None and value <= above:
        raise UsageError(f"{name} is above {above}, got {value}")
