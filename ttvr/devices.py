"""Where a model runs, and in which precision."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from ttvr.errors import RequirementError, UsageError


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name: auto, cpu, cuda, cuda:i or mps.

    Raises:
        UsageError: no such name.
        RequirementError: this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}; there are auto, cpu, cuda, cuda:i, mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequirementError(
            f"{name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RequirementError("mps: not available on this machine; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"no device {name!r}; there are auto, cpu, cuda, cuda:i, mps")
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context that runs a model in fp32 (nothing to do), bf16 or fp16."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype)
