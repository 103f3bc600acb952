"""What frames make of each other before they meet a text: the temporal step of many heads.

CLIP4Clip (Luo et al., 2021) introduced both steps; X-CLIP, DRL, UCoFiA, TS2-Net and TC-MGC took
them over unchanged. Parameters have the names of the authors' code, so that its checkpoints load.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ttvr.clip.layers import Transformer
from ttvr.clip.model import CLIP
from ttvr.errors import UsageError
from ttvr.heads._base import Head, without_autocast
from ttvr.heads._layers import draw_as_authors, masked_mean_of_units, require_frames
from ttvr.records import VideoFeatures

STEPS = ("none", "seq_lstm", "seq_transf")
LAYERS, POSITIONS, HEAD_WIDTH = 4, 77, 64
EPS = 1e-12  # of layer norms, as the authors' code has it, where CLIP has 1e-5

log = logging.getLogger(__name__)


class TemporalHead(Head):
    """A head whose video vector, at least, is taken of frames after a temporal step.

    Args:
        width: D of the features.
        frames: T of a video.
        words: L of a text.
        temporal: a name of `STEPS`.
        layers: of the transformer of seq_transf.
        heads: of its attention; None: width // 64.
        positions: rows of its table of positions.
        tokens_per_frame: of the sequence that the step runs over.
        residual: add the frames to what the step makes of them.
    """

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
        tokens_per_frame: int = 1,
        residual: bool = True,
    ) -> None:
        super().__init__(width=width, frames=frames, words=words)
        if temporal not in STEPS:
            raise UsageError(f"temporal is one of {', '.join(STEPS)}, got {temporal!r}")
        self.temporal, self.residual = temporal, residual
        if temporal == "seq_lstm":
            self.lstm_visual = nn.LSTM(width, width, batch_first=True)
        if temporal == "seq_transf":
            length = frames * tokens_per_frame
            if length > positions:
                raise UsageError(
                    f"{type(self).__name__} takes at most {positions} positions, got {length} "
                    f"({frames} frames of {tokens_per_frame})"
                )
            self.most_frames = positions // tokens_per_frame
            self.frame_position_embeddings = nn.Embedding(positions, width)
            self.transformerClip = temporal_transformer(width, layers, heads)
            draw_as_authors(self.frame_position_embeddings)

    def temporal_frames(self, video: VideoFeatures) -> Tensor:
        """Frames [B, T, D] after the temporal step; what stands in padded rows is of no use.

        Raises:
            UsageError: more frames than positions.
            TtvrError: a video without a real frame.
        """
        require_frames(video.mask)
        return self.temporal_step(video.frames, video.mask)

    def temporal_step(self, x: Tensor, mask: Tensor) -> Tensor:
        """A sequence x [B, N, D] with a mask [B, N] bool -> [B, N, D], the input added to it.

        Without `residual` it is not, and frames are what the step alone makes of them.

        Padding stands at the end. It is no key of attention; its own rows are as the authors' code
        makes them, but for those of seq_lstm beyond the longest video of a batch, which are not
        doubled here: no row depends on the rest of the batch.

        Raises:
            UsageError: the sequence is longer than the table of positions.
        """
        if self.temporal == "seq_lstm":
            # An LSTM looks back alone, so what is padded changes nothing before it.
            made = self.lstm_visual(x)[0].masked_fill(~mask.unsqueeze(-1), 0.0)
        elif self.temporal == "seq_transf":
            table, name = self.frame_position_embeddings, type(self).__name__
            positions = positions_of(table, x.shape[1], of=name)
            made = run_blocks(self.transformerClip, x + positions, mask)
        else:
            return x
        return x + made if self.residual else made

    def vector_video(self, video: VideoFeatures) -> Tensor:
        """[B, D] unit vectors: the masked mean of unit frames after the temporal step."""
        with without_autocast(video.frames.device):
            return masked_mean_of_units(self.temporal_frames(video), video.mask)

    def init_from_clip(self, clip: CLIP) -> None:
        """Start seq_transf from CLIP's text tower: its positions and its first blocks."""
        if self.temporal == "seq_transf":
            copy_text_tower(
                clip, self.transformerClip, self.frame_position_embeddings, of=type(self).__name__
            )

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The temporal step, its layers and positions, and the width."""
        if "lstm_visual.weight_hh_l0" in state:
            width = state["lstm_visual.weight_hh_l0"].shape[1]
            return {"temporal": "seq_lstm", "width": width}
        table = state.get("frame_position_embeddings.weight")
        if table is None:
            return {"temporal": "none"}
        return {
            "temporal": "seq_transf",
            "layers": count_blocks(state, "transformerClip."),
            "positions": len(table),
            "width": table.shape[1],
        }

    @classmethod
    def official_tensors(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As every head; the authors allocate positions beside an LSTM and do not read them."""
        own = super().official_tensors(state)
        if "lstm_visual.weight_hh_l0" in own:
            own.pop("frame_position_embeddings.weight", None)
        return own


def temporal_transformer(width: int, layers: int, heads: int | None) -> Transformer:
    """Blocks as CLIP's text tower has them, but for the epsilon of their norms.

    Raises:
        UsageError: the width does not divide into the heads, or there are no layers.
    """
    heads = max(1, width // HEAD_WIDTH) if heads is None else heads
    if heads < 1 or width % heads or layers < 1:
        raise UsageError(f"width {width} does not divide into {heads} heads of {layers} layers")
    blocks = Transformer(width, layers, heads, "quick_gelu", EPS)
    draw_as_authors(blocks)
    return blocks


def positions_of(table: nn.Embedding, length: int, *, of: str) -> Tensor:
    """The first `length` rows of a table of positions, [length, D].

    Raises:
        UsageError: it has fewer; names both numbers.
    """
    if length > len(table.weight):
        raise UsageError(
            f"{of} has {len(table.weight)} positions, got a sequence of {length}; give it fewer "
            "frames (--frames), or train one with more (positions)"
        )
    return table.weight[:length]


def run_blocks(blocks: Transformer, x: Tensor, mask: Tensor) -> Tensor:
    """A stack of blocks on x [B, N, D], of which only the rows of the mask [B, N] are keys."""
    for block in blocks.resblocks:
        x = block(x, seen=mask)
    return x


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Blocks of a transformer whose names begin with `prefix`."""
    stem = f"{prefix}resblocks."
    return len({name[len(stem) :].split(".")[0] for name in state if name.startswith(stem)})


def copy_text_tower(clip: CLIP, blocks: Transformer, positions: nn.Embedding, *, of: str) -> None:
    """Copy CLIP's text positions and as many of its text blocks as there are; one line says so.

    Args:
        clip: with or without a text tower.
        blocks: filled from the front; what CLIP has no block for stays as it is.
        positions: filled from the front.
        of: whose they are, for the log.
    """
    width, text = positions.weight.shape[1], getattr(clip, "transformer", None)
    if text is None or clip.positional_embedding.shape[1] != width:
        log.info("%s: CLIP has no text tower of width %d, its blocks start as new", of, width)
        return
    copied = min(len(blocks.resblocks), len(text.resblocks))
    rows = min(len(positions.weight), len(clip.positional_embedding))
    with torch.no_grad():
        positions.weight[:rows] = clip.positional_embedding[:rows]
        for ours, theirs in zip(blocks.resblocks[:copied], text.resblocks[:copied], strict=True):
            ours.load_state_dict(theirs.state_dict())
    fresh = len(blocks.resblocks) - copied
    log.info("%s: %d blocks start as CLIP's text blocks, %d as new", of, copied, fresh)
