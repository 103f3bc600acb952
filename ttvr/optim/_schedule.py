"""The learning rate over the steps, as part of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable

_CENTERCLIP_FLOOR = 1e-8


def schedule(
    step: int, *, steps: int, warmup: float, rule: str = "cosine", lr: float = 1.0
) -> float:
    """The part of its peak that the learning rate has: rising linearly, then falling.

    A pure function of the step, so that nothing of it has to be stored.

    Args:
        step: from 0.
        steps: of the whole training.
        warmup: the part of them in which it rises.
        rule: of `SCHEDULES`. "cosine": half a cosine after the rise; "linear": a line; of both the
            first step already learns and the last one still does. "warmup_cosine": see
            `_warmup_cosine`; "centerclip": see `_centerclip`.
        lr: peak learning rate of what is new, which the floor of "centerclip" is a part of.

    Returns:
        At most 1, at least 0; of "cosine", "linear" and "centerclip" above 0.
    """
    return SCHEDULES[rule](step, steps, warmup, lr)


def _cosine(step: int, steps: int, warmup: float, lr: float) -> float:
    del lr
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def _linear(step: int, steps: int, warmup: float, lr: float) -> float:
    del lr
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / (steps - rising)


def _warmup_cosine(step: int, steps: int, warmup: float, lr: float) -> float:
    """Of BertAdam, as CLIP4Clip, X-CLIP, DRL, UCoFiA, TS2-Net and TC-MGC train.

    The cosine starts at the first step, not after the rise, so the rate jumps down where that ends,
    with a tenth of warm-up from 1 to .976. The first step learns nothing.
    """
    del lr
    progress = step / steps
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * progress)) / 2


def _centerclip(step: int, steps: int, warmup: float, lr: float) -> float:
    """Of CenterCLIP's code: W = warmup * steps is no whole number, and t = W still rises.

    The rate of what is new goes from 1e-8 up, and never below it again; CLIP's in proportion.
    """
    floor = _CENTERCLIP_FLOOR / lr if lr else 0.0
    rising = warmup * steps
    if rising > 0 and step <= rising:
        return step / rising * (1 - floor) + floor
    return max(floor, (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2)


SCHEDULES: dict[str, Callable[[int, int, float, float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "warmup_cosine": _warmup_cosine,
    "centerclip": _centerclip,
}
"""By the name that a recipe's `schedule` has."""
