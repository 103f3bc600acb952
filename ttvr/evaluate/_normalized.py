"""Scores of both directions corrected by a rule of `normalize`, each along its own axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttvr import plugins
from ttvr.errors import IncompatibleError
from ttvr.evaluate._scores import Encode, scores
from ttvr.heads._base import without_autocast
from ttvr.normalize import BETA, RULES, TEMP, dual_softmax, qb_norm, sinkhorn
from ttvr.records import TextFeatures
from ttvr.retriever import Retriever
from ttvr.score import MEMORY
from ttvr.store import Features

ASSUMED_SCALE = 100.0
"""exp of CLIP's logit scale as released, for scores of folders without a model."""


class Normalization(NamedTuple):
    """A rule, and what it needs.

    Attributes:
        rule: a name of `normalize.RULES`. A dual softmax takes all queries for its bank.
        beta: of qbnorm, for cosines.
        temp: of dsl, for cosines at logit scale.
        captions: the bank of t2v: texts as the queries are, but others. Without it t2v stays as it
            is.
        texts: a text folder that holds them, encoded; None: they are to be encoded.
        name: of the folder or file they come from.
        videos: the bank of v2t, a video folder; None: v2t stays as it is.
    """

    rule: str
    beta: float = BETA
    temp: float = TEMP
    captions: tuple[str, ...] = ()
    texts: Features | None = None
    name: str = ""
    videos: Features | None = None


class Normalized(NamedTuple):
    """Scores before and after.

    Attributes:
        sims: [Nt, Nv] float32 as without the rule.
        t2v: [Nt, Nv] float32, rows are to be ranked.
        v2t: [Nt, Nv] float32, columns are to be ranked.
        truncated: captions that had to be cut.
        facts: the rule with its numbers, for the protocol.
    """

    sims: np.ndarray
    t2v: np.ndarray
    v2t: np.ndarray
    truncated: int
    facts: dict[str, Any]


def normalized(
    how: Normalization,
    features: Features,
    captions: list[str],
    *,
    retriever: Retriever | None,
    encode: Encode | None,
    texts: Features | None,
    tie: Callable[[np.ndarray], np.ndarray],
    memory: int = MEMORY,
) -> Normalized:
    """Score, and correct the scores of each granularity before they are fused.

    Args:
        how: the rule.
        features: as `evaluate`.
        captions: of the videos that have features.
        retriever: as `evaluate`.
        encode: likewise.
        texts: likewise.
        tie: scores [N, Nv] -> the same, those of twins tied.
        memory: as `evaluate`.

    Raises:
        IncompatibleError: a bank is not of the kind, or not of the model, that it has to be.
        TtvrError: a score that is not finite.
        ValueError: an unknown rule, or one without the bank that it needs or with one it does not.
    """
    _check(how)
    encode = None if encode is None else _once(encode)

    def score(gallery: Features, asked: list[str], stored: Features | None) -> tuple[Tensor, int]:
        """[G, N, Nv]; an offline head has one granularity."""
        made, cut = scores(
            gallery, asked, retriever, encode, stored, memory=memory, granularities=True
        )
        return torch.from_numpy(made.reshape(-1, *made.shape[-2:])), cut

    def tied(sims: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([tie(matrix) for matrix in sims.numpy()]))

    raw, cut = score(features, captions, texts)
    sims, fusion = tied(raw), Fusion(features, retriever)
    t2v = v2t = fusion.fuse(sims)
    if how.rule == "dsl":
        units = fusion.factors(sims).reshape(-1, 1, 1)
        scaled = units * sims.double()
        t2v = fusion.fuse(dual_softmax(scaled, temp=how.temp) / units)
        v2t = fusion.fuse(dual_softmax(scaled.mT, temp=how.temp, warn=False).mT / units)
    if how.captions:
        bank, _ = score(features, list(how.captions), how.texts)
        t2v = fusion.fuse(_corrected(how, sims, tied(bank), fusion))
    if how.videos is not None:
        bank, _ = score(how.videos, captions, texts)
        v2t = fusion.fuse(_corrected(how, sims.mT, bank.mT, fusion).mT)
    facts = _facts(how, features, captions, fusion)
    return Normalized(fusion.fuse(raw), t2v, v2t, cut, facts)


