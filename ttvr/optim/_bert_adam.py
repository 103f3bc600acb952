"""The optimizer that CLIP4Clip and its successors train with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, with decay in the update, and each gradient clipped alone.

    With m and v the running means of a gradient and its square, a step is
    p <- p - lr * (m / (sqrt(v) + eps) + decay * p). Known of the published runs are: no bias
    correction, decoupled decay, gradients clipped per tensor before the step. That the decay is
    added to the update before the learning rate, and eps to the root, is the rule of the library
    that the class comes from, pytorch-pretrained-BERT.

    Args:
        groups: of parameters, each with its `weight_decay`; the caller sets `lr` before a step.
        betas: parts of the running means that stay.
        eps: above 0.
        max_norm: a parameter's gradient of a larger norm is scaled down to it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        max_norm: float = 1.0,
    ) -> None:
        defaults = {"lr": 0.0, "betas": betas, "eps": eps, "max_norm": max_norm}
        super().__init__(groups, {**defaults, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one; parameters without a gradient stay as they are."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        clip_grad_norm_(parameter, group["max_norm"])
        state, (keep, keep_square) = self.state[parameter], group["betas"]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        state["mean"].lerp_(gradient, 1 - keep)
        state["square"].mul_(keep_square).addcmul_(gradient, gradient, value=1 - keep_square)
        update = state["mean"] / (state["square"].sqrt().add_(group["eps"]))
        update.add_(parameter, alpha=group["weight_decay"])
        parameter.sub_(update, alpha=group["lr"])
