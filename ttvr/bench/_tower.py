"""What the benchmarks of the visual tower have in common: towers, plans, and clips to encode."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ttvr.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ttvr.clip.model import VisionTransformer
    from ttvr.clip.weights import Checkpoint
    from ttvr.reducers import Plan

NONE = "none"
PLANS = {"ViT-B/32": "kmedoids@6:4,49", "ViT-B/16": "kmedoids@6:4,160"}
"""The sizes that can be asked for, and the plan of the paper for 12 frames of each."""
_PATCH = {"ViT-B/32": 32, "ViT-B/16": 16}  # in all else they are of one size


class Tower(NamedTuple):
    """A visual tower in evaluation mode, and a plan that fits it."""

    name: str
    visual: VisionTransformer
    plan: Plan


def add_arguments(
    group: argparse._ArgumentGroup, *, videos: int, reduce: str = "repeatable; by default "
) -> None:
    """Options of these benchmarks.

    Args:
        group: gets them.
        videos: the default of one of them.
        reduce: what several `--reduce` are, and that the plans of `PLANS` follow.
    """
    group.add_argument(
        "--sizes",
        nargs="+",
        choices=sorted(PLANS),
        default=list(PLANS),
        help="towers of random weights",
    )
    group.add_argument("-w", "--weights", help="a checkpoint or its name instead of --sizes")
    group.add_argument(
        "--reduce",
        action="append",
        metavar="NAME@BLOCK:S,K",
        help=f"token reducer, as of ttvr-extract, {reduce}"
        + ", ".join(f"{plan} ({name})" for name, plan in PLANS.items()),
    )
    group.add_argument("--frames", type=int, default=12, help="frames per video")
    group.add_argument("--videos", type=int, default=videos, help="videos at a time")


def towers(args: argparse.Namespace) -> Iterator[Tower]:
    """Those asked for, one after the other: none is held while the next one is made.

    Raises:
        UsageError: a number below 1, no plan for the weights, or one that does not fit.
    """
    check(args)
    if args.weights is None:
        for size in args.sizes:
            yield _built(size, drawn(size), args.reduce or [PLANS[size]], args.frames)
        return
    if not args.reduce:
        raise UsageError("with --weights, say --reduce NAME@BLOCK:S,K too")
    from ttvr.clip import weights

    checkpoint = weights.read(args.weights)
    yield _built(checkpoint.source, checkpoint, args.reduce, args.frames)


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        UsageError: one is below 1.
    """
    if min(args.frames, args.videos) < 1:
        raise UsageError("--frames and --videos are at least 1")


def drawn(size: str) -> Checkpoint:
    """Random weights of one of the sizes."""
    from ttvr.clip import weights

    sizes = weights.SIZES["ViT-B/32"]._replace(patch=_PATCH[size])
    return weights.Checkpoint(
        clip=weights.random_state(sizes, seed=0),
        head={},
        recipe={},
        source=size,
        activation="quick_gelu",
        reducers={},
        format="random",
        note="",
    )


def _built(name: str, checkpoint: Checkpoint, texts: list[str], frames: int) -> Tower:
    from ttvr import retriever
    from ttvr.clip.model import build

    clip = build(checkpoint.clip, activation=checkpoint.activation or "quick_gelu")
    if clip.visual is None:
        raise UsageError(f"{name} has no visual tower")
    plan = retriever.plan(clip, texts, frames=[frames])
    for reducer in plan.reducers.values():
        reducer.init_from_clip(clip)
        reducer.eval()
    return Tower(name, clip.visual, plan)


def clips(args: argparse.Namespace, size: int) -> tuple[Tensor, Tensor]:
    """Frames [B, T, 3, size, size] of drawn scenes, normalized, and their mask [B, T]."""
    import torch

    from ttvr.frames import normalize

    pixels = np.stack([frames for _, frames in scenes(args, size)])
    return normalize(pixels), torch.ones(args.videos, args.frames, dtype=torch.bool)


def scenes(args: argparse.Namespace, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Captions of drawn scenes, as many as there are videos, and frames [T, size, size, 3] uint8.

    The frames are alike as those of videos are.
    """
    from ttvr import synthetic
    from ttvr.frames import uniform_indices

    chance, words = np.random.default_rng(0), np.random.default_rng(1)
    indices = uniform_indices(synthetic.FRAMES, args.frames)
    for _ in range(args.videos):
        scene = synthetic.sample(chance)
        yield (
            synthetic.caption(scene, words),
            synthetic.render(scene, indices=indices, size=size),
        )
