"""Words that a model was never trained on: found back from tokens, named once on stderr."""

from __future__ import annotations

import logging
import unicodedata

import pytest
import torch
from feature_folder import write_features
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import tiny_state

import ttvr
from ttvr import search
from ttvr.clip import tokenizer, weights
from ttvr.commands import eval as eval_command
from ttvr.commands import extract, rank

KNOWN = "a red circle stays on the left of 7 striped background"
STRANGE = "a striped unicorn , yes"
# Characters that Python does not know yet may be punctuation to the package `regex`.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40)


def slow_words(text):
    """Words by looking at every character, ids by encoding the text up to each place."""

    def is_mark(letter):
        return unicodedata.category(letter).startswith("P")

    found = []
    for piece in tokenizer.clean(text).split():
        first = next((at for at, letter in enumerate(piece) if not is_mark(letter)), None)
        if first is not None:
            last = max(at for at, letter in enumerate(piece) if not is_mark(letter))
            found.append(piece[first : last + 1])
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Dog's ball, (red-striped).", ["a", "dog's", "ball", "red-striped"]),
        ("a caf\u00e9 in 2022!", ["a", "caf\u00e9", "in", "2022"]),
        ("one + \U0001f436", ["one", "+", "\U0001f436"]),
        (" ... !? - ", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert [word for word, _ in tokenizer.words(text)] == expected


@given(TEXT)
def test_words_against_a_plain_loop(text):
    assert [word for word, _ in tokenizer.words(text)] == slow_words(text)


def bare(ids):
    """What ids say, without spaces and punctuation."""
    said = tokenizer.decode(ids).replace(" ", "")
    return "".join(x for x in said if not unicodedata.category(x).startswith("P"))


@given(TEXT)
@example("\u00b6\u00b3")  # of two bytes each, and the first of them is the same
def test_no_id_is_lost_but_those_of_punctuation(text):
    ids = [one for _, ids in tokenizer.words(text) for one in ids]
    assert bare(ids) == bare(tokenizer.encode(text))


def only_known(path, *, note=""):
    """A checkpoint whose table knows the tokens of KNOWN, start and end alone."""
    state = tiny_state(vocabulary=49408)
    table = torch.zeros_like(state["token_embedding.weight"])
    ids = [*tokenizer.encode(KNOWN), tokenizer.SOT, tokenizer.EOT]
    table[ids] = state["token_embedding.weight"][ids]
    weights.save({**state, "token_embedding.weight": table}, path, note=note)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("vocabulary")
    write_features(home / "feats", ttvr.load(only_known(home / "small.npz")))
    torch.save(tiny_state(vocabulary=49408), home / "full.pt")
    return home


def test_unseen_tokens(home):
    model = ttvr.load(home / "small.npz").clip
    table = model.token_embedding.weight
    slow = [row for row in range(len(table)) if not table[row].any()]
    assert model.unseen_tokens().tolist() == slow
    table.data[slow[0], -1] = 1e-3  # the first column alone does not tell
    assert model.unseen_tokens().tolist() == slow[1:]
    assert ttvr.load(home / "full.pt").clip.unseen_tokens().tolist() == []


def test_unknown_words(home):
    model = ttvr.load(home / "small.npz")
    # A word is unknown if any part of it is: 77 is two sevens, 7z has a part that is known.
    texts = ["A Dragon catches a frisbee.", "red, frisbee; circle...", KNOWN, "77", "7z"]
    assert search.unknown_words(model, texts) == ["dragon", "catches", "frisbee", "7z"]
    assert search.unknown_words(ttvr.load(home / "full.pt"), texts) == []


def test_one_line_for_all_texts(home, caplog):
    model = ttvr.load(home / "small.npz")
    with caplog.at_level(logging.WARNING):
        search.report_unknown(model, [KNOWN + "."], what="queries")
        assert not caplog.records
        many = [f"{chr(98 + n)}{chr(98 + n)}word" for n in range(11)]
        search.report_unknown(model, [*many, "q" * 200], what="queries")
    (record,) = caplog.records
    assert record.getMessage() == (
        "words of the queries that the model never saw and that mean nothing to it: "
        f"{', '.join(many[:8])} and 4 more"
    )


def test_no_word_changes_the_line(home, caplog):
    """What a terminal would not show, or would turn around, is spelt out; a cut is marked."""
    model = ttvr.load(home / "small.npz")
    with caplog.at_level(logging.WARNING):
        search.report_unknown(model, ["\u202eabc \u200b \U0001f436", "q" * 31], what="queries")
    (record,) = caplog.records
    named = record.getMessage().partition(": ")[2]
    assert named == f"\\u202eabc, \\u200b, \U0001f436, {'q' * 30}..."


def lines(capsys, code, expected=0):
    assert code == expected
    return capsys.readouterr().err.splitlines()


def test_every_command_says_it_once(home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    said = "words of the {} that the model never saw and that mean nothing to it: unicorn, yes"
    queries = tmp_path / "queries.txt"
    queries.write_text(f"{STRANGE}\n" * 70)  # more than are encoded at once
    code = rank.main([str(queries), "feats", "--device", "cpu"])
    assert lines(capsys, code) == [said.format("queries")]
    code = rank.main(["-q", str(queries), "feats", "--device", "cpu"])
    assert lines(capsys, code) == []
    code = rank.main(["--query", KNOWN, "feats", "--device", "cpu"])
    assert lines(capsys, code) == []
    (tmp_path / "gt.tsv").write_text(f"{STRANGE}\tfive\n{STRANGE}\tsix\n")
    code = eval_command.main(["feats", "--gt", str(tmp_path / "gt.tsv"), "--device", "cpu"])
    assert lines(capsys, code) == [said.format("captions")]
    code = extract.main(
        ["--text", str(queries), "-o", str(tmp_path / "t"), "-w", "small.npz", "--device", "cpu"]
    )
    assert said.format("texts") in lines(capsys, code)
