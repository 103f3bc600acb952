"""seqLSTM: as meanP, after an LSTM over the frames.

Luo et al., "CLIP4Clip" (2021), a sequential calculator.
"""

from __future__ import annotations

from ttvr.heads._loose import LooseHead


class SeqLSTM(LooseHead):
    """The loose calculator on frames plus the states of a one-layer LSTM that reads them in order.

    The LSTM starts as torch draws it. The authors allocate a table of positions too and do not
    read it; here there is none.
    """

    def __init__(self, *, width: int = 512, frames: int = 12, words: int = 32) -> None:
        super().__init__(width=width, frames=frames, words=words, temporal="seq_lstm")


PLUGIN = SeqLSTM
