"""Work on many videos at once, in threads: decoders and encoders are processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

_AHEAD = 2  # items waiting for each that is worked on

Item, Result = TypeVar("Item"), TypeVar("Result")


def as_done(
    work: Callable[[Item, threading.Event], Result], items: Iterable[Item], *, jobs: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, as they are done.

    Closing the iterator, as an error or Ctrl-C does, sets the event that all are given: what is
    begun is killed, the rest is not begun.

    Args:
        work: of an item; given the event, which `video` takes as `stop`.
        items: hashable, each once.
        jobs: at once.

    Raises:
        Exception: what `work` raises.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="videos")
    try:
        waiting: dict[Future[Result], Item] = {}
        for item in items:
            waiting[pool.submit(work, item, stop)] = item
            while len(waiting) > jobs * _AHEAD:
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _finished(waiting: dict[Future[Result], Item]) -> list[tuple[Item, Result]]:
    """Take off what is done, at least one."""
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    return [(waiting.pop(future), future.result()) for future in done]
