"""UCoFiA: video, frames and patches against sentence and words, from coarse to fine.

Wang et al., "Unified Coarse-to-Fine Alignment for Video-Text Retrieval" (2023). Its normalization
of scores over a bank is none of the head's.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads._base import FrameWeights, without_autocast
from ttvr.heads._fine_grained import (
    Scores,
    aggregate_both_orders,
    products,
    scored_in_tiles,
    token_first,
)
from ttvr.heads._layers import SHARPNESS
from ttvr.heads._multi_grained import MultiGrainedHead, Texts, Videos, identity
from ttvr.heads._selector import TokenSelector
from ttvr.heads._temporal import LAYERS, POSITIONS
from ttvr.records import TextFeatures, VideoFeatures

_SELECTOR = "visual_token_selector.*"
PATCHES = {
    "select": (),
    "given": (_SELECTOR,),
    "frames": (_SELECTOR,),
    "none": (_SELECTOR, "local_mat_*", "word_mat_*", "pixel_mat_*"),
}
"""What words meet, and patterns of the tensors of a checkpoint that are then of no use."""
COMPAT = ("train", "eval")


class UCoFiA(MultiGrainedHead):
    """Mean of video-sentence, sentence-frame and patch-word similarity.

    Over words, frames and patches similarities are aggregated by weights
    softmax(100 softmax(100 x) @ matrix) ("interactive similarity aggregation"); matrices start as
    the identity, and so do the bilinear forms. Frames are those before the temporal step; only the
    video vector is taken after it. The patches of a frame are its class token and selected ones.
    They are not normalized, and their similarity is not multiplied by the logit scale, as in the
    authors' code: scores of different choices of `patches` are not comparable.

    The authors' code for evaluation leaves out one bilinear form that training had learned, and has
    another selector, which their checkpoints do not fit. Here the head is that of training in both;
    `compat="eval"` leaves the form out, to reproduce scores: do not train with it.

    As published, padded words, frames and patches count like others; `mask` gives them no weight.

    Args:
        width: D of the features.
        frames: T of a video.
        words: L of a text.
        temporal: "seq_transf" as published, "seq_lstm" or "none".
        layers: of the transformer of seq_transf.
        heads: of its attention; None: width // 64.
        positions: rows of its table of positions.
        patches: what words meet: "select", of each frame the class token and `top` patches that the
            head selects; "given", the class token and `top` patches that the features hold;
            "frames", the class tokens alone; "none": words are not read, and the score is the mean
            of the other two.
        top: patches of a frame.
        samples: of the selection's noise.
        sigma: its standard deviation.
        seed: of it in evaluation.
        hard: select in evaluation without noise.
        compat: "train" or "eval", whose code of the authors' is followed.
        mask: give masked words, frames and patches no weight.

    Raises:
        UsageError: an unknown name, or patches of fewer than one a frame.
    """

    TWICE: ClassVar[bool] = True
    needs_patches: ClassVar[bool] = True
    OFFICIAL_UNUSED: ClassVar[tuple[str, ...]] = (
        "word_logit_weight",
        "frame_mat_weight",
        "frame_mat_weight2",
        "word_mat_weight_for_pixel",
    )

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        temporal: str = "seq_transf",
        layers: int = LAYERS,
        heads: int | None = None,
        positions: int = POSITIONS,
        patches: str = "select",
        top: int = 3,
        samples: int = 500,
        sigma: float = 0.05,
        seed: int = 0,
        hard: bool = False,
        compat: str = "train",
        mask: bool = False,
    ) -> None:
        super().__init__(
            width=width,
            frames=frames,
            words=words,
            temporal=temporal,
            layers=layers,
            heads=heads,
            positions=positions,
            mask=mask,
        )
        _require_one_of("patches", patches, PATCHES)
        _require_one_of("compat", compat, COMPAT)
        if top < 1:
            raise UsageError(f"top is the number of patches of a frame, at least 1, got {top}")
        self.patches, self.compat, self.least_patches = patches, compat, top
        self.needs_words = patches != "none"
        self.needs_patches = patches in ("select", "given")
        self.tokens_per_frame = 1 + top if self.needs_patches else 1
        self.global_mat_weight_1 = identity(width)
        if self.needs_words:
            tokens = frames * self.tokens_per_frame
            self.local_mat_weight = identity(width)
            self.local_mat_weight1 = identity(width)
            self.word_mat_weight = identity(words)
            self.word_mat_weight2 = identity(words)
            self.pixel_mat_weight = identity(tokens)
            self.pixel_mat_weight2 = identity(tokens)
        if patches == "select":
            self.visual_token_selector = TokenSelector(
                width, top=top, samples=samples, sigma=sigma, seed=seed, hard=hard
            )

    def prepare_video(self, video: VideoFeatures) -> Videos:
        """Video vectors, unit frames and visual tokens.

        Raises:
            UsageError: videos of another number of frames or patches than the head is for.
            IncompatibleError: patches are needed, and there are none.
            TtvrError: a video without a real frame.
        """
        vector, frames = self.vector_and_frames(video)
        vector = vector @ self.global_mat_weight_1 @ self.global_mat_weight.T
        if self.needs_words:
            tokens = self.visual_tokens(video).to(frames.dtype)
            if self.mask:
                tokens = tokens.masked_fill(~self._repeat(video.mask).unsqueeze(-1), 0.0)
            if self.compat == "train":
                tokens = tokens @ self.local_mat_weight1
            tokens = tokens @ self.local_mat_weight.T
        else:
            tokens = frames[:, :0]
        return Videos(torch.cat([vector, frames], dim=1), tokens, video.mask)

    def visual_tokens(self, video: VideoFeatures) -> Tensor:
        """[Nv, N, D], what words meet: frame after frame its class token, then its patches."""
        if self.patches == "frames":
            return video.frames
        if video.patches is None:
            raise IncompatibleError(
                "the head ucofia takes patches, which these features lack; extract with patches, "
                "or set its option patches to frames or none"
            )
        if self.patches == "select":
            return self.visual_token_selector(video.frames, video.patches)
        given = video.patches.shape[2]
        self.require_size(given, self.tokens_per_frame - 1, of="patches of a frame")
        return torch.cat([video.frames.unsqueeze(2), video.patches], dim=2).flatten(1, 2)

    def similarities(self, text: Texts, video: Videos) -> Tensor:
        """[3, Nt, Nv]: video-sentence and sentence-frame, cosine scale, and patch-word.

        Patch-word similarities have the scale of patches; with patches="none" there are none.
        """
        sims = scored_in_tiles(text, video, cells=1 + self.frames, score=self.of_sentences)
        if not self.needs_words:
            return sims
        cells = self.words * self.frames * self.tokens_per_frame
        return torch.cat([sims, scored_in_tiles(text, video, cells=cells, score=self._of_words)])

    def fuse(self, sims: Tensor, scale: Tensor) -> Tensor:
        """The mean of all, those of patches not multiplied by the scale: [Nt, Nv]."""
        return (scale * sims[:2].sum(dim=0) + sims[2:].sum(dim=0)) / len(sims)

    def factors(self, sims: Tensor, scale: Tensor) -> Tensor:
        """[G]: the scale, but 1 for patch-word similarities."""
        factors = scale.repeat(len(sims))
        factors[2:] = 1.0
        return factors

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """Weights of frames for the sentence, and of their patches together for each word."""
        what, words = "weights of frames for the sentence", None
        with without_autocast(text.sentence.device), torch.no_grad():
            texts, videos = self.prepare_text(text), self.prepare_video(video)
            sentence = self.weights(
                texts.sentence, videos.for_sentence[:, 1:], self.frame_logit_weight, video.mask
            )
            if self.needs_words:
                what += " and of their patches for each word"
                each = self.weights(
                    texts.words, videos.for_words, self.pixel_mat_weight, self._repeat(video.mask)
                )
                words = each.unflatten(-1, (self.frames, self.tokens_per_frame)).sum(dim=-1)
        return FrameWeights(sentence, words, what)

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Temporal step, sizes and patches, all of which the tensors tell."""
        told = super().official_options(state)
        if "pixel_mat_weight" not in state or "frames" not in told:
            return {**told, "patches": "none"}
        top = len(state["pixel_mat_weight"]) // told["frames"] - 1
        if top < 1:
            return {**told, "patches": "frames"}
        selects = any(fnmatch.fnmatchcase(name, _SELECTOR) for name in state)
        return {**told, "patches": "select" if selects else "given", "top": top}

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, **options: Any
    ) -> UCoFiA:
        """As any head, without the tensors that the `patches` asked for have no use for."""
        useless = PATCHES.get(options.get("patches", "select"), ())
        kept = {
            name: tensor
            for name, tensor in cls.official_tensors(state).items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in useless)
        }
        return super().from_official(kept, heads=heads, **options)

    def _repeat(self, mask: Tensor) -> Tensor:
        """A mask of frames [Nv, T] -> of visual tokens [Nv, N]."""
        return mask.repeat_interleave(self.tokens_per_frame, dim=1)

    def _of_words(self, video: Videos) -> Scores:
        """Patch-word similarities [1, nt, nv] with some videos."""
        tokens = token_first(SHARPNESS * video.for_words)
        token_mask = self._repeat(video.mask).T if self.mask else None

        def score(text: Texts) -> Tensor:
            patches = aggregate_both_orders(
                products(text.words, tokens),
                words=(self.word_mat_weight, self.word_mat_weight2),
                tokens=(self.pixel_mat_weight, self.pixel_mat_weight2),
                twice=True,
                word_mask=text.mask.unsqueeze(-1) if self.mask else None,
                token_mask=token_mask,
            )
            return patches.unsqueeze(0) / SHARPNESS

        return score


def _require_one_of(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"{option} is one of {', '.join(choices)}, got {value!r}")


PLUGIN = UCoFiA
