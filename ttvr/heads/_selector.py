"""The few patch tokens of a frame that say most, chosen so that the choice can be learned.

TS2-Net (Liu et al., 2022, as its code has it), taken over by UCoFiA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads._layers import draw_as_authors

_CELLS_AT_ONCE = 1 << 22  # numbers of noise that exist at once: 16 MiB


class TokenSelector(nn.Module):
    """Of each frame the class token and `top` mixtures of patch tokens, or patch tokens.

    Perturbed top-k (Cordonnier et al., 2021): noise is added to the scores of the patches many
    times; each time the `top` best are put in the order of their places; the i-th selected token is
    the mean of the i-th of them over all times.

    In training the noise comes of torch's global generator. In evaluation it is drawn from `seed`,
    the same for every frame, so that no video depends on the batch it is in; the published code
    draws anew there too. Scores are then taken in float64, where the device has it: a rounding that
    differs with the size of the batch would let another patch win now and then, which shows.

    Args:
        width: D of the tokens.
        top: patches of a frame that are selected.
        samples: of noise.
        sigma: the standard deviation of the noise; scores lie between -1 and 1.
        seed: of the noise in evaluation.
        hard: select the `top` patches of the greatest scores in evaluation, without noise, equal
            scores by the lower place; there it has no gradient for the scores. Training always goes
            through the noise: a plain choice would teach the scores nothing.

    Raises:
        UsageError: a number that is out of range.
    """

    def __init__(
        self,
        width: int,
        *,
        top: int = 3,
        samples: int = 500,
        sigma: float = 0.05,
        seed: int = 0,
        hard: bool = False,
    ) -> None:
        super().__init__()
        if top < 1 or samples < 1 or not sigma > 0:
            raise UsageError(
                f"selection takes top and samples of at least 1 and sigma above 0, got top {top}, "
                f"samples {samples}, sigma {sigma}"
            )
        self.top, self.samples, self.sigma = top, samples, sigma
        self.seed, self.hard = seed, hard
        self.score_predictor = ScorePredictor(width)

    def forward(self, cls: Tensor, patches: Tensor, noise: Tensor | None = None) -> Tensor:
        """Select.

        Args:
            cls: [B, T, D] class tokens.
            patches: [B, T, P, D] patch tokens.
            noise: [B*T, samples, P] float32, of standard deviation 1, in place of what is drawn.

        Returns:
            [B, T * (1 + top), D] in at least float32: of frame after frame the class token, then
            what was selected.

        Raises:
            IncompatibleError: a frame has fewer patches than are to be selected.
        """
        B, T, P, D = patches.shape
        if self.top > P:
            raise IncompatibleError(f"cannot select {self.top} of the {P} patches of a frame")
        if patches.dtype not in (torch.float32, torch.float64):
            cls, patches = cls.float(), patches.float()
        step = max(1, _CELLS_AT_ONCE // (self.samples * P))
        parts = cls.flatten(0, 1).split(step), patches.flatten(0, 1).split(step)
        given = [None] * len(parts[0]) if noise is None else noise.split(step)
        chosen = [self._select(*part) for part in zip(*parts, given, strict=True)]
        return torch.cat(chosen).reshape(B, T * (1 + self.top), D)

    def _select(self, cls: Tensor, patches: Tensor, noise: Tensor | None) -> Tensor:
        """Class tokens [N, D] and patches [N, P, D] -> [N, 1 + top, D]."""
        scores = self._scores(cls, patches).float()
        if self.hard and not self.training and noise is None:
            order = scores.argsort(dim=1, descending=True, stable=True)
            places = order[:, : self.top].sort(dim=1).values.unsqueeze(2)  # [N, top, 1]
            selected = patches.gather(1, places.expand(-1, -1, patches.shape[2]))
        else:
            noise = self._noise(scores) if noise is None else noise
            shares = _PerturbedTopK.apply(scores, noise, self.top, self.sigma)
            selected = shares.to(patches.dtype) @ patches
        return torch.cat([cls.unsqueeze(1), selected], dim=1)

    def _scores(self, cls: Tensor, patches: Tensor) -> Tensor:
        if self.training or patches.device.type == "mps":  # which has no float64
            return self.score_predictor(cls, patches)
        own = {name: value.double() for name, value in self.score_predictor.named_parameters()}
        return functional_call(self.score_predictor, own, (cls.double(), patches.double()))

    def _noise(self, scores: Tensor) -> Tensor:
        """Of scores [N, P] noise [N, samples, P], or [1, samples, P] for all; float32."""
        N, P = scores.shape
        if self.training:
            return torch.randn(N, self.samples, P, device=scores.device)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(1, self.samples, P, generator=generator).to(scores.device)


class ScorePredictor(nn.Module):
    """How much each patch says of its frame, from -1 to 1, seen beside the class token.

    Args:
        width: D of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.in_conv = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, half, bias=False), nn.GELU()
        )
        self.out_conv = nn.Sequential(
            nn.Linear(2 * half, half, bias=False),
            nn.GELU(),
            nn.Linear(half, 1, bias=False),
            nn.Tanh(),
        )
        draw_as_authors(self)

    def forward(self, cls: Tensor, patches: Tensor) -> Tensor:
        """Class tokens [N, D] and patches [N, P, D] -> scores [N, P]."""
        own, whole = self.in_conv(patches), self.in_conv(cls).unsqueeze(1)
        return self.out_conv(torch.cat([own, whole.expand_as(own)], dim=2)).squeeze(2)


class _PerturbedTopK(torch.autograd.Function):
    """Which patch is the i-th of the best, in the order of places: its share of the samples.

    The gradient is that of the published code: of the Jacobian of share i of patch p by all scores,
    which perturbed optimizers estimate, the code keeps the slope by the score of p itself, the mean
    over the samples of [p was the i-th] noise of p / sigma.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, noise: Tensor, top: int, sigma: float) -> Tensor:
        """Scores [N, P], noise [N or 1, S, P] float32 -> [N, top, P], each row a distribution."""
        perturbed = scores.unsqueeze(1) + sigma * noise  # [N, S, P]
        picked = perturbed.topk(top, dim=2, sorted=False).indices.sort(dim=2).values  # [N, S, top]
        samples, places = noise.shape[1], picked.transpose(1, 2)
        shares = scores.new_zeros(len(scores), top, scores.shape[1])
        if ctx.needs_input_grad[0]:
            own = noise.expand_as(perturbed).gather(2, picked).transpose(1, 2)
            slopes = torch.zeros_like(shares).scatter_add_(2, places, own)
            ctx.save_for_backward(slopes / (samples * sigma))
        # Counts are whole numbers, so no order of summation changes them.
        shares.scatter_add_(2, places, shares.new_ones(()).expand_as(places))
        return shares / samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Grad [N, top, P] -> of the scores [N, P]."""
        (slopes,) = ctx.saved_tensors
        return (grad * slopes).sum(dim=1), None, None, None
