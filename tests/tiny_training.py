"""A dataset of plain colors and a recipe that learns it in seconds."""

from __future__ import annotations

import numpy as np
import torch
from tiny import tiny_state

from ttvr.errors import VideoError
from ttvr.recipes import Recipe
from ttvr.records import Clip, Split
from ttvr.train import Data

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 40),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "pink": (250, 130, 190),
    "gray": (128, 128, 128),
}
FRAMES = 6


def colors(name, captions_per_clip=1):
    """A clip per color, each with its captions."""
    clips = tuple(Clip(color, path=f"{color}.mp4") for color in COLORS)
    owner = tuple(index for index in range(len(clips)) for _ in range(captions_per_clip))
    words = ("a screen that is", "all of it is", "look at")
    captions = tuple(
        f"{words[number % captions_per_clip]} {clips[index].id}"
        for number, index in enumerate(owner)
    )
    return Split(name, clips, captions, owner)


def read(clip, choose, *, size):
    """Frames of the clip's color; the columns up to the frame's number are dark."""
    chosen = sorted(set(choose(FRAMES)))
    frames = np.empty((len(chosen), size, size, 3), np.uint8)
    frames[:] = COLORS[clip.id]
    for place, number in enumerate(chosen):
        frames[place, :, :number] //= 2
    return frames


def unreadable(clip, choose, *, size):
    if clip.id == "pink":
        raise VideoError("invalid_data", "no frame")
    return read(clip, choose, size=size)


def data(**changes):
    return Data("colors", read, colors("train", 3), colors("val"))._replace(**changes)


def write_start(folder):
    """A checkpoint to start from, with CLIP's whole vocabulary."""
    state = tiny_state(image=16, vocabulary=49408)
    state["logit_scale"] = torch.tensor(2.6)
    torch.save(state, folder / "start.pt")
    return str(folder / "start.pt")


def recipe(weights, **changes):
    settings = {
        "weights": weights,
        "frames": 3,
        "train_frames": 2,
        "epochs": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "clip_lr": 1e-3,
        "word_loss": 0.5,
        **changes,
    }
    return Recipe(**settings)
