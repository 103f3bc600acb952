"""Checkpoints as the authors of published systems save them, tiny and of random numbers."""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import torch
from tiny import EMBED, tiny_state

NOTHING = MappingProxyType({})
D, FRAMES, WORDS, LAYERS, POSITIONS = EMBED, 6, 8, 2, 30


class Case(NamedTuple):
    """A checkpoint's head, and what has to be said of it beside its tensors.

    Attributes:
        system: as `--system` takes it.
        head: the plug-in that it is expected to become.
        shapes: of the head's tensors, by the authors' names.
        unused: of those that no score depends on.
        options: of the head, as the recipe is expected to have them.
        settings: of the recipe that no tensor tells, given by the user.
        reduce: likewise.
        wrapper: prefix of the head's names.
    """

    system: str
    head: str
    shapes: dict
    unused: dict = NOTHING
    options: dict = NOTHING
    settings: dict = NOTHING
    reduce: tuple = ()
    wrapper: str = ""


def blocks(stem, layers=LAYERS):
    made = {}
    for n in range(layers):
        block = f"{stem}.resblocks.{n}"
        made |= {
            f"{block}.attn.in_proj_weight": (3 * D, D),
            f"{block}.attn.in_proj_bias": (3 * D,),
            f"{block}.attn.out_proj.weight": (D, D),
            f"{block}.attn.out_proj.bias": (D,),
            f"{block}.ln_1.weight": (D,),
            f"{block}.ln_1.bias": (D,),
            f"{block}.mlp.c_fc.weight": (4 * D, D),
            f"{block}.mlp.c_fc.bias": (4 * D,),
            f"{block}.mlp.c_proj.weight": (D, 4 * D),
            f"{block}.mlp.c_proj.bias": (D,),
            f"{block}.ln_2.weight": (D,),
            f"{block}.ln_2.bias": (D,),
        }
    return made


def linear(name, out, into=D):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name, width=D):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def weighting(layers):
    """DRL's networks, one for each side; a Linear and a ReLU take a number each."""
    made = {}
    for side in ("text_weight_fc", "video_weight_fc"):
        if layers == 1:
            made |= linear(side, 1)
            continue
        for n in range(layers):
            made |= linear(f"{side}.{2 * n}", 1 if n == layers - 1 else D)
    return made


