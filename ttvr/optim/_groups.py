"""Which parameter learns how fast, which decays, and which does not learn at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

SCALE = "clip.logit_scale"
_CLIP = ("clip.", "reducers.")
_BLOCK = re.compile(r"clip\.(?:visual\.)?transformer\.resblocks\.(\d+)\.")
# What follows the blocks always learns.
_TOP = (SCALE, "clip.text_projection", "clip.ln_final.", "clip.visual.ln_post.", "clip.visual.proj")

_DECAYED: dict[str, Callable[[str, Tensor], bool]] = {
    "matrices": lambda name, tensor: tensor.ndim >= 2 and "embedding" not in name,
    "no_biases": lambda name, tensor: "bias" not in name,
    "all": lambda name, tensor: True,
}


def parameter_groups(
    parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float,
    clip_lr: float,
    scale_lr_factor: float,
    weight_decay: float,
    decay: str = "matrices",
) -> list[dict[str, Any]]:
    """Every parameter in one of six groups; those without members are left out.

    By default decay pulls matrices alone toward zero: a bias, a gain, an embedding (of a token, a
    position, the class) or the logit scale has no reason to be small, and a token that never occurs
    is not to shrink. The published code of CLIP4Clip and CenterCLIP means to leave gains out too,
    but looks for a name that CLIP's norms do not have: of it, all but biases decay.

    Args:
        parameters: names and tensors of a retriever; CLIP's begin with `clip.`, and those with
            `reducers.`, which start as CLIP's, learn as fast.
        lr: peak learning rate of all but CLIP.
        clip_lr: peak learning rate of CLIP.
        scale_lr_factor: times `clip_lr` is that of the logit scale.
        weight_decay: of what decays.
        decay: which these are: "matrices", "no_biases" or "all".

    Returns:
        Groups as an optimizer takes them, with `name` and `peak_lr`.
    """
    rates = {"clip": clip_lr, "new": lr, "scale": clip_lr * scale_lr_factor}
    members: dict[tuple[str, bool], list[Tensor]] = {}
    for name, tensor in parameters:
        part = "scale" if name == SCALE else "clip" if name.startswith(_CLIP) else "new"
        members.setdefault((part, _DECAYED[decay](name, tensor)), []).append(tensor)
    return [
        {
            "name": part + (", decayed" if has_decay else ""),
            "params": tensors,
            "peak_lr": rates[part],
            "weight_decay": weight_decay if has_decay else 0.0,
        }
        for (part, has_decay), tensors in sorted(members.items(), key=lambda item: item[0])
    ]


def is_frozen(name: str, below: int | None) -> bool:
    """Whether a parameter does not learn by the rule `freeze_layer_num` of CLIP4Clip's code.

    Of CLIP's towers the blocks from number `below` on and what follows them learn; the blocks
    before do not, nor what comes before all blocks: the patch convolution, the class embedding,
    both tables of positions, `ln_pre` and the token table. CenterCLIP's runs have 0.

    Args:
        name: in a retriever; only those that begin with `clip.` can be frozen.
        below: N, number of a block; None: everything learns.
    """
    if below is None or not name.startswith("clip.") or name.startswith(_TOP):
        return False
    block = _BLOCK.match(name)
    return block is None or int(block[1]) < below
