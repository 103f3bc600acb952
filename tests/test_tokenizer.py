"""The tokenizer against a plain reading of the published rules, and against OpenAI's own ids."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import ftfy
import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_state

from ttvr.clip import tokenizer
from ttvr.clip.model import build
from ttvr.commands import bench

TABLE = Path(tokenizer.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
ASCII_TEXT = st.text(st.characters(max_codepoint=127), max_size=60)
TRICKY = (
    *("a", "Man's", "dog,", "isn't", "don\u2019t", "'LL", "'\u017f", "2023", "!!", "\u2026"),
    *("&amp;", "&EACUTE;", "&#x85;", "&#xd800;", "<b>", "<|endoftext|>", "</w>", "\ufb01"),
    *("caf\u00e9", "caf\u00c3\u00a9", "\u0130stanbul", "\u01c5", "\U0001f44d\U0001f3fd"),
    *("\x00", "\x1b[31m", "\x1c", "\t", "\r\n", "\u2028", "\u3000", "\ufeff", "\ud83d", "\ude00"),
)
WORDY = st.lists(st.sampled_from(TRICKY), max_size=10)


@cache
def oracle():
    """Ranks of pairs, ids of symbols, spelling of bytes: the rules written down once more."""
    lines = gzip.decompress(TABLE.read_bytes()).decode().split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    spelling = {byte: chr(byte) for byte in range(256) if chr(byte).isprintable() and byte != 32}
    ordered = list(spelling.values())
    for byte in range(256):
        if byte not in spelling:
            spelling[byte] = chr(256 + len(spelling) - 188)
            ordered.append(spelling[byte])
    vocabulary = [*ordered, *(one + "</w>" for one in ordered), *map("".join, pairs)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    return ranks, {symbol: number for number, symbol in enumerate(vocabulary)}, spelling


def slow_merge(word):
    """All places of the lowest ranked pair at once, from the left, again and again."""
    ranks, _, spelling = oracle()
    parts = [spelling[byte] for byte in word.encode("utf-8")]
    parts[-1] += "</w>"
    while True:
        known = [pair for pair in pairwise(parts) if pair in ranks]
        if not known:
            return parts
        best, merged, at = min(known, key=ranks.get), [], 0
        while at < len(parts):
            both = tuple(parts[at : at + 2]) == best
            merged.append("".join(parts[at : at + 1 + both]))
            at += 1 + both
        parts = merged


def slow_encode(text):
    _, numbers, _ = oracle()
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = regex.sub(r"\s+", " ", text).strip().lower()
    pattern = (
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
        r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    ids = []
    for word in regex.findall(pattern, text, regex.IGNORECASE):
        special = word in ("<|startoftext|>", "<|endoftext|>")
        ids += [numbers[part] for part in ([word] if special else slow_merge(word))]
    return ids


@settings(deadline=None, max_examples=300)
@given(st.one_of(ANY_TEXT, ASCII_TEXT, WORDY.map(" ".join), WORDY.map("".join)))
def test_ids_equal_the_published_rules(text):
    assert tokenizer.encode(text) == slow_encode(text)


@settings(deadline=None, max_examples=60)
@given(st.text("abeilnorst", max_size=40), st.text("ab", max_size=40), st.text("éñ中", max_size=15))
def test_merging_equals_the_published_rules(first, second, third):
    text = f"{first} {second} {third}"
    assert tokenizer.encode(text) == slow_encode(text)


def test_every_unicode_category_equals_the_published_rules():
    seen = {}
    for code in range(sys.maxunicode + 1):
        seen.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    assert len(seen) == 30
    for kind, letters in seen.items():
        for one in letters[:: max(1, len(letters) // 4)]:
            text = f"a{one}b {one}{one} {one}' {one}s"
            assert tokenizer.encode(text) == slow_encode(text), (kind, hex(ord(one)))


def test_all_ascii_characters_equal_the_published_rules():
    for code in range(128):
        for text in (chr(code), f"x{chr(code)}Y", f"'{chr(code)} 1{chr(code)}"):
            assert tokenizer.encode(text) == slow_encode(text), hex(code)


def test_table_is_openais_and_supports_the_short_cuts():
    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() == SHA256
    ranks, numbers, _ = oracle()
    assert tokenizer.merges() == [" ".join(pair) for pair in ranks]
    assert len(numbers) == 49408
    first = 512
    for (left, right), rank in ranks.items():
        assert max(numbers[left], numbers[right]) < first + rank


def test_each_word_of_the_table_is_its_own_token():
    encoder = tokenizer._encoder()
    ranks, numbers, _ = oracle()
    words = [symbol for symbol in map("".join, ranks) if symbol.endswith("</w>")]
    assert len(words) == 34483 - 256
    for symbol in words:
        assert encoder._merge(symbol.removesuffix("</w>")) == [numbers[symbol]]


def test_golden_texts(shared):
    items = json.loads((shared / "golden/tokenizer/texts.json").read_text())["items"]
    texts = [item["text"] for item in items]
    assert len(texts) == 551
    assert tokenizer.tokenize(texts).tolist() == [item["ids"] for item in items]
    assert tokenizer.tokenize(texts, 32).tolist() == [item["ids32"] for item in items]
    assert tokenizer.count(texts) == [item["n_full"] for item in items]
    assert [tokenizer.clean(text) for text in texts] == [item["cleaned"] for item in items]
    decoded = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
    assert decoded == [item["decoded"] for item in items]


def test_golden_text_packing(shared):
    import numpy as np

    golden = np.load(shared / "golden/centerclip/text_packing.npz", allow_pickle=False)
    clip = build(tiny_state(layers=1, vocabulary=tokenizer.EOT + 1))
    for length in (32, 77):
        ids = tokenizer.tokenize(golden["text"].tolist(), length)
        assert (ids.numpy() == golden[f"ids_{length}"]).all()
        with torch.inference_mode():
            mask = clip.encode_text(ids).mask
        assert (mask.numpy() == golden[f"mask_{length}"]).all()


@pytest.mark.parametrize("length", [2, 3, 10, 11, 12, 32, 77, 200])
def test_length_cuts_and_keeps_end_of_text(length):
    text = "a man is riding a red bicycle in town"
    inner = tokenizer.encode(text)[: length - 2]
    row = tokenizer.tokenize([text], length)
    assert row.dtype == torch.int64
    assert row.shape == (1, length)
    whole = [tokenizer.SOT, *inner, tokenizer.EOT]
    assert row[0].tolist() == whole + [0] * (length - len(whole))


def test_batches_of_none_and_of_one_text():
    assert tokenizer.tokenize([]).shape == (0, 77)
    assert tokenizer.tokenize("a dog").tolist() == tokenizer.tokenize(["a dog"]).tolist()
    assert tokenizer.tokenize([""])[0, :3].tolist() == [tokenizer.SOT, tokenizer.EOT, 0]
    assert tokenizer.encode("") == []
    assert tokenizer.count(["", "a dog"]) == [2, 4]


def test_length_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        tokenizer.tokenize(["a"], 1)


def test_decode_takes_ids_of_any_kind_and_refuses_others():
    row = tokenizer.tokenize(["Café olé"])[0]
    assert tokenizer.decode(row[:5]) == "<|startoftext|>café olé <|endoftext|>"
    assert tokenizer.decode(tokenizer.encode("é")[:0]) == ""
    assert tokenizer.decode([tokenizer.encode("中")[0]])
    for wrong in (-1, 49408):
        with pytest.raises(ValueError, match="0 to 49407"):
            tokenizer.decode([wrong])


def test_decode_replaces_broken_utf8():
    _, numbers, spelling = oracle()
    assert tokenizer.decode([numbers[spelling[0xC3]]]) == "\ufffd"


def test_long_words_take_nearly_linear_time():
    for word in ("a" * 100_000, "é" * 50_000, "!" * 100_000):
        began = time.perf_counter()
        tokenizer.encode(word)
        # A quadratic merge takes minutes here; ours 0.3 s.
        assert time.perf_counter() - began < 10
    long = "abcdefgh" * 40
    assert tokenizer.encode(long) == slow_encode(long)


def test_cache_is_bounded(monkeypatch):
    encoder = tokenizer._Encoder()
    monkeypatch.setattr(tokenizer, "_CACHED_PIECES", 10)
    for number in range(50):
        encoder.packed(f"word{number} {'x' * 100}{number}")
        assert len(encoder) <= 10
    assert not any(len(piece) > tokenizer._CACHED_LENGTH for piece in encoder)
    assert encoder.packed("word3") == encoder.packed("word3")


def test_threads_agree():
    texts = [f"a man number{n} plays guitar{n % 7} and it's {n} o'clock" for n in range(400)]
    alone = tokenizer.tokenize(texts)
    tokenizer.forget()
    with ThreadPoolExecutor(8) as pool:
        for ids in pool.map(lambda _: tokenizer.tokenize(texts), range(8)):
            assert torch.equal(ids, alone)


def test_import_builds_nothing():
    code = "import ttvr.clip.tokenizer as t; raise SystemExit(t._encoder.cache_info().currsize)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize("from_file", [False, True])
def test_bench_compares_equal_ids(tmp_path, capsys, from_file):
    options = ["tokenize", "--texts", "60", "--rounds", "1", "--json"]
    if from_file:
        (tmp_path / "captions.txt").write_text("a café &amp; a dog\n\nUnbelievablyish things\n")
        options += ["--captions", str(tmp_path / "captions.txt")]
    assert bench.main(options) == 0
    table = json.loads(capsys.readouterr().out)
    names = [row["tokenizer"] for row in table["rows"]]
    assert names[:2] == ["published algorithm, cold", "published algorithm, warm"]
    assert names[-2:] == ["ttvr, cold", "ttvr, warm"]
    assert all(row["texts/s"] > 0 for row in table["rows"])
    assert ("2 captions" if from_file else "60 captions") in table["title"]


@pytest.mark.parametrize("wrong", [["--texts", "0"], ["--length", "1"], ["--rounds", "0"]])
def test_bench_refuses_impossible_sizes(wrong, capsys):
    assert bench.main(["tokenize", "--texts", "5", *wrong]) == 2
    assert "at least" in capsys.readouterr().err
