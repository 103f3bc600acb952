"""CenterCLIP: datasets, towers and token reducers of its tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ttvr.recipes._entry import Entry
from ttvr.recipes._recipe import Recipe

_SOURCE = "Zhao et al., CenterCLIP (SIGIR 2022)"
_NOTE = (
    "videos are to be at 3 frames per second already; captions are cut at CLIP's 77 tokens, the "
    "authors' at 32; the authors keep the epoch that is best on the test split"
)
_BASE = Recipe(
    epochs=5,
    batch_size=128,
    frames=12,
    words=32,
    lr=5e-3,
    clip_lr=5e-6,
    eps=1e-6,
    decay="no_biases",
    freeze=0,
    schedule="centerclip",
    precision="fp16",
    min_scale=math.exp(0.1),  # the authors' code bounds the logarithm
    max_scale=math.exp(4.6052),
    seed=42,
)
_LONG = replace(_BASE, epochs=8, frames=60, words=77, lr=1e-2, clip_lr=1e-5)
_DATA = {
    "msrvtt9k": ("msrvtt:9k", "test", _BASE),
    "msrvtt7k": ("msrvtt:7k", "test", _BASE),
    "msvd": ("msvd", "test", _BASE),
    "lsmdc": ("lsmdc", "test", _BASE),
    "activitynet": ("activitynet", "val1", _LONG),
}
_TOWERS = {"b32": ("ViT-B/32", 49), "b16": ("ViT-B/16", 160)}
_BASELINES = {
    "pooling-4": "pooling@6:4,segment_mask=last",
    "sparse-4": "sparse@6:4,49,draw=published,segment_mask=last",
    "temporal_shift": "temporal_shift",
    "token_shift": "token_shift",
}
_NUMBERS = {
    (
        "msvd",
        "b32",
        4,
    ): "its paper has video-to-text R@1 54.2 for B_6-4, of which clustering is not "
    "known here; the released checkpoint is listed with 61.4",
}


_PLACED = (("msrvtt9k", "b32", 4), ("activitynet", "b16", 15), ("activitynet", "b32", 15))
_NO_PLACE = "whether the authors report this dataset with so many segments is not known here"


def _rows() -> Iterator[tuple[str, Entry]]:
    """Where a reducer acts is B_6-S,K of the paper: after block 6, S segments of K centers."""
    for data, (name, split, base) in _DATA.items():
        for tower, (weights, K) in _TOWERS.items():
            recipe = replace(base, weights=weights)
            stem = f"centerclip-{data}-{tower}"
            yield f"{stem}-none", Entry(recipe, name, split, _SOURCE, _NOTE)
            for S in _segments(data, tower):
                told = _NUMBERS.get((data, tower, S))
                place = None if (data, tower, S) in _PLACED else _NO_PLACE
                note = "; ".join(filter(None, (_NOTE, told, place)))
                if (data, tower) == ("activitynet", "b32"):
                    note += "; 15 segments are those of ViT-B/16: of B/32 they are not known here"
                for kind in ("kmedoids", "spectral"):
                    plan = (f"{kind}@6:{S},{K},segment_mask=last",)
                    made = replace(recipe, reduce=plan)
                    yield f"{stem}-{kind}-{S}", Entry(made, name, split, _SOURCE, note)
    for data in ("msrvtt9k", "msrvtt7k"):
        name, split, base = _DATA[data]
        note = f"{_NOTE}; the split of Table 2 is not known here"
        for kind, plan in _BASELINES.items():
            made = replace(base, reduce=(plan,))
            source = f"{_SOURCE}, Table 2"
            yield f"centerclip-{data}-b32-{kind}", Entry(made, name, split, source, note)


def _segments(data: str, tower: str) -> tuple[int, ...]:
    if data == "activitynet":
        return (15,)
    return (3, 4, 6) if tower == "b32" else (4,)


ENTRIES = dict(_rows())