TEMPORAL = {"frame_position_embeddings.weight": (POSITIONS, D), **blocks("transformerClip")}
LSTM = {
    "lstm_visual.weight_ih_l0": (4 * D, D),
    "lstm_visual.weight_hh_l0": (4 * D, D),
    "lstm_visual.bias_ih_l0": (4 * D,),
    "lstm_visual.bias_hh_l0": (4 * D,),
}
UNUSED_POSITIONS = {"frame_position_embeddings.weight": (POSITIONS, D)}
CROSS = {
    "cross.embeddings.position_embeddings.weight": (POSITIONS, D),
    **blocks("cross.transformer"),
    **norm("cross.pooler.ln_pool"),
    **linear("cross.pooler.dense", D),
    **linear("similarity_dense", 1),
}
XPOOL = {
    **{k: v for p in "qkv" for k, v in linear(f"cross_attn.{p}_proj", D).items()},
    **linear("cross_attn.out_proj", D),
    **linear("linear_proj", D),
    **{k: v for n in (1, 2, 3) for k, v in norm(f"layer_norm{n}").items()},
}
XCLIP = {
    "global_mat_weight": (D, D),
    "local_mat_weight": (D, D),
    "word_logit_weight": (WORDS, WORDS),
    "word_mat_weight": (WORDS, WORDS),
    "word_mat_weight2": (WORDS, WORDS),
    "frame_logit_weight": (FRAMES, FRAMES),
    "frame_mat_weight": (FRAMES, FRAMES),
    "frame_mat_weight2": (FRAMES, FRAMES),
}
UCOFIA = {
    "global_mat_weight": (D, D),
    "global_mat_weight_1": (D, D),
    "local_mat_weight": (D, D),
    "local_mat_weight1": (D, D),
    "frame_logit_weight": (FRAMES, FRAMES),
    "word_mat_weight": (WORDS, WORDS),
    "word_mat_weight2": (WORDS, WORDS),
    "pixel_mat_weight": (4 * FRAMES, 4 * FRAMES),
    "pixel_mat_weight2": (4 * FRAMES, 4 * FRAMES),
}
UCOFIA_UNUSED = {
    "word_logit_weight": (WORDS, WORDS),
    "frame_mat_weight": (FRAMES, FRAMES),
    "frame_mat_weight2": (FRAMES, FRAMES),
    "word_mat_weight_for_pixel": (WORDS, WORDS),
}
PREDICTOR = "visual_token_selector.score_predictor"
SELECTOR = {
    **norm(f"{PREDICTOR}.in_conv.0"),
    f"{PREDICTOR}.in_conv.1.weight": (D // 2, D),
    f"{PREDICTOR}.out_conv.0.weight": (D // 2, D),
    f"{PREDICTOR}.out_conv.2.weight": (1, D // 2),
}
K = 3
TC_MGC = {
    "global_mat_weight": (D, D),
    "local_mat_weight": (D, D),
    "attentive_word_logit_weight": (K, K),
    "concat_frame_word_logit_weight": (K + 1, K + 1),
    "attentive_frame_word_mat_weight": (K, K),
    "attentive_frame_word_mat_weight2": (K, K),
    "attentive_word_mat_weight": (K, K),
    "attentive_word_mat_weight2": (K, K),
    "logit_weight": (4, 4),
}
POOLED = {
    **linear("pool_frames.linear_proj", D),
    **{k: v for n in (1, 2, 3) for k, v in norm(f"pool_frames.layer_norm{n}").items()},
}


STEP = {"layers": LAYERS, "positions": POSITIONS}
SIZES = {"frames": FRAMES, "words": WORDS}
CASES = {
    "clip4clip-meanp": Case("clip4clip", "meanp", {}, settings=SIZES),
    "clip4clip-seq_lstm": Case("clip4clip", "seq_lstm", LSTM, UNUSED_POSITIONS, settings=SIZES),
    "clip4clip-seq_transf": Case("clip4clip", "seq_transf", TEMPORAL, options=STEP, settings=SIZES),
    "clip4clip-tight_transf": Case(
        "clip4clip", "tight_transf", CROSS, options=STEP, settings=SIZES
    ),
    "centerclip-meanp": Case(
        "centerclip", "meanp", {}, settings=SIZES, reduce=("kmedoids@1:3,10,segment_mask=last",)
    ),
    "centerclip-seq_transf": Case(
        "centerclip", "seq_transf", TEMPORAL, options=STEP, settings=SIZES, reduce=("none",)
    ),
    "ts2net": Case(
        "ts2net",
        "ts2net",
        {**TEMPORAL, **SELECTOR},
        {"video_prompt.positional_embedding": (3, D), "text_token_selector.weight": (D, D)},
        options=STEP,
        settings=SIZES,
    ),
    "xpool": Case("xpool", "xpool", XPOOL, settings=SIZES, wrapper="pool_frames."),
    "xclip": Case("xclip", "xclip", {**XCLIP, **TEMPORAL}, options=STEP),
    "xclip-meanp": Case("xclip", "xclip", XCLIP, options={"temporal": "none"}),
    "ucofia": Case(
        "ucofia", "ucofia", {**UCOFIA, **TEMPORAL, **SELECTOR}, UCOFIA_UNUSED, options=STEP
    ),
    "drl-wti2": Case("drl", "drl", {**weighting(2), **TEMPORAL}, options=STEP, settings=SIZES),
    "drl-wti1": Case(
        "drl", "drl", weighting(1), options={"temporal": "none", "wti_arch": 1}, settings=SIZES
    ),
    "drl-wti3-seq_lstm": Case(
        "drl",
        "drl",
        {**weighting(3), **LSTM},
        UNUSED_POSITIONS,
        options={"temporal": "seq_lstm", "wti_arch": 3},
        settings=SIZES,
    ),
    "drl-ti": Case(
        "drl",
        "drl",
        TEMPORAL,
        options={**STEP, "interaction": "ti"},
        settings={**SIZES, "head_options": [["interaction", "ti"]]},
    ),
    "tc_mgc": Case(
        "tc_mgc",
        "tc_mgc",
        {**TC_MGC, **POOLED, **TEMPORAL},
        {f"pool_frames.cross_attn.{part}_proj.weight": (D, D) for part in ("q", "k", "v", "out")},
        options={**STEP, "keep": K},
        settings=SIZES,
    ),
}


def tensors(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*s, generator=generator) / 4 for name, s in shapes.items()}


def clip(**options):
    """Of values that float16 holds exactly, below the authors' prefix."""
    return {f"clip.{name}": t.half().float() for name, t in tiny_state(**options).items()}


def checkpoint(case, **options):
    """All tensors of a case by their full names."""
    head = {f"{case.wrapper}{name}": t for name, t in tensors(case.shapes).items()}
    unused = tensors(case.unused, seed=1)
    return {**clip(**options), **{n: t.half().float() for n, t in {**head, **unused}.items()}}
