"""How much the frames of a video count for a sentence, collected from a model.

Apart from the drawing, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ttvr.clip import tokenizer
from ttvr.errors import TtvrError
from ttvr.heads._base import Head
from ttvr.records import Batch, TextFeatures, VideoFeatures
from ttvr.retriever import Retriever
from ttvr.show._attention import Attention

START, END, GOES_ON = "[start]", "[end]", "\u2026"
"""Heads read start-of-text and end-of-text as words, so they are shown, marked as no words."""


def require_weights(head: Head) -> None:
    """Refuse a head that has nothing to show, before there is a video.

    Raises:
        UsageError: the head's own; one that depends on its options comes later.
    """
    if type(head).frame_weights is Head.frame_weights:
        nothing = torch.empty(0)
        head.frame_weights(
            TextFeatures(nothing, nothing, nothing), VideoFeatures(nothing, nothing, None)
        )


@torch.inference_mode()
def collect(model: Retriever, query: str, pixels: np.ndarray, *, frames: int) -> Attention:
    """The weights of the frames of a video for a sentence.

    Args:
        model: in evaluation mode.
        query: cut to the tokens that the model takes.
        pixels: [t, size, size, 3] uint8 RGB, 1 to T of them; what lacks is padding.
        frames: T that the model was trained with.

    Raises:
        UsageError: the head has no such weights.
        TtvrError: a weight is not finite.
    """
    padded = torch.zeros(1, frames, *pixels.shape[1:], dtype=torch.uint8)
    padded[0, : len(pixels)] = torch.from_numpy(pixels)
    ids = tokenizer.tokenize([query], model.text_length)
    mask = torch.arange(frames).unsqueeze(0) < len(pixels)
    text, video = model.features(Batch(ids, padded, mask, torch.zeros(1, dtype=torch.int64)))
    found = model.head.frame_weights(text, video)
    sentence = found.sentence[0, 0].double().cpu().numpy()
    end = int(ids[0].argmax())  # end-of-text has the highest id
    words = None
    if found.words is not None:
        words = found.words[0, 0, : end + 1].double().cpu().numpy()
    for values in (sentence, words):
        if values is not None and not np.isfinite(values).all():
            raise TtvrError(f"the head {model.head_name} gives weights that are no finite numbers")
    tokens = tuple(_spelt(ids[0, : end + 1].tolist()))
    return Attention(sentence, words, tokens, found.what)


def _spelt(ids: Iterable[int]) -> Iterator[str]:
    """The text of each token; what a word goes on after ends in an ellipsis."""
    for token in ids:
        if token in (tokenizer.SOT, tokenizer.EOT):
            yield START if token == tokenizer.SOT else END
        else:
            text = tokenizer.decode([token])
            yield text.rstrip() if text.endswith(" ") else text + GOES_ON
