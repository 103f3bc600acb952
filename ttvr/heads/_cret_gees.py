"""CRET's contrastive losses over frames: GEES, and the two plain ones that it replaces.

Ji et al., "CRET: Cross-Modal Retrieval Transformer for Efficient Text-Video Retrieval" (SIGIR
2022). The frames of video k are taken as draws from N(mu_k, Sigma_k). The logit of text i is then a
normal variable of mean m and variance q, whose exponential has the mean exp(m + q/2), so that by
Jensen's inequality the expected contrastive loss is at most -m_ii + log sum exp(m + q/2).

The form that is known of the paper has q_ii/2 in the numerator as well, which is no bound: it lies
below the expected loss. It is kept as bound="slide", as a record. No source says which negatives
are summed over, nor gives a temperature; both are arguments here.
"""

from __future__ import annotations

import torch
from torch import Tensor

TAU = 0.05
DIRECTIONS = ("sym", "t2v", "v2t", "union")
COVARIANCES = ("full", "diag")
BOUNDS = ("jensen", "difference", "slide")


def contrast(logits: Tensor, direction: str = "sym") -> Tensor:
    """The cross entropy of each matched pair among the pairs of a batch.

    Args:
        logits: [N, N], rows are texts, columns videos, matched pairs on the diagonal.
        direction: what a pair is compared with. t2v: all videos with its text; v2t: all texts with
            its video; sym: the mean of both losses; union: both in one sum of 2N - 1 terms.

    Returns:
        [N].

    Raises:
        ValueError: the matrix is not square, or an unknown direction.
    """
    return _contrast(logits.diagonal(), logits, logits, direction)


