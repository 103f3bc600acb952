"""Speed and memory of ttvr-train beside a plain loop, with and without token reducers.

The plain loop is what one writes down first: forward, backward, clipped gradients, AdamW. It takes
one batch that is there already again and again, and writes no log; ttvr-train goes through its
reader's threads for every batch, which find drawn scenes in memory. Both start with the same model.
--accumulate and --compile are for ttvr-train alone. On a CPU with one thread it is processor time
that counts: other processes do not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.bench import _tower
from ttvr.bench._memory import quieten
from ttvr.bench._table import Table, median
from ttvr.bench._tower import NONE, PLANS
from ttvr.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ttvr.bench._training import Task
    from ttvr.train import Data

LOOPS = OURS, PLAIN = "ttvr-train", "plain loop"
TARGETS = "target: ttvr-train takes at least 0.95 of the plain loop's steps"
_MIB = 1 << 20


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    what = "repeatable, each beside none; several in one, as in 'A B', act together; by default "
    _tower.add_arguments(group, videos=2, reduce=f"{what}k-medoids and spectral: ")
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="autocast")
    group.add_argument("--accumulate", type=int, default=1, help="parts of a batch, of ttvr-train")
    group.add_argument(
        "--compile", action="store_true", help="blocks by torch.compile, of ttvr-train"
    )
    group.add_argument("--steps", type=int, default=3, help="steps of a run, beside two to warm up")
    group.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    group.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")


def run(args: argparse.Namespace) -> Table:
    """Each loop trains from the same start, in turn."""
    _tower.check(args)
    if min(args.steps, args.rounds, args.threads, args.accumulate) < 1:
        raise UsageError("--steps, --rounds, --threads and --accumulate are at least 1")
    quieten()
    import torch

    from ttvr.devices import resolve_device

    torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    rows: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory(prefix="ttvr-bench-") as folder:
        for name in [args.weights] if args.weights else args.sizes:
            rows += _rows(args, name, Path(folder), device)
    is_alone = device.type == "cpu" and args.threads == 1
    where = "1 thread, processor time" if is_alone else f"{args.threads} thread(s), wall time"
    return Table(
        title=f"training steps of {args.videos} clips, {args.frames} frames, {args.precision}, on "
        f"{device}, {where}, medians of {args.rounds} runs of {args.steps} steps",
        columns=(
            *("tower", "reduction", "loop", "steps/s", "clips/s", "of plain", "speed of none"),
            *("reducers", "peak MiB", "peak of none"),
        ),
        rows=rows,
        notes=[
            TARGETS,
            "reducers: part of the plain loop's steps that their forward passes take; "
            "peak: of tensors, with model, gradients and optimizer",
        ],
    )


def _rows(
    args: argparse.Namespace, name: str, folder: Path, device: torch.device
) -> list[tuple[Any, ...]]:
    """Those of one tower; the columns are those of `run`."""
    from ttvr.bench import _training

    tasks = dict(_tasks(args, name, folder, device))
    rows: list[tuple[Any, ...]] = []
    none: dict[str, tuple[float, int]] = {}
    for plan, task in tasks.items():
        loops = {OURS: partial(_training.ours, task), PLAIN: partial(_training.plain, task)}
        rounds = [{loop: call() for loop, call in loops.items()} for _ in range(args.rounds)]
        speed = {loop: task.steps / median([one[loop] for one in rounds]) for loop in loops}
        short = task._replace(steps=1)
        peak = {OURS: _training.peak(partial(_training.ours, short), device)}
        peak[PLAIN] = _training.peak(partial(_training.plain, short), device)
        share = _training.share(task) if task.recipe.reduce else 0.0
        for loop in loops:
            least = none.setdefault(loop, (speed[loop], peak[loop]))
            rows.append(
                (
                    *(name, plan, loop, speed[loop], speed[loop] * args.videos),
                    speed[loop] / speed[PLAIN],
                    speed[loop] / least[0],
                    share,
                    peak[loop] / _MIB,
                    peak[loop] / least[1],
                )
            )
    return rows


def _tasks(
    args: argparse.Namespace, name: str, folder: Path, device: torch.device
) -> Sequence[tuple[str, Task]]:
    """What is compared of a tower, by reduction; none comes first.

    Raises:
        UsageError: a plan does not fit.
    """
    from ttvr import retriever
    from ttvr.bench import _training
    from ttvr.clip import weights
    from ttvr.recipes import Recipe
    from ttvr.train import Options

    path = name
    if name != args.weights:
        path = str(folder / "random.pt")
        weights.save(_tower.drawn(name).clip, path, activation="quick_gelu")
    save_every = _training.WARM + args.steps + 1  # never
    options = Options(save_every=save_every, select="last", compile=args.compile)
    recipe = Recipe(
        weights=path,
        frames=args.frames,
        batch_size=args.videos,
        accumulate=args.accumulate,
        precision=args.precision,
        epochs=1,
        train_sampler="segment",
    )
    plans = [text.split() for text in args.reduce or _default(name)]
    clip = retriever.build(recipe).clip
    made = [retriever.plan(clip, plan, frames=[args.frames]).canonical for plan in plans]
    now = partial(_training.now, device, is_alone=device.type == "cpu" and args.threads == 1)
    rest = options, _data(args, clip.image_size), device, args.steps, now
    return [
        (" ".join(plan) or NONE, _training.Task(replace(recipe, reduce=tuple(plan)), *rest))
        for plan in ([], *made)
    ]


def _default(name: str) -> list[str]:
    """The plan of the paper for a size, and the same with the other clustering."""
    plan = PLANS.get(name)
    return [plan, plan.replace("kmedoids", "spectral")] if plan else []


def _data(args: argparse.Namespace, size: int) -> Data:
    """Drawn scenes and their captions, in memory, as often as there are steps."""
    from ttvr.bench import _training
    from ttvr.records import Clip, Split
    from ttvr.train import Data

    drawn = {f"{number:05}": one for number, one in enumerate(_tower.scenes(args, size))}
    times = _training.WARM + args.steps + 1
    split = Split(
        "drawn",
        tuple(Clip(id, Path(id)) for id in drawn),
        tuple(caption for caption, _ in drawn.values()) * times,
        tuple(range(len(drawn))) * times,
    )

    def read(clip: Clip, choose: Callable[[int], Sequence[int]], *, size: int) -> np.ndarray:
        del size  # that they were drawn in
        return drawn[clip.id][1][choose(args.frames)]

    return Data("drawn", read, split, None)


PLUGIN = run
