"""The loops that `ttvr-bench train` compares."""

from __future__ import annotations

import contextlib
import gc
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils import clip_grad_norm_

from ttvr.bench._memory import used
from ttvr.devices import autocast
from ttvr.recipes import Recipe
from ttvr.retriever import Retriever, build
from ttvr.train import Data, Options, train

WARM = 2
"""Steps that do not count: memory is taken, kernels are chosen, a compiler runs."""


class Task(NamedTuple):
    """What both loops do.

    Attributes:
        recipe: of the model, the batch and the precision.
        options: of ttvr-train.
        data: the clips of one batch, often enough for all steps.
        device: where the model runs.
        steps: that are timed, after `WARM` others.
        now: seconds, once the device has done what it was told.
    """

    recipe: Recipe
    options: Options
    data: Data
    device: torch.device
    steps: int
    now: Callable[[], float]


class _EnoughError(Exception):
    """Ends a training whose steps have been timed; nothing is saved then."""


def ours(task: Task) -> float:
    """Seconds that ttvr-train takes for the steps."""
    marks = []

    def on_step(done: int, steps: int) -> None:
        del steps
        if done in (WARM, WARM + task.steps):
            marks.append(task.now())
        if len(marks) == 2:
            raise _EnoughError

    with tempfile.TemporaryDirectory(prefix="ttvr-bench-") as folder:
        given = task.recipe, task.data, Path(folder)
        with contextlib.suppress(_EnoughError), _silence():
            train(*given, options=task.options, device=task.device, on_step=on_step)
    return marks[1] - marks[0]


def plain(task: Task) -> float:
    """Seconds that the loop takes which one writes down first."""
    _, step = _begun(task)
    return _timed(task, step)


def share(task: Task) -> float:
    """The part of the plain loop's time that forward passes of token reducers take, 0 to 1."""
    model, step = _begun(task)
    began, taken = [0.0], []

    def start(*_: object) -> None:
        began[0] = task.now()

    def stop(*_: object) -> None:
        taken.append(task.now() - began[0])

    for reducer in model.reducers.values():
        reducer.register_forward_pre_hook(start)
        reducer.register_forward_hook(stop)
    seconds = _timed(task, step)
    per_step = len(taken) // (WARM + task.steps)
    return sum(taken[WARM * per_step :]) / seconds


def peak(call: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors at most during a call that makes all it needs."""
    if device.type != "cuda":
        return used(call).peak
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device)


def now(device: torch.device, *, is_alone: bool) -> float:
    """Seconds by a clock, once a GPU has done what it was told; of this process if it is alone."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if is_alone else time.perf_counter()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No line of a training, that it has begun, say: there are many, and their folders are gone."""
    log = logging.getLogger(train.__module__.rpartition(".")[0])
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _timed(task: Task, step: Callable[[], object]) -> float:
    for _ in range(WARM):
        step()
    began = task.now()
    for _ in range(task.steps):
        step()
    return task.now() - began


def _begun(task: Task) -> tuple[Retriever, Callable[[], object]]:
    """A model, and what takes a step of it with a batch that is there."""
    recipe, device = task.recipe, task.device
    model = build(recipe, device=device)
    # Fused, as ttvr-train's: the loops are to be compared. Without, a CPU takes longer.
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.clip_lr, fused=True)
    batch = next(task.data.loader(model, recipe, jobs=1).batches(0))

    def step() -> None:
        with autocast(device, recipe.precision):
            loss = sum(model(batch).values())
        loss.backward()
        clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return model, step
