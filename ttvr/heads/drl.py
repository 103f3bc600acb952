"""DRL: words look for their frames and frames for their words, both weighted.

Wang et al., "Disentangled Representation Learning for Text-Video Retrieval" (2022), with its
channel decorrelation. Parameters have its authors' names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ttvr.errors import UsageError
from ttvr.heads._base import FrameWeights, without_autocast
from ttvr.heads._cdcr import Pairs, best_pairs, cdcr_loss, random_pairs, uniform
from ttvr.heads._layers import draw_as_authors, require_frames, unit
from ttvr.heads._loose import Vectors
from ttvr.heads._temporal import LAYERS, POSITIONS, TemporalHead
from ttvr.heads._token_wise import Parts, interact, with_first_repeated
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

MODES = {"dp": (0, 1), "ti": (0, 1, 2), "wti": (0, 1, 2, 3)}
"""Of each interaction the kinds of CDCR there are, the usual one last."""
ALPHA1 = {"dp": 0.14, "ti": 0.16, "wti": 0.14}
"""Of the authors' scripts, with alpha2 = 0; what their code has by default, none of them uses."""
ARCHS = (1, 2, 3)


class DRL(TemporalHead):
    """The mean of what each word finds among the frames, and each frame among the words.

    With A the cosines of words and frames, wti is S = 1/2 [sum_i alpha_i max_j A_ij +
    sum_j beta_j max_i A_ij], where alpha and beta are softmaxes of a number that an MLP reads off
    each word or frame, not normalized. ti has equal weights, dp is the score of CLIP4Clip's loose
    calculators. Start-of-text and end-of-text are words.

    The published code multiplies A by the masks: padding has the cosine 0, so a maximum over rows
    with padding is never below 0. With `mask` it is left out instead.

    Args:
        width: D of the features.
        frames: T of a video; a step seq_transf takes at most `positions`.
        words: L of a text.
        interaction: dp, ti or wti.
        wti_arch: maps of each MLP: 1 to 3.
        temporal: what frames make of each other first: none, seq_lstm or seq_transf.
        layers: of seq_transf.
        heads: of its attention; None: width // 64.
        positions: rows of its table of positions.
        cdcr: regularization in training: 0 none; 1 of the vectors (dp), or of a random word and a
            random frame per pair; 2 of each word with its best frame and each frame with its best
            word; 3 the same, weighted by alpha and beta. None: 1 for dp, 2 for ti, 3 for wti.
        cdcr_lambda: its weight.
        alpha1: of its diagonal; None: .14, for ti .16.
        alpha2: of what is off its diagonal.
        mask: whether padding is left out of the maxima, and of CDCR's best frames and words.

    Raises:
        UsageError: an option out of its range.
    """

    needs_words: ClassVar[bool] = True

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        interaction: str = "wti",
        wti_arch: int = 2,
        temporal: str = "seq_transf",
        layers: int = LAYERS,
        heads: int | None = None,
        positions: int = POSITIONS,
        cdcr: int | None = None,
        cdcr_lambda: float = 0.001,
        alpha1: float | None = None,
        alpha2: float = 0.0,
        mask: bool = False,
    ) -> None:
        _check_one_of("interaction", interaction, MODES)
        _check_one_of("wti_arch", wti_arch, ARCHS)
        _check_one_of("mask", mask, (False, True))
        cdcr = MODES[interaction][-1] if cdcr is None else cdcr
        _check_one_of(f"cdcr of {interaction}", cdcr, MODES[interaction])
        alpha1 = ALPHA1[interaction] if alpha1 is None else alpha1
        for name, value in (("cdcr_lambda", cdcr_lambda), ("alpha1", alpha1), ("alpha2", alpha2)):
            if isinstance(value, bool | str) or not (isfinite(value) and value >= 0):
                raise UsageError(f"{name} is a number of at least 0, got {value!r}")
        super().__init__(
            width=width,
            frames=frames,
            words=words,
            temporal=temporal,
            layers=layers,
            heads=heads,
            positions=positions,
        )
        self.interaction, self.mask = interaction, mask
        self.cdcr, self.cdcr_lambda, self.alpha1, self.alpha2 = cdcr, cdcr_lambda, alpha1, alpha2
        # The class says what holds for all its options, for those who have no head yet.
        self.offline = interaction == "dp"
        self.needs_words = interaction != "dp"
        if interaction == "wti":
            self.text_weight_fc = _mlp(width, wti_arch)
            self.video_weight_fc = _mlp(width, wti_arch)

    def prepare_text(self, text: TextFeatures) -> Vectors | Parts:
        """Words [Nt, L]; of dp the sentence."""
        if self.interaction == "dp":
            return Vectors(self.vector_text(text))
        return self._parts(text.words, text.mask, "text_weight_fc")

    def prepare_video(self, video: VideoFeatures) -> Vectors | Parts:
        """Frames [Nv, T] after the temporal step; of dp their mean.

        Raises:
            TtvrError: a video without a real frame.
        """
        if self.interaction == "dp":
            return Vectors(self.vector_video(video))
        return self._parts(self.temporal_frames(video), video.mask, "video_weight_fc")

    def similarities(self, text: Vectors | Parts, video: Vectors | Parts) -> Tensor:
        """Cosines [1, Nt, Nv], weighted means of maxima.

        See `interact`, which holds a bounded number of cosines at once.
        """
        if isinstance(text, Vectors):
            return (text.vector @ video.vector.T).unsqueeze(0)
        return interact(text, video).unsqueeze(0)

    def losses(self, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> dict[str, Tensor]:
        """The contrastive loss, and CDCR, weighted; mode 1 of ti and wti takes random rows.

        Raises:
            TtvrError: CDCR of a single pair.
        """
        if not self.cdcr:
            return super().losses(text, video, scale)
        with without_autocast(scale.device):
            if self.interaction == "dp":
                states = self.prepare_text(text), self.prepare_video(video)
                groups = [uniform(states[0].vector, states[1].vector)]
            else:
                frames = self.temporal_frames(video)  # once for both losses
                states = (
                    self.prepare_text(text),
                    self._parts(frames, video.mask, "video_weight_fc"),
                )
                groups = self._pairs(text, frames, video.mask, *states)
            nce = info_nce(self.fuse(self.similarities(*states), scale))
            loss = cdcr_loss(groups, alpha1=self.alpha1, alpha2=self.alpha2)
            return {"nce": nce, "cdcr": self.cdcr_lambda * loss}

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """The weights of the frames, the same for every text, and the cosines of the words."""
        with without_autocast(video.frames.device):
            if self.interaction == "dp":
                require_frames(video.mask)
                weights, words = _equal(video.mask, video.frames), None
            else:
                weights, words = self._word_cosines(text, video)
        sentence = weights.expand(len(text.sentence), -1, -1)
        what = "learned weights" if self.interaction == "wti" else "equal weights"
        what += " of the frames, the same for every text"
        return FrameWeights(
            sentence, words, what if words is None else f"{what}; cosines of each word"
        )

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The temporal step, its layers and positions, the width, and the MLPs' maps."""
        options = super().official_options(state)
        maps = sorted(
            name for name in state if name.startswith("text_weight_fc.") and name.endswith("weight")
        )
        if maps:
            width = state[maps[0]].shape[1]
            options |= {"interaction": "wti", "wti_arch": len(maps), "width": width}
        return options

    def _parts(self, rows: Tensor, mask: Tensor, weigher: str) -> Parts:
        """Rows [N, R, D] with a mask [N, R] bool, weighed by the MLP of that name, if any."""
        rows = with_first_repeated(rows, mask)
        if self.interaction == "wti":
            scores = getattr(self, weigher)(rows[mask]).squeeze(
                -1
            )  # of real rows alone: [sum of R]
            weights = scores.new_full(mask.shape, -torch.inf).masked_scatter(mask, scores)
            weights = weights.softmax(dim=1)
        else:
            weights = _equal(mask, rows)
        is_clamped = ~mask.all(dim=1) & (not self.mask)
        floor = weights.new_full((len(mask),), -torch.inf).masked_fill(is_clamped, 0.0)
        behind = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        return Parts(unit(rows), weights, floor, (mask * behind).amax(dim=1))

    def _pairs(
        self, text: TextFeatures, frames: Tensor, mask: Tensor, words: Parts, prepared: Parts
    ) -> list[Pairs]:
        """What CDCR correlates, of matched texts and videos with frames [B, T, D]."""
        rows = [(text.words, text.mask), (frames, mask)]
        # As published a padded row can be the best one, and then what stands in it counts.
        if self.mask or self.cdcr == 1:
            units = [words.units, prepared.units]
        else:
            units = [unit(x) for x, _ in rows]
        if self.cdcr == 1:
            return [random_pairs(*units, text.mask, mask)]
        fill = -torch.inf if self.mask else 0.0
        pairs = best_pairs(*units, text.mask, mask, fill=fill)
        if self.cdcr == 2:
            return list(pairs)
        weights = words.weights[text.mask], prepared.weights[mask]
        return [
            pair._replace(weight=weight / len(mask))
            for pair, weight in zip(pairs, weights, strict=True)
        ]

    def _word_cosines(self, text: TextFeatures, video: VideoFeatures) -> tuple[Tensor, Tensor]:
        """Weights of frames [Nv, T], and cosines [Nt, Nv, L, T], those of padding zero."""
        words, frames = self.prepare_text(text), self.prepare_video(video)
        cosines = torch.einsum("tid,vjd->tvij", words.units, frames.units)
        real = text.mask[:, None, :, None] & video.mask[None, :, None]
        return frames.weights, cosines.masked_fill(~real, 0.0)


def _check_one_of(name: str, value: Any, choices: Collection[Any]) -> None:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        listed = ", ".join(str(choice).lower() for choice in choices)
        raise UsageError(f"{name} is one of {listed}, got {value!r}")


def _mlp(width: int, maps: int) -> nn.Module:
    """[..., D] -> [..., 1]; of one map a bare one, as its authors name its tensors."""
    if maps == 1:
        made: nn.Module = nn.Linear(width, 1)
    else:
        hidden = [part for _ in range(maps - 1) for part in (nn.Linear(width, width), nn.ReLU())]
        made = nn.Sequential(*hidden, nn.Linear(width, 1))
    draw_as_authors(made)
    return made


def _equal(mask: Tensor, like: Tensor) -> Tensor:
    """Weights [N, R] of the real rows of a mask, one altogether."""
    weights = mask.to(torch.promote_types(like.dtype, torch.float32))
    return weights / weights.sum(dim=1, keepdim=True)


PLUGIN = DRL
