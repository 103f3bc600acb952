"""Rows of a folder as models see them, and the command that makes a folder again."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch
from feature_folder import P, T, write_checkpoint, write_features
from pair_head import install
from tiny import EMBED

from ttvr import extract, retriever, search
from ttvr.commands.extract import main
from ttvr.errors import IncompatibleError
from ttvr.recipes import Recipe
from ttvr.store import Chosen, Features, Padded, Rows, extract_again

TEXTS = ["a dog", "two dogs play with a ball", "a cat"]


def rows(*shape, seed=0, dtype="<f2"):
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Rows([values[:3], values[3:]]), values


@pytest.mark.parametrize("trailing", [(4,), (2, 4)])
@pytest.mark.parametrize("key", [slice(None), slice(2, 5), [4, 0, 4], np.array([1]), slice(0, 0)])
def test_padding_is_filled_in(trailing, key):
    stored, values = rows(7, 3, *trailing)
    mask = np.arange(3) <= np.arange(7)[:, None] % 3
    pad = np.random.default_rng(1).standard_normal(trailing).astype("f4")
    expected = values.copy()
    for n in range(7):
        for t in range(3):
            if not mask[n, t]:
                expected[n, t] = pad
    found = Padded(stored, Rows([mask[:3], mask[3:]]), pad)
    np.testing.assert_array_equal(found[key], expected[key])
    assert found[key].dtype == values.dtype
    assert len(found) == 7
    assert found.shape == (7, 3, *trailing)


@pytest.mark.parametrize("key", [slice(None), slice(1, 3), [2, 0], slice(0, 0)])
def test_rows_are_chosen(key):
    stored, values = rows(7, 5, 4)
    found = Chosen(stored, [6, 0, 3, 3], 2)
    np.testing.assert_array_equal(found[key], values[[6, 0, 3, 3]][:, :2][key])
    assert (len(found), found.shape) == (4, (4, 2, 4))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("stored")
    write_checkpoint(home / "clip.pt")
    return home


@pytest.fixture
def pairs(home, monkeypatch):
    """A model whose head takes eight tokens of a text."""
    install(monkeypatch)
    recipe = Recipe(weights=str(home / "clip.pt"), head="pair_head", words=8, frames=T)
    return retriever.build(recipe).eval()


def write_texts(folder, model, *, words, texts=TEXTS):
    extract.run_texts(
        texts,
        folder,
        retriever=model,
        encode=lambda some: search.encode_texts(model, some, words=True, length=words),
        options=extract.TextOptions(words, dtype="float32"),
        provenance={},
    )
    return Features.open(folder)


@pytest.mark.parametrize("words", [8, 12])
def test_texts_are_as_the_model_encodes_them(home, pairs, words, tmp_path):
    texts = write_texts(tmp_path / "texts", retriever.load(home / "clip.pt"), words=words)
    found = retriever.stored_texts(pairs, texts, [2, 0, 1, 0])
    expected = search.encode_texts(pairs, [TEXTS[at] for at in (2, 0, 1, 0)], words=True, length=8)
    torch.testing.assert_close(found.sentence, expected.sentence)
    np.testing.assert_allclose(found.words[:], expected.words.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.mask[:], expected.mask.numpy())
    plain = retriever.stored_texts(retriever.load(home / "clip.pt"), texts, [1])
    assert plain.words[:].shape == (1, 0, EMBED)
    torch.testing.assert_close(plain.sentence, expected.sentence[2:3])


def test_texts_of_another_length_are_refused(home, pairs, tmp_path):
    model = retriever.load(home / "clip.pt")
    short = write_texts(tmp_path / "short", model, words=5)
    with pytest.raises(
        IncompatibleError, match=r"takes texts of 8 tokens, .*short has 5 posit.*8`"
    ):
        retriever.stored_texts(pairs, short, [0])
    long = write_texts(tmp_path / "long", model, words=12, texts=[*TEXTS, "a " * 9])
    assert len(retriever.stored_texts(pairs, long, [0, 1]).sentence) == 2
    with pytest.raises(IncompatibleError, match="has a text of 11 tokens"):
        retriever.stored_texts(pairs, long, [0, 3])


def test_the_command_stores_what_its_head_takes(home, pairs, tmp_path, capsys):
    pairs.save(tmp_path / "run.pt")
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    command = ["--text", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "t"), "-q"]
    assert main([*command, "-w", str(tmp_path / "run.pt")]) == 0
    texts = Features.open(tmp_path / "t")
    assert texts.words.shape == (3, 8, EMBED)
    assert retriever.has_own_vectors(pairs, texts)
    assert main([*command, "-w", str(tmp_path / "run.pt"), "--words", "9", "--overwrite"]) == 2
    assert "--words 9: the head pair_head takes 8" in capsys.readouterr().err
    assert main([*command, "-w", str(home / "clip.pt"), "--overwrite"]) == 0
    assert Features.open(tmp_path / "t").words.shape == (3, 77, EMBED)


def again(tmp_path, home, argv, *lacking, without=("patches",)):
    model = retriever.load(home / "clip.pt")
    write_features(tmp_path / "feats", model, without=without, argv=argv)
    return extract_again(Features.open(tmp_path / "feats"), lacking=lacking)


@pytest.mark.parametrize("program", ["/x/bin/ttvr-extract", "/x/ttvr/__main__.py extract"])
def test_the_command_that_made_a_folder_is_said_again(home, tmp_path, program):
    typed = f"{program} 'my videos' -o feats --no-frames --frames 3"
    found = again(tmp_path, home, typed, "frames", without=("frames", "patches"))
    assert found == "ttvr-extract 'my videos' -o feats --frames 3 --overwrite"
    typed = f"{program} v -o feats --no-patches --overwrite"
    assert again(tmp_path / "p", home, typed, "patches") == (
        "ttvr-extract v -o feats --patches --overwrite"
    )


def test_a_command_is_made_up_where_none_is_known(home, tmp_path):
    found = again(tmp_path, home, "python notebook.py", "patches")
    assert shlex.split(found) == [
        *("ttvr-extract", "/clips", "-o", str(tmp_path / "feats"), "-w", str(home / "clip.pt")),
        *("--head", "meanp", "--frames", "3", "--sampler", "segment", "--fps", "source"),
        *("--reduce", "none", "--dtype", "float16", "--patches", "--overwrite"),
    ]
    # What is there stays there.
    arrays = ("frames",)
    found = again(tmp_path / "p", home, "", "frames", without=arrays)
    assert found.endswith("--patches --overwrite")


def test_a_command_for_a_dataset_names_it(home, tmp_path):
    """The place of clips that are drawn is no path."""
    write_features(tmp_path / "feats", retriever.load(home / "clip.pt"))
    features = Features.open(tmp_path / "feats")
    features.meta["data"] = {"dataset": "synthetic", "split": "val"}
    for roots, given in ((["data:synthetic/val"], []), (["/data/x"], ["--root", "/data/x"])):
        features.meta["roots"] = roots
        words = shlex.split(extract_again(features, lacking=("patches",)))
        expected = ["ttvr-extract", "--data", "synthetic", "--split", "val", *given, "-o"]
        assert words[: len(expected)] == expected


def test_videos_of_a_folder_are_read_when_asked_for(home, tmp_path):
    model = retriever.load(home / "clip.pt")
    write_features(tmp_path / "feats", model, without=())
    features = Features.open(tmp_path / "feats")
    video = retriever.stored_videos(model, features)
    assert video.patches is None
    real = features.mask[0]
    np.testing.assert_array_equal(video.frames[[0]][0][real], features.frames[0][real])
    assert (video.frames[[0]][0][~real] == features.pad.astype("f2")).all()
    assert features.patches.shape == (7, T, P, EMBED)