def moments(
    text: Tensor,
    frames: Tensor,
    mask: Tensor,
    *,
    tau: float = TAU,
    covariance: str = "full",
    unbiased: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the logit of each text with a frame of each video.

    Sigma itself is never built: with "full" q is the variance of the frames' own logits. Nothing
    takes a root, so that videos without variance are safe.

    Args:
        text: [Nt, D].
        frames: [Nv, T, D]. What stands in masked rows is never read.
        mask: [Nv, T] bool, True = real; at least one of each video.
        tau: temperature; means go with 1/tau, variances with 1/tau^2.
        covariance: "full", or "diag": Sigma's diagonal alone.
        unbiased: divide by one less than the number of frames. A single frame has no variance
            either way.

    Returns:
        m [Nt, Nv] and q [Nt, Nv].

    Raises:
        ValueError: an unknown covariance.
    """
    mean, deviations, counts = _centered(frames, mask, unbiased)
    q = _variances(text, deviations, counts, covariance)
    return text @ mean.T / tau, q / tau**2


def gees(
    text: Tensor,
    frames: Tensor,
    mask: Tensor,
    *,
    tau: float = TAU,
    covariance: str = "full",
    unbiased: bool = False,
    direction: str = "sym",
    variance_weight: float = 1.0,
    bound: str = "jensen",
) -> Tensor:
    """The loss of each matched pair over infinitely many frames, bounded from above.

    Args:
        text: [N, D], unit vectors in training; row i belongs to video i.
        frames: [N, T, D], likewise.
        mask: [N, T] bool, True = real.
        tau: as `moments`.
        covariance: likewise.
        unbiased: likewise.
        direction: as `contrast`.
        variance_weight: multiplies q; below 1 nothing is bounded any more.
        bound: "jensen"; "difference", the bound of the logits' differences to the right one, which
            falls to 0 where the other stays above q_ii/2; "slide", the printed form.

    Returns:
        [N].

    Raises:
        ValueError: an unknown choice, or texts and videos are not as many.
    """
    _require_pairs(text, frames)
    m, q = moments(text, frames, mask, tau=tau, covariance=covariance, unbiased=unbiased)
    half = variance_weight / 2
    logits = m + half * q
    if bound == "jensen":
        return _contrast(m.diagonal(), logits, logits, direction)
    if bound == "slide":
        return contrast(logits, direction)
    if bound != "difference":
        raise ValueError(f"bound {bound!r}, expected one of {BOUNDS}")
    # Against another video its variance and the own one add up; against another text of the same
    # video the difference of both texts meets one covariance.
    is_other = ~torch.eye(len(m), dtype=torch.bool, device=m.device)
    rows = m + half * (q + q.diagonal().unsqueeze(1)) * is_other
    _, deviations, counts = _centered(frames, mask, unbiased)
    between = _variances(text, deviations, counts, covariance, is_between=True) / tau**2
    return _contrast(m.diagonal(), rows, m + half * between, direction)


def nce_mean(
    text: Tensor, frames: Tensor, mask: Tensor, *, tau: float = TAU, direction: str = "sym"
) -> Tensor:
    """The loss [N] of each matched pair at the mean frame; arguments as `gees`."""
    mean, _, _ = _centered(frames, mask, unbiased=False)
    return contrast(text @ mean.T / tau, direction)


def nce_frames(
    text: Tensor, frames: Tensor, mask: Tensor, *, tau: float = TAU, direction: str = "sym"
) -> Tensor:
    """The loss [N] of each matched pair, mean over its frames; arguments as `gees`.

    Frame m of a video is compared with frame m of the others, a choice of ours: no source says
    which. Videos without a frame m are then no candidates.
    """
    _require_pairs(text, frames)
    frames = frames.masked_fill(~mask.unsqueeze(-1), 0.0)
    logits = torch.einsum("id,kmd->mik", text, frames) / tau  # [T, N, N]
    # Finite, since a padded frame has a loss too, which is only then left out.
    fill = torch.finfo(logits.dtype).min / 4
    logits = logits.masked_fill(~mask.T.unsqueeze(1), fill)
    losses = torch.stack([contrast(one, direction) for one in logits], dim=1)  # [N, T]
    return losses.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)


def _contrast(positive: Tensor, rows: Tensor, columns: Tensor, direction: str) -> Tensor:
    """Positives [N] against candidates by text (rows) and by video (columns), both [N, N]."""
    if rows.ndim != 2 or rows.shape[0] != rows.shape[1]:
        raise ValueError(f"expected square logits, got {list(rows.shape)}")
    if direction == "t2v":
        return rows.logsumexp(dim=1) - positive
    if direction == "v2t":
        return columns.logsumexp(dim=0) - positive
    if direction == "sym":
        return (rows.logsumexp(dim=1) + columns.logsumexp(dim=0)) / 2 - positive
    if direction == "union":
        once = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        both = torch.cat([rows, columns.T.masked_fill(once, -torch.inf)], dim=1)
        return both.logsumexp(dim=1) - positive
    raise ValueError(f"direction {direction!r}, expected one of {DIRECTIONS}")


def _centered(frames: Tensor, mask: Tensor, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Means [N, D], deviations [N, T, D], zero where masked, and divisors [N, 1] of variances."""
    real = mask.unsqueeze(-1)
    counts = mask.sum(dim=1, keepdim=True)  # [N, 1]
    mean = frames.masked_fill(~real, 0.0).sum(dim=1) / counts
    deviations = (frames - mean.unsqueeze(1)).masked_fill(~real, 0.0)
    return mean, deviations, (counts - 1).clamp(min=1) if unbiased else counts


def _variances(
    text: Tensor,
    deviations: Tensor,
    counts: Tensor,
    covariance: str,
    *,
    is_between: bool = False,
) -> Tensor:
    """T_i' Sigma_k T_i, or with `is_between` (T_i - T_k)' Sigma_k (T_i - T_k): [Nt, Nv]."""
    if covariance == "full":
        logits = torch.einsum("id,kmd->ikm", text, deviations)
        if is_between:
            logits = logits - logits.diagonal(dim1=0, dim2=1).T  # minus [Nv, T]
        return logits.square().sum(dim=-1) / counts.squeeze(1)
    if covariance != "diag":
        raise ValueError(f"covariance {covariance!r}, expected one of {COVARIANCES}")
    variance = deviations.square().sum(dim=1) / counts  # [Nv, D]
    q = text.square() @ variance.T
    if not is_between:
        return q
    q = q - 2 * text @ (text * variance).T + q.diagonal()
    return q.clamp(min=0.0)  # rounding


def _require_pairs(text: Tensor, frames: Tensor) -> None:
    if len(text) != len(frames):
        raise ValueError(f"expected pairs, got {len(text)} texts and {len(frames)} videos")
