"""CLIP's byte pair encoding: OpenAI's ids for every text, at many times its speed.

The rules are OpenAI's (CLIP, Radford et al. 2021): clean, lowercase, split into words, encode each
word as UTF-8 bytes and merge neighbors in the order of a learned table. What makes it fast changes
no result:

* cleaning leaves printable ASCII without `&` as it is, but for repeated spaces;
* no word crosses whitespace, so pieces between whitespace are encoded once and remembered;
* a word that is a symbol of the table is that symbol: merging always arrives at it;
* ids travel as packed 16-bit integers, so a text is one join and a batch one array.
"""

from __future__ import annotations

import gzip
import heapq
import html
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import ftfy
import numpy as np
import regex
import torch
from torch import Tensor

from ttvr.errors import UsageError

SOT = 49406
EOT = 49407
CONTEXT = 77

_TABLE = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
_TABLE_BYTES = 524645  # a header line and the merges that CLIP uses; the file goes on
_SPECIAL = {"<|startoftext|>": SOT, "<|endoftext|>": EOT}
_END = "</w>"

_CACHED_PIECES = 1 << 16
_SHOWN = 60  # characters of a text in a message
_CACHED_LENGTH = 64  # characters; what is longer hardly comes twice

log = logging.getLogger(__name__)

# Case is ignored although the text is lowercase: a long s, say, still makes a contraction.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_PUNCTUATION = regex.compile(r"\p{P}+")
_AROUND = regex.compile(r"^\p{P}+|\p{P}+$")


def tokenize(texts: Sequence[str], length: int = CONTEXT) -> Tensor:
    """Token ids of texts, as CLIP's text transformer takes them.

    Args:
        texts: B texts (or one text, as a batch of one).
        length: L, positions per row; a longer text is cut and still ends in end-of-text.

    Returns:
        [B, L] int64: start-of-text, the text's tokens, end-of-text, then zeros.

    Raises:
        ValueError: no room for start-of-text and end-of-text.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    texts = [texts] if isinstance(texts, str) else texts
    start, end = _pack([SOT]), _pack([EOT])
    row = len(start) * length
    room = row - len(start) - len(end)
    rows = [(start + body[:room] + end).ljust(row, b"\0") for body in map(_encoder().packed, texts)]
    ids = np.frombuffer(b"".join(rows), dtype=np.uint16).astype(np.int64)
    return torch.from_numpy(ids.reshape(len(rows), length))


def encode(text: str) -> list[int]:
    """Token ids of a text, without start-of-text and end-of-text, however many there are."""
    return memoryview(_encoder().packed(text)).cast("H").tolist()


def words(text: str) -> list[tuple[str, list[int]]]:
    """The words of a text, each with its token ids, in order.

    A word is what stands between spaces, as it is encoded (lowercase), without punctuation around
    it; ids of punctuation inside it are left out, and what is nothing else is no word. Signs that
    are not punctuation, like `+` and emoji, are words.
    """
    return list(_encoder().words(text))


def decode(ids: Iterable[int]) -> str:
    """The text of token ids: lowercase, a space after each word, broken UTF-8 replaced by U+FFFD.

    Raises:
        ValueError: an id outside the vocabulary.
    """
    return _encoder().decode(ids)


def count(texts: Sequence[str]) -> list[int]:
    """How many tokens each text has before any cut, start-of-text and end-of-text included."""
    return [len(encode(text)) + 2 for text in texts]


def count_long(texts: Sequence[str], *, most: int, on_long: str, what: str) -> int:
    """How many texts have too many tokens; logged where there are some.

    Args:
        texts: sentences.
        most: tokens a text may have.
        on_long: "truncate", or "error".
        what: what the texts are, for messages.

    Raises:
        UsageError: there are some, and that is an error.
    """
    long = [at for at, tokens in enumerate(count(texts)) if tokens > most]
    if not long:
        return 0
    first = texts[long[0]]
    first = repr(first if len(first) <= _SHOWN else first[:_SHOWN] + "...")
    found = f"{len(long)} of {len(texts)} {what} have more than {most} tokens"
    if on_long == "error":
        raise UsageError(
            f"{found}, the first is number {long[0]}, {first}; shorten them or pass "
            "--on-long truncate"
        )
    log.warning("%s and were cut, the first is number %d, %s", found, long[0], first)
    return len(long)


def clean(text: str) -> str:
    """The text as it is split into words: mended, unescaped, single spaces, lowercase."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", mended).strip().lower()


def forget() -> None:
    """Let go of the table and of all remembered pieces; the next call reads the table again."""
    _encoder.cache_clear()


def merges() -> list[str]:
    """The merges table: 48894 pairs of symbols, `left right`, in the order of merging."""
    with gzip.open(_TABLE) as file:
        return file.read(_TABLE_BYTES).decode().split("\n")[1:-1]


