"""Heads that a model cannot serve, refused with the numbers; weights that a head has nowhere."""

from __future__ import annotations

import pytest
import torch
from pair_head import PairHead, install
from tiny import tiny_state

import ttvr
from ttvr import retriever
from ttvr.commands.extract import main as extract
from ttvr.errors import IncompatibleError, UsageError
from ttvr.recipes import Recipe


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(tiny_state(vocabulary=49408), tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


class OnPatches(PairHead):
    needs_patches = True
    least_patches = 6


class Fixed(PairHead):
    fixed_frames = True


class UpTo6(PairHead):
    most_frames = 6


def build(checkpoint, **settings):
    """The tiny tower has 16 patches and two blocks."""
    settings = {"head": "pair_head", "frames": 4, "words": 8, **settings}
    return retriever.build(Recipe(weights=str(checkpoint), **settings))


IMPOSSIBLE = {
    "words beyond CLIP's": (PairHead, {"words": 78}, "texts of 78 tokens, .* positions for 77"),
    "too few centers": (
        OnPatches,
        {"reduce": ("kmedoids@1:2,5",)},
        r"needs 6 patches of a frame or segment, and kmedoids@1:2,5 leaves 5",
    ),
    "too few of two stages": (
        OnPatches,
        {"reduce": ("kmedoids@0:2,9", "sparse@1:1,4")},
        r"needs 6 patches .* leaves 4",
    ),
    "patches that only fill up": (
        OnPatches,
        {"reduce": ("kmedoids@1:2,20,mask=true",)},
        r"needs patches, and kmedoids@1:2,20,mask=true leaves 20 of a segment, some of which",
    ),
    "other frames in training": (Fixed, {"train_frames": 2}, "made for 4 frames .* of 2 frames 2"),
    "more frames in training": (
        UpTo6,
        {"train_frames": 8},
        "takes at most 6 frames or segments, of 8 frames 8 are left",
    ),
}
POSSIBLE = {
    "all patches": (OnPatches, {}),
    "clusters": (OnPatches, {"reduce": ("kmedoids@1:2,6",)}),
    "masked clusters, none to fill up": (OnPatches, {"reduce": ("kmedoids@1:2,16,mask=true",)}),
    "means of frames": (OnPatches, {"reduce": ("pooling@1:2",)}),
    "shifts": (OnPatches, {"reduce": ("token_shift",)}),
    "segments": (Fixed, {"reduce": ("kmedoids@1:2,5",), "train_frames": 8}),
    "few segments": (UpTo6, {"reduce": ("kmedoids@1:2,5",), "train_frames": 8}),
    "all of CLIP's positions": (PairHead, {"words": 77}),
}


@pytest.mark.parametrize(("plugin", "settings", "match"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_pairs_that_cannot_be(plugin, settings, match, checkpoint, monkeypatch):
    install(monkeypatch, plugin)
    with pytest.raises(UsageError, match=match):
        build(checkpoint, **settings)


@pytest.mark.parametrize(("plugin", "settings"), POSSIBLE.values(), ids=POSSIBLE)
def test_pairs_that_can(plugin, settings, checkpoint, monkeypatch):
    install(monkeypatch, plugin)
    model = build(checkpoint, **settings)
    T = settings.get("train_frames", 4)
    frames, mask = torch.randn(2, T, 3, 32, 32), torch.ones(2, T, dtype=torch.bool)
    with torch.inference_mode():
        video = model.encode_video(frames, mask, patches=True)
    left = model.plan.left_of(T)
    P = left.patches if model.plan.reducers else 16
    assert video.patches.shape == (2, left.frames, P, 32)


def test_load_checks_it_too(checkpoint, monkeypatch, tmp_path, capsys):
    install(monkeypatch, OnPatches)
    build(checkpoint).save(tmp_path / "run.pt")
    assert ttvr.load(tmp_path / "run.pt").head.needs_patches
    with pytest.raises(UsageError, match="needs 6 patches"):
        ttvr.load(tmp_path / "run.pt", reduce=["kmedoids@1:2,5"])
    install(monkeypatch, Fixed)
    with pytest.raises(UsageError, match="made for 4 frames"):
        ttvr.load(tmp_path / "run.pt", frames=6)
    # Texts alone have no frames.
    assert ttvr.load(tmp_path / "run.pt", frames=6, is_for_texts=True)
    (tmp_path / "clips").mkdir()
    arguments = [str(tmp_path / "clips"), "-o", str(tmp_path / "feats"), "--frames", "6"]
    (tmp_path / "clips" / "0.png").write_bytes(b"")
    assert extract([*arguments, "-w", str(tmp_path / "run.pt")]) == 2
    assert "made for 4 frames" in capsys.readouterr().err


def test_a_head_without_weights_says_where_they_come_from(checkpoint, monkeypatch):
    install(monkeypatch)
    with pytest.raises(IncompatibleError, match="no weights for the head pair_head") as caught:
        ttvr.load(checkpoint, head="pair_head")
    for hint in (
        "1024 parameters",
        f"ttvr-train --head pair_head -w {checkpoint}",
    ):
        assert hint in str(caught.value)
    assert "convert" not in str(caught.value)  # no published system has it
    with pytest.raises(IncompatibleError, match="convert --system clip4clip or ttvr-weights conv"):
        ttvr.load(checkpoint, head="seq_transf")
    assert caught.value.exit_code == 4
    # There is nothing that this one could lack.
    assert ttvr.load(checkpoint, head="meanp").head_name == "meanp"


def test_an_option_that_is_the_default_makes_no_other_space(checkpoint, monkeypatch):
    install(monkeypatch)

    def space(**options):
        torch.manual_seed(0)
        return build(checkpoint, head_options=tuple(options.items())).identity()["space"]

    assert space(mask=False) == space()
    assert space(mask=True) != space()


def test_the_length_of_a_text_is_the_heads(checkpoint, monkeypatch):
    install(monkeypatch)
    assert build(checkpoint).text_length == 8
    assert build(checkpoint, head="meanp").text_length == 77
    install(monkeypatch, type("Sentences", (PairHead,), {"needs_words": False}))
    assert build(checkpoint).text_length == 77
