"""Sentences -> features, and what of them a model cannot know."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch

from ttvr.clip import tokenizer
from ttvr.records import TextFeatures
from ttvr.retriever import Retriever
from ttvr.wording import first_of

_WORDS_SHOWN = 8
_LETTERS_SHOWN = 30  # of a word

log = logging.getLogger(__name__)


def unknown_words(retriever: Retriever, texts: Iterable[str]) -> list[str]:
    """Words that the model was never trained on, lowercase, each once, as they first come.

    A word is unknown if the row of any of its tokens is zero: the model sees that something
    stands there, but not what. Punctuation does not count; `tokenizer.words` says what a word is.
    """
    unseen = set(retriever.clip.unseen_tokens().tolist())
    if not unseen:
        return []
    pairs = (pair for text in texts for pair in tokenizer.words(text))
    return list(dict.fromkeys(word for word, ids in pairs if not unseen.isdisjoint(ids)))


def report_unknown(
    retriever: Retriever, texts: Iterable[str], *, what: str, whose: str = "the model"
) -> None:
    """Log the words of the texts that the model was never trained on, in one line if there are any.

    Args:
        retriever: the model.
        texts: sentences.
        what: what the texts are, for the message.
        whose: what it calls the model.
    """
    found = unknown_words(retriever, texts)
    if not found:
        return
    log.warning(
        "words of the %s that %s never saw and that mean nothing to it: %s",
        what,
        whose,
        first_of([_visible(word) for word in found], _WORDS_SHOWN),
    )


@torch.inference_mode()
def encode_texts(
    retriever: Retriever,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    words: bool = False,
    length: int | None = None,
) -> TextFeatures:
    """Encode texts, those of like length together.

    Attention is causal, so a batch need not be longer than its longest text: that changes nothing
    but the rounding (1e-6). Features at padded positions are only there if they are computed.

    Args:
        retriever: the model.
        texts: N sentences; cut to `length` tokens where longer, end-of-text kept.
        batch_size: sentences per forward pass.
        words: give the feature at every position, padded ones included.
        length: L, tokens per text; by default all that the model has positions for.

    Returns:
        In the order of `texts`, float32: sentence [N, D]; words [N, L, D] and mask [N, L], or
        [N, 0, D] and [N, 0] without `words`.
    """
    length = length or retriever.clip.context_length
    N, D, L = len(texts), retriever.clip.width, length if words else 0
    ids = tokenizer.tokenize(texts, length)
    ends = ids.argmax(dim=1)  # [N], end-of-text has the highest id
    sentence = torch.empty(N, D, device=retriever.device)
    every = torch.empty(N, L, D, device=retriever.device)
    mask = torch.empty(N, L, dtype=torch.bool, device=retriever.device)
    for some in ends.argsort(stable=True).split(batch_size) if N else ():
        longest = length if words else int(ends[some[-1]]) + 1
        made = retriever.encode_text(ids[some, :longest])
        sentence[some] = made.sentence.float()
        if words:
            every[some], mask[some] = made.words.float(), made.mask
    return TextFeatures(sentence, every, mask)


def _visible(word: str) -> str:
    """A word that is no longer than a line bears, with what has no shape of its own spelt out."""
    cut = word if len(word) <= _LETTERS_SHOWN else f"{word[:_LETTERS_SHOWN]}..."
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in cut
    )
