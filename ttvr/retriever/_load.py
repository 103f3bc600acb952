"""From a checkpoint to a retriever: to use, or to train."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ttvr import plugins
from ttvr.clip import model as clip_model
from ttvr.clip import weights as checkpoints
from ttvr.clip.model import CLIP
from ttvr.devices import resolve_device
from ttvr.errors import IncompatibleError, RequirementError, UsageError
from ttvr.heads._base import Head
from ttvr.recipes import Recipe, from_settings
from ttvr.reducers import Plan
from ttvr.retriever import _reduction
from ttvr.retriever._fit import require_fit, require_weights
from ttvr.retriever._model import Retriever

SCRATCH = "scratch"
_POSITION_STD = 0.5

log = logging.getLogger(__name__)


def load(
    weights: str | Path = "default",
    head: str | None = None,
    reduce: Sequence[str] = (),
    *,
    activation: str | None = None,
    device: str | torch.device = "cpu",
    frames: int | None = None,
    is_for_texts: bool = False,
) -> Retriever:
    """The model of a checkpoint, in evaluation mode.

    Args:
        weights: a path, or a name that `ttvr-weights list` shows.
        head: name of a similarity head; by default the one the checkpoint was trained with.
        reduce: token reducers, each as `--reduce` takes it; none: those the checkpoint was trained
            with; "none": no reduction.
        activation: quick_gelu or gelu, where the checkpoint does not tell.
        device: as `resolve_device` takes it.
        frames: T of the videos, where they have another number than the checkpoint was trained on.
        is_for_texts: no video will be encoded, so no number of frames has to suit the reducers.

    Raises:
        RequirementError: the weights or the device are not there.
        IncompatibleError: the file is not a CLIP, or has no weights for this head.
        UsageError: an unknown head or reducer, one that does not fit the model or the frames, or
            a head that takes no patches such as the reducers leave.
    """
    checkpoint = checkpoints.read(weights)
    recipe = _recipe(checkpoint, head)
    takes = [] if is_for_texts else [frames or recipe.frames]
    if reduce:
        plan = partial(_reduction.plan, texts=reduce, frames=takes)
    else:
        whose = f"the recipe of {checkpoint.source}"
        plan = partial(_reduction.stated, texts=recipe.reduce, frames=takes, by=whose)
    return _loaded(checkpoint, recipe, plan, takes=takes, activation=activation, device=device)


def _loaded(
    checkpoint: checkpoints.Checkpoint,
    recipe: Recipe,
    plan_for: Callable[[CLIP], Plan],
    *,
    takes: Sequence[int] = (),
    activation: str | None,
    device: str | torch.device,
) -> Retriever:
    activation = _activation(checkpoint, activation)
    clip = clip_model.build(checkpoint.clip, activation=activation)
    plan = plan_for(clip)
    _reduction.fill(plan, checkpoint, clip, starts_new=False)
    recipe = replace(recipe, reduce=tuple(plan.canonical))
    head = _head(recipe, checkpoint, clip, plan)
    require_fit(head, recipe.head, clip, plan, frames=takes)
    retriever = Retriever(
        clip,
        head,
        plan=plan,
        recipe=recipe,
        source=checkpoint.source,
        activation=activation,
        note=checkpoint.note,
    )
    retriever.trained = dict(checkpoint.training)
    return retriever.to(resolve_device(device)).eval()


def build(
    recipe: Recipe, *, activation: str | None = None, device: str | torch.device = "cpu"
) -> Retriever:
    """The model that a recipe's training starts with, in training mode.

    A head that the checkpoint was not trained with starts as new, its random numbers being torch's
    global ones; one that it was trained with goes on.

    Args:
        recipe: all settings; `weights` may be `scratch:SIZES`, drawn from its seed.
        activation: quick_gelu or gelu, where the checkpoint does not tell.
        device: as `resolve_device` takes it.

    Raises:
        RequirementError: the weights or the device are not there.
        IncompatibleError: the file is not a CLIP, or its weights do not fit the recipe.
        UsageError: an unknown head or reducer, unknown sizes, or a head or reducer that does not
            fit.
    """
    scratch, colon, sizes = recipe.weights.partition(":")
    if colon and scratch == SCRATCH:
        checkpoint = _from_scratch(recipe, sizes)
    else:
        checkpoint = checkpoints.read(recipe.weights)
    activation = _activation(checkpoint, activation)
    clip = clip_model.build(checkpoint.clip, activation=activation)
    if recipe.initial_scale is not None:
        clip.logit_scale.data.fill_(math.log(recipe.initial_scale))
    if clip.visual is not None:
        clip.visual.checkpointing = recipe.checkpointing
    frames = [recipe.frames, recipe.train_frames or recipe.frames]
    plan = _reduction.plan(clip, recipe.reduce, frames=frames)
    _reduction.fill(plan, checkpoint, clip, starts_new=True)
    recipe = replace(recipe, reduce=tuple(plan.canonical))
    head = _head(recipe, checkpoint, clip, plan, starts_new=True)
    require_fit(head, recipe.head, clip, plan, frames=frames)
    source = checkpoint.source
    made = Retriever(clip, head, plan=plan, recipe=recipe, source=source, activation=activation)
    return made.to(resolve_device(device)).train()


def load_for(
    made_with: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    head: str | None = None,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> Retriever:
    """The model of a feature folder, or the one asked for instead; not checked to fit.

    Args:
        made_with: the `model` entry of the folder's `meta.json`.
        weights: None takes what the folder was made with, head and activation too.
        head: as `load`, errors too.
        activation: likewise.
        device: likewise.
    """
    if weights is None:
        weights, head = made_with["source"], head or made_with["head"]
        activation = activation or made_with["activation"]
        try:
            checkpoints.locate(weights)
        except RequirementError as error:
            raise RequirementError(
                f"the weights that made the features, {weights}, are not there any more; pass "
                f"their new place with -w ({error})"
            ) from error
    checkpoint = checkpoints.read(weights)
    recipe = _recipe(checkpoint, head)
    # Of how many frames the features were made does not matter any more.
    plan = partial(
        _reduction.stated,
        texts=made_with["reduce"],
        frames=(),
        by="the features were made with other weights",
    )
    return _loaded(checkpoint, recipe, plan, activation=activation, device=device)


def head_sizes(recipe: Recipe, clip: CLIP, plan: Plan) -> dict[str, int]:
    """What a head is built for: `width`, `frames` (or the segments left of them), `words`."""
    frames = plan.segments or recipe.frames
    return {"width": clip.width, "frames": frames, "words": recipe.words}


def _from_scratch(recipe: Recipe, sizes: str) -> checkpoints.Checkpoint:
    if sizes not in checkpoints.SIZES:
        known = ", ".join(checkpoints.SIZES)
        raise UsageError(f"no sizes {sizes!r} to start from scratch with; there are: {known}")
    state = checkpoints.random_state(checkpoints.SIZES[sizes], seed=recipe.seed)
    # Words that training never sees stay exactly zero, AdamW included: one that is unknown says
    # nothing instead of noise, and the file need not hold their rows.
    state["token_embedding.weight"].zero_()
    # As CLIP draws them, patches drown their positions, and places are learned late or never.
    positions = state["visual.positional_embedding"]
    positions *= _POSITION_STD / positions.std()
    return checkpoints.Checkpoint(
        clip=state,
        head={},
        recipe={},
        source=recipe.weights,
        activation="quick_gelu",
        reducers={},
        format="random",
        note="",
    )


def _activation(checkpoint: checkpoints.Checkpoint, asked: str | None) -> str:
    stated = checkpoint.activation
    if asked and stated and asked != stated:
        log.warning("%s says %s; taking %s, as asked", checkpoint.source, stated, asked)
    if asked or stated:
        return asked or stated
    log.warning(
        "%s does not say its activation: taking quick_gelu (OpenAI's); --activation gelu "
        "for open_clip's models without -quickgelu in their name",
        checkpoint.source,
    )
    return "quick_gelu"


def _recipe(checkpoint: checkpoints.Checkpoint, head: str | None) -> Recipe:
    try:
        recipe = from_settings(checkpoint.recipe)
    except UsageError as error:
        raise IncompatibleError(f"the recipe of {checkpoint.source}: {error}") from error
    if head is None or head == recipe.head:
        return recipe
    return Recipe(**{**vars(recipe), "head": head, "head_options": ()})


def _head(
    recipe: Recipe,
    checkpoint: checkpoints.Checkpoint,
    clip: CLIP,
    plan: Plan,
    *,
    starts_new: bool = False,
) -> Head:
    """The head with the checkpoint's weights; one not trained yet is refused or `starts_new`."""
    sizes = head_sizes(recipe, clip, plan)
    stored = checkpoint.recipe
    trained = bool(stored) and stored.get("head", Recipe.head) == recipe.head
    try:
        plugin = plugins.load("heads", recipe.head)
        head = plugins.construct(plugin, dict(recipe.head_options), **sizes)
        if trained:
            head.load_state_dict(checkpoint.head)
        elif starts_new:
            head.init_from_clip(clip)
        else:
            require_weights(head, recipe.head, checkpoint)
    except (UsageError, RuntimeError) as error:
        # A head that the user named is wrong use; one that the file names is not.
        if isinstance(error, UsageError) and not trained:
            raise
        raise IncompatibleError(
            f"{checkpoint.source} has no fitting weights for the head {recipe.head}: {error}"
        ) from error
    return head
