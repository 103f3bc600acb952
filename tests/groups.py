"""Some work in several processes that are one group: gloo, on the CPU, forked, which is quick."""

from __future__ import annotations

import contextlib
import multiprocessing
import os

import torch
import torch.distributed as dist

from ttvr import distributed

SECONDS = 120  # more than any of it takes


def together(work, *arguments, world, folder, joins=True):
    """What `work(*arguments)` returns in each process: tensors and plain values.

    Without `joins` it joins the group itself.
    """
    folder.mkdir(exist_ok=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start = multiprocessing.get_context("fork").Process
    members = [
        start(target=_member, args=(work, arguments, rank, world, store.port, folder, joins))
        for rank in range(world)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join(SECONDS)
        member.kill()
    assert [member.exitcode for member in members] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _member(work, arguments, rank, world, port, folder, joins):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
    )
    with distributed.joined(torch.device("cpu")) if joins else contextlib.nullcontext():
        torch.save(work(*arguments), folder / f"{rank}.pt")
