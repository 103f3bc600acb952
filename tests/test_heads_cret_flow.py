"""CRET from training to ranking: its vectors need words and patches all the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import EMBED
from tiny_training import COLORS, data, recipe, write_start

from ttvr import evaluate, extract, metrics, search
from ttvr.commands.eval import main as eval_main
from ttvr.evaluate import Pairs
from ttvr.evaluate._normalized import Fusion
from ttvr.extract import TextOptions, find_inputs
from ttvr.records import VideoFeatures
from ttvr.retriever import load
from ttvr.score import similarity_matrix
from ttvr.store import Features
from ttvr.train import Options, train

T, CENTERS, BETA = 3, 2, 0.5
E = EMBED + CENTERS * 4
CAPTIONS = [f"a screen that is {color}" for color in COLORS]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of training, a folder of videos made with its model, one of texts."""
    home = tmp_path_factory.mktemp("cret")
    options = {"centers": CENTERS, "out_width": 4, "temporal_layers": 1, "beta": BETA}
    settings = recipe(write_start(home), head="cret", head_options=tuple(options.items()), epochs=1)
    train(settings, data(), home / "run", options=Options())
    for number, color in enumerate(COLORS.values()):
        folder = home / "clips" / list(COLORS)[number]
        folder.mkdir(parents=True)
        for frame in range(1 + number % 4):
            Image.new("RGB", (20 + frame, 16), color).save(folder / f"{frame}.png")
    model = load(home / "run" / "best.pt")
    for name, changes in (("feats", {}), ("patched", {"patches": True, "dtype": "float32"})):
        extract.run(
            find_inputs([home / "clips"]).items,
            home / name,
            retriever=model,
            options=extract.Options(frames=T, sampler="segment", fps=None)._replace(**changes),
            provenance={},
        )
    extract.run_texts(
        CAPTIONS,
        home / "texts",
        retriever=model,
        encode=lambda texts: search.encode_texts(model, texts, words=True),
        options=TextOptions(words=77),
        provenance={},
    )
    return home


@pytest.fixture(scope="module")
def model(home):
    return load(home / "run" / "best.pt")


@pytest.fixture(scope="module")
def expected(home, model):
    """[8, 8] scores from words and from stored patches, videos in the order of ids."""
    features = Features.open(home / "patched")
    text = search.encode_texts(model, CAPTIONS, words=True)
    video = VideoFeatures(features.frames, features.mask, features.patches)
    return similarity_matrix(model.head, text, video).numpy()


def test_training_tells_its_losses(home):
    lines = [json.loads(line) for line in (home / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "gees" in line]
    assert steps
    for line in steps:
        parts = line["gees"] + line["ccm"] + line["words"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)


def test_vectors_are_both_parts(home, model):
    features = Features.open(home / "feats")
    assert features.patches is None
    assert features.video.shape == (8, E)
    assert features.meta["dim"] == model.head.vector_width == E
    assert model.head.vector_gain == 1 + BETA
    assert features.mask[:].sum(1).tolist() == [
        min(T, 1 + list(COLORS).index(name) % 4) for name in features.ids
    ]


def test_ranking_gives_the_scores(home, model, expected):
    features = Features.open(home / "feats")
    for i, found in enumerate(search.search(model, features, CAPTIONS, top=8)):
        for hit in found.hits:
            score = expected[i, features.ids.index(hit.id)]
            assert hit.score == pytest.approx(score, abs=2e-3)  # stored as float16


def test_evaluation_takes_captions_or_stored_texts(home, model, expected, capsys):
    features, texts = Features.open(home / "feats"), Features.open(home / "texts")
    pairs = Pairs("colors", tuple(CAPTIONS), tuple(COLORS))
    stored = evaluate.evaluate(features, pairs, texts=texts)
    np.testing.assert_allclose((1 + BETA) * stored.sims, expected, atol=2e-3)
    pairs_file = home / "pairs.tsv"
    rows = (f"{caption}\t{color}\n" for caption, color in zip(CAPTIONS, COLORS, strict=True))
    pairs_file.write_text("".join(rows))
    command = [str(home / "feats"), "--gt", str(pairs_file), "--json"]
    assert eval_main([*command, "--save", str(home / "sims.npy")]) == 0
    sims = np.load(home / "sims.npy")
    np.testing.assert_allclose((1 + BETA) * sims, expected, atol=2e-3)
    owner = [features.ids.index(color) for color in COLORS]
    assert json.loads(capsys.readouterr().out)["t2v"] == metrics.summary(sims, owner)["t2v"]


def test_rules_take_scores_of_folders_as_those_of_the_model(home, model):
    """A score is 1 + beta times a cosine, which the folder has to tell."""
    features, sims = Features.open(home / "feats"), torch.zeros(1, 8, 8)
    alone, loaded = Fusion(features, None), Fusion(features, model)
    assert float(alone.factors(sims)) == pytest.approx((1 + BETA) * alone.scale)
    assert float(loaded.factors(sims)) == pytest.approx((1 + BETA) * float(loaded.scale))


def test_gradient_reaches_the_towers_through_both_parts(home, model):
    settings = model.recipe
    assert settings.head == "cret"
    frames, mask = torch.randn(2, 2, 3, 16, 16), torch.ones(2, 2, dtype=torch.bool)
    video = model.encode_video(frames, mask, patches=True)
    text = model.encode_text(torch.tensor([[5, 7, 49407], [5, 9, 49407]]))
    parts = model.head.losses(text, video, torch.tensor(1.0))
    for name in ("gees", "ccm"):
        grads = torch.autograd.grad(
            parts[name], [model.clip.visual.proj, model.clip.text_projection], retain_graph=True
        )
        assert all(grad.any() for grad in grads), name
