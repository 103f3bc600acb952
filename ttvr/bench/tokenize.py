"""Texts per second of the tokenizer, cold and warm, beside the published way of doing it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.bench._table import Table, alternate, median
from ttvr.errors import TtvrError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = "published algorithm"
TARGET_COLD, TARGET_WARM = 5, 14

_MOST_WORDS, _ZIPF_SHIFT, _MEAN_WORDS = 13_000, 2.7, 13

Encode = Callable[[str], list[int]]


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument("--texts", type=int, default=20_000, help="captions")
    group.add_argument(
        "--captions", metavar="FILE", help="read them from a file, a line each; else made up"
    )
    group.add_argument("--length", type=int, default=77, help="tokens per row")
    group.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")


def run(args: argparse.Namespace) -> Table:
    """Ours against the published algorithm, and against the package `clip` where it is installed.

    Cold starts with the merges table on disk and an empty cache, warm has seen the same texts.
    """
    import torch

    from ttvr.clip import tokenizer

    if args.texts < 1 or args.length < 2:
        raise UsageError("--texts is at least 1 and --length at least 2")
    torch.set_num_threads(1)
    texts = _read(Path(args.captions), args.texts) if args.captions else _made_up(args.texts)
    makers: dict[str, Callable[[], Encode]] = {PUBLISHED: _published}
    package = _package()
    if package is not None:
        makers["package clip"] = package
    contenders: dict[str, Callable[[], object]] = {}
    expected = tokenizer.tokenize(texts, args.length)
    for name, make in makers.items():
        encode = make()
        if not torch.equal(_rows(encode, texts, args.length), expected):
            raise TtvrError(f"{name} gives other ids than ttvr: one of them is wrong")
        contenders[f"{name}, cold"] = lambda make=make: _rows(make(), texts, args.length)
        contenders[f"{name}, warm"] = lambda encode=encode: _rows(encode, texts, args.length)
    contenders["ttvr, cold"] = lambda: (
        tokenizer.forget(),
        tokenizer.tokenize(texts, args.length),
    )
    contenders["ttvr, warm"] = lambda: tokenizer.tokenize(texts, args.length)
    seconds = alternate(contenders, rounds=args.rounds)
    return _table(seconds, texts, package is None)


def _table(seconds: dict[str, list[float]], texts: list[str], alone: bool) -> Table:
    rate = {name: len(texts) / median(runs) for name, runs in seconds.items()}
    rows = [
        (name, value, value / rate[f"{PUBLISHED}, {name.rsplit(', ')[1]}"])
        for name, value in rate.items()
    ]
    words = sum(len(text.split()) for text in texts) / len(texts)
    notes = [f"target: {TARGET_COLD}x cold, {TARGET_WARM}x warm; ids equal in all of them"]
    if alone:
        notes.append("the package `clip` is not installed, so it is not compared")
    return Table(
        title=f"tokenizer, {len(texts)} captions of {words:.1f} words, one thread",
        columns=("tokenizer", "texts/s", "times the published"),
        rows=rows,
        notes=notes,
    )


def _read(path: Path, most: int) -> list[str]:
    texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise TtvrError(f"{path}: no captions")
    return texts[:most]


def _made_up(many: int) -> list[str]:
    """Captions with words as frequent as in real ones: Zipf's law over the table's own words.

    The seed is fixed. A tenth of the words gets an ending that makes several tokens of it.
    """
    import numpy as np

    from ttvr.clip import tokenizer

    joined = (line.replace(" ", "") for line in tokenizer.merges())
    words = [one.removesuffix("</w>") for one in joined if one.endswith("</w>")]
    words = [word for word in words if word.isascii() and word.isalpha()][:_MOST_WORDS]
    words = [f"{word}{'ingly'}" if n % 10 == 9 else word for n, word in enumerate(words)]
    weight = 1 / (np.arange(len(words)) + _ZIPF_SHIFT)
    chance = np.random.default_rng(0)
    lengths = np.maximum(1, chance.poisson(_MEAN_WORDS, many))
    picks = iter(chance.choice(len(words), lengths.sum(), p=weight / weight.sum()).tolist())
    return [" ".join(words[next(picks)] for _ in range(length)) for length in lengths]


def _rows(encode: Encode, texts: list[str], length: int) -> Tensor:
    """[B, length] int64, filled a row at a time as the published code does."""
    import torch

    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids = [49406, *encode(text)[: length - 2], 49407]
        rows[row, : len(ids)] = torch.tensor(ids)
    return rows


def _package() -> Callable[[], Encode] | None:
    """The package's tokenizer, from its own file: the rest of it wants torchvision."""
    from importlib import util

    found = util.find_spec("clip")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "simple_tokenizer.py"
        spec = util.spec_from_file_location("clip_simple_tokenizer", path)
        if path.is_file() and spec is not None and spec.loader is not None:
            module = util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return lambda: module.SimpleTokenizer().encode
    return None


def _published() -> Encode:
    """The rules as published, plainly: every text mended, pairs looked up and merged in a loop."""
    import html

    import ftfy
    import regex

    from ttvr.clip import tokenizer

    pairs = [tuple(line.split(" ")) for line in tokenizer.merges()]
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    shown = [byte for byte in range(256) if 32 < byte < 127 or 160 < byte != 173]
    hidden = [byte for byte in range(256) if byte not in shown]
    spelling = {byte: chr(byte) for byte in shown}
    spelling |= {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    single = [spelling[byte] for byte in shown + hidden]
    symbols = [*single, *(one + "</w>" for one in single), *map("".join, pairs)]
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    known = {"<|startoftext|>": ["<|startoftext|>"], "<|endoftext|>": ["<|endoftext|>"]}
    ids |= {"<|startoftext|>": len(symbols), "<|endoftext|>": len(symbols) + 1}
    pattern = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
        r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        regex.IGNORECASE,
    )

    def split(word: str) -> list[str]:
        if word not in known:
            known[word] = _merge_slowly([*word[:-1], f"{word[-1]}</w>"], ranks)
        return known[word]

    def encode(text: str) -> list[int]:
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        found: list[int] = []
        for word in regex.findall(pattern, text):
            spelt = "".join(spelling[byte] for byte in word.encode("utf-8"))
            found.extend(ids[part] for part in split(spelt))
        return found

    return encode


def _merge_slowly(parts: list[str], ranks: dict[tuple[str, ...], int]) -> list[str]:
    while len(parts) > 1:
        neighbors = set(pairwise(parts))
        best = min(neighbors, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged, at = [], 0
        while at < len(parts):
            if tuple(parts[at : at + 2]) == best:
                merged.append(parts[at] + parts[at + 1])
                at += 2
            else:
                merged.append(parts[at])
                at += 1
        parts = merged
    return parts


PLUGIN = run
