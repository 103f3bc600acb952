"""The settings of a system: every default lives here, once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What makes two systems differ, apart from their weights.

    Attributes:
        head: name of the similarity head.
        head_options: its options, as (name, value) pairs.
        frames: T, frames taken of a video.
        words: L, tokens of a text that a head with matrices of that size is built for.
        sampler: which frames: "segment" (middle of equal parts) or "linspace" (CLIP4Clip's).
        fps: candidates per second that the sampler chooses from; None: all frames of the video.
    """

    head: str = "meanp"
    head_options: tuple[tuple[str, int | float | str | bool], ...] = ()
    frames: int = 12
    words: int = 32
    sampler: str = "segment"
    fps: float | None = None
