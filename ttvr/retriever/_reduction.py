"""The token reducers of a model: which, and with which weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from torch import nn

from ttvr import reducers
from ttvr.clip.model import CLIP
from ttvr.clip.weights import Checkpoint
from ttvr.errors import IncompatibleError, UsageError
from ttvr.recipes import from_settings

log = logging.getLogger(__name__)


def plan(clip: CLIP, texts: Sequence[str], *, frames: Iterable[int]) -> reducers.Plan:
    """What acts in a model's visual tower.

    Args:
        clip: without a visual tower it takes an empty plan alone.
        texts: each as `--reduce` takes it.
        frames: every T that it has to fit; none: that is not known.

    Raises:
        UsageError: a text cannot be read, or does not fit the model.
    """
    stages = reducers.parse(texts)
    if not stages:
        return reducers.Plan({}, {}, 0)
    if clip.visual is None:
        raise UsageError(f"{stages[0]}: these weights have no visual tower to reduce tokens in")
    patches, width = clip.visual.positional_embedding.shape
    return reducers.build(
        stages,
        layers=len(clip.visual.transformer.resblocks),
        width=width,
        patches=patches - 1,
        frames=frames,
    )


def stated(clip: CLIP, texts: Sequence[str], *, frames: Iterable[int], by: str) -> reducers.Plan:
    """A plan that is none of the user's, as `plan`.

    Args:
        clip: likewise.
        texts: likewise.
        frames: likewise.
        by: who asks for it, for the error.

    Raises:
        IncompatibleError: it does not fit the model.
    """
    try:
        return plan(clip, texts, frames=frames)
    except UsageError as error:
        raise IncompatibleError(f"{by}: {error}") from error


def fill(made: reducers.Plan, checkpoint: Checkpoint, clip: CLIP, *, starts_new: bool) -> None:
    """Give reducers their weights: the checkpoint's if it was trained with them, else CLIP's.

    Args:
        made: for this model.
        checkpoint: where the model comes from.
        clip: the model.
        starts_new: training is to follow; if not, weights that nobody trained are told.

    Raises:
        IncompatibleError: it was trained with them, but its weights do not fit.
    """
    modules, texts = as_module(made), " ".join(made.canonical)
    if _is_trained(made, checkpoint, clip):
        try:
            modules.load_state_dict(checkpoint.reducers)
        except RuntimeError as error:
            raise IncompatibleError(
                f"{checkpoint.source} has no fitting weights for {texts}: {error}"
            ) from error
        return
    for reducer in made.reducers.values():
        reducer.init_from_clip(clip)
    if modules.state_dict() and not starts_new:
        log.warning("%s was not trained with %s", checkpoint.source, texts)


def _is_trained(made: reducers.Plan, checkpoint: Checkpoint, clip: CLIP) -> bool:
    try:
        own = plan(clip, from_settings(checkpoint.recipe).reduce, frames=())
    except UsageError:
        return False
    return bool(own.canonical) and own.canonical == made.canonical


def as_module(made: reducers.Plan) -> nn.ModuleDict:
    """The reducers under the numbers of their blocks."""
    return nn.ModuleDict({str(block): reducer for block, reducer in made.reducers.items()})
