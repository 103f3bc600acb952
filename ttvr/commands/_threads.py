"""How many processors a model takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttvr.retriever import Retriever

SMALL = 10_000_000
"""Parameters, the table of tokens aside: the embedded default has 1.5 million, ViT-B/32 125."""
_CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def spare_threads(retriever: Retriever) -> None:
    """Give a small model on the CPU one thread, unless the environment says how many.

    Its operations take microseconds. Threads that share one wait for each other in a busy loop,
    and where another process has a processor, decoders too, they wait for its whole time slice.
    """
    import torch

    if retriever.device.type != "cpu" or any(os.environ.get(name) for name in _CHOSEN_BY):
        return
    named = retriever.named_parameters()
    size = sum(one.numel() for name, one in named if "token_embedding" not in name)
    if size < SMALL:
        torch.set_num_threads(1)
