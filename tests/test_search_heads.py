"""Ranking a folder by other heads than the one that wrote it, and by heads that score pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_folder import NAMES, PAD, T, write_checkpoint, write_features
from pair_head import PairHead, install
from tiny import EMBED

import ttvr
from ttvr import retriever, search
from ttvr.clip import tokenizer
from ttvr.commands.rank import main
from ttvr.errors import IncompatibleError, UsageError
from ttvr.recipes import Recipe
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.search import _gallery
from ttvr.store import Features

WORDS = 8
QUERIES = [
    "a man rides a horse",
    "dogs",
    "somebody cooks an egg in a small kitchen while it rains outside",
]


def write_run(path, start, head, *, seed=0, **settings):
    """A run that trained the head alone, of random weights here."""
    torch.manual_seed(seed)
    settings = {"words": WORDS, "frames": T, **settings}
    made = retriever.build(Recipe(weights=str(start), head=head, **settings))
    with torch.no_grad():
        for tensor in made.head.parameters():
            tensor.add_(torch.randn(tensor.shape), alpha=0.3)
    made.save(path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("heads")
    write_checkpoint(home / "clip.pt")
    write_checkpoint(home / "other.pt", seed=1)
    model = retriever.load(home / "clip.pt")
    write_features(home / "feats", model)
    write_features(home / "whole", model, without=())
    write_features(home / "bare", model, without=("frames", "patches"))
    return home


@pytest.fixture
def pairs(home, monkeypatch):
    """A run of a head that scores pairs."""
    install(monkeypatch)
    return write_run(home / "pairs.pt", home / "clip.pt", "pair_head")


@pytest.fixture
def transf(home):
    options = (("layers", 1),)
    return write_run(home / "transf.pt", home / "clip.pt", "seq_transf", head_options=options)


def slow_scores(model, features, text, padding=PAD):
    """Of a head without a mask: padding is what the encoder makes of it, words there are many."""
    with torch.inference_mode():
        made = model.encode_text(tokenizer.tokenize([text], WORDS))
        scores = []
        for row in range(len(features)):
            frames = features.frames[row].astype(np.float32)
            frames[~features.mask[row]] = padding.astype(np.float16)
            mask = torch.from_numpy(features.mask[[row]])
            video = VideoFeatures(torch.from_numpy(frames)[None], mask, None)
            scores.append(float(model.head(made, video, model.clip.logit_scale.exp())))
    return scores


def slow_order(scores, rows=None):
    rows = range(len(scores)) if rows is None else rows
    return sorted(rows, key=lambda row: (-scores[row], row))


def rows_of(features, hits):
    return [features.ids.index(hit.id) for hit in hits.hits]


def test_pairs_are_scored_by_the_head_at_the_scale(home, pairs):
    features, model = Features.open(home / "feats"), ttvr.load(pairs)
    found = ttvr.rank(QUERIES, home / "feats", 4, weights=pairs)
    assert model.text_length == WORDS
    for hits in found:
        scores = slow_scores(model, features, hits.text)
        rows = rows_of(features, hits)
        assert rows == slow_order(scores)[:4]
        assert [hit.score for hit in hits.hits] == pytest.approx([scores[row] for row in rows])
        assert [hit.rank for hit in hits.hits] == [1, 2, 3, 4]
        assert all(hit.time is not None for hit in hits.hits)


def test_the_folder_and_the_encoder_pad_alike(home, pairs):
    """What the folder fills in is what heads saw in training."""
    model = ttvr.load(pairs)
    frames, mask = torch.randn(2, T, 3, 32, 32), torch.tensor([[True, False, False], [True] * 3])
    frames[~mask] = 0
    with torch.inference_mode():
        made = model.encode_video(frames, mask, patches=True)
    torch.testing.assert_close(made.frames[0, 1], model.pad_frame())
    torch.testing.assert_close(made.patches[0, 1], model.pad_patches())
    plain = VideoFeatures(*(field[:1] for field in made))
    emptied = plain._replace(frames=plain.frames * mask[:1, :, None])
    text = model.encode_text(tokenizer.tokenize(["a dog"], WORDS))
    scored = [model.head(text, video, model.scale) for video in (plain, emptied)]
    assert not torch.allclose(*scored)


@pytest.mark.parametrize("rerank", [3, 5])
def test_candidates_come_from_the_vectors_of_meanp(home, pairs, rerank):
    features, model = Features.open(home / "feats"), ttvr.load(pairs)
    found = ttvr.rank(QUERIES, home / "feats", 3, weights=pairs, rerank=rerank)
    for hits in found:
        with torch.inference_mode():
            made = model.encode_text(tokenizer.tokenize([hits.text], WORDS))
        sentence = made.sentence[0].double().numpy()
        cosines = features.video[:].astype(np.float64) @ sentence
        nearest = slow_order(cosines)[:rerank]
        scores = slow_scores(model, features, hits.text)
        assert rows_of(features, hits) == slow_order(scores, nearest)[:3]


def test_all_candidates_are_all_videos(home, pairs):
    every = ttvr.rank(QUERIES, home / "feats", 5, weights=pairs)
    assert ttvr.rank(QUERIES, home / "feats", 5, weights=pairs, rerank=99) == every
    few = ttvr.rank(QUERIES, home / "feats", 2, weights=pairs)
    assert [hits.hits for hits in few] == [hits.hits[:2] for hits in every]
    for memory in (1 << 20, 1):
        again = ttvr.rank(QUERIES, home / "feats", 5, weights=pairs, memory=memory)
        for hits, other in zip(again, every, strict=True):
            assert [hit.id for hit in hits.hits] == [hit.id for hit in other.hits]


def test_equal_videos_come_in_the_order_of_rows(home, pairs, tmp_path):
    names = {name: f"{name}.mp4" for name in "zyxw"}
    model = ttvr.load(home / "clip.pt")
    write_features(tmp_path / "feats", model, names=names, copies=tuple("zyxw"))
    for rerank in (None, 4):
        (hits,) = ttvr.rank(["a dog"], tmp_path / "feats", 4, weights=pairs, rerank=rerank)
        assert [hit.id for hit in hits.hits] == list("zyxw")
        assert len({hit.score for hit in hits.hits}) == 1


def test_candidates_come_from_the_heads_own_vectors_where_there_are_some(
    home, pairs, tmp_path, monkeypatch
):
    """In a folder that it wrote itself, and where one that is not meanP wrote it."""
    model = ttvr.load(pairs)
    write_features(tmp_path / "own", model)
    asked = []
    vectors = _gallery.video_vectors
    monkeypatch.setattr(
        _gallery, "video_vectors", lambda *given, **rest: asked.append(1) or vectors(*given, **rest)
    )
    own = ttvr.rank(QUERIES, tmp_path / "own", 3, weights=pairs, rerank=4)
    assert not asked
    transf = write_run(tmp_path / "t.pt", home / "clip.pt", "seq_transf", frames=T)
    write_features(tmp_path / "transf", ttvr.load(transf))
    other = ttvr.rank(QUERIES, tmp_path / "transf", 3, weights=pairs, rerank=4)
    assert asked == [1]
    for hits, same in zip(own, other, strict=True):
        assert [hit.id for hit in hits.hits] == [hit.id for hit in same.hits]


def test_many_queries_are_asked_together_as_memory_allows(home, pairs, monkeypatch):
    model, features = ttvr.load(pairs), Features.open(home / "feats")
    asked = []
    top_pairs = _gallery.top_pairs
    monkeypatch.setattr(
        _gallery,
        "top_pairs",
        lambda *given, **rest: asked.append(len(given[1].sentence)) or top_pairs(*given, **rest),
    )
    queries = [f"{QUERIES[n % 3]} {n}" for n in range(30)]
    expected = list(search.search(model, features, queries))
    assert asked == [30]
    each = 4 * 8 * 4 * (1 + WORDS) * EMBED
    found = list(search.search(model, features, queries, memory=8 * each))
    assert asked == [30, 8, 8, 8, 6]
    for hits, other in zip(found, expected, strict=True):
        assert hits.text == other.text
        assert [hit.id for hit in hits.hits] == [hit.id for hit in other.hits]


def test_long_queries_are_cut_to_what_the_head_takes(home, pairs, caplog):
    with caplog.at_level("WARNING", logger="ttvr"):
        ttvr.rank(QUERIES, home / "feats", weights=pairs)
    assert "1 of 3 queries have more than 8 tokens" in caplog.text


def test_another_head_with_vectors_makes_its_own(home, transf):
    """A head trained on the frames of a folder that meanP wrote."""
    features, model = Features.open(home / "feats"), ttvr.load(transf)
    found = ttvr.rank(QUERIES, home / "feats", 7, weights=transf)
    frames = torch.from_numpy(features.frames[:]).float()
    video = VideoFeatures(frames, torch.from_numpy(features.mask[:]), None)
    for hits in found:
        with torch.inference_mode():
            made = model.encode_text(tokenizer.tokenize([hits.text]))
            cosines = (model.head.vector_text(made) @ model.head.vector_video(video).T)[0]
        assert rows_of(features, hits) == slow_order(cosines.tolist())
        assert hits.hits[0].score == pytest.approx(float(cosines.max()), abs=1e-6)
    plain = ttvr.rank(QUERIES, home / "feats", 7)
    assert [hits.hits[0].score for hits in plain] != [hits.hits[0].score for hits in found]
    again = ttvr.rank(QUERIES, home / "feats", 7, weights=transf, head="meanp")
    assert again == plain


class OnWords(PairHead):
    """One vector per text, made of words at all positions, and of patches on the other side."""

    offline = True
    needs_patches = True

    def vector_text(self, text):
        assert text.words.shape[1] == WORDS
        mean = text.words.mean(dim=1) @ self.mix
        return mean / mean.norm(dim=1, keepdim=True)

    def vector_video(self, video):
        mean = video.patches.mean(dim=(1, 2)) + video.frames.mean(dim=1)
        return mean / mean.norm(dim=1, keepdim=True)


def test_a_head_with_vectors_of_words_and_patches(home, tmp_path, monkeypatch):
    install(monkeypatch, OnWords)
    run = write_run(tmp_path / "run.pt", home / "clip.pt", "pair_head")
    model, features = ttvr.load(run), Features.open(home / "whole")
    found = ttvr.rank(QUERIES, home / "whole", 7, weights=run)
    frames, patches = (torch.from_numpy(x[:]).float() for x in (features.frames, features.patches))
    mask = torch.from_numpy(features.mask[:])
    frames[~mask] = torch.from_numpy(features.pad).float()
    patches[~mask] = model.pad_patches().half().float()
    with torch.inference_mode():
        vectors = model.head.vector_video(VideoFeatures(frames, mask, patches))
        for hits in found:
            made = model.encode_text(tokenizer.tokenize([hits.text], WORDS))
            cosines = (model.head.vector_text(made) @ vectors.T)[0]
            assert rows_of(features, hits) == slow_order(cosines.tolist())
    with pytest.raises(IncompatibleError, match=r"needs patches, which .*feats does not hold"):
        ttvr.rank(QUERIES, home / "feats", weights=run)


def test_what_cannot_be_ranked_is_refused(home, pairs, tmp_path):
    with pytest.raises(IncompatibleError, match=r"bare .*again|ttvr-extract /clips") as caught:
        ttvr.rank(QUERIES, home / "bare", weights=pairs)
    assert caught.value.exit_code == 4
    assert "--overwrite" in str(caught.value)
    other = write_run(tmp_path / "other-run.pt", home / "other.pt", "pair_head")
    with pytest.raises(IncompatibleError, match=r"clip\.pt.*other-run\.pt") as caught:
        ttvr.rank(QUERIES, home / "feats", weights=other)
    with pytest.raises(IncompatibleError, match="no weights for the head pair_head") as caught:
        ttvr.rank(QUERIES, home / "feats", head="pair_head")
    assert caught.value.exit_code == 4
    for hint in ("1024 parameters", "ttvr-train --head pair_head"):
        assert hint in str(caught.value)
    with pytest.raises(UsageError, match="rerank 3: hits are candidates, so at least the top 10"):
        ttvr.rank(QUERIES, home / "feats", weights=pairs, rerank=3)
    with pytest.raises(UsageError, match="--rerank: a score of meanp is one inner product"):
        ttvr.rank(QUERIES, home / "feats", rerank=10)


class Fixed(PairHead):
    fixed_frames = True


class Demanding(PairHead):
    needs_patches = True
    least_patches = 17


def test_a_folder_of_another_number_is_refused(home, tmp_path, monkeypatch):
    install(monkeypatch, Fixed)
    run = write_run(tmp_path / "fixed.pt", home / "clip.pt", "pair_head", frames=4)
    with pytest.raises(IncompatibleError, match=r"made for 4 frames .*feats has 3 of each"):
        ttvr.rank(QUERIES, home / "feats", weights=run)
    install(monkeypatch, type("Small", (Demanding,), {"least_patches": 1}))
    run = write_run(tmp_path / "patches.pt", home / "clip.pt", "pair_head")
    assert ttvr.rank(QUERIES, home / "whole", weights=run)
    install(monkeypatch, Demanding)
    with pytest.raises(IncompatibleError, match=r"needs 17 patches .*whole has 16"):
        ttvr.rank(QUERIES, home / "whole", weights=run)


def test_the_command(home, pairs, monkeypatch, capsys):
    monkeypatch.chdir(home)
    query = ("--query", QUERIES[0], "feats", "-w", "pairs.pt", "-k", "3", "--device", "cpu")
    assert main([*query, "--memory", "2M"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    (hits,) = ttvr.rank(QUERIES[:1], "feats", 3, weights=pairs)
    assert [line[2] for line in lines] == [f"{hit.score:.4f}" for hit in hits.hits]
    assert main([*query, "--rerank", "4"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    (hits,) = ttvr.rank(QUERIES[:1], "feats", 3, weights=pairs, rerank=4)
    assert [line[2] for line in lines] == [f"{hit.score:.4f}" for hit in hits.hits]
    assert main([*query, "--rerank", "2"]) == 2
    assert "--rerank 2: hits are candidates, so at least -k 3" in capsys.readouterr().err
    assert main([*query[:2], "bare", *query[3:]]) == 4
    assert "ttvr-extract /clips -o bare -w " in capsys.readouterr().err
    assert main([*query[:3], "--head", "pair_head"]) == 4
    assert main([*query, "--head", "meanp"]) == 0
    capsys.readouterr()
    for text in ("512K", "x", "1X", "-1G", ""):
        with pytest.raises(SystemExit) as stop:
            main([*query, f"--memory={text}"])
        assert stop.value.code == 2
        assert "no amount of memory of 1M or more" in capsys.readouterr().err


def test_all_videos_are_found(home, pairs):
    (hits,) = ttvr.rank(QUERIES[:1], home / "feats", 99, weights=pairs)
    assert {hit.id for hit in hits.hits} == set(NAMES)


def test_texts_are_read_as_the_head_takes_them(home, pairs):
    """Padded positions count, and their features are those of id 0."""
    model = ttvr.load(pairs)
    made = search.encode_texts(model, ["dogs"], words=True, length=model.text_length)
    assert made.words.shape == (1, WORDS, EMBED)
    cut = TextFeatures(made.sentence, made.words[:, :3], made.mask[:, :3])
    video = VideoFeatures(torch.randn(1, T, EMBED), torch.ones(1, T, dtype=torch.bool), None)
    scores = [model.head(text, video, model.scale) for text in (made, cut)]
    assert not torch.allclose(*scores)
