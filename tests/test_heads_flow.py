"""Every head with some token reducers, all the way: gradient, file, folder, ranks, measures."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from tiny import tiny_state
from tiny_training import COLORS, read

from ttvr import evaluate, extract, frames, plugins, retriever, search
from ttvr.clip import tokenizer
from ttvr.evaluate import Pairs
from ttvr.extract._inputs import Source
from ttvr.recipes import Recipe
from ttvr.records import Batch, Clip
from ttvr.store import Features
from ttvr.video import Frames, Status, VideoInfo

T, SIZE = 4, 16
NAMES = tuple(COLORS)[:4]
CAPTIONS = tuple(f"a screen that is {name}" for name in NAMES)
COUNTS = (4, 1, 3, 2)
"""Real frames of each video: the second one is without a second half."""
REDUCERS = ("none", "kmedoids@1:2,6", "patch_shift")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.pt"
    torch.save(tiny_state(image=SIZE, patch=4, vocabulary=49408), path)
    return str(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here survives a power cut, so nothing has to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def pixels_of(name):
    chosen = frames.uniform_indices(6, T)[: COUNTS[NAMES.index(name)]]
    return read(Clip(name, name), lambda n: chosen, size=SIZE)


def seen(clip, choose, *, fps, size, timeout, stop):
    pixels = pixels_of(clip.id)
    info = VideoInfo(size, size, 6.0, 1.0, 6, "drawn", 0, 0.0)
    return Frames(pixels, np.arange(len(pixels), dtype="f4"), Status("ok", 1.0, 1.0, 0), info)


def batch(length):
    pixels = torch.zeros(4, T, SIZE, SIZE, 3, dtype=torch.uint8)
    mask = torch.zeros(4, T, dtype=torch.bool)
    for row, name in enumerate(NAMES):
        made = torch.from_numpy(pixels_of(name))
        pixels[row, : len(made)], mask[row, : len(made)] = made, True
    return Batch(tokenizer.tokenize(CAPTIONS, length), pixels, mask, torch.arange(4))


def trained(start, head, reduce, **options):
    """A model after one backward pass, in evaluation mode."""
    torch.manual_seed(0)
    plan = () if reduce == "none" else (reduce,)
    settings = {"head": head, "head_options": tuple(options.items()), "reduce": plan}
    recipe = Recipe(weights=start, frames=T, words=16, **settings)
    model = retriever.build(recipe, activation="quick_gelu")
    losses = model(batch(model.text_length))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    grads = {name: tensor.grad for name, tensor in model.named_parameters()}
    # Losses at a scale of their own leave the logit scale alone.
    assert {name for name, grad in grads.items() if grad is None} <= {"clip.logit_scale"}
    assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)
    return model.eval()


def extracted(model, folder):
    """The folder of all videos, as `ttvr-extract` makes it."""
    patches = model.head.needs_patches
    options = extract.Options(T, "segment", None, patches=patches, dtype="float32")
    inputs = [
        extract.Input(Clip(name, name), Source(name, "data:colors", name, None, None))
        for name in NAMES
    ]
    extract.run(inputs, folder, retriever=model, options=options, provenance={}, read=seen)
    return Features.open(folder)


@pytest.mark.parametrize("reduce", REDUCERS)
@pytest.mark.parametrize("head", plugins.names("heads"))
def test_from_a_gradient_to_the_measures(head, reduce, start, tmp_path):
    model = trained(start, head, reduce)
    model.save(tmp_path / "run.pt")
    again = retriever.load(tmp_path / "run.pt")
    assert {**again.identity(), "source": ""} == {**model.identity(), "source": ""}
    features = extracted(again, tmp_path / "feats")
    # As the whole model scores pixels, padding included.
    with torch.inference_mode():
        text, video = model.features(batch(model.text_length))
        expected = model.head(text, video, model.scale).numpy()
    opened, unit = search.open_model(features), 1.0
    if model.head.offline:
        unit = float(model.scale.detach())  # their scores are no logits
    for row, found in enumerate(search.search(opened, features, CAPTIONS, top=4)):
        scores = {hit.id: hit.score for hit in found.hits}
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        columns = [scores[name] for name in NAMES]
        np.testing.assert_allclose(np.array(columns) * unit, expected[row], rtol=1e-4, atol=1e-3)
    result = evaluate.evaluate(
        features,
        Pairs("colors", CAPTIONS, NAMES),
        retriever=opened,
        encode=lambda texts: (
            search.encode_texts(
                opened, texts, words=opened.head.needs_words, length=opened.text_length
            ),
            0,
        ),
    )
    unit *= model.head.vector_gain  # of which evaluation takes the cosines
    np.testing.assert_allclose(result.sims * unit, expected, rtol=1e-4, atol=1e-3)
    assert result.metrics["t2v"]["queries"] == 4


@torch.no_grad()
def test_vectors_of_folders_see_the_padding_too(start, tmp_path):
    """Of a head whose vectors depend on it."""
    with torch.enable_grad():
        model = trained(start, "ts2net", "patch_shift", compat_tile_mask=True)
    features = extracted(model, tmp_path / "feats")
    video = model.features(batch(model.text_length))[1]
    vectors = model.head.vector_video(video)
    loud = video._replace(frames=video.frames + ~video.mask[..., None])
    assert not torch.allclose(model.head.vector_video(loud), vectors, atol=1e-3)
    np.testing.assert_allclose(features.video[:], vectors, atol=1e-5)
