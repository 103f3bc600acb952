"""What a model finds in folders of features, checked to be what its head needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ttvr.errors import IncompatibleError
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.retriever._model import Retriever
from ttvr.store import Chosen, Features, Padded, extract_again

_AT_ONCE = 512  # texts whose words are in memory together


def has_own_vectors(retriever: Retriever, features: Features) -> bool:
    """Whether `video/` or `text/` of a folder of the model's base is what the head would make."""
    made_with = features.meta["model"]
    return retriever.space_on(made_with["base"]) == made_with["space"]


def stored_videos(retriever: Retriever, features: Features) -> VideoFeatures:
    """Frames, and patches where the head needs them, of a folder that has the model's base.

    Padding is what the encoder makes of all-zero frames, in place of the zeros in the folder: heads
    without a mask count it in. `Retriever.encode_video` fills segments likewise.

    Returns:
        Arrays whose rows are read when they are asked for; patches None where they are not needed.

    Raises:
        IncompatibleError: the folder lacks frames or patches (says how to add them), or the head
            takes another number of frames, or more patches than there are.
    """
    head = retriever.head
    lacking = tuple(
        name
        for name, needed in (("frames", True), ("patches", head.needs_patches))
        if needed and getattr(features, name) is None
    )
    if lacking:
        raise IncompatibleError(
            f"the head {retriever.head_name} needs {' and '.join(lacking)}, which "
            f"{features.path} does not hold; make it with them: "
            f"{extract_again(features, lacking=lacking)}"
        )
    T = features.meta["frames"]
    if head.fixed_frames and head.frames != T:
        raise IncompatibleError(
            f"the head {retriever.head_name} is made for {head.frames} frames or segments, "
            f"{features.path} has {T} of each video; extract again with as many"
        )
    frames = Padded(features.frames, features.mask, features.pad)
    if not head.needs_patches:
        return VideoFeatures(frames, features.mask, None)
    P = features.patches.shape[2]
    if head.least_patches > P:
        raise IncompatibleError(
            f"the head {retriever.head_name} needs {head.least_patches} patches of each frame or "
            f"segment, {features.path} has {P}"
        )
    pad = retriever.pad_patches(features.meta["preprocess"]["frames"]).cpu().numpy()
    return VideoFeatures(frames, features.mask, Padded(features.patches, features.mask, pad))


def stored_texts(retriever: Retriever, texts: Features, rows: Sequence[int]) -> TextFeatures:
    """Rows of a text folder that has the model's base, as the model would encode the texts.

    Args:
        retriever: the model.
        texts: a text folder.
        rows: [N] of it.

    Returns:
        sentence [N, D] on the model's device; words [N, L, D] and mask [N, L] are read when they
        are asked for, and L is 0 where the head does not need them.

    Raises:
        IncompatibleError: the head needs words, and the folder holds fewer positions, or longer
            texts, which the model would cut.
    """
    stored, needed = texts.words.shape[1], retriever.text_length
    ends = texts.mask[rows].sum(axis=1) - 1  # [N]
    if retriever.head.needs_words:
        longest = int(ends.max(initial=0)) + 1
        if stored < needed or longest > needed:
            found = f"{stored} positions" if stored < needed else f"a text of {longest} tokens"
            raise IncompatibleError(
                f"the head {retriever.head_name} takes texts of {needed} tokens, {texts.path} has "
                f"{found}; encode them again with `ttvr-extract --text --words {needed}`"
            )
    L = needed if retriever.head.needs_words else 0
    parts = []
    for start in range(0, len(rows), _AT_ONCE):
        block, end = rows[start : start + _AT_ONCE], ends[start : start + _AT_ONCE]
        parts.append(texts.words[block][np.arange(len(block)), end])
    sentence = torch.from_numpy(np.concatenate(parts)).float().to(retriever.device)
    return TextFeatures(sentence, Chosen(texts.words, rows, L), Chosen(texts.mask, rows, L))
