"""meanP: the mean of the unit frame vectors against the sentence.

Luo et al., "CLIP4Clip" (2021), the parameter-free calculator; also the score of CenterCLIP.
"""

from __future__ import annotations

from ttvr.heads._loose import LooseHead


class MeanP(LooseHead):
    """The loose calculator on frames as they are; no parameters."""

    def __init__(self, *, width: int = 512, frames: int = 12, words: int = 32) -> None:
        super().__init__(width=width, frames=frames, words=words, temporal="none")


PLUGIN = MeanP