def _pieces(text: str) -> list[str]:
    """What stands between spaces in the cleaned text."""
    # Mending changes printable ASCII at entities alone.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.lower().split()
    return clean(text).split(" ")


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in the table: itself where Latin-1 can print it."""
    printable = [33 <= byte <= 126 or (161 <= byte <= 255 and byte != 173) for byte in range(256)]
    others = iter(range(256, 512))
    return [chr(byte if shown else next(others)) for byte, shown in enumerate(printable)]


def _pack(ids: Iterable[int]) -> bytes:
    return array("H", ids).tobytes()


class _Encoder(dict[str, bytes]):
    """The table, and as a dict: pieces of text between whitespace to their packed ids."""

    def __init__(self) -> None:
        super().__init__()
        # Ids: the bytes inside a word, the bytes that end one, the merges, the two specials.
        pairs = merges()
        single = sorted(_byte_symbols(), key=lambda symbol: (ord(symbol) > 255, symbol))
        merged = "\n".join(pairs).replace(" ", "").split("\n")
        self._symbols = [*single, *(one + _END for one in single), *merged, *_SPECIAL]
        self._ids = dict(zip(self._symbols, range(len(self._symbols)), strict=True))
        self._ranks = dict(zip(pairs, range(len(pairs)), strict=True))
        self._spelling = dict(enumerate(_byte_symbols()))
        self._bytes = {ord(symbol): byte for byte, symbol in self._spelling.items()}
        self._split = regex.compile(_WORDS, regex.IGNORECASE).findall

    def packed(self, text: str) -> bytes:
        """The ids of a text, two bytes each."""
        return b"".join(map(self.__getitem__, _pieces(text)))

    def words(self, text: str) -> Iterator[tuple[str, list[int]]]:
        for piece in _pieces(text):
            parts = [part for part in self._split(piece) if not _PUNCTUATION.fullmatch(part)]
            if parts:
                yield _AROUND.sub("", piece), [one for part in parts for one in self._word(part)]

    def decode(self, ids: Iterable[int]) -> str:
        values = [int(one) for one in ids]
        if any(not 0 <= one < len(self._symbols) for one in values):
            raise ValueError(f"token ids are 0 to {len(self._symbols) - 1}, got {values}")
        spelt = "".join(self._symbols[one] for one in values)
        raw = spelt.translate(self._bytes).encode("latin-1")
        return raw.decode("utf-8", errors="replace").replace(_END, " ")

    def __missing__(self, piece: str) -> bytes:
        # ASCII letters alone are one word: no need to look for the boundaries inside.
        is_word = piece.isascii() and piece.isalpha()
        words = [piece] if is_word else self._split(piece)
        found = b"".join([_pack(self._word(word)) for word in words])
        if len(piece) <= _CACHED_LENGTH:
            if len(self) >= _CACHED_PIECES:
                self.clear()
            self[piece] = found
        return found

    def _word(self, word: str) -> list[int]:
        if word in _SPECIAL:
            return [_SPECIAL[word]]
        spelt = word.encode("utf-8").decode("latin-1").translate(self._spelling)
        whole = self._ids.get(spelt + _END)
        return [whole] if whole is not None else self._merge(spelt)

    def _merge(self, spelt: str) -> list[int]:
        """Merge the lowest rank first, leftmost first, until no neighbors are in the table.

        A heap of candidates over a linked list: N log N for a word of N bytes. A merge only makes
        pairs of higher rank than its own (each symbol is made before it is used), so taking one
        pair at a time equals the published way of merging all equal pairs at once.
        """
        parts: list[str | None] = [*spelt[:-1], spelt[-1] + _END]
        after = list(range(1, len(parts) + 1))
        before = list(range(-1, len(parts) - 1))
        ranks = self._ranks
        heap = [
            (ranks[pair], at)
            for at, pair in enumerate(map(" ".join, pairwise(parts)))
            if pair in ranks
        ]
        heapq.heapify(heap)
        while heap:
            rank, left = heapq.heappop(heap)
            right = after[left]
            if parts[left] is None or right == len(parts):
                continue
            if ranks.get(f"{parts[left]} {parts[right]}") != rank:
                continue
            parts[left], parts[right] = f"{parts[left]}{parts[right]}", None
            after[left] = after[right]
            if after[left] < len(parts):
                before[after[left]] = left
            for at in (before[left], left):
                if at >= 0 and after[at] < len(parts):
                    new = ranks.get(f"{parts[at]} {parts[after[at]]}")
                    if new is not None:
                        heapq.heappush(heap, (new, at))
        return [self._ids[part] for part in parts if part is not None]


_encoder = cache(_Encoder)
