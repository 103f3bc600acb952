"""Some work in several processes that are one group: gloo, on the CPU, forked, which is quick."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import time

import torch
import torch._dynamo  # before the fork: each member would import it
import torch.distributed as dist

from ttvr import distributed

SECONDS = 120  # more than any of it takes


def together(work, *arguments, world, folder, joins=True):
    """What `work(*arguments)` returns in each process: tensors and plain values.

    Without `joins` it joins the group itself.
    """
    folder.mkdir(exist_ok=True)
    fork = multiprocessing.get_context("fork")
    hear, tell = zip(*[fork.Pipe(duplex=False) for _ in range(world)], strict=True)
    members = [
        fork.Process(target=_member, args=(work, arguments, rank, world, hear[rank], folder, joins))
        for rank in range(world)
    ]
    for member in members:
        member.start()
    # The store has a thread, whose locks a fork would copy as they stand.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for end in tell:
        end.send(store.port)
    codes = _ends(members)
    assert codes == [0] * world, "".join(
        f"member {rank} of {world} ended with {code}, None after {SECONDS} s:\n"
        + (folder / f"{rank}.stack").read_text()
        for rank, code in enumerate(codes)
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _ends(members):
    """Their exit codes; None is one that had to be killed."""
    until = time.monotonic() + SECONDS
    for member in members:
        member.join(max(0, until - time.monotonic()))
    codes = [member.exitcode for member in members]
    for member in members:
        member.kill()
        member.join()
    return codes


def _member(work, arguments, rank, world, hear, folder, joins):
    # Kept open: where it stands is written as its time is over.
    stack = (folder / f"{rank}.stack").open("w")
    faulthandler.dump_traceback_later(SECONDS - 5, file=stack)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(hear.recv()),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
    )
    with distributed.joined(torch.device("cpu")) if joins else contextlib.nullcontext():
        torch.save(work(*arguments), folder / f"{rank}.pt")
