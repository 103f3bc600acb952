"""Where torch's generators of random numbers stand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Chance(NamedTuple):
    """What is drawn next.

    Attributes:
        cpu: state of the CPU's generator.
        cuda: state of a GPU's; None without one.
    """

    cpu: Tensor
    cuda: Tensor | None


def chance(device: torch.device) -> Chance:
    """Where the generators stand, of the CPU and of this device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return Chance(torch.get_rng_state(), cuda)


def restore(before: Chance, device: torch.device) -> None:
    """Put them where they stood; one that is not there on this device is passed over."""
    torch.set_rng_state(before.cpu)
    if before.cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(before.cuda, device)
