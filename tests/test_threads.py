"""Small models run in one thread, whichever command runs them; large ones in all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_folder import write_features
from PIL import Image
from tiny import tiny_state

import ttvr
from ttvr.commands import _threads, extract, rank
from ttvr.commands import eval as eval_command


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("threads")
    torch.save(tiny_state(vocabulary=49408), home / "clip.pt")
    write_features(home / "feats", ttvr.load(home / "clip.pt"), names={"one": "one.mp4"})
    (home / "gt.tsv").write_text("a dog\tone\n")
    (home / "videos" / "one").mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(home / "videos" / "one" / "0.png")
    return home


@pytest.fixture
def given(monkeypatch):
    """The numbers of threads that torch is told."""
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return given


def test_every_command_that_runs_a_model(home, given, tmp_path):
    weights = ["-w", str(home / "clip.pt")]
    out = ["-o", str(tmp_path / "feats")]
    assert extract.main([str(home / "videos"), *out, *weights, "--device", "cpu"]) == 0
    assert given == [1]
    feats = str(home / "feats")
    assert rank.main(["--query", "a dog", feats, "--device", "cpu"]) == 0
    assert given == [1, 1]
    assert eval_command.main([feats, "--gt", str(home / "gt.tsv"), "--device", "cpu"]) == 0
    assert given == [1, 1, 1]


def test_a_large_one_has_all(home, given, monkeypatch):
    model = ttvr.load(home / "clip.pt")
    named = model.named_parameters()
    size = sum(one.numel() for name, one in named if not name.endswith("token_embedding.weight"))
    for most, expected in ((size, []), (size + 1, [1])):
        monkeypatch.setattr(_threads, "SMALL", most)
        _threads.spare_threads(model)
        assert given == expected


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_environment_has_the_last_word(home, given, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    _threads.spare_threads(ttvr.load(home / "clip.pt"))
    assert given == []
