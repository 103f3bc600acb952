"""Checkpoint layouts, recognized by their names, mapped to OpenAI's names."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from ttvr.errors import TtvrError

_WRAPPER, _CLIP = "module.", "clip."
_IGNORED = re.compile(
    r"(input_resolution|context_length|vocab_size|(.+\.)?attn_mask|(.+\.)?position_ids)"
)
_RESNET = re.compile(r"visual\.(attnpool|layer[1-4]|bn1)\.")
_SHOWN = 3
_LONGEST = 160

_HF_NAMES = {
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    # "pre_layrnorm" is how Hugging Face's published checkpoints spell it.
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_HF_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_HF_BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_HF_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HF_STACKED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_HF_TOWERS = {"vision": "visual.transformer", "text": "transformer"}


def shown(name: object) -> str:
    """A name that a file chose, fit for a message: printable and not long."""
    text = str(name)
    return (text if text.isprintable() else ascii(text))[:_LONGEST]


def some(names: list[str]) -> str:
    """The first few of a list, and how many there are."""
    first = ", ".join(shown(name) for name in names[:_SHOWN])
    return f"{len(names)} ({first}{', ...' if len(names) > _SHOWN else ''})"


def to_openai(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under OpenAI's names, without those that are no parameters.

    Args:
        tensors: of OpenAI's, open_clip's or Hugging Face's layout, whatever wrapped them.

    Raises:
        TtvrError: a ResNet CLIP, a layout with parts missing, or a CLIP that is a part of
            something. The message names no file.
    """
    tensors = _unwrapped(tensors)
    if any(name.startswith(_CLIP) for name in tensors):
        raise TtvrError(
            "a CLIP below clip., and more beside it: if it is a published system's checkpoint, "
            "make a run of it with ttvr-weights convert --system"
        )
    tensors = {name: t for name, t in tensors.items() if not _IGNORED.fullmatch(name)}
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        tensors = _from_hugging_face(tensors)
    elif any(name.startswith("text.") for name in tensors):
        tensors = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    if any(_RESNET.match(name) for name in tensors):
        raise TtvrError(
            "a ResNet CLIP; ttvr runs CLIP's vision transformers: ViT-B/32, ViT-B/16, ViT-L/14, "
            "ViT-L/14@336px and smaller"
        )
    return tensors


def split(
    tensors: dict[str, Tensor], is_beside: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of a CLIP, and of what was built on it: `clip.` begins the names of the first alone.

    Args:
        tensors: whatever wrapped them.
        is_beside: whether a full name that begins so is none of CLIP's all the same.
    """
    tensors = _unwrapped(tensors, (_WRAPPER,))
    clip = {n: t for n, t in tensors.items() if n.startswith(_CLIP) and not is_beside(n)}
    return clip, {name: tensor for name, tensor in tensors.items() if name not in clip}


def _unwrapped(
    tensors: dict[str, Tensor], prefixes: tuple[str, ...] = (_WRAPPER, _CLIP)
) -> dict[str, Tensor]:
    """Without the prefixes that training wrappers put before every name."""
    while tensors:
        prefix = next((p for p in prefixes if all(n.startswith(p) for n in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _from_hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    stacked: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        block = _HF_BLOCK.fullmatch(name)
        if block is None:
            is_transposed = name in _HF_TRANSPOSED and tensor.ndim == 2
            found[_HF_NAMES.get(name, name)] = tensor.T if is_transposed else tensor
            continue
        tower, index, part, kind = block.groups()
        stem = f"{_HF_TOWERS[tower]}.resblocks.{index}"
        if part in _HF_STACKED:
            stacked.setdefault(f"{stem}.attn.in_proj_{kind}", {})[part] = tensor
        elif part in _HF_PARTS:
            found[f"{stem}.{_HF_PARTS[part]}.{kind}"] = tensor
        else:
            found[name] = tensor
    for name, parts in stacked.items():
        found[name] = _stack(name, parts)
    return found


def _stack(name: str, parts: dict[str, Tensor]) -> Tensor:
    """Query, key and value projections, one above the other, as OpenAI's in_proj has them."""
    missing = [part for part in _HF_STACKED if part not in parts]
    if missing:
        raise TtvrError(f"{shown(name)} cannot be put together: missing {', '.join(missing)}")
    shapes = {tuple(part.shape) for part in parts.values()}
    if len(shapes) > 1:
        raise TtvrError(f"{shown(name)} cannot be put together of shapes {shown(sorted(shapes))}")
    return torch.cat([parts[part] for part in _HF_STACKED])
