"""Several processes on one machine: started together, and ended together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.distributed as dist

from ttvr.errors import TtvrError

_INTERRUPTED = 130
_GRACE = 2.0  # seconds that processes have to end by themselves once one has failed
_ECHO = 5.0  # longer than that


def launch(work: Callable[..., int], *arguments: Any, processes: int) -> int:
    """Do some work in several processes of this machine, which are members of one group.

    One that fails or dies takes the others with it, within seconds; so does the end of this one.
    Ctrl-C reaches all of them; a second one does not wait. To be called in the main thread.

    Args:
        work: pickled by name; calls `joined`, and returns an exit code.
        arguments: of it.
        processes: how many.

    Returns:
        Zero, or the first exit code that is not.

    Raises:
        TtvrError: a process was killed; says which.
        KeyboardInterrupt: they were interrupted.
    """
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start = multiprocessing.get_context("spawn").Process
    members = [
        start(target=_member, args=(work, arguments, number, processes, meeting.port))
        for number in range(processes)
    ]
    before, interruptions = signal.getsignal(signal.SIGINT), []

    def forward(number: int, frame: Any) -> None:
        del frame
        interruptions.append(number)
        for member in members:
            if member.is_alive():
                os.kill(member.pid, signal.SIGINT)

    # Blocked, not ignored: one that comes as a process starts waits until it can be heard. Python's
    # own helper, which starts with the first process, would unblock it.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for member in members:
            member.start()
        if callable(before):  # or it is ignored, here and there
            signal.signal(signal.SIGINT, forward)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = _watch(members, lambda: len(interruptions) > 1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        _kill(members)
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _watch(members: Sequence[BaseProcess], is_hurried: Callable[[], bool]) -> int:
    """Wait for all, but for those that outlive the first to fail, which are killed."""
    running = {member.sentinel: number for number, member in enumerate(members)}
    failed, until = None, None
    while running:
        if until is None and is_hurried():
            until = time.monotonic() + _GRACE
        rest = 0.2 if until is None else until - time.monotonic()
        if until is not None and rest <= 0:
            _kill(members)
            rest = None
        ended = [running.pop(sentinel) for sentinel in wait(list(running), rest)]
        for number in ended:
            members[number].join()
        codes = {number: members[number].exitcode for number in ended}
        if failed is None and any(codes.values()):
            failed = min(codes, key=lambda number: (codes[number] >= 0, codes[number] == 0))
            # A process that was killed has nothing more to say, and neither have the others.
            until = time.monotonic() + (_GRACE if codes[failed] > 0 else 0)
    if failed is None:
        return 0
    code = members[failed].exitcode
    if code < 0 and code != -signal.SIGINT and not is_hurried():
        name = signal.Signals(-code).name
        raise TtvrError(
            f"process {failed} of {len(members)} was killed ({name}; SIGKILL often means that "
            "memory ran out), the others were stopped; the same command goes on from the last "
            "checkpoint"
        )
    return code if code > 0 else _INTERRUPTED


def _kill(members: Sequence[BaseProcess]) -> None:
    for member in members:
        if member.is_alive():
            member.kill()


def _member(
    work: Callable[..., int], arguments: Sequence[Any], number: int, processes: int, port: int
) -> None:
    """What a process that was launched does first, and last."""
    os.setpgrp()  # the terminal's Ctrl-C comes by way of the launcher, once
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = (number, number, processes, processes, "127.0.0.1", port)
    os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
    # As torchrun says it: the launcher holds the store, nobody here has to.
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = work(*arguments)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception:
        # Mostly the echo of another's death, which the launcher tells of, and kills this one.
        time.sleep(_ECHO)
        raise
    sys.exit(code)


def _end_with_launcher() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
