"""tightTransf: a transformer reads the sentence together with the frames of a video.

Luo et al., "CLIP4Clip" (2021), the tight calculator. Parameters have its authors' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttvr.clip.layers import LayerNorm, QuickGELU
from ttvr.clip.model import CLIP
from ttvr.errors import UsageError
from ttvr.heads._base import Head
from ttvr.heads._layers import draw_as_authors, require_frames
from ttvr.heads._temporal import (
    EPS,
    LAYERS,
    POSITIONS,
    copy_text_tower,
    count_blocks,
    positions_of,
    temporal_transformer,
)
from ttvr.records import TextFeatures, VideoFeatures

DROPOUT = 0.1  # of the sum of features and positions, in training
_HELD, _HELD_BY_DEVICE = 1 << 22, 1 << 26
"""Numbers that the pairs in work at once may hold: 70 pairs at the usual sizes, whose products are
as fast as they get on a CPU; a GPU takes more to be busy."""
_WIDTHS_PER_ROW = 9
"""A row of the sequence, where it is most: itself twice, and twice the four widths of its MLP."""


class Rows(NamedTuple):
    """Of one side: its part of the sequence, and what the first block's attention makes of it.

    Attributes:
        rows: [N, R, D] features plus their positions; R is 1 for a text, T for a video.
        qkv: [N, R, 3D] queries, keys and values of the first block.
        mask: [N, R] bool, True = real.
    """

    rows: Tensor
    qkv: Tensor
    mask: Tensor


class TightTransf(Head):
    """A number that a transformer reads off the sequence of a sentence and the frames of a video.

    The sequence is [sentence; frame 1..T], neither normalized, plus positions; its first row after
    the blocks goes through a norm, a linear map with QuickGELU, and a linear map to one number.
    That number is the logit: it is no cosine, and the logit scale does not enter it.

    Everything but the first block's queries, keys and values depends on the pair, so every pair
    is a forward pass; of the last block only the first row is computed. In training, dropout on
    the sequence makes those of the first block depend on the pair too.

    The loss is taken over the batch of each process, as the authors' code has it.

    Args:
        width: D of the features.
        frames: T of a video, below `positions`.
        words: L of a text; not read, the sentence alone is.
        layers: blocks, which `init_from_clip` starts from CLIP's text tower.
        heads: of attention; None: width // 64. The authors have 8, of width 512 alone.
        positions: rows of the table of positions.
    """

    gather: ClassVar[bool] = False

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        layers: int = LAYERS,
        heads: int | None = None,
        positions: int = POSITIONS,
    ) -> None:
        super().__init__(width=width, frames=frames, words=words)
        if frames + 1 > positions:
            raise UsageError(
                f"TightTransf takes at most {positions} positions, got {frames + 1} "
                f"(the sentence and {frames} frames)"
            )
        self.most_frames = positions - 1
        pooler = {"ln_pool": LayerNorm(width, eps=EPS), "dense": nn.Linear(width, width)}
        table = {"position_embeddings": nn.Embedding(positions, width)}
        self.cross = nn.ModuleDict({"embeddings": nn.ModuleDict(table)})
        self.cross["pooler"] = nn.ModuleDict(pooler)
        self.similarity_dense = nn.Linear(width, 1)
        draw_as_authors(self)
        self.cross["transformer"] = temporal_transformer(width, layers, heads)

    def prepare_text(self, text: TextFeatures) -> Rows:
        """The first row of the sequence, of each text."""
        mask = torch.ones(len(text.sentence), 1, dtype=torch.bool, device=text.sentence.device)
        return self._prepare(text.sentence.unsqueeze(1), mask, first=0)

    def prepare_video(self, video: VideoFeatures) -> Rows:
        """The other rows, of each video; what stands in padded ones changes no score.

        Raises:
            UsageError: more frames than positions.
            TtvrError: a video without a real frame.
        """
        require_frames(video.mask)
        # Filled: NaN or infinity times an attention of zero is NaN.
        frames = video.frames.masked_fill(~video.mask.unsqueeze(-1), 0.0)
        return self._prepare(frames, video.mask, first=1)

    def similarities(self, text: Rows, video: Rows) -> Tensor:
        """Logits [1, Nt, Nv], no cosines; in training with dropout by torch's global generator.

        Pairs are taken some at a time, so that memory does not grow with their number.
        """
        device = text.rows.device
        chunks = _pairs(len(text.rows), len(video.rows), self._pairs_at_once(device), device)
        logits = torch.cat([self._score(text, video, t, v) for t, v in chunks])
        return logits.view(1, len(text.rows), len(video.rows))

    def fuse(self, sims: Tensor, scale: Tensor) -> Tensor:
        """The one matrix [1, Nt, Nv] as it is: [Nt, Nv]."""
        del scale
        return sims[0]

    def factors(self, sims: Tensor, scale: Tensor) -> Tensor:
        """[1]: one, whatever the scale."""
        return torch.ones_like(scale).expand(len(sims))

    def pair_floats(self) -> int:
        """The sequence of a pair in a block, so that few pairs are asked for in little memory."""
        return _WIDTHS_PER_ROW * self.width * (self.frames + 1)

    def init_from_clip(self, clip: CLIP) -> None:
        """Start from CLIP's text tower: its positions and its first blocks."""
        positions = self.cross["embeddings"]["position_embeddings"]
        copy_text_tower(clip, self.cross["transformer"], positions, of=type(self).__name__)

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Layers, positions and the width."""
        table = state.get("cross.embeddings.position_embeddings.weight")
        if table is None:
            return {}
        layers = count_blocks(state, "cross.transformer.")
        return {"layers": layers, "positions": len(table), "width": table.shape[1]}

    def _prepare(self, features: Tensor, mask: Tensor, *, first: int) -> Rows:
        """Features [N, R, D] of one side, whose first row has that position."""
        table, length = self.cross["embeddings"]["position_embeddings"], features.shape[1]
        rows = features + positions_of(table, first + length, of=type(self).__name__)[first:]
        block = self.cross["transformer"].resblocks[0]
        qkv = F.linear(block.ln_1(rows), block.attn.in_proj_weight, block.attn.in_proj_bias)
        return Rows(rows, qkv, mask)

    def _pairs_at_once(self, device: torch.device) -> int:
        held = _HELD if device.type == "cpu" else _HELD_BY_DEVICE
        return max(1, held // self.pair_floats())

    def _score(self, text: Rows, video: Rows, t: Tensor, v: Tensor) -> Tensor:
        """Logits [P] of the pairs of texts t [P] and videos v [P]."""
        x, qkv, seen = (torch.cat([a[t], b[v]], dim=1) for a, b in zip(text, video, strict=True))
        blocks = self.cross["transformer"].resblocks
        last = len(blocks) - 1
        if self.training:
            x = F.dropout(x, DROPOUT)
            x = blocks[0](x, seen=seen, queries=1 if last == 0 else None)
        else:
            x = _first_block(blocks[0], x, qkv, seen, queries=1 if last == 0 else x.shape[1])
        for number, block in enumerate(blocks[1:], start=1):
            x = block(x, seen=seen, queries=1 if number == last else None)
        pooler = self.cross["pooler"]
        pooled = QuickGELU()(pooler["dense"](pooler["ln_pool"](x[:, 0])))
        return self.similarity_dense(pooled).squeeze(-1)


def _first_block(block: nn.Module, x: Tensor, qkv: Tensor, seen: Tensor, *, queries: int) -> Tensor:
    """The first `queries` rows after a block, of x [P, N, D] whose qkv [P, N, 3D] are there."""
    (P, N, D), heads = x.shape, block.attn.heads
    q, k, v = qkv.view(P, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q[:, :, :queries], k, v, attn_mask=seen[:, None, None])
    x = x[:, :queries] + block.attn.out_proj(out.transpose(1, 2).flatten(2))
    return x + block.mlp(block.ln_2(x))


def _pairs(
    texts: int, videos: int, most: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs in the order of a matrix: texts [P] and videos [P], at most so many at a time.

    Once at least, with P = 0 where there is no pair.
    """
    for start in range(0, max(1, texts * videos), most):
        pair = torch.arange(start, min(start + most, texts * videos), device=device)
        yield pair // videos, pair % videos


PLUGIN = TightTransf
