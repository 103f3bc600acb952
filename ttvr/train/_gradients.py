"""The gradient of a batch: by one pass, or by parts that need less memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttvr import distributed
from ttvr.devices import autocast
from ttvr.recipes import Recipe
from ttvr.records import Batch, EncodedBatch, TextFeatures, VideoFeatures
from ttvr.retriever import Retriever
from ttvr.train._chance import Chance, chance, restore
from ttvr.train._setup import Parts

Precision = Callable[[], AbstractContextManager[Any]]


def add_gradients(parts: Parts, batch: Batch | EncodedBatch, recipe: Recipe) -> dict[str, Tensor]:
    """Add the gradient of a batch, scaled by the scaler, to what parameters have.

    Returns:
        The losses by name, as `Retriever.forward`.
    """
    precision = partial(autocast, parts.model.device, recipe.precision)
    if recipe.accumulate > 1:
        return _by_parts(parts, cut(batch, recipe.accumulate), batch.ids, precision)
    with precision():
        losses = parts.learner(batch)
    parts.scaler.scale(sum(losses.values())).backward()
    return losses


def cut(batch: Batch, parts: int) -> list[Batch]:
    """The rows of a batch in order, in so many parts that differ by one row at most.

    Fewer rows than parts are a part each.
    """
    rows = len(batch.ids)
    count = min(parts, rows)
    slices = [distributed.part(rows, rank=number, world=count) for number in range(count)]
    return [Batch(*(tensor[own] for tensor in batch)) for own in slices]


def _by_parts(
    parts: Parts, batches: Sequence[Batch], ids: Tensor, precision: Precision
) -> dict[str, Tensor]:
    """The losses and the gradient of the whole batch, by towers that see a part of it at a time.

    A contrastive loss is no mean over rows, so gradients of parts' own losses do not sum up to its
    own. Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
    (GradCache, 2021), section 3: the features of all parts, without what the towers keep for a
    backward pass; the losses of them and the gradient by them; and with that each part once more,
    forward and backward. What a part drew by chance it draws again.

    The towers run forward twice, which costs about a third of a step. What a head keeps for its
    backward pass is not less: its losses see the whole batch.
    """
    model, device = parts.model, parts.model.device
    with distributed.own_chance(device):
        starts, made = [], []
        for batch in batches:
            starts.append(chance(device))
            # A context for each pass: autocast keeps the weights that it has cast until its end,
            # and those of a pass without a graph would lead no gradient back.
            with torch.no_grad(), precision():
                made.append(_tensors(model.features(batch)))
        cached = [_leaf(column) for column in zip(*made, strict=True)]
        del made
        text, video = TextFeatures(*cached[:3]), VideoFeatures(*cached[3:])
        rows = distributed.sizes(len(ids))
        with precision():
            own = model.own_losses(ids, text, video, rows)
    with precision():
        losses = {**model.common_losses(text, video, rows), **own}
    parts.scaler.scale(sum(losses.values())).backward()
    gradients = [None if tensor is None else tensor.grad for tensor in cached]
    _again(model, batches, starts, gradients, precision)
    distributed.average_gradients(model.parameters())
    return losses


def _again(
    model: Retriever,
    batches: Sequence[Batch],
    starts: Sequence[Chance],
    gradients: Sequence[Tensor | None],
    precision: Precision,
) -> None:
    """Lead gradients by the features of all parts back to the towers' parameters, part by part."""
    device, first = model.device, 0
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for batch, start in zip(batches, starts, strict=True):
            restore(start, device)
            with precision():
                made = _tensors(model.features(batch))
            own = slice(first, first := first + len(batch.ids))
            pairs = [
                (tensor, gradient[own])
                for tensor, gradient in zip(made, gradients, strict=True)
                if gradient is not None and tensor.requires_grad
            ]
            if not pairs:  # the towers are frozen: the other parts have nothing for them either
                return
            torch.autograd.backward(*zip(*pairs, strict=True))


def _tensors(features: tuple[TextFeatures, VideoFeatures]) -> list[Tensor | None]:
    text, video = features
    return [*text, *video]


def _leaf(column: Sequence[Tensor | None]) -> Tensor | None:
    """What the parts have of one kind, together; losses lead a gradient to it if it is no mask."""
    if column[0] is None:
        return None
    whole = torch.cat(column)
    return whole.requires_grad_(whole.is_floating_point())
