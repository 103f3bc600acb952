"""Float32 products that are float32, whatever the process was told to trade for speed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

FULL = "ieee"
INHERITED = "none"


class _Users:
    """How many searches need full precision now, and what puts back the caller's settings."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.restore: Callable[[], None] = lambda: None


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 without TF32 or bfloat16 inside the block.

    The settings belong to the process, not to the thread: the first of several searches that
    overlap raises them and the last puts them back.
    """
    with _USERS.lock:
        if _USERS.count == 0:
            _USERS.restore = _raise_precision()
        _USERS.count += 1
    try:
        yield
    finally:
        with _USERS.lock:
            _USERS.count -= 1
            if _USERS.count == 0:
                _USERS.restore()


def _switches() -> tuple[Any, ...]:
    """What holds a setting `fp32_precision` for products; nothing before torch 2.9."""
    products = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return tuple(switch for switch in products if hasattr(switch, "fp32_precision"))


def _raise_precision() -> Callable[[], None]:
    """Set full precision; returns what undoes that.

    A torch with the newer settings refuses the older call once a caller has used them.
    """
    switches = _switches()
    if not switches:
        legacy = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        return lambda: torch.set_float32_matmul_precision(legacy)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = FULL

    def restore() -> None:
        for switch, value in zip(switches, before, strict=True):
            # What was inherited from a wider setting goes on following it.
            switch.fp32_precision = INHERITED
            if switch.fp32_precision != value:
                switch.fp32_precision = value

    return restore


_USERS = _Users()
