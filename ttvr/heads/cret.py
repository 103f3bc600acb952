"""CRET on CLIP: a sentence with the mean frame, and words with patches through shared centers.

Ji et al., "CRET: Cross-Modal Retrieval Transformer for Efficient Text-Video Retrieval" (SIGIR
2022). The paper's encoders were CaiT and BERT, and no code or checkpoint was released: what no
source tells, and what follows from CLIP, is marked below as ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ttvr.errors import TtvrError
from ttvr.heads._base import Head, without_autocast
from ttvr.heads._cret_ccm import CCM
from ttvr.heads._cret_embed import embed, local_units, safe_unit, wide
from ttvr.heads._cret_gees import (
    BOUNDS,
    COVARIANCES,
    DIRECTIONS,
    TAU,
    contrast,
    gees,
    nce_frames,
    nce_mean,
)
from ttvr.heads._cret_options import require_choice, require_range
from ttvr.heads._cret_temporal import TemporalEncoder
from ttvr.heads._layers import require_frames
from ttvr.records import TextFeatures, VideoFeatures

LOSSES = ("gees", "nce_mean", "nce_frames")
POOLINGS = ("max", "none")
LOCAL_LOGITS = ("cosine", "product")


class Vectors(NamedTuple):
    """One unit vector per item, [N, D + C*d_o]."""

    vector: Tensor


class CRET(Head):
    """S = S_g + beta S_l: one inner product of a vector per text and one per video.

    S_g is the cosine of the sentence and the mean of the frames after a temporal encoder. S_l is
    the cosine of what C centers gather from the words and from the patches. Both parts lie side by
    side in `video/` and `text/` of a feature folder, D + C*d_o numbers (4608 by default), as unit
    vectors: a score is `vector_gain` = 1 + beta times their inner product.

    On CLIP (ours): E^t is the words after start-of-text up to and including end-of-text; E^v is the
    patches, maximum over the real frames at each place, through a linear map that starts as the
    identity, since CLIP has brought patches to the width of words. There is no further map of
    sentences and frames. Where a token reducer made segments of clusters, token p of one segment
    has nothing to do with token p of the next: `pooling="none"` then gives the centers all tokens
    of all segments as one set.

    Training compares unit sentences with unit frames, whose mean is not normalized again, while a
    score takes the mean of frames as they are (ours; raw products would saturate a softmax). The
    temperatures are fixed, since a variance goes with 1/tau^2, and `scale` enters no loss.

    There are no official checkpoints: `from_official` takes the names of this class.

    Args:
        width: D of the features, and of centers and decoder.
        frames: T of a video; not read, any number will do.
        words: L of a text; not read, any number will do.
        centers: C; the paper's is not known, a later method with shared queries uses 8.
        heads: of the decoder, a divisor of the width; None: the largest one that is at most 8. The
            temporal encoder has the largest that is at most width // 64.
        mode: of the decoder: "block", or "attn", the printed attention alone; as `CCM`.
        layers: of the decoder; 1 with "attn".
        out_width: d_o of a slot; None: D. With D // C a vector has 2 D numbers.
        pooling: of patches: "max" over frames, or "none", as above.
        per_center: S_l is the mean of C cosines instead of one.
        temporal_layers: of the temporal encoder; 0: frames as they are.
        dropout: in the temporal encoder.
        loss: of sentences and frames: "gees", "nce_mean" or "nce_frames".
        covariance: of GEES, "full" or "diag"; as `moments`.
        unbiased: of GEES; as `moments`.
        variance_weight: of GEES; 1 is the bound.
        ramp: let that weight grow from 0 over training, in equal steps; below 1 there is no bound.
        bound: of GEES: "jensen", "difference" or "slide"; as `gees`.
        direction: of both losses: "sym", "t2v", "v2t" or "union"; as `contrast`.
        tau: temperature of sentences and frames.
        local_logits: of the centers' loss: "cosine", S_l / tau_local; "product", the inner products
            of slots as they are, which is how it is printed. A score has cosines either way.
        tau_local: temperature of the centers' loss, where it has one.
        alpha: weight of the centers' loss.
        beta: weight of S_l in a score; costs no new training.

    Raises:
        UsageError: an option is not one of its choices or out of its range.
    """

    offline: ClassVar[bool] = True
    needs_words: ClassVar[bool] = True
    needs_patches: ClassVar[bool] = True

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        centers: int = 8,
        heads: int | None = None,
        mode: str = "block",
        layers: int = 1,
        out_width: int | None = None,
        pooling: str = "max",
        per_center: bool = False,
        temporal_layers: int = 3,
        dropout: float = 0.1,
        loss: str = "gees",
        covariance: str = "full",
        unbiased: bool = False,
        variance_weight: float = 1.0,
        ramp: bool = False,
        bound: str = "jensen",
        direction: str = "sym",
        tau: float = TAU,
        local_logits: str = "cosine",
        tau_local: float = TAU,
        alpha: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__(width=width, frames=frames, words=words)
        self.pooling, self.per_center, self.main_loss = pooling, per_center, loss
        self.covariance, self.unbiased, self.variance_weight = covariance, unbiased, variance_weight
        self.ramp, self.bound, self.direction = ramp, bound, direction
        self.local_logits = local_logits
        self.tau, self.tau_local, self.alpha, self.beta = tau, tau_local, alpha, beta
        self._check_options()
        self.vector_gain = 1.0 + beta
        self.temporal = TemporalEncoder(width, temporal_layers, dropout)
        self.patches_to_words = nn.Linear(width, width)
        nn.init.eye_(self.patches_to_words.weight)
        nn.init.zeros_(self.patches_to_words.bias)
        self.ccm = CCM(width, centers, heads, mode=mode, layers=layers, out_width=out_width)
        self.vector_width = width + centers * (out_width or width)

    def _check_options(self) -> None:
        for name, choices in (
            ("pooling", POOLINGS),
            ("per_center", (False, True)),
            ("covariance", COVARIANCES),
            ("unbiased", (False, True)),
            ("ramp", (False, True)),
            ("local_logits", LOCAL_LOGITS),
            ("bound", BOUNDS),
            ("direction", DIRECTIONS),
        ):
            require_choice(name, getattr(self, name), choices)
        require_choice("loss", self.main_loss, LOSSES)
        for name in ("tau", "tau_local"):
            require_range(name, getattr(self, name), above=0.0)
        for name in ("variance_weight", "alpha", "beta"):
            require_range(name, getattr(self, name))

    def text_slots(self, text: TextFeatures) -> Tensor:
        """What the centers gather from words: [B, C, d_o], not normalized.

        Raises:
            TtvrError: a text without any word after start-of-text, end-of-text included.
        """
        mask = text.mask[:, 1:]
        empty = (~mask.any(dim=1)).nonzero()
        if len(empty):
            raise TtvrError(
                f"text {int(empty[0])} of the batch has no word feature after start-of-text, "
                "which the head cret needs"
            )
        return self.ccm(wide(text.words[:, 1:]), mask)

    def video_slots(self, video: VideoFeatures) -> Tensor:
        """What the centers gather from patches: [B, C, d_o], not normalized.

        Raises:
            TtvrError: a video without a real frame, or without patches.
        """
        require_frames(video.mask)
        if video.patches is None:
            raise TtvrError("the head cret needs the patches of every frame")
        P, padded = video.patches.shape[2], ~video.mask[..., None, None]
        if self.pooling == "max":
            tokens = wide(video.patches).masked_fill(padded, -torch.inf).amax(dim=1)  # [B, P, D]
            mask = video.mask.new_ones(tokens.shape[:2])
        else:
            tokens = wide(video.patches).masked_fill(padded, 0.0).flatten(1, 2)  # [B, T*P, D]
            mask = video.mask.repeat_interleave(P, dim=1)
        return self.ccm(self.patches_to_words(tokens), mask)

    def temporal_frames(self, video: VideoFeatures) -> Tensor:
        """Frames [B, T, D] after the temporal encoder, 0 where masked."""
        require_frames(video.mask)
        return self.temporal(wide(video.frames), video.mask)

    def vector_text(self, text: TextFeatures) -> Tensor:
        """[B, D + C*d_o] unit vectors; needs words."""
        with without_autocast(text.sentence.device):
            return self._vector(wide(text.sentence), self.text_slots(text))

    def vector_video(self, video: VideoFeatures) -> Tensor:
        """[B, D + C*d_o] unit vectors; needs patches."""
        with without_autocast(video.frames.device):
            total = self.temporal_frames(video).sum(dim=1)  # the direction of the mean
            return self._vector(total, self.video_slots(video))

    def _vector(self, whole: Tensor, slots: Tensor) -> Tensor:
        both = embed(whole, slots, beta=self.beta, per_center=self.per_center)
        return both / self.vector_gain**0.5

    def prepare_text(self, text: TextFeatures) -> Vectors:
        """Unit vectors [Nt, D + C*d_o]."""
        return Vectors(self.vector_text(text))

    def prepare_video(self, video: VideoFeatures) -> Vectors:
        """Unit vectors [Nv, D + C*d_o]."""
        return Vectors(self.vector_video(video))

    def similarities(self, text: Vectors, video: Vectors) -> Tensor:
        """S_g + beta S_l, [1, Nt, Nv], between -(1 + beta) and 1 + beta."""
        return (self.vector_gain * text.vector @ video.vector.T).unsqueeze(0)

    def losses(self, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> dict[str, Tensor]:
        """The loss of sentences and frames by its name, and alpha times "ccm", of the centers."""
        with without_autocast(scale.device):
            frames = safe_unit(self.temporal_frames(video))
            whole = self._frame_loss(safe_unit(wide(text.sentence)), frames, video.mask)
            logits = self._local_logits(self.text_slots(text), self.video_slots(video))
            ccm = contrast(logits, self.direction).mean()
            return {self.main_loss: whole.mean(), "ccm": self.alpha * ccm}

    def _local_logits(self, text: Tensor, video: Tensor) -> Tensor:
        """[Nt, Nv] of slots [Nt, C, d_o] and [Nv, C, d_o]."""
        if self.local_logits == "product":
            return text.flatten(1) @ video.flatten(1).T
        text, video = (local_units(x, per_center=self.per_center) for x in (text, video))
        return text @ video.T / self.tau_local

    def _frame_loss(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """[N] of unit sentences [N, D] and unit frames [N, T, D]."""
        common = {"tau": self.tau, "direction": self.direction}
        if self.main_loss == "nce_mean":
            return nce_mean(text, frames, mask, **common)
        if self.main_loss == "nce_frames":
            return nce_frames(text, frames, mask, **common)
        return gees(
            text,
            frames,
            mask,
            covariance=self.covariance,
            unbiased=self.unbiased,
            variance_weight=self.variance_weight * (self.progress if self.ramp else 1.0),
            bound=self.bound,
            **common,
        )

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The sizes of centers, decoder and temporal encoder; heads and scalars are not told."""
        if "ccm.centers" not in state:
            return {}
        centers, width = state["ccm.centers"].shape
        out = state.get("ccm.out.weight")
        return {
            "width": width,
            "centers": centers,
            "mode": "block" if "ccm.layers.0.cross.query.weight" in state else "attn",
            "layers": _count(state, "ccm.layers."),
            "out_width": None if out is None else out.shape[0],
            "temporal_layers": _count(state, "temporal.layers."),
        }


def _count(state: Mapping[str, Tensor], stem: str) -> int:
    return len({name[len(stem) :].split(".")[0] for name in state if name.startswith(stem)})


PLUGIN = CRET
