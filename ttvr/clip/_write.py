"""Writes checkpoints: state dict, safetensors, npz, and random ones as OpenAI publishes them."""

from __future__ import annotations

import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ttvr.clip._formats import LABEL, NPZ_FORMAT
from ttvr.clip.catalog import LABEL_RECORD, RANDOM
from ttvr.errors import RequirementError, TtvrError, UsageError
from ttvr.files import write

SUFFIXES = (".pt", ".bin", ".safetensors", ".npz")
_TABLE = "token_embedding.weight"
_INITIAL_SCALE = math.log(1 / 0.07)


class Sizes(NamedTuple):
    """What a CLIP is built from: pixels, widths, numbers of blocks."""

    image: int
    patch: int
    width: int
    layers: int
    text_width: int
    text_layers: int
    embed: int
    context: int = 77
    vocab: int = 49408


SIZES = {
    "tiny": Sizes(224, 32, 128, 2, 128, 2, 64),
    "ttvr-tiny": Sizes(64, 16, 128, 4, 128, 3, 128),
    "ViT-B/32": Sizes(224, 32, 768, 12, 512, 12, 512),
}


def save(
    state: dict[str, Tensor],
    path: str | Path,
    *,
    dtype: str | None = None,
    activation: str | None = None,
    note: str = "",
) -> Path:
    """Write a CLIP state; the suffix chooses the format.

    Args:
        state: tensors by OpenAI's names, float32.
        path: .pt or .bin (a plain state dict), .safetensors or .npz.
        dtype: "float32" or "float16"; None is float16 for .npz, else float32.
        activation: recorded in the file.
        note: recorded in the file: "random (meaningless)".

    Raises:
        UsageError: another suffix.
        TtvrError: a value that float16 cannot hold.
    """
    path = Path(path)
    writers = {".pt": _state_dict, ".bin": _state_dict, ".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in writers:
        raise UsageError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    to = getattr(torch, dtype or ("float16" if path.suffix == ".npz" else "float32"))
    kept = {name: tensor.to(to) for name, tensor in state.items()}
    lost = [name for name, tensor in kept.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise TtvrError(f"{path}: {lost[0]} has values beyond {to}; not written, use float32")
    label = {"activation": activation, "note": note}
    label = {key: value for key, value in label.items() if value}
    write(path, lambda file: writers[path.suffix](kept, label, file))
    return path


def random(path: str | Path, *, size: str = "tiny", seed: int = 0) -> Path:
    """Write a CLIP of random weights in the format of OpenAI's files, labeled meaningless.

    Args:
        path: a TorchScript archive of float16 tensors is written there.
        size: a key of `SIZES`.
        seed: of the weights; the same seed gives the same tensors.
    """
    sizes = SIZES[size]
    root = nn.Module()
    for name, tensor in random_state(sizes, seed=seed).items():
        _plant(root, name, nn.Parameter(tensor.half(), requires_grad=False))
    facts = {
        "input_resolution": sizes.image,
        "context_length": sizes.context,
        "vocab_size": sizes.vocab,
    }
    for name, value in facts.items():
        root.register_buffer(name, torch.tensor(value))
    label = json.dumps({"note": RANDOM, "seed": seed, "activation": "quick_gelu"})
    path = Path(path)
    with warnings.catch_warnings():
        # torch.jit is deprecated as a way to run models; as the format of OpenAI's files it stays.
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(root.eval())
        write(path, lambda f: torch.jit.save(scripted, f, _extra_files={LABEL_RECORD: label}))
    return path


def random_state(sizes: Sizes, *, seed: int) -> dict[str, Tensor]:
    """Float32 weights under OpenAI's names, drawn as the CLIP paper and its code initialize them.

    Both towers' blocks are drawn by the rule that the code has for the text tower; LayerNorms
    and biases start at one and zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(std: float, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    width, text, embed = sizes.width, sizes.text_width, sizes.embed
    tokens = (sizes.image // sizes.patch) ** 2 + 1
    fan_in = 3 * sizes.patch**2
    state = {
        "positional_embedding": normal(0.01, sizes.context, text),
        "text_projection": normal(text**-0.5, text, embed),
        "visual.class_embedding": normal(width**-0.5, width),
        "visual.positional_embedding": normal(width**-0.5, tokens, width),
        "visual.proj": normal(width**-0.5, width, embed),
        # The standard deviation of torch's default for a convolution.
        "visual.conv1.weight": normal((3 * fan_in) ** -0.5, width, 3, sizes.patch, sizes.patch),
    }
    _norm(state, "visual.ln_pre", width)
    _blocks(state, "visual.", width, layers=sizes.layers, normal=normal)
    _norm(state, "visual.ln_post", width)
    _blocks(state, "", text, layers=sizes.text_layers, normal=normal)
    state[_TABLE] = normal(0.02, sizes.vocab, text)
    _norm(state, "ln_final", text)
    state["logit_scale"] = torch.tensor(_INITIAL_SCALE)
    return state


def _norm(state: dict[str, Tensor], name: str, width: int) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)


def _blocks(
    state: dict[str, Tensor],
    tower: str,
    width: int,
    *,
    layers: int,
    normal: Callable[..., Tensor],
) -> None:
    """Residual blocks: attention N(0, width^-.5), outputs scaled down by the depth."""
    out = width**-0.5 * (2 * layers) ** -0.5
    for index in range(layers):
        block = f"{tower}transformer.resblocks.{index}"
        state[f"{block}.attn.in_proj_weight"] = normal(width**-0.5, 3 * width, width)
        state[f"{block}.attn.in_proj_bias"] = torch.zeros(3 * width)
        state[f"{block}.attn.out_proj.weight"] = normal(out, width, width)
        state[f"{block}.attn.out_proj.bias"] = torch.zeros(width)
        _norm(state, f"{block}.ln_1", width)
        state[f"{block}.mlp.c_fc.weight"] = normal((2 * width) ** -0.5, 4 * width, width)
        state[f"{block}.mlp.c_fc.bias"] = torch.zeros(4 * width)
        state[f"{block}.mlp.c_proj.weight"] = normal(out, width, 4 * width)
        state[f"{block}.mlp.c_proj.bias"] = torch.zeros(width)
        _norm(state, f"{block}.ln_2", width)


def _plant(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter where its dotted name says, making modules on the way."""
    *path, last = name.split(".")
    module = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, parameter)


def _state_dict(state: dict[str, Tensor], label: dict[str, str], file: BinaryIO) -> None:
    """A plain state dict; the label rides in the attribute that torch keeps versions in."""
    made = OrderedDict(state)
    made._metadata = OrderedDict({"": {"version": 1}, LABEL: label})
    torch.save(made, file)


def _safetensors(state: dict[str, Tensor], label: dict[str, str], file: BinaryIO) -> None:
    try:
        from safetensors.torch import save as serialize
    except ImportError as error:
        raise RequirementError(
            "writing .safetensors needs its package. Fix: pip install 'ttvr[safetensors]'"
        ) from error
    file.write(serialize(state, metadata={LABEL: json.dumps(label), "format": "pt"}))


def _npz(state: dict[str, Tensor], label: dict[str, str], file: BinaryIO) -> None:
    """Arrays by name; of the token table the rows that are not all zero, and their ids."""
    arrays = {name: tensor.numpy() for name, tensor in state.items() if name != _TABLE}
    if _TABLE in state:
        table = state[_TABLE].numpy()
        # Bits, not values: a row of negative zeros is stored, so that loading returns the same.
        rows = np.flatnonzero(table.view(f"u{table.itemsize}").any(axis=1)).astype(np.int64)
        arrays["token_rows"], arrays["token_embedding.rows"] = rows, table[rows]
        arrays["vocab_size"] = np.int64(len(table))
    np.savez_compressed(file, format=np.str_(NPZ_FORMAT), **label, **arrays)
