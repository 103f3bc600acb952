"""Processes that train one model: who they are, and what they share."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ttvr.errors import UsageError

Made = TypeVar("Made")

_JOINS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_AT_ONCE = 1 << 23  # numbers of gradients in one message: 32 MiB, which are copied for it
# Who is dead is found by the launcher at once; who is slow, in a long validation, is waited for.
_PATIENCE = timedelta(days=1)


def is_member() -> bool:
    """Whether a launcher, this one or torchrun, has started this process as one of several."""
    return "RANK" in os.environ


def is_launched() -> bool:
    """Whether that was `launch`, which says itself how a training ended."""
    return is_member() and multiprocessing.parent_process() is not None


def local() -> tuple[int, int]:
    """This process's number among those of its machine, from 0, and how many they are."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world() -> int:
    """W, processes that train together; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this is the one process that reads and writes the run's folder, and speaks."""
    return rank() == 0


def part(total: int, *, rank: int, world: int) -> slice:
    """The rows of `total` that a process takes: in order, and as many as the others, or one more.

    Args:
        total: rows of a batch that all processes share.
        rank: number of the process.
        world: how many processes there are.
    """
    return slice(rank * total // world, (rank + 1) * total // world)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Callable[[], bool]]:
    """A group of all processes that were started together.

    Gloo carries what lies on the CPU, NCCL what lies on a GPU.

    Args:
        device: where this process computes.

    Yields:
        A question to ask when this process fails: whether it is the first, which says why.

    Raises:
        UsageError: the launcher did not say where to meet.
    """
    if absent := [name for name in _JOINS if name not in os.environ]:
        raise UsageError(
            f"RANK is set and {', '.join(absent)} not: start the processes with torchrun, or unset "
            "RANK and pass --gpus"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # Imported by the first DistributedDataParallel, it would keep the group that there is then.
    from torch import _dynamo  # noqa: F401

    store, own, size = next(iter(dist.rendezvous("env://", timeout=_PATIENCE)))
    dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=_PATIENCE)
    # All are connected before anyone can leave, whose end would cut off who is still connecting.
    any_of(False)

    def is_first() -> bool:
        try:
            return store.add("failed", 1) == 1
        except RuntimeError:  # the store went down with another process
            return False

    yield is_first
    # Not after an error: the others may wait for this one, which has to end.
    # What still holds the group goes first, so that its threads end here: at Python's end, one that
    # then lets go of a tensor would abort the process.
    gc.collect()
    dist.destroy_process_group()


def averaging(model: nn.Module) -> nn.Module:
    """The model, whose `backward` leaves the mean of all processes' gradients in each of them.

    They start from the first one's parameters. Parameters that no loss reaches get no gradient, as
    in one process; which these are is found in the first step. Alone, it is the model itself.
    """
    if world() == 1:
        return model
    with warnings.catch_warnings():  # torch 2.13 has a new name, which earlier ones do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False, static_graph=True)


def start_alike(parameters: Iterable[Tensor]) -> None:
    """Give the first process's values to these, the same ones everywhere, in all processes."""
    if world() > 1:
        for tensor in parameters:
            dist.broadcast(tensor.data, 0)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Leave the mean of all processes' gradients in each of them, once `backward` is over.

    It is for steps that go back more than once, which `averaging` is not made for. A parameter
    that has no gradient in some processes counts as 0 there; one that has none anywhere gets none,
    as in one process.

    Args:
        parameters: the same ones in the same order everywhere.
    """
    if world() == 1:
        return
    learned = [tensor for tensor in parameters if tensor.requires_grad]
    is_reached = torch.tensor([tensor.grad is not None for tensor in learned], dtype=torch.uint8)
    dist.all_reduce(is_reached, dist.ReduceOp.MAX)
    reached = [tensor for tensor, one in zip(learned, is_reached.tolist(), strict=True) if one]
    for tensor in reached:
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
    for bucket in _buckets([tensor.grad for tensor in reached]):
        flat = torch.cat([one.flatten() for one in bucket]) / world()
        dist.all_reduce(flat)
        means = flat.split([one.numel() for one in bucket])
        for one, mean in zip(bucket, means, strict=True):
            one.copy_(mean.view_as(one))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as many at once as make a message."""
    bucket, numbers = [], 0
    for tensor in tensors:
        if bucket and numbers + tensor.numel() > _AT_ONCE:
            yield bucket
            bucket, numbers = [], 0
        bucket.append(tensor)
        numbers += tensor.numel()
    if bucket:
        yield bucket


def sizes(rows: int) -> list[int]:
    """How many rows of a batch each process has; it is told how many this one has."""
    if world() == 1:
        return [rows]
    found = torch.zeros(world(), dtype=torch.int64)
    found[rank()] = rows
    dist.all_reduce(found)
    return found.tolist()


def gather(parts: Sequence[Tensor | None], rows: Sequence[int]) -> list[Tensor | None]:
    """The rows of all processes, one process's after the other's, in each of them.

    The gradient is exact for a loss that every process takes of all rows alike, where gradients of
    parameters are averaged afterwards, as `averaging` or `average_gradients` does: what comes back
    is the gradient of this process's rows, times the number of processes. (Published code leaves
    that factor out, so its encoders learn from a gradient divided by it, and the logit scale from a
    whole one.)

    Args:
        parts: [b, ...] each, of any dtype, in the same order and of the same shapes everywhere but
            for b; None stays None.
        rows: `sizes` of b.

    Returns:
        [B, ...] each, B the sum of `rows`.
    """
    if world() == 1:
        return list(parts)
    return [None if own is None else _Gather.apply(own, tuple(rows)) for own in parts]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: tuple[int, ...]) -> Tensor:
        first = sum(rows[: rank()])
        ctx.own = slice(first, first + len(own))
        # Bytes stand for truth values, which not every backend carries.
        sent = own.to(torch.uint8) if own.dtype == torch.bool else own
        padded = sent.new_zeros(max(rows), *sent.shape[1:])
        padded[: len(own)] = sent
        found = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(found, padded)
        whole = torch.cat([one[:count] for one, count in zip(found, rows, strict=True)])
        return whole.to(own.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own] * world(), None