def with_other_videos(measured: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A `metrics.summary` whose measures of videos that rank texts are those of another one."""
    ways = ("v2t", "v2t_sentence")
    made = measured | {way: other[way] for way in ways if way in other}
    return made | {"SumR": made["t2v"]["RSum"] + made["v2t"]["RSum"]}


class Fusion:
    """How matrices of a head become one, and at which scale each goes in.

    Args:
        features: the video folder, which tells the head where there is no model.
        retriever: the model; None: that of an offline head, which needs none.
    """

    def __init__(self, features: Features, retriever: Retriever | None) -> None:
        self._retriever = retriever
        self.is_assumed = retriever is None
        if retriever is None:
            model = features.meta["model"]
            plugin = plugins.load("heads", model["head"])
            self._head = plugins.construct(plugin, model.get("head_options", {}))
            self.scale = torch.tensor(ASSUMED_SCALE)
        else:
            self._head = retriever.head
            self.scale = retriever.scale.detach().float()

    @property
    def unit(self) -> float:
        """What a cosine is multiplied by in the scores, at most."""
        if self._head.offline:
            return 1.0
        one = torch.empty(1, 0, 0, device=self.scale.device)
        return float(self.factors(one).max())

    def factors(self, sims: Tensor) -> Tensor:
        """[G] float64 on the CPU: what turns stored matrices [G, N, M] into what is fused."""
        if self._head.offline:
            return self._head.vector_gain * self.scale.double().cpu().expand(len(sims))
        return self._head.factors(sims, self.scale).detach().double().cpu()

    def fuse(self, sims: Tensor) -> np.ndarray:
        """Matrices [G, Nt, Nv] -> scores [Nt, Nv] float32, of offline heads as they are."""
        if self._head.offline:
            return sims[0].float().numpy()
        device = self.scale.device
        with torch.inference_mode(), without_autocast(device):
            return self._head.fuse(sims.float().to(device), self.scale).float().cpu().numpy()


def _corrected(how: Normalization, sims: Tensor, bank: Tensor, fusion: Fusion) -> Tensor:
    """Sims [G, N, M] corrected with a bank [G, Nq, M]: [G, N, M] float64, on the scale of the sims.

    Rows are to be ranked. In float64, so that what is equal stays equal whatever the order of a
    sum, and one granularity after the other, since a bank may be large.
    """
    units = fusion.factors(sims)
    if how.rule == "qbnorm":
        units = units / fusion.scale.double().cpu()  # beta is for cosines
    made = []
    for g, unit in enumerate(units):
        own, other = unit * sims[g].double(), unit * bank[g].double()
        if how.rule == "qbnorm":
            made.append(qb_norm(own, other, beta=how.beta) / unit)
        else:
            made.append(sinkhorn(own, other) / unit)
    return torch.stack(made)


def _facts(
    how: Normalization, features: Features, captions: list[str], fusion: Fusion
) -> dict[str, Any]:
    """What a reader has to know of the rule; None for a direction that it left alone."""
    numbers = {"dsl": {"temp": how.temp}, "qbnorm": {"beta": how.beta}}.get(how.rule, {})
    facts: dict[str, Any] = {
        "rule": how.rule,
        **numbers,
        "scale": float(fusion.scale),
        "scale_from": "assumed" if fusion.is_assumed else "model",
        "t2v": None,
        "v2t": None,
    }
    if how.rule == "dsl":
        facts["t2v"] = {"bank": "queries", "count": len(captions), "queries": len(captions)}
        facts["v2t"] = {"bank": "queries", "count": len(features.ids), "queries": len(features.ids)}
    if how.captions:
        asked = {caption.strip() for caption in captions}
        known = sum(caption.strip() in asked for caption in how.captions)
        facts["t2v"] = {"bank": how.name, "count": len(how.captions), "queries": known}
    if how.videos is not None:
        known = len({*how.videos.ids} & {*features.ids})
        name, count = how.videos.path.name, len(how.videos.ids)
        facts["v2t"] = {"bank": name, "count": count, "queries": known}
    banks = [facts[way] for way in ("t2v", "v2t") if facts[way]]
    return facts | {"transductive": any(bank["queries"] for bank in banks)}


def _check(how: Normalization) -> None:
    has_bank = bool(how.captions) or how.texts is not None or how.videos is not None
    if how.rule not in RULES or (how.rule == "dsl") == has_bank:
        raise ValueError(f"a rule of {', '.join(RULES)}, all but dsl with a bank, got {how}")
    wanted = ((how.texts, "text", "--bank"), (how.videos, "video", "--bank-videos"))
    for folder, kind, flag in wanted:
        if folder is not None and folder.kind != kind:
            raise IncompatibleError(
                f"{folder.path} holds {folder.kind}s, expected {kind}s: {flag} takes {kind}s"
            )
        if folder is not None and not len(folder):
            raise IncompatibleError(f"{folder.path} holds no {kind}s: a bank needs some")


def _once(encode: Encode) -> Encode:
    """The same, but the same captions are encoded once."""
    made: dict[tuple[str, ...], tuple[TextFeatures, int]] = {}

    def remembered(captions: list[str]) -> tuple[TextFeatures, int]:
        key = tuple(captions)
        if key not in made:
            made[key] = encode(captions)
        return made[key]

    return remembered
