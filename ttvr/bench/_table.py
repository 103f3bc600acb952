"""What a benchmark gives back, and how contenders take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

from ttvr.errors import UsageError

__all__ = ["Table", "alternate", "median"]


class Table(NamedTuple):
    """Numbers side by side.

    Attributes:
        title: what was measured, on what.
        columns: names, units included.
        rows: one tuple per contender, as long as `columns`; the first entry is its name.
        notes: what a reader must know beside the numbers: targets, what was left out and why.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    notes: Sequence[str]


def alternate(
    contenders: dict[str, Callable[[], object]],
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Run each in turn, A B A B, so that a drift of the machine meets all of them.

    Args:
        contenders: name to what is timed.
        rounds: how often each runs.
        clock: seconds; `time.process_time` leaves out those in which others had the processor.

    Returns:
        Seconds of each run, per contender.

    Raises:
        UsageError: less than one round.
    """
    if rounds < 1:
        raise UsageError(f"--rounds is at least 1, got {rounds}")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            began = clock()
            call()
            seconds[name].append(clock() - began)
    return seconds
