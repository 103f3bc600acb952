"""Evaluation by heads that score pairs, or that make vectors a folder does not hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from feature_folder import T, write_checkpoint, write_features
from pair_head import install
from test_search_heads import WORDS, slow_scores, write_run
from test_stored import write_texts
from tiny_training import colors, read, recipe, write_start

from ttvr import evaluate, metrics, retriever, search
from ttvr import frames as framing
from ttvr.commands.eval import main
from ttvr.evaluate import Pairs
from ttvr.loader import Wanted, stacked
from ttvr.records import Twin, VideoFeatures
from ttvr.store import Features
from ttvr.train import validate

CAPTIONS = ["a dog", "two dogs play with a ball", "a cat", "a dog"]
VIDEOS = ["five", "six", "a/one", "seven"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("eval")
    write_checkpoint(home / "clip.pt")
    model = retriever.load(home / "clip.pt")
    write_features(home / "feats", model)
    lines = zip(CAPTIONS, VIDEOS, strict=True)
    (home / "pairs.tsv").write_text("".join(f"{text}\t{video}\n" for text, video in lines))
    return home


@pytest.fixture
def pairs(home, monkeypatch):
    install(monkeypatch)
    return write_run(home / "pairs.pt", home / "clip.pt", "pair_head")


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("memory", ["1M", "1G"])
def test_pairs_are_scored_at_the_models_scale(home, pairs, capsys, tmp_path, memory):
    features, model = Features.open(home / "feats"), retriever.load(pairs)
    options = ("--json", "--save", tmp_path / "sims.npy", "--memory", memory)
    code, out, _ = run(capsys, home / "feats", "--gt", home / "pairs.tsv", "-w", pairs, *options)
    assert code == 0
    sims = np.load(tmp_path / "sims.npy")
    expected = [slow_scores(model, features, text) for text in CAPTIONS]
    np.testing.assert_allclose(sims, expected, rtol=1e-5, atol=1e-4)
    assert np.abs(sims).max() > 2
    owner = [features.ids.index(video) for video in VIDEOS]
    found = json.loads(out)
    assert found["t2v"] == metrics.summary(sims, owner)["t2v"]
    # What scored is named, not what made the folder.
    assert found["protocol"]["model"] == model.identity()
    assert found["protocol"]["model"]["head"] == "pair_head"


def test_twins_tie_at_the_scale_of_the_scores(home, pairs, monkeypatch):
    """What rounding does to cosines it does to logits, times the scale."""
    features, model = Features.open(home / "feats"), retriever.load(pairs)
    truth = Pairs("p", tuple(CAPTIONS), tuple(VIDEOS))
    truth = truth._replace(twins={VIDEOS[0]: Twin("tab\there", "x")})
    for apart, share in ((0.9, 1.0), (1.1, 0.0)):
        sims = np.zeros((len(CAPTIONS), len(features.ids)), np.float32)
        sims[:, features.ids.index(VIDEOS[0])] = (
            apart * evaluate.TOLERANCE * float(model.scale.detach())
        )
        monkeypatch.setattr(evaluate, "scores", lambda *given, memory, sims=sims: (sims, 0))
        found = evaluate.evaluate(features, truth, retriever=model)
        assert found.metrics["twins"]["tie_fraction"] == share


def test_stored_texts_give_the_same(home, pairs, tmp_path):
    features, model = Features.open(home / "feats"), retriever.load(pairs)
    texts = write_texts(
        tmp_path / "texts", retriever.load(home / "clip.pt"), words=12, texts=CAPTIONS[:3]
    )
    truth = Pairs("p", tuple(CAPTIONS), tuple(VIDEOS))
    found = evaluate.evaluate(features, truth, retriever=model, texts=texts)
    expected = [slow_scores(model, features, text) for text in CAPTIONS]
    np.testing.assert_allclose(found.sims, expected, rtol=1e-5, atol=1e-4)
    small = evaluate.evaluate(features, truth, retriever=model, texts=texts, memory=1)
    np.testing.assert_allclose(small.sims, expected, rtol=1e-5, atol=1e-4)


def test_vectors_of_another_head_are_made_of_frames(home, capsys, tmp_path):
    features = Features.open(home / "feats")
    transf = write_run(tmp_path / "run.pt", home / "clip.pt", "seq_transf")
    model = retriever.load(transf)
    truth = (home / "feats", "--gt", home / "pairs.tsv", "-w", transf)
    code, _, _ = run(capsys, *truth, "--save", tmp_path / "sims.npy")
    assert code == 0
    frames = torch.from_numpy(features.frames[:]).float()
    video = VideoFeatures(frames, torch.from_numpy(features.mask[:]), None)
    with torch.inference_mode():
        text = search.encode_texts(model, CAPTIONS)
        expected = model.head.vector_text(text) @ model.head.vector_video(video).T
    np.testing.assert_allclose(np.load(tmp_path / "sims.npy"), expected.numpy(), atol=1e-5)
    # Of texts that are stored too.
    write_texts(tmp_path / "texts", retriever.load(home / "clip.pt"), words=12, texts=CAPTIONS)
    stored = ("--text-features", tmp_path / "texts", "--save", tmp_path / "again.npy")
    assert run(capsys, *truth, *stored)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), expected.numpy(), atol=1e-5)
    write_features(tmp_path / "own", model)
    code, _, _ = run(capsys, tmp_path / "own", *truth[1:], "--save", tmp_path / "own.npy")
    assert code == 0
    # In that folder they are stored as float16.
    np.testing.assert_allclose(np.load(tmp_path / "own.npy"), expected.numpy(), atol=2e-3)
    stored = ("--text-features", tmp_path / "texts", "--save", tmp_path / "both.npy")
    assert run(capsys, tmp_path / "own", "--gt", home / "pairs.tsv", *stored)[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "both.npy"), expected.numpy(), atol=2e-3)


def test_a_head_without_weights_or_frames_is_refused(home, pairs, capsys, tmp_path):
    truth = ("--gt", home / "pairs.tsv")
    code, _, err = run(capsys, home / "feats", *truth, "--head", "pair_head")
    assert code == 4
    assert "no weights for the head pair_head" in err
    model = retriever.load(home / "clip.pt")
    write_features(tmp_path / "bare", model, without=("frames", "patches"))
    code, _, err = run(capsys, tmp_path / "bare", *truth, "-w", pairs)
    assert code == 4
    assert "needs frames" in err
    assert "ttvr-extract /clips" in err


@pytest.mark.parametrize("name", ["pair_head", "seq_lstm"])
def test_validation_scores_as_evaluation_does(name, tmp_path, monkeypatch):
    install(monkeypatch)
    torch.manual_seed(0)
    model = retriever.build(recipe(write_start(tmp_path), head=name, words=WORDS, frames=T))
    split, seen, summary = colors("val", 3), [], metrics.summary
    monkeypatch.setattr(
        metrics, "summary", lambda sims, owner: seen.append(sims) or summary(sims, owner)
    )
    validate(model, split, read)
    assert model.training
    model.eval()
    wanted = (Wanted(clip, lambda n: framing.uniform_indices(n, T)) for clip in split.clips)
    size, is_pairs = model.clip.image_size, name == "pair_head"
    with torch.inference_mode():
        (batch,) = stacked(wanted, read, at_once=99, frames=T, size=size)
        video = model.encode_pixels(*batch)
        text = search.encode_texts(
            model, split.captions, words=is_pairs, length=WORDS if is_pairs else 77
        )
        scale = model.clip.logit_scale.exp() if is_pairs else 1.0
        expected = model.head(text, video, scale * torch.ones(()))
    np.testing.assert_allclose(seen[0], expected.numpy(), rtol=1e-5, atol=1e-5)
