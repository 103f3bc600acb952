"""Captioned clips of moving shapes, drawn by seed as arrays: the toy benchmark and the demo's data.

A `Scene` says what happens, in words that a caption can repeat, and carries the few random numbers
that place it; from a scene on, everything is a pure function. No ffmpeg here.
"""

from ttvr.synthetic._captions import caption
from ttvr.synthetic._draw import FPS, FRAMES, SIZE, render
from ttvr.synthetic._scene import (
    KINDS,
    SPLITS,
    Scene,
    Thing,
    is_temporal,
    meaning,
    nth,
    reverse,
    sample,
    split_of,
    wordings,
)

__all__ = [
    "FPS",
    "FRAMES",
    "KINDS",
    "SIZE",
    "SPLITS",
    "Scene",
    "Thing",
    "caption",
    "is_temporal",
    "meaning",
    "nth",
    "render",
    "reverse",
    "sample",
    "split_of",
    "wordings",
]
