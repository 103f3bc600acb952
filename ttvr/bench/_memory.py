"""How much memory the tensors of a call take, counted by torch's allocator: exact, to the byte."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import NamedTuple


class Used(NamedTuple):
    """Bytes of tensors that a call makes.

    Attributes:
        peak: at most at once during it.
        kept: at its end, what it returned and what a graph keeps for the backward pass included.
    """

    peak: int
    kept: int


def quieten() -> None:
    """Keep torch's profiler from telling of each start; to be called before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def used(call: Callable[[], object]) -> Used:
    """What a call on the CPU takes. Scratch space inside of libraries is not tensors.

    The call frees no tensors that were there before: torch does not know of what size those are.
    """
    from torch import profiler

    gc.collect()
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        result = call()
    del result
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return Used(most, alive)
