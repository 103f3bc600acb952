"""X-CLIP: video and frames against sentence and words, four granularities.

Ma et al., "X-CLIP: End-to-End Multi-grained Contrastive Learning for Video-Text Retrieval" (2022).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ttvr.heads._base import FrameWeights, without_autocast
from ttvr.heads._fine_grained import (
    Scores,
    aggregate_both_orders,
    aggregate_videos_last,
    products,
    scored_in_tiles,
    token_first,
)
from ttvr.heads._layers import SHARPNESS
from ttvr.heads._multi_grained import MultiGrainedHead, Texts, Videos, identity
from ttvr.heads._temporal import LAYERS, POSITIONS
from ttvr.records import TextFeatures, VideoFeatures


class XCLIP(MultiGrainedHead):
    """Mean of video-sentence, video-word, sentence-frame and frame-word similarity.

    Over words and frames similarities are aggregated by weights softmax(100 x) @ matrix
    ("attention over similarity matrix"). As the authors' code has it, and not their equations,
    the matrices are learned, from the identity on; two more stand between sentence and video, and
    between words and frames. Frames are those before the temporal step; only the video vector is
    taken after it. Row i of a matrix stands for token i, so `frames` and `words` are fixed.

    As published, padded words and frames count like others; `mask` gives them no weight.

    Args:
        width: D of the features.
        frames: T of a video.
        words: L of a text.
        temporal: "seq_transf" as published, "seq_lstm" or "none".
        layers: of the transformer of seq_transf.
        heads: of its attention; None: width // 64.
        positions: rows of its table of positions.
        mask: give masked words and frames no weight.
    """

    TWICE: ClassVar[bool] = False

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
        self.local_mat_weight = identity(width)
        self.word_logit_weight = identity(words)
        self.word_mat_weight = identity(words)
        self.word_mat_weight2 = identity(words)
        self.frame_mat_weight = identity(frames)
        self.frame_mat_weight2 = identity(frames)

    def prepare_video(self, video: VideoFeatures) -> Videos:
        """Video vectors and unit frames; for words too the first row is the video's.

        Raises:
            UsageError: videos of another number of frames than the head is for.
            TtvrError: a video without a real frame.
        """
        vector, frames = self.vector_and_frames(video)
        return Videos(
            torch.cat([vector @ self.global_mat_weight.T, frames], dim=1),
            torch.cat([vector, frames @ self.local_mat_weight.T], dim=1),
            video.mask,
        )

    def similarities(self, text: Texts, video: Videos) -> Tensor:
        """[4, Nt, Nv]: video-sentence, sentence-frame, video-word, frame-word; cosine scale."""
        tokens = 1 + self.frames
        return torch.cat(
            [
                scored_in_tiles(text, video, cells=tokens, score=self.of_sentences),
                scored_in_tiles(text, video, cells=self.words * tokens, score=self._of_words),
            ]
        )

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """Weights of frames for the sentence and for each word, as they enter the score."""
        with without_autocast(text.sentence.device), torch.no_grad():
            texts, videos = self.prepare_text(text), self.prepare_video(video)
            return FrameWeights(
                *(
                    self.weights(rows, tokens[:, 1:], matrix, video.mask)
                    for rows, tokens, matrix in (
                        (texts.sentence, videos.for_sentence, self.frame_logit_weight),
                        (texts.words, videos.for_words, self.frame_mat_weight),
                    )
                ),
                "weights of frames for the sentence and for each word",
            )

    def _of_words(self, video: Videos) -> Scores:
        """Video-word and frame-word similarities [2, nt, nv] with some videos."""
        tokens = token_first(SHARPNESS * video.for_words)
        frame_mask = video.mask.T if self.mask else None

        def score(text: Texts) -> Tensor:
            x = products(text.words, tokens)  # [nt, L, 1+T, nv]
            word_mask = text.mask.unsqueeze(-1) if self.mask else None
            whole = aggregate_videos_last(
                x[:, :, 0], self.word_logit_weight, twice=self.TWICE, mask=word_mask
            )
            frames = aggregate_both_orders(
                x[:, :, 1:],
                words=(self.word_mat_weight, self.word_mat_weight2),
                tokens=(self.frame_mat_weight, self.frame_mat_weight2),
                twice=self.TWICE,
                word_mask=word_mask,
                token_mask=frame_mask,
            )
            return torch.stack([whole, frames]) / SHARPNESS

        return score


PLUGIN = XCLIP
