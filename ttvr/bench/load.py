"""Videos per second that training reads: from files, from small copies, from the frame cache.

As ttvr-train reads them: random frames of each clip, by several threads at once, which start an
ffmpeg each and resize what it gives, into batches of bytes. Processor time, of this process and of
its ffmpegs, does not depend on what else the machine does; videos per second do.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ttvr.bench._table import Table, median
from ttvr.errors import UsageError

if TYPE_CHECKING:
    from ttvr.loader import Read
    from ttvr.records import Clip

FILES, COPIES, CACHE = "files", "small copies", "frame cache"
NEED = 400
"""Videos per second that one GPU is taken to learn from, ViT-B/32 with 12 frames: not measured."""
_AT_ONCE = 32


class Taken(NamedTuple):
    """Seconds of a run: by the clock, and of processors, in this process and in its ffmpegs."""

    wall: float
    own: float
    ffmpeg: float


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument("videos", nargs="+", help="videos, or folders of them")
    group.add_argument(
        "--copies", nargs="+", default=[], help="what ttvr-data compress made of them, likewise"
    )
    group.add_argument(
        "-j", "--jobs", type=int, nargs="+", default=[1, 2], help="numbers of threads to compare"
    )
    group.add_argument("--frames", type=int, default=12, help="frames per video")
    group.add_argument("--size", type=int, default=224, help="side of a frame, pixels")
    group.add_argument("--reads", type=int, default=24, help="videos that a run reads, in turn")
    group.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")


def run(args: argparse.Namespace) -> Table:
    """Each contender reads as many videos; the frame cache is filled beforehand."""
    if min(*args.jobs, args.frames, args.size, args.reads, args.rounds) < 1:
        raise UsageError("--jobs, --frames, --size, --reads and --rounds are at least 1")
    from ttvr import datasets
    from ttvr.datasets._base import Dataset

    read, clips = Dataset().read, _clips(args.videos)
    sources: dict[str, tuple[Sequence[Clip], Read]] = {FILES: (clips, read)}
    if args.copies:
        sources[COPIES] = _clips(args.copies), read
    with tempfile.TemporaryDirectory(prefix="ttvr-bench-") as folder:
        sources[CACHE] = clips, datasets.cached(read, Path(folder))
        _taken(args, *sources[CACHE], jobs=1, reads=len(clips))
        contenders = {
            (name, jobs): _reader(args, *sources[name], jobs)
            for name in sources
            for jobs in args.jobs
        }
        rounds = [{key: call() for key, call in contenders.items()} for _ in range(args.rounds)]
    took = {
        key: Taken(*(median(times) for times in zip(*(one[key] for one in rounds), strict=True)))
        for key in contenders
    }
    return Table(
        title=f"{args.reads} reads of {len(clips)} videos, {args.frames} frames of {args.size} "
        f"pixels, {os.cpu_count()} processors, medians of {args.rounds}",
        columns=(
            *("source", "jobs", "videos/s", f"of {args.jobs[0]} job(s)"),
            *("CPU ms/video", "of them here", f"cores for {NEED} videos/s"),
        ),
        rows=[_row(args, key, own, took[key[0], args.jobs[0]]) for key, own in took.items()],
        notes=[
            f"cores: processor time of a video, times {NEED}: what one GPU is taken to learn "
            "from, which was not measured",
            "here: in Python's process, not in its ffmpegs; what holds Python's lock of it, one "
            "thread at a time does, whatever the number of processors",
        ],
    )


def _row(
    args: argparse.Namespace, key: tuple[str, int], own: Taken, first: Taken
) -> tuple[Any, ...]:
    here, ffmpeg = (1000 * seconds / args.reads for seconds in (own.own, own.ffmpeg))
    return (
        *(*key, args.reads / own.wall, first.wall / own.wall),
        *(here + ffmpeg, here, NEED * (here + ffmpeg) / 1000),
    )


def _clips(paths: Sequence[str]) -> list[Clip]:
    from ttvr import extract

    return [item.clip for item in extract.find_inputs(paths).items]


def _reader(
    args: argparse.Namespace, clips: Sequence[Clip], read: Read, jobs: int
) -> Callable[[], Taken]:
    return lambda: _taken(args, clips, read, jobs=jobs, reads=args.reads)


def _taken(
    args: argparse.Namespace, clips: Sequence[Clip], read: Read, *, jobs: int, reads: int
) -> Taken:
    """What it takes to read so many videos, each run the same frames."""
    from ttvr.frames import random_indices
    from ttvr.loader import Wanted, stacked

    def wanted(clip: Clip, number: int) -> Wanted:
        def choose(n: int) -> list[int]:
            return random_indices(n, args.frames, generator=np.random.default_rng(number))

        return Wanted(clip, choose)

    all_wanted = map(wanted, islice(cycle(clips), reads), range(reads))
    sizes = {"at_once": _AT_ONCE, "frames": args.frames, "size": args.size}
    before, began = _processor_seconds(), time.perf_counter()
    for _ in stacked(all_wanted, read, **sizes, jobs=jobs):
        pass
    wall = time.perf_counter() - began
    own, ffmpeg = (late - soon for late, soon in zip(_processor_seconds(), before, strict=True))
    return Taken(wall, own, ffmpeg)


def _processor_seconds() -> tuple[float, float]:
    """Of this process, and of those it has started that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return tuple(one.ru_utime + one.ru_stime for one in used)


PLUGIN = run
