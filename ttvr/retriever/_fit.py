"""Heads and models that cannot go together, said with the numbers before any work."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ttvr.clip.model import CLIP
from ttvr.clip.weights import Checkpoint
from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads._base import Head
from ttvr.reducers import Plan
from ttvr.systems import SYSTEMS


def require_fit(head: Head, name: str, clip: CLIP, plan: Plan, *, frames: Iterable[int]) -> None:
    """Refuse a head that this model cannot serve.

    Args:
        head: built for this model.
        name: of its plug-in.
        clip: the model.
        plan: its token reducers.
        frames: every T that it has to work with; none: that is not known.

    Raises:
        UsageError: texts are longer than CLIP's, videos have another number of frames than the
            head has rows for or more than it has positions for, or reducers leave too few patches,
            or some that nobody may see.
    """
    if head.needs_words and clip.has_text and head.words > clip.context_length:
        raise UsageError(
            f"the head {name} is to take texts of {head.words} tokens, the model has positions for "
            f"{clip.context_length}; pass --set words={clip.context_length}"
        )
    for T in frames:
        left = plan.left_of(T)
        if head.fixed_frames and left.frames != head.frames:
            raise UsageError(
                f"the head {name} is made for {head.frames} frames or segments, of {T} frames "
                f"{left.frames} are left; use as many everywhere (--frames, and in training "
                "train_frames)"
            )
        if head.most_frames is not None and left.frames > head.most_frames:
            raise UsageError(
                f"the head {name} takes at most {head.most_frames} frames or segments, of {T} "
                f"frames {left.frames} are left; use fewer (--frames, and in training train_frames)"
            )
        if head.needs_patches and clip.visual is not None:
            _require_patches(head, name, clip.visual, plan, T)


def require_weights(head: nn.Module, name: str, checkpoint: Checkpoint) -> None:
    """Refuse a head with parameters that a checkpoint was not trained with.

    Raises:
        IncompatibleError: it has; the message says where weights come from.
    """
    if not head.state_dict():
        return
    count, source = sum(tensor.numel() for tensor in head.state_dict().values()), checkpoint.source
    published = [
        f"ttvr-weights convert --system {system}"
        for system, facts in SYSTEMS.items()
        if name in (facts.head, *dict(facts.heads).values())
    ]
    authors = f" or take the authors' ({' or '.join(published)})," if published else ""
    raise IncompatibleError(
        f"{source} has no weights for the head {name}, which has {count} parameters; train them "
        f"(ttvr-train --head {name} -w {source}, of --data or --features){authors} and pass what "
        "comes out with -w"
    )


def _require_patches(head: Head, name: str, visual: nn.Module, plan: Plan, frames: int) -> None:
    left = plan.left_of(frames)
    P = left.patches if plan.reducers else len(visual.positional_embedding) - 1
    reduce = " ".join(plan.canonical) or "no token reducer"
    if left.has_hidden:
        raise UsageError(
            f"the head {name} needs patches, and {reduce} leaves {P} of a segment, some of which "
            "only fill up where frames are padded (mask=true); keep fewer, or leave mask out"
        )
    if head.least_patches > P:
        raise UsageError(
            f"the head {name} needs {head.least_patches} patches of a frame or segment, and "
            f"{reduce} leaves {P}"
        )
