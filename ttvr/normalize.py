"""Scores corrected for texts or videos that are near to everything: after scoring, before ranking.

Each rule is written for texts that search videos (t2v), along the axes of [Nt, Nv]. For videos that
search texts give the transposed matrices, and transpose what comes back. Leading dimensions are
granularities, each corrected on its own, as is published: before they are fused. Nothing is
changed in place; what is float64 stays so, all else is computed in float32.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

RULES = ("dsl", "qbnorm", "sinkhorn")
FORMS = ("product", "log", "both")
BETA, TOP, ROUNDS, TEMP = 20.0, 1, 4, 1.0

log = logging.getLogger(__name__)


def dual_softmax(
    sims: Tensor, *, temp: float = TEMP, form: str = "product", warn: bool = True
) -> Tensor:
    """Scores times the prior that a text is the one that belongs to a video.

    Cheng et al., "Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax
    Loss" (CAMoE, 2021), as TS2-Net and many others use it: with all queries of the test at once,
    which is transductive. TS2-Net ranks videos for texts and texts for videos by this same matrix;
    for the latter the consistent choice is that of the transposed scores.

    Args:
        sims: [..., Nt, Nv] at logit scale, that is cosines times about 100: of cosines the prior is
            all but uniform.
        temp: divides the scores in the prior.
        form: "product": S softmax(S / temp) over texts; "log": S / temp + log of that softmax,
            whose order does not depend on the sign of S; "both": softmax over texts times softmax
            over videos, S itself left out (commented out in TC-MGC's code).
        warn: with "product", log a line if scores are negative: there a greater prior lowers them.

    Returns:
        [..., Nt, Nv].

    Raises:
        ValueError: an unknown form, or a temp that is not positive.
    """
    if form not in FORMS or not temp > 0:
        raise ValueError(f"form is one of {', '.join(FORMS)} and temp above 0, got {form}, {temp}")
    sims = _floats(sims)
    scaled = sims / temp
    if form == "log":
        return scaled + scaled.log_softmax(dim=-2)
    if form == "both":
        return scaled.softmax(dim=-2) * scaled.softmax(dim=-1)
    negative = int((sims < 0).sum()) if warn else 0
    if negative:
        log.warning(
            "%d of %d scores are negative, and a dual softmax lowers those the more the better "
            "their text fits the video; other rules do not mind",
            negative,
            sims.numel(),
        )
    return sims * scaled.softmax(dim=-2)


def qb_norm(sims: Tensor, bank: Tensor, *, beta: float = BETA, top: int = TOP) -> Tensor:
    """Scores of texts against how near each video is to the texts of a bank.

    Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation" (2022), the dynamic
    inverted softmax: exp(beta S_tj) / sum_q exp(beta B_qj), for texts whose best video is among the
    `top` of a text of the bank; the scores of the other texts stay as they are.

    Here it is log of that over beta, S_tj - logsumexp_q(beta B_qj) / beta: the order in a row is
    the same, nothing overflows, and scores stay on their scale, so that granularities which are
    corrected and others which are not may be fused. The authors' code writes into what it is given.

    Args:
        sims: [..., Nt, Nv], cosines.
        bank: [..., Nq, Nv], cosines of the bank's texts with the same videos.
        beta: inverse temperature; of scores that are cosines times 100, a hundredth of it.
        top: videos that each text of the bank retrieves.

    Returns:
        [..., Nt, Nv]. Rows are to be ranked, each on its own; columns mix both kinds of rows.

    Raises:
        ValueError: shapes that do not fit, or numbers out of range.
    """
    sims, bank = _fitting(sims, bank)
    if not beta > 0 or top < 1:
        raise ValueError(f"beta is above 0 and top at least 1, got {beta} and {top}")
    corrected = sims - _norms(bank, beta).unsqueeze(-2)
    return torch.where(activated(sims, bank, top=top).unsqueeze(-1), corrected, sims)


def activated(sims: Tensor, bank: Tensor, *, top: int = TOP) -> Tensor:
    """Texts whose best video is among the `top` best of a text of the bank: what `qb_norm` changes.

    Args:
        sims: [..., Nt, Nv].
        bank: [..., Nq, Nv].
        top: videos that each text of the bank retrieves; equal scores by the lower column.

    Returns:
        [..., Nt] bool.
    """
    sims, bank = _fitting(sims, bank)
    order = bank.argsort(dim=-1, descending=True, stable=True)
    retrieved = order[..., :top].flatten(-2)  # [..., Nq * top]
    hub = torch.zeros_like(sims[..., 0, :], dtype=torch.bool)  # [..., Nv]
    hub = hub.scatter(-1, retrieved, torch.ones_like(retrieved, dtype=torch.bool))
    return hub.gather(-1, sims.argmax(dim=-1))


def sinkhorn(sims: Tensor, bank: Tensor, *, rounds: int = ROUNDS) -> Tensor:
    """Scores plus a bias of each video that gives all videos the same share of a bank's texts.

    Wang et al., UCoFiA (2023), Sinkhorn-Knopp as its code has it; in the log domain, since exp
    underflows in float32 where scores of a video are 88 below the greatest.

    Args:
        sims: [..., Nt, Nv] at logit scale.
        bank: [..., Nq, Nv], of the bank's texts with the same videos, at the same scale.
        rounds: of the iteration.

    Returns:
        [..., Nt, Nv].

    Raises:
        ValueError: shapes that do not fit, or no rounds.
    """
    sims, bank = _fitting(sims, bank)
    return sims + sinkhorn_bias(bank, rounds=rounds).unsqueeze(-2)


def sinkhorn_bias(bank: Tensor, *, rounds: int = ROUNDS) -> Tensor:
    """The bias of `sinkhorn`, of a bank [..., Nq, Nv]: [..., Nv], logarithms of shares.

    With K = exp(bank): b = 1 / column sums of K; each round a = 1 / (K b), b = 1 / (a K).
    """
    if rounds < 1:
        raise ValueError(f"rounds is at least 1, got {rounds}")
    bank = _floats(bank)
    columns = -bank.logsumexp(dim=-2)  # log b
    for _ in range(rounds):
        rows = -(bank + columns.unsqueeze(-2)).logsumexp(dim=-1)  # log a
        columns = -(bank + rows.unsqueeze(-1)).logsumexp(dim=-2)
    return columns.log_softmax(dim=-1)


def _norms(bank: Tensor, beta: float) -> Tensor:
    return (beta * bank).logsumexp(dim=-2) / beta


def _floats(sims: Tensor) -> Tensor:
    return sims if sims.dtype == torch.float64 else sims.float()


def _fitting(sims: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Both as floats, if they have the same videos and granularities."""
    same = sims.shape[:-2] == bank.shape[:-2] and sims.shape[-1] == bank.shape[-1]
    if not same or sims.ndim != bank.ndim or sims.ndim < 2 or not bank.shape[-2]:
        raise ValueError(
            f"a bank [..., Nq, Nv] of the videos of [..., Nt, Nv], got {list(bank.shape)} and "
            f"{list(sims.shape)}"
        )
    return _floats(sims), _floats(bank)
