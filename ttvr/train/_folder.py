"""The folder of a run: who may write it, and its log."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ttvr.errors import TtvrError, UsageError
from ttvr.files import written

RECIPE, LOG, LAST, BEST = "recipe.json", "log.jsonl", "last.pt", "best.pt"
RESULTS = "results.jsonl"
_LOCK = ".lock"


def check_usable(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check, changing nothing, that a training may write to this folder.

    Raises:
        UsageError: it is a file, holds what no training wrote, or may not be gone on with.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, the output is a folder; pass another -o")
    if (folder / LAST).exists() and not (resume or overwrite):
        raise UsageError(
            f"{folder} holds a training already, nothing was changed; drop --no-resume to go on "
            "with it, or pass --overwrite or another -o"
        )
    if (folder / BEST).exists() and not (folder / LAST).exists() and not overwrite:
        raise UsageError(
            f"{folder} holds {BEST} without the {LAST} it could be gone on from, nothing was "
            "changed; pass --overwrite to start anew, or another -o"
        )
    # A run that was killed as it began has a lock, and maybe half a file, whose names are hidden.
    shown = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if shown and not (folder / RECIPE).exists():
        if several := sorted(folder.glob(f"seed[0-9]*/{RECIPE}")):
            raise UsageError(
                f"{folder} holds the runs of several seeds, nothing was changed; pass --seeds to "
                f"go on with them, a single one, as -o {several[0].parent}, or another -o"
            )
        raise UsageError(
            f"{folder} is not empty and not the folder of a run, nothing was changed; "
            "pass another -o"
        )


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The right to write a folder, which is made where there is none; it ends with the process.

    Raises:
        TtvrError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TtvrError(
                f"{folder} is being written by another process, nothing was changed; "
                "wait for it or pass another -o"
            ) from error
        for left in folder.glob(".*.part.*"):  # of a process that was killed while it wrote
            left.unlink()
        yield


def clear(folder: Path) -> None:
    """Remove what an earlier training left, what it could be resumed from first."""
    for name in (LAST, BEST, LOG, RESULTS, RECIPE):
        (folder / name).unlink(missing_ok=True)


class Log:
    """`log.jsonl`, gone on with after the line of a step.

    A process that is killed may have written lines beyond the checkpoint that the next one starts
    from, the last of them in part, or as what a power cut makes of it: they are dropped and come
    again.

    Args:
        folder: of the run.
        step: of the checkpoint; no later line is kept.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self._path = path = folder / LOG
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith(b"\n") and _step(line) <= step]
        with written(path) as partial:
            partial.write_bytes(b"".join(kept))

    def write(self, **facts: Any) -> None:
        """Add a line, which is on the disk then; what is not finite is null in JSON."""
        facts = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in facts.items()
        }
        with self._path.open("a") as file:
            file.write(json.dumps(facts, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _step(line: bytes) -> float:
    """Of a line of the log; infinite where it is none."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def peak_mib(device: torch.device) -> float:
    """Memory this process held at most: of the GPU it computes on, else of the machine."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