def mean_of(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over all processes of scalars by name, without a graph."""
    values = {name: value.detach() for name, value in values.items()}
    if world() == 1:
        return values
    found = torch.stack(list(values.values()))
    dist.all_reduce(found)
    return dict(zip(values, found / world(), strict=True))


def from_first(value: Any) -> Any:
    """What the first process has as `value`, tensors on the CPU included; a copy elsewhere."""
    if world() == 1:
        return value
    carried = [value if leads() else None]
    dist.broadcast_object_list(carried, device=torch.device("cpu"))
    return value if leads() else carried[0]


class ByAnother(Exception):
    """The first process has failed, and says why: this one has only to end."""


def by_first(work: Callable[[], Made]) -> Made | None:
    """What the first process makes, alone; where it fails, all end, instead of waiting for it.

    Args:
        work: done there alone.

    Returns:
        What it gives; None in the others.

    Raises:
        ByAnother: in the others, where the first one fails.
        BaseException: there, what `work` raises.
    """
    made = failed = None
    if leads():
        try:
            made = work()
        except BaseException as error:  # an interruption too: the others have to know
            failed = error
    if any_of(failed is not None):
        raise failed or ByAnother
    return made


def any_of(flag: bool) -> bool:
    """Whether it is true in any process; all have come here then."""
    if world() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


@contextlib.contextmanager
def own_chance(device: torch.device) -> Iterator[None]:
    """Where a process draws random numbers of its own, for rows that are its own.

    Outside, torch's generators stand at the same place in all processes, whose heads so draw the
    same, and a checkpoint holds one state for all of them, however many there are.

    Args:
        device: whose generator is concerned, beside the CPU's.
    """
    if world() == 1:
        yield
        return
    common = int(torch.randint(1 << 62, ()))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(common + rank())
        yield
