"""The training loop."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from ttvr import distributed
from ttvr.errors import TtvrError
from ttvr.loader import Loader
from ttvr.optim import schedule
from ttvr.recipes import Recipe
from ttvr.records import Batch, EncodedBatch
from ttvr.train._batches import FeatureLoader
from ttvr.train._folder import BEST, Log, check_usable, claimed
from ttvr.train._gradients import add_gradients
from ttvr.train._setup import AnyData, Options, Parts, set_up
from ttvr.train._state import Meter, Outcome, State, begin, identity, read, selection

log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    data: AnyData,
    folder: Path,
    *,
    options: Options | None = None,
    device: str | torch.device = "cpu",
    resume: bool = True,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
) -> Outcome:
    """Train, or go on training, until the recipe's epochs are done.

    Stopping at any moment, `kill -9` included, and calling it again gives the result of an
    undisturbed run: on a CPU bit by bit, with the same number of threads. A GPU's sums depend on
    chance, so there a step that was lost and is taken again is another one. A folder whose
    training is over is left as it is.

    Called in every process of a group, they train together: each takes its rows of every batch, the
    first one alone uses the folder. The steps are those of one process, but for rounding, and for
    what is drawn by chance, as by dropout. A training may go on with another number of processes,
    unless its head takes its loss per process.

    Args:
        recipe: every hyper-parameter.
        data: what is learned, and what the best model is chosen by: text-to-video R@1. Of features
            the head alone learns, and the logit scale at `clip_lr`.
        folder: gets `recipe.json`, `log.jsonl`, `best.pt` (which `load` takes) and `last.pt`,
            which is there from the first step on.
        options: see `Options`.
        device: as `resolve_device` takes it.
        resume: go on with what the folder holds.
        overwrite: start anew where the folder holds a run.
        on_step: told how many steps are done and their total, at the start and after each.

    Raises:
        UsageError: of `check_usable`, too few captions for a batch, or nothing to learn.
        IncompatibleError: the folder holds a training with other settings or data.
        TtvrError: a loss, gradient or feature that is not finite, or a clip that cannot be read:
            `last.pt` is left as it was. Or it is damaged.
        OSError: the disk is full, say; names the file.
        KeyboardInterrupt: after the step in progress, everything saved.
    """
    options = options or Options()
    leads = distributed.leads()
    if leads:
        check_usable(folder, resume=resume, overwrite=overwrite)
    data = data.kept()
    made_from = identity(recipe, data, options)
    with _interruption() as interrupted, claimed(folder) if leads else contextlib.nullcontext():
        stored = read(folder, made_from) if leads and not overwrite else None
        stored = distributed.from_first(stored)
        if stored is not None and stored["step"] == stored["steps"]:
            return State.of(stored).outcome()
        parts = set_up(recipe, data, options, device)
        per_epoch = len(parts.loader)
        steps = recipe.epochs * per_epoch
        state = begin(folder, stored, parts, made_from=made_from, steps=steps)
        del stored  # as large as the model and its optimizer
        note = Log(folder, step=state.step).write if leads else _nothing
        meter = Meter(state, recipe.batch_size, parts.model.device)
        log.info("%s: %d of %d steps done", folder, state.step, state.steps)
        on_step(state.step, state.steps)
        for step, batch in meter.waiting(_remaining(parts.loader, state)):
            epoch = step // per_epoch
            learned = _learn(parts, batch, recipe, step, state.steps)
            state.step = step + 1
            is_end = state.step % per_epoch == 0
            is_due = is_end or (options.eval_every and state.step % options.eval_every == 0)
            if is_due or state.step % options.log_every == 0:
                note(step=state.step, epoch=epoch, **learned, **meter.lap())
            if is_due:
                found = distributed.from_first(data.validate(parts.model, jobs=options.jobs))
                if found is not None:
                    note(step=state.step, epoch=epoch, val=found, **meter.lap())
                    recall = found["t2v"]["R@1"]
                    at, on = (state.step, state.steps), options.chosen_on
                    log.info("step %d of %d: R@1 %.1f on %s", *at, recall, on)
                if state.improves(found, options.select) and leads:
                    model, now = parts.model, {"step": state.step, "steps": state.steps}
                    model.trained = selection(recipe, options, **now)
                    model.save(folder / BEST)
            # Asked once: an interruption after this line is one of the next step.
            is_stopped = distributed.any_of(interrupted()) and state.step < state.steps
            if is_due or is_stopped or state.step % options.save_every == 0:
                state.save(folder, parts, made_from)
            on_step(state.step, state.steps)
            if is_stopped:
                distributed.any_of(True)  # the first one has saved then
                raise KeyboardInterrupt
        return state.outcome()


def rehearse(
    recipe: Recipe, data: AnyData, *, options: Options | None = None, device: str | torch.device
) -> dict[str, Any]:
    """What `train` would do, by one step that nothing is kept of.

    Returns:
        steps, steps_per_epoch, parameters by group, the batch's shapes, losses, seconds, mib.

    Raises:
        TtvrError: as `train`.
    """
    parts = set_up(recipe, data.kept(), options or Options(), device)
    steps = recipe.epochs * len(parts.loader)
    state = State(steps)
    meter = Meter(state, recipe.batch_size, parts.model.device)
    batch = next(meter.waiting(parts.loader.batches(0)))
    learned = _learn(parts, batch, recipe, 0, steps)
    state.step = 1
    return {
        "steps": steps,
        "steps_per_epoch": len(parts.loader),
        "parameters": {
            group["name"]: sum(tensor.numel() for tensor in group["params"])
            for group in parts.optimizer.param_groups
        },
        "batch": {"ids": list(batch.ids.shape), "frames": list(batch.frames.shape)},
        **learned,
        **meter.lap(),
    }


def _learn(
    parts: Parts, batch: Batch | EncodedBatch, recipe: Recipe, step: int, steps: int
) -> dict[str, Any]:
    """Take one step, the one after `step` others; what the log says of it, in every process."""
    model, optimizer, scaler = parts.model, parts.optimizer, parts.scaler
    rate = schedule(step, steps=steps, warmup=recipe.warmup, rule=recipe.schedule, lr=recipe.lr)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * rate
    model.head.progress = step / steps
    losses = distributed.mean_of(add_gradients(parts, batch, recipe))
    loss = sum(losses.values())
    scaler.unscale_(optimizer)
    norm = clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    # While fp16's scale can still be halved, the scaler skips steps whose gradients overflow.
    if not loss.isfinite() or not (norm.isfinite() or scaler.get_scale() > 1):
        found = f"loss {float(loss):g}, gradient norm {float(norm):g}"
        (owners,) = distributed.gather([batch.owner], distributed.sizes(len(batch.owner)))
        ids = ", ".join(parts.loader.split.clips[owner].id for owner in owners)
        raise TtvrError(
            f"step {step + 1}: {found}; the last checkpoint is left as it was; try a lower "
            f"learning rate; clips of the batch: {ids}"
        )
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    logit_scale = model.clip.logit_scale
    if logit_scale.requires_grad:  # one that is frozen stays: features belong to it
        least = None if recipe.min_scale is None else math.log(recipe.min_scale)
        logit_scale.data.clamp_(min=least, max=math.log(recipe.max_scale))
    facts = {"lr": recipe.lr * rate, "grad_norm": norm, "scale": logit_scale.exp()}
    facts = {"loss": loss, **losses, **facts}
    return {name: float(torch.as_tensor(value).detach()) for name, value in facts.items()}


def _nothing(**facts: Any) -> None:
    """In place of the log, where another process keeps it."""


def _remaining(
    loader: Loader | FeatureLoader, state: State
) -> Iterator[tuple[int, Batch | EncodedBatch]]:
    """The steps that are left, from 0, each with its batch."""
    first, start = divmod(state.step, len(loader))
    for epoch in range(first, state.steps // len(loader)):
        yield from enumerate(loader.batches(epoch, start), epoch * len(loader) + start)
        start = 0


@contextlib.contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the end of a step, where all is consistent; a second one does not wait."""
    asked, before = threading.Event(), signal.getsignal(signal.SIGINT)
    # Signals reach the main thread alone, and one that `nohup` or `&` in a script has ignored is
    # not meant for this process.
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and callable(before)):
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        del number, frame
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
