"""seqTransf: as meanP, after a transformer over the frames.

Luo et al., "CLIP4Clip" (2021), a sequential calculator.
"""

from __future__ import annotations

from ttvr.heads._loose import LooseHead
from ttvr.heads._temporal import LAYERS, POSITIONS


class SeqTransf(LooseHead):
    """The loose calculator on frames plus what blocks of attention with positions make of them.

    Args:
        width: D of the features.
        frames: T of a video, at most `positions`.
        words: L of a text; not read.
        layers: blocks, which `init_from_clip` starts from CLIP's text tower.
        heads: of attention; None: width // 64.
        positions: rows of the table of positions.
    """

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
        super().__init__(
            width=width,
            frames=frames,
            words=words,
            temporal="seq_transf",
            layers=layers,
            heads=heads,
            positions=positions,
        )


PLUGIN = SeqTransf
