"""Memory of a training step of the visual tower, with and without token reducers.

What torch's allocator counts of tensors on the CPU during forward and backward pass, exact to the
byte: parameters, their gradients, and the pixels are there before and do not count. "kept" is what
the forward pass leaves for the backward pass, "peak" the most at once in both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ttvr.bench import _tower
from ttvr.bench._memory import Used, quieten, used
from ttvr.bench._table import Table
from ttvr.bench._tower import NONE, Tower

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = (
    "targets: peak of the reduced tower within 0.70 of none (ViT-B/32), within 0.35 with "
    "checkpointing"
)
_MIB = 1 << 20


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    _tower.add_arguments(group, videos=2)
    group.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="autocast of the tower"
    )


def run(args: argparse.Namespace) -> Table:
    """One step of each contender: counts do not vary."""
    quieten()
    rows = [row for tower in _tower.towers(args) for row in _rows(args, tower)]
    return Table(
        title=f"memory of forward and backward pass in {args.precision}, {args.frames} frames, "
        f"{args.videos} videos at a time, MiB per video",
        columns=(
            "tower",
            "reduction",
            "checkpointing",
            "kept",
            "kept of none",
            "peak",
            "peak of none",
        ),
        rows=rows,
        notes=[TARGETS, "counted by torch's allocator: the tensors, all of them"],
    )


def _rows(args: argparse.Namespace, tower: Tower) -> list[tuple[Any, ...]]:
    """Those of one tower; the columns are those of `run`."""
    import torch

    frames, mask = _tower.clips(args, tower.visual.image_size)
    tower.visual.train()
    for parameter in tower.visual.parameters():
        parameter.grad = torch.zeros_like(parameter)
    plan = " ".join(tower.plan.canonical)
    took = {}
    for is_checkpointing in (False, True):
        tower.visual.checkpointing = is_checkpointing
        for name in (NONE, plan):
            reducers = tower.plan.reducers if name == plan else {}
            forward = partial(_forward, tower, frames, mask, reducers, args.precision)
            took[name, is_checkpointing] = step(forward)
    most = took[NONE, False]
    return [
        (
            *(tower.name, name, "yes" if is_checkpointing else "no"),
            own.kept / args.videos / _MIB,
            own.kept / most.kept,
            own.peak / args.videos / _MIB,
            own.peak / most.peak,
        )
        for (name, is_checkpointing), own in took.items()
    ]


def step(forward: Callable[[], Tensor]) -> Used:
    """What a forward and a backward pass take.

    Args:
        forward: gives a scalar to go back from.

    Returns:
        The peak of both; `kept` by the first.
    """
    # In one: what is freed counts only where its making did.
    both = used(lambda: forward().backward())
    return Used(both.peak, used(forward).kept)


def _forward(
    tower: Tower, frames: Tensor, mask: Tensor, reducers: dict[int, Any], precision: str
) -> Tensor:
    from ttvr.devices import autocast

    with autocast(frames.device, precision):
        return tower.visual(frames, mask, reducers).frames.float().sum()


PLUGIN = run
