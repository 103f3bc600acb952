"""Time of the visual tower with and without token reducers, in float32 and bfloat16.

One thread by default, and then processor time: other processes do not count. The videos are drawn
scenes, whose frames are alike as those of videos are. With "every token" the last block computes
the patches too, as published code does and heads on patches need; else they are left out, of which
the tower without reduction has more to gain.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ttvr.bench import _tower
from ttvr.bench._table import Table, alternate, median
from ttvr.bench._tower import NONE, Tower
from ttvr.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

EVERY = ", every token"
PRECISIONS = ("fp32", "bf16")
TARGETS = (
    "targets, set for every token: reduced within 0.68 (ViT-B/32) and 0.70 (ViT-B/16) of none; "
    "bf16 within 0.5 of fp32 with features within 2e-2"
)


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    _tower.add_arguments(group, videos=4)
    group.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS),
        help="autocast of the tower",
    )
    group.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    group.add_argument("--threads", type=int, default=1, help="threads of the tower")


def run(args: argparse.Namespace) -> Table:
    """Each contender encodes the same videos; the first run of each is not counted."""
    import torch

    if args.threads < 1:
        raise UsageError(f"--threads is at least 1, got {args.threads}")
    torch.set_num_threads(args.threads)
    rows = [row for tower in _tower.towers(args) for row in _rows(args, tower)]
    clock = "processor time" if args.threads == 1 else "wall time"
    return Table(
        title=f"the visual tower on {args.frames} frames, {args.videos} videos at a time, "
        f"{args.threads} thread(s), {clock}, medians of {args.rounds}",
        columns=(
            *("tower", "reduction", "precision", "ms/video", "of none", "of fp32", "differs"),
            *("GFLOP/video", "GFLOP of none"),
        ),
        rows=rows,
        notes=[
            TARGETS,
            "differs: largest difference from fp32 of an entry of a frame's unit vector; "
            "of none: every token over every token, the others over none; "
            "GFLOP: of products alone, a multiplication and an addition being two",
        ],
    )


def _rows(args: argparse.Namespace, tower: Tower) -> list[tuple[Any, ...]]:
    """Those of one tower; the columns are those of `run`."""
    frames, mask = _tower.clips(args, tower.visual.image_size)
    plan = " ".join(tower.plan.canonical)
    names = (NONE + EVERY, plan + EVERY, NONE, plan)
    contenders = {
        (name, precision): partial(_encode, tower, frames, mask, name, precision)
        for precision in args.precision
        for name in names
    }
    vectors = {key: call() for key, call in contenders.items()}
    clock = time.process_time if args.threads == 1 else time.perf_counter
    taken = alternate(contenders, rounds=args.rounds, clock=clock)
    seconds = {key: median(runs) for key, runs in taken.items()}
    work = {name: _flop(tower, frames[:1], mask[:1], name) for name in names}
    rows = []
    for (name, precision), own in seconds.items():
        wide, base = (name, "fp32"), NONE + EVERY * name.endswith(EVERY)
        is_compared = precision != "fp32" and wide in seconds
        rows.append(
            (
                *(tower.name, name, precision, 1000 * own / args.videos),
                own / seconds[base, precision],
                own / seconds[wide] if is_compared else "-",
                _apart(vectors[name, precision], vectors[wide]) if is_compared else "-",
                work[name] / 1e9,
                work[name] / work[base],
            )
        )
    return rows


def _encode(tower: Tower, frames: Tensor, mask: Tensor, name: str, precision: str) -> Tensor:
    """Unit vectors [B, T', D] float32 of frames or segments."""
    import torch
    from torch.nn.functional import normalize

    from ttvr.devices import autocast

    reducers = {} if name.startswith(NONE) else tower.plan.reducers
    with torch.inference_mode(), autocast(frames.device, precision):
        found = tower.visual(frames, mask, reducers, patches=name.endswith(EVERY))
    return normalize(found.frames.float(), dim=-1)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _flop(tower: Tower, frames: Tensor, mask: Tensor, name: str) -> int:
    """Of one video, counted by torch; those of a clustering's products included."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    reducers = {} if name.startswith(NONE) else tower.plan.reducers
    counter = FlopCounterMode(display=False)
    # The products of a CPU's fused attention are not counted.
    with counter as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        tower.visual(frames, mask, reducers, patches=name.endswith(EVERY))
    return counted.get_total_flops()


PLUGIN = run
