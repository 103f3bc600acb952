"""The blocks of the visual tower, compiled: nearly all the work of a step is theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ttvr.clip.layers import Block
from ttvr.errors import RequirementError
from ttvr.retriever import Retriever


def compile_blocks(model: Retriever) -> None:
    """Let `torch.compile` run them in training mode; otherwise they stay as they are used later.

    Block by block, since blocks are alike: what is compiled for one serves them all, but for the
    last, and for those after a token reducer, which have fewer tokens. Their shapes are those of
    the batch, the same ones in every step. The rest is left to torch: a block in which a reducer
    acts has choices to make, and texts are of another length in every batch.

    No parameter has another name then.

    Args:
        model: any of its blocks raises RequirementError, once it runs, where torch cannot compile.
    """
    compiled = torch.compile(Block.forward)
    for block in model.clip.visual.transformer.resblocks:
        block.forward = partial(_forward, block, compiled)


def _forward(block: Block, compiled: Callable[..., Tensor], x: Tensor, **options: object) -> Tensor:
    if not block.training:
        return Block.forward(block, x, **options)
    # Half a second to import, for those who compile.
    from torch._dynamo.exc import TorchDynamoException

    try:
        return compiled(block, x, **options)
    except TorchDynamoException as error:  # a missing Triton is no BackendCompilerFailed
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())  # then comes advice
        raise RequirementError(
            f"--compile: torch cannot compile here ({reason}); install a C++ compiler (g++) for a "
            "CPU, Triton for a GPU, or drop --compile"
        ) from error
