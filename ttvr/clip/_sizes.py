"""What a CLIP state has to hold, derived from its own tensors, and the name of its architecture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isqrt

from torch import Tensor

from ttvr.clip._layouts import some
from ttvr.errors import TtvrError

Shapes = dict[str, tuple[int | None, ...]]

_KNOWN = {
    (768, 32, 12, 224): "ViT-B/32",
    (768, 16, 12, 224): "ViT-B/16",
    (1024, 14, 24, 224): "ViT-L/14",
    (1024, 14, 24, 336): "ViT-L/14@336px",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\..+")
_MLP_RATIO = 4


def check(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state in OpenAI's order, if it is complete.

    Args:
        state: tensors by OpenAI's names; a state with one tower alone is complete.

    Raises:
        TtvrError: what is missing, unknown, misshapen or of integers. The message names no file.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = _expected(shapes)
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    wrong = [
        f"{name} is {list(shapes[name])}, not {_text(shape)}"
        for name, shape in wanted.items()
        if name in shapes and not _fits(shapes[name], shape)
    ]
    problems = [
        f"{label} {some(names)}"
        for label, names in (("missing", missing), ("unknown", unknown), ("misshapen", wrong))
        if names
    ]
    if problems:
        raise TtvrError(f"not a complete CLIP: {'; '.join(problems)}")
    odd = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    if odd:
        raise TtvrError(f"not floating point: {some(odd)}")
    return {name: state[name] for name in wanted}


def arch(state: dict[str, Tensor]) -> str:
    """What the architecture is called: "ViT-B/32", or by its sizes "ViT-w128-p32-l2".

    Args:
        state: a complete state, as `weights.load` returns it.
    """
    if "visual.conv1.weight" not in state:
        width = state["positional_embedding"].shape[1]
        return f"text-w{width}-l{layers(state, '')}"
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = isqrt(state["visual.positional_embedding"].shape[0] - 1) * patch
    depth = layers(state, "visual.")
    return _KNOWN.get((width, patch, depth, side), f"ViT-w{width}-p{patch}-l{depth}")


def _expected(shapes: dict[str, tuple[int, ...]]) -> Shapes:
    has_visual = any(name.startswith("visual.") for name in shapes)
    has_text = any(not name.startswith("visual.") and name != "logit_scale" for name in shapes)
    dims = [
        shapes[n][-1] for n in ("visual.proj", "text_projection") if len(shapes.get(n, ())) == 2
    ]
    dim = dims[0] if dims else None
    wanted: Shapes = {}
    if has_text or not has_visual:
        wanted.update(_text_tower(shapes, dim))
    if has_visual or not has_text:
        wanted.update(_visual_tower(shapes, dim))
    if "logit_scale" in shapes or (has_text and has_visual):
        wanted["logit_scale"] = ()
    return wanted


def _visual_tower(shapes: dict[str, tuple[int, ...]], dim: int | None) -> Shapes:
    width = _width(
        shapes, "visual.class_embedding", "visual.ln_pre.weight", "visual.ln_post.weight"
    )
    table = shapes.get("visual.positional_embedding", ())
    positions = table[0] if len(table) == 2 else None
    if positions is not None and (positions < 2 or isqrt(positions - 1) ** 2 != positions - 1):
        raise TtvrError(f"visual.positional_embedding has {positions} rows, not 1 + a square")
    kernel = shapes.get("visual.conv1.weight", ())
    patch = kernel[-1] if len(kernel) == 4 else None
    return {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (positions, width),
        "visual.proj": (width, dim),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.ln_pre.weight": (width,),
        "visual.ln_pre.bias": (width,),
        **dict(_blocks(shapes, "visual.", width)),
        "visual.ln_post.weight": (width,),
        "visual.ln_post.bias": (width,),
    }


def _text_tower(shapes: dict[str, tuple[int, ...]], dim: int | None) -> Shapes:
    width = _width(
        shapes, "ln_final.weight", "ln_final.bias", "transformer.resblocks.0.ln_1.weight"
    )
    return {
        "positional_embedding": (None, width),
        "text_projection": (width, dim),
        **dict(_blocks(shapes, "", width)),
        "token_embedding.weight": (None, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }


def _blocks(
    shapes: dict[str, tuple[int, ...]], tower: str, width: int | None
) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    def times(factor: int) -> int | None:
        return None if width is None else factor * width

    for index in range(max(layers(shapes, tower), 1)):
        block = f"{tower}transformer.resblocks.{index}"
        yield f"{block}.attn.in_proj_weight", (times(3), width)
        yield f"{block}.attn.in_proj_bias", (times(3),)
        yield f"{block}.attn.out_proj.weight", (width, width)
        yield f"{block}.attn.out_proj.bias", (width,)
        yield f"{block}.ln_1.weight", (width,)
        yield f"{block}.ln_1.bias", (width,)
        yield f"{block}.mlp.c_fc.weight", (times(_MLP_RATIO), width)
        yield f"{block}.mlp.c_fc.bias", (times(_MLP_RATIO),)
        yield f"{block}.mlp.c_proj.weight", (width, times(_MLP_RATIO))
        yield f"{block}.mlp.c_proj.bias", (width,)
        yield f"{block}.ln_2.weight", (width,)
        yield f"{block}.ln_2.bias", (width,)


def layers(names: Iterable[str], tower: str) -> int:
    """How many blocks a tower has, "visual." or "": a count, as a file could invent an index.

    A gap in the numbers is found by `check`: some blocks are then missing, others unknown.
    """
    found = (_BLOCK.fullmatch(name) for name in names)
    return len({block[2] for block in found if block and (block[1] or "") == tower})


def _width(shapes: dict[str, tuple[int, ...]], *names: str) -> int | None:
    """The width that most of these vectors have: one that is wrong is then the one reported."""
    sizes = [shapes[name][0] for name in names if len(shapes.get(name, ())) == 1]
    return Counter(sizes).most_common(1)[0][0] if sizes else None


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        (want is None and have > 0) or have == want
        for have, want in zip(shape, wanted, strict=True)
    )


def _text(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
