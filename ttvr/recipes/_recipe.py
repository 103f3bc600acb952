"""The settings of a system: every default lives here, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from ttvr.errors import UsageError
from ttvr.wording import meant

Options = tuple[tuple[str, int | float | str | bool], ...]

_AT_LEAST_ONE = ("frames", "words", "epochs", "batch_size", "accumulate", "train_frames")
_POSITIVE = ("fps", "eps", "max_grad_norm", "initial_scale", "min_scale", "max_scale")
_LARGEST = (1 << 63) - 1  # seed that every generator takes; of the others none comes near
_WORDS = {"none": "null", "true": "true", "false": "false"}  # in any case of letters -> JSON
_CHOICES = {
    "sampler": ("segment", "linspace"),
    "train_sampler": ("random", "segment", "linspace"),
    "optimizer": ("adamw", "bert_adam"),
    "decay": ("matrices", "no_biases", "all"),
    "schedule": ("cosine", "linear", "warmup_cosine", "centerclip"),
    "precision": ("fp32", "bf16", "fp16"),
}


@dataclass(frozen=True)
class Recipe:
    """What makes two systems differ: how a video and a text are read, and how both were trained.

    Attributes:
        head: name of the similarity head.
        head_options: its options, as (name, value) pairs.
        reduce: token reducers of the visual tower, each as `--reduce` takes it.
        frames: T, frames taken of a video.
        words: L, tokens of a text that a head with matrices of that size is built for.
        sampler: which frames: "segment" (middle of equal parts) or "linspace" (CLIP4Clip's).
        fps: candidates per second that the sampler chooses from; None: all frames of the video.
        weights: where training starts: name or path of a checkpoint, or "scratch:SIZES".
        epochs: times that every caption of the training split is seen.
        batch_size: B, captions per step, each with its clip.
        accumulate: parts that a process's rows of a batch go through the towers in: less memory,
            more time, the same gradient.
        train_frames: T in training; None: `frames`.
        train_sampler: which frames in training: "random" (one of each equal part), or as `sampler`.
        optimizer: "adamw", or "bert_adam", which CLIP4Clip and its successors have.
        lr: peak learning rate of what is new: the head, an auxiliary loss.
        clip_lr: peak learning rate of CLIP's towers.
        betas: of the optimizer.
        eps: of the optimizer: added to the root of the second moment.
        weight_decay: of what `decay` says.
        decay: what decays: "matrices" (no embeddings, biases, norms or logit scale), "no_biases"
            (CLIP4Clip's and CenterCLIP's: all else), or "all".
        freeze: None: everything learns. N: the first N blocks of CLIP's towers do not, nor does
            what comes before the blocks: `freeze_layer_num` of CLIP4Clip and CenterCLIP.
        schedule: of the learning rate, after the warm-up: "cosine", "linear", or a published rule:
            "warmup_cosine" (CLIP4Clip's), "centerclip".
        warmup: the part of all steps in which the learning rate rises, 0 to 1.
        max_grad_norm: gradients of a larger norm are scaled down to it.
        precision: autocast of the towers in training: "fp32", "bf16" or "fp16".
        checkpointing: training keeps of the visual tower what enters each block, and computes the
            rest again in the backward pass: less memory, more time, the same gradients.
        initial_scale: exp of the logit scale at the start; None: the checkpoint's.
        scale_lr_factor: the logit scale learns so many times as fast as CLIP's towers.
        min_scale: exp of the logit scale at least, while it learns; None: there is no such bound.
        max_scale: likewise, at most.
        word_loss: weight of an auxiliary loss that reads the words of a caption from both vectors.
        seed: of everything random.
    """

    head: str = "meanp"
    head_options: Options = ()
    reduce: tuple[str, ...] = ()
    frames: int = 12
    words: int = 32
    sampler: str = "segment"
    fps: float | None = None
    weights: str = "ViT-B/32"
    epochs: int = 5
    batch_size: int = 128
    accumulate: int = 1
    train_frames: int | None = None
    train_sampler: str = "random"
    optimizer: str = "adamw"
    lr: float = 1e-4
    clip_lr: float = 1e-7
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.2
    decay: str = "matrices"
    freeze: int | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    checkpointing: bool = False
    initial_scale: float | None = None
    scale_lr_factor: float = 1.0
    min_scale: float | None = None
    max_scale: float = 100.0
    word_loss: float = 0.0
    seed: int = 0


def from_settings(settings: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """A recipe with these settings, every one of its own kind and in its range.

    Args:
        settings: field -> value; lists stand for tuples, as in JSON.
        base: where the other settings come from; by default a recipe's defaults.

    Raises:
        UsageError: an unknown setting, or a value of a wrong kind or out of range.
    """
    hints = get_type_hints(Recipe)
    if unknown := sorted(set(settings) - set(hints)):
        raise UsageError(f"unknown settings {unknown}; there are: {', '.join(hints)}")
    made = {**vars(base or Recipe())}
    for name, value in settings.items():
        made[name] = _typed(name, value, hints[name])
        _check_range(name, made[name])
    recipe = Recipe(**made)
    if recipe.min_scale is not None and recipe.min_scale > recipe.max_scale:
        raise UsageError(
            f"min_scale is at most max_scale, got {recipe.min_scale!r} and {recipe.max_scale!r}"
        )
    return recipe


def parse(assignment: str) -> tuple[str, Any]:
    """The setting and the value of a text `name=value`, for `from_settings`.

    Numbers are written as in JSON, betas as `0.9,0.98`, head_options as `name=value,name=value`,
    several reducers with spaces between, what is not set as `none`.

    Raises:
        UsageError: no such setting, or a text that is no value of it.
    """
    name, equals, text = assignment.partition("=")
    hints = get_type_hints(Recipe)
    if name not in hints:
        have = ", ".join(hints) + meant(name, hints)
        raise UsageError(f"no setting {name!r}; there are: {have}")
    if not equals:
        raise UsageError(f"{assignment!r}: expected name=value")
    if hints[name] is str:
        return name, text
    if name == "head_options":
        pairs = [part.partition("=")[::2] for part in text.split(",") if part]
        return name, [[key, _plain(value)] for key, value in pairs]
    if name == "reduce":
        return name, text.split()
    return name, [_plain(part) for part in text.split(",")] if "," in text else _plain(text)


def _plain(text: str) -> int | float | str | bool | None:
    """A number, a truth value or None where the text is one, else the text."""
    try:
        value = json.loads(_WORDS.get(text.lower(), text))
    except ValueError:
        return text
    return text if isinstance(value, list | dict) else value


def _typed(name: str, value: Any, hint: Any) -> Any:
    if name == "head_options":
        return _options(value)
    if name == "reduce":
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
            raise UsageError(f"reduce is a list of token reducers, got {value!r}")
        return () if tuple(value) == ("none",) else tuple(value)
    if name == "betas":
        is_pair = isinstance(value, list | tuple) and len(value) == 2
        if not is_pair or not all(_is_number(part) and 0 <= part < 1 for part in value):
            raise UsageError(f"betas are two numbers of 0 to 1, got {value!r}")
        return tuple(float(part) for part in value)
    kinds = get_args(hint) or (hint,)
    fits = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
    # A truth value is a number to Python alone.
    if not fits or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
        raise UsageError(f"{name} is {expected}, got {value!r}")
    return value


def _options(value: Any) -> Options:
    pairs = value if isinstance(value, list | tuple) else [None]
    pairs = [tuple(pair) if isinstance(pair, list) else pair for pair in pairs]
    if not all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
        raise UsageError("head_options are pairs of a name and a value")
    return tuple(pairs)


def _check_range(name: str, value: Any) -> None:
    if name in _CHOICES and value not in _CHOICES[name]:
        raise UsageError(f"{name} is one of {', '.join(_CHOICES[name])}, got {value!r}")
    if value is None or not _is_number(value):
        return
    least, most = int(name in _AT_LEAST_ONE), 1 if name == "warmup" else _LARGEST
    if name in _POSITIVE and value == 0:
        raise UsageError(f"{name} is above 0, got {value!r}")
    if not value >= least:  # nor is what is not a number
        raise UsageError(f"{name} is a number of at least {least}, got {value!r}")
    if value > most:
        raise UsageError(f"{name} is a number of at most {most}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The settings as JSON has them: lists for tuples."""
    made = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    return {
        **made,
        "head_options": [list(pair) for pair in recipe.head_options],
        "reduce": list(recipe.reduce),
        "betas": list(recipe.betas),
    }
