"""What is learned how fast: parameter groups, and a learning rate that rises and falls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

SCALE = "clip.logit_scale"
_CLIP = ("clip.", "reducers.")


def parameter_groups(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    clip_lr: float,
    scale_lr_factor: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Every parameter in one of five groups; those without members are left out.

    Decay pulls matrices alone toward zero: a bias, a gain, an embedding (of a token, a position,
    the class) or the logit scale has no reason to be small, and a token that never occurs is not
    to shrink.

    Args:
        parameters: names and tensors of a retriever; CLIP's begin with `clip.`, and those with
            `reducers.`, which start as CLIP's, learn as fast.
        lr: peak learning rate of all but CLIP.
        clip_lr: peak learning rate of CLIP.
        scale_lr_factor: times `clip_lr` is that of the logit scale.
        weight_decay: of matrices.

    Returns:
        Groups as AdamW takes them, with `name` and `peak_lr`.
    """
    rates = {"clip": clip_lr, "new": lr, "scale": clip_lr * scale_lr_factor}
    members: dict[tuple[str, bool], list[Tensor]] = {}
    for name, tensor in parameters:
        part = "scale" if name == SCALE else "clip" if name.startswith(_CLIP) else "new"
        has_decay = tensor.ndim >= 2 and "embedding" not in name
        members.setdefault((part, has_decay), []).append(tensor)
    return [
        {
            "name": part + (", decayed" if has_decay else ""),
            "params": tensors,
            "peak_lr": rates[part],
            "weight_decay": weight_decay if has_decay else 0.0,
        }
        for (part, has_decay), tensors in sorted(members.items(), key=lambda item: item[0])
    ]


def schedule(step: int, *, steps: int, warmup: float) -> float:
    """The part of its peak that the learning rate has: rising linearly, then half a cosine.

    A pure function of the step, so that nothing of it has to be stored. The first step already
    learns, and the last one still does.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: the part of them in which it rises.

    Returns:
        Above 0, at most 1.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
