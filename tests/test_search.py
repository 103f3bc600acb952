"""Ranking a folder against a slow loop over its rows; encoding in buckets against one text each."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from feature_folder import NAMES, write_features, write_home

import ttvr
from ttvr import search
from ttvr.clip import tokenizer
from ttvr.errors import IncompatibleError, RequirementError, TtvrError, UsageError
from ttvr.search import _gallery
from ttvr.store import Features

QUERIES = [
    "a man rides a horse",
    "dogs",
    "somebody cooks an egg in a small kitchen while it rains outside",
    "a caf\u00e9, two cups",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("search")
    write_home(home)
    return home


@pytest.fixture(scope="module")
def model(home):
    return ttvr.load(home / "clip.pt")


def sentence_of(model, text):
    with torch.inference_mode():
        made = model.encode_text(tokenizer.tokenize([text])).sentence[0].double().numpy()
    return made / np.linalg.norm(made)


def slow_hits(model, features, text):
    """(score, row, time) best first, one row at a time."""
    sentence = sentence_of(model, text)
    found = []
    for row in range(len(features)):
        score = float(features.video[row].astype(np.float64) @ sentence)
        cosines = {
            float(time): float(frame @ sentence / np.linalg.norm(frame))
            for frame, time, real in zip(
                features.frames[row].astype(np.float64),
                features.times[row],
                features.mask[row],
                strict=True,
            )
            if real
        }
        found.append((score, row, max(cosines, key=cosines.get)))
    return sorted(found, key=lambda hit: -hit[0])


def test_rank_against_a_loop(home, model):
    features = Features.open(home / "feats")
    found = ttvr.rank(QUERIES, str(home / "feats"), top=4)
    assert [hits.query for hits in found] == [0, 1, 2, 3]
    assert [hits.text for hits in found] == QUERIES
    paths = list(NAMES.values())
    for hits in found:
        expected = slow_hits(model, features, hits.text)[:4]
        assert [hit.rank for hit in hits.hits] == [1, 2, 3, 4]
        for hit, (score, row, time) in zip(hits.hits, expected, strict=True):
            assert hit.id == features.ids[row]
            assert hit.path == f"/clips/{paths[row]}"
            assert hit.score == pytest.approx(score, abs=1e-6)
            assert -1 <= hit.score <= 1
            assert hit.time == time


def test_top_5_is_a_prefix_of_top_15(home):
    short = ttvr.rank(QUERIES, home / "feats", 5)
    long = ttvr.rank(QUERIES, home / "feats", 15)
    assert [hits.hits for hits in short] == [hits.hits[:5] for hits in long]
    assert len(long[0].hits) == len(NAMES)


def test_many_queries_come_in_order_and_as_they_are_known(home, model, monkeypatch):
    features = Features.open(home / "feats")
    queries = [f"{QUERIES[n % 4]} {n}" for n in range(11)]
    expected = list(search.search(model, features, queries))
    monkeypatch.setattr(_gallery, "QUERIES_AT_ONCE", 4)
    asked = []
    top_k = _gallery.top_k

    def watched(*args):
        asked.append(args)
        return top_k(*args)

    monkeypatch.setattr(_gallery, "top_k", watched)
    found = search.search(model, features, queries, ids=[str(n) for n in range(11)])
    first = next(found)
    assert len(asked) == 1
    rest = [first, *found]
    assert [hits.id for hits in rest] == [str(n) for n in range(11)]
    for hits, other in zip(rest, expected, strict=True):
        assert hits.text == other.text
        assert [hit.id for hit in hits.hits] == [hit.id for hit in other.hits]


def test_equal_videos_come_in_the_order_of_rows(home, model, tmp_path):
    names = {name: f"{name}.mp4" for name in "zyxw"}
    write_features(tmp_path / "feats", model, names=names, copies=tuple("zyxw"))
    (hits,) = ttvr.rank(["a dog"], tmp_path / "feats")
    assert [hit.id for hit in hits.hits] == list("zyxw")
    assert len({hit.score for hit in hits.hits}) == 1


def test_the_gain_of_a_head_is_in_the_scores(home, model, monkeypatch):
    features = Features.open(home / "feats")
    plain = list(search.search(model, features, QUERIES))
    monkeypatch.setattr(model.head, "vector_gain", 2.0)
    for hits, once in zip(search.search(model, features, QUERIES), plain, strict=True):
        assert [hit.score for hit in hits.hits] == [2 * hit.score for hit in once.hits]
        assert [hit.id for hit in hits.hits] == [hit.id for hit in once.hits]


def test_no_time_without_frames(home, model, tmp_path):
    write_features(tmp_path / "feats", model, without=("frames", "patches"))
    (hits,) = ttvr.rank(["a dog"], tmp_path / "feats", 3)
    assert [hit.time for hit in hits.hits] == [None] * 3


def test_a_folder_without_videos_is_an_error(model, tmp_path):
    write_features(tmp_path / "feats", model, names={})
    with pytest.raises(TtvrError, match="feats holds no videos") as caught:
        ttvr.rank(["a dog"], tmp_path / "feats")
    assert caught.value.exit_code == 1


def test_weights_that_did_not_make_the_features_are_refused(home):
    with pytest.raises(IncompatibleError, match=r"clip\.pt.*other\.pt") as caught:
        ttvr.rank(QUERIES, home / "feats", weights=home / "other.pt")
    assert caught.value.exit_code == 4
    with pytest.raises(IncompatibleError, match=r"quick_gelu.* gelu"):
        ttvr.rank(QUERIES, home / "feats", weights=home / "clip.pt", activation="gelu")


def test_a_copy_of_the_weights_elsewhere_fits(home, tmp_path):
    copy = tmp_path / "moved.pt"
    copy.write_bytes((home / "clip.pt").read_bytes())
    assert ttvr.rank(QUERIES, home / "feats", weights=copy) == ttvr.rank(QUERIES, home / "feats")


def test_weights_that_are_gone_are_a_missing_requirement(home, tmp_path):
    feats = tmp_path / "feats"
    feats.mkdir()
    for path in (home / "feats").rglob("*"):
        target = feats / path.relative_to(home / "feats")
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    meta = json.loads((feats / "meta.json").read_text())
    meta["model"]["source"] = str(tmp_path / "gone.pt")
    (feats / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(RequirementError, match=r"gone\.pt"):
        ttvr.rank(QUERIES, feats)


def test_one_sentence_is_not_a_list_of_letters(home):
    with pytest.raises(ValueError, match="list of sentences"):
        ttvr.rank("a dog", home / "feats")


def test_long_queries_are_cut_and_counted_or_refused(home, model, caplog):
    features = Features.open(home / "feats")
    queries = ["a dog", "very " * 90 + "long"]
    with caplog.at_level("WARNING", logger="ttvr"):
        cut = list(search.search(model, features, queries))
    assert "1 of 2 queries have more than 77 tokens" in caplog.text
    ids = tokenizer.tokenize(queries[1:])
    assert int(ids[0, 76]) == 49407
    assert len(cut[1].hits) == len(NAMES)
    with pytest.raises(UsageError, match="number 1, 'very"):
        search.search(model, features, queries, on_long="error")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_buckets_give_what_one_text_at_a_time_gives(model, batch_size):
    texts = [f"{'word ' * (n * 7 % 23)}end {n}" for n in range(20)] + ["", "x " * 200]
    found = search.encode_texts(model, texts, batch_size=batch_size)
    assert found.words.shape == (22, 0, 32)
    assert found.mask.shape == (22, 0)
    full = search.encode_texts(model, texts, batch_size=batch_size, words=True)
    assert full.words.shape == (22, 77, 32)
    short = search.encode_texts(model, texts, batch_size=batch_size, words=True, length=12)
    with torch.inference_mode():
        for row, text in enumerate(texts):
            alone = model.encode_text(tokenizer.tokenize([text]))
            assert torch.allclose(found.sentence[row], alone.sentence[0], atol=2e-6)
            assert torch.allclose(full.sentence[row], alone.sentence[0], atol=2e-6)
            assert torch.allclose(full.words[row], alone.words[0], atol=2e-6)
            assert torch.equal(full.mask[row], alone.mask[0])
            alone = model.encode_text(tokenizer.tokenize([text], 12))
            assert torch.allclose(short.words[row], alone.words[0], atol=2e-6)
            assert torch.equal(short.mask[row], alone.mask[0])


def test_buckets_hold_texts_of_like_length(model, monkeypatch):
    lengths = []
    encode = model.encode_text

    def watched(ids):
        lengths.append(ids.shape[1])
        return encode(ids)

    monkeypatch.setattr(model, "encode_text", watched)
    search.encode_texts(model, ["a " * n for n in (30, 1, 2, 31, 3, 29)], batch_size=3)
    assert lengths == [5, 33]


def test_no_texts(model):
    assert search.encode_texts(model, []).sentence.shape == (0, 32)


@pytest.mark.parametrize(
    ("queries", "options", "match"),
    [
        (["a dog", " "], {}, "query 1 is blank"),
        (["a dog"], {"top": 0}, "top and memory are at least 1, got 0"),
        (["a dog"], {"memory": 0}, "top and memory are at least 1"),
    ],
)
def test_what_nobody_can_look_for(queries, options, match, home, model):
    with pytest.raises(UsageError, match=match):
        search.search(model, Features.open(home / "feats"), queries, **options)
