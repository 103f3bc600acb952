"""From a checkpoint to a model: round trip, identity, what does not belong together."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_state

import ttvr
from ttvr import devices, retriever
from ttvr.clip.model import build
from ttvr.errors import IncompatibleError, RequirementError, UsageError
from ttvr.heads.meanp import MeanP
from ttvr.recipes import Recipe


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "clip.pt"
    torch.save(tiny_state(), path)
    return path


def test_load_encodes_as_the_towers_do(checkpoint):
    model = ttvr.load(checkpoint)
    assert not model.training
    clip = build(tiny_state())
    frames, mask = torch.randn(2, 3, 3, 32, 32), torch.ones(2, 3, dtype=torch.bool)
    ids = torch.tensor([[598, 5, 599]])
    with torch.inference_mode():
        torch.testing.assert_close(
            model.encode_video(frames, mask).frames, clip.encode_video(frames, mask).frames
        )
        torch.testing.assert_close(model.encode_text(ids).sentence, clip.encode_text(ids).sentence)
        zero = clip.encode_image(torch.zeros(1, 3, 32, 32))[0]
    torch.testing.assert_close(model.pad_frame(), zero)


def test_a_run_round_trips(tmp_path):
    recipe = Recipe(frames=8, sampler="linspace", fps=1.0)
    made = retriever.Retriever(
        build(tiny_state(), activation="gelu"),
        MeanP(),
        recipe=recipe,
        source="x",
        activation="gelu",
    )
    made.save(tmp_path / "best.pt")
    again = retriever.load(tmp_path / "best.pt")
    assert again.recipe == recipe
    assert again.activation == "gelu"
    different = {"source"}
    for key, value in made.identity().items():
        assert key in different or again.identity()[key] == value
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_identity_tells_what_belongs_together(tmp_path, checkpoint):
    one = retriever.load(checkpoint).identity()
    torch.save({"state_dict": {f"module.{k}": v for k, v in tiny_state().items()}}, checkpoint)
    assert {**retriever.load(checkpoint).identity(), "source": ""} == {**one, "source": ""}
    gelu = retriever.load(checkpoint, activation="gelu").identity()
    assert gelu["base"] != one["base"]
    assert gelu["space"] != one["space"]
    torch.save(tiny_state(seed=1), checkpoint)
    other = retriever.load(checkpoint).identity()
    assert other["fingerprint"] != one["fingerprint"]
    assert other["space"] != one["space"]
    assert len(one["base"]) == len(one["space"]) == 16


def test_what_cannot_be_is_refused(tmp_path, checkpoint):
    with pytest.raises(UsageError, match="meanp"):
        ttvr.load(checkpoint, head="mean_p")
    with pytest.raises(UsageError, match="kmedoids@6:4,49: BLOCK is 0 to 1"):
        ttvr.load(checkpoint, reduce=["kmedoids@6:4,49"])
    with pytest.raises(UsageError, match="toaster"):
        ttvr.load(checkpoint, device="toaster")
    with pytest.raises(RequirementError, match="CUDA"):
        ttvr.load(checkpoint, device="cuda:99")
    run = {"format": "ttvr-run/1", "clip": tiny_state(), "head": {}, "reducers": {}}
    torch.save({**run, "recipe": {"tea": 1}, "activation": "gelu"}, checkpoint)
    with pytest.raises(IncompatibleError, match="tea"):
        ttvr.load(checkpoint)
    head = {"weight": torch.ones(1)}
    torch.save({**run, "head": head, "recipe": {"head": "meanp"}, "activation": "gelu"}, checkpoint)
    with pytest.raises(IncompatibleError, match="no fitting weights for the head meanp"):
        ttvr.load(checkpoint)


RECIPES = {
    "options that are a number": ({"head_options": 5}, "head_options"),
    "options that are text": ({"head_options": ["ab"]}, "head_options"),
    "options without names": ({"head_options": [(["x"], 1)]}, "head_options"),
    "options with lists": ({"head_options": [("x", [1])]}, "option x of MeanP"),
    "options nobody knows": ({"head": "meanp", "head_options": [("x", 1)]}, "option x of MeanP"),
    "settings without names": ({1: 2, "zz": 3}, "'1'"),
    "a tensor": ({"frames": torch.zeros(3)}, "frames"),
    "frames that are text": ({"frames": "x"}, "frames"),
    "frames that are a truth value": ({"frames": True}, "frames"),
    "a head that is a list": ({"head": ["x"]}, "head"),
    "a head that is a number": ({"head": 5}, "head"),
    "a head nobody knows": ({"head": "x"}, "no heads plug-in 'x'"),
    "a rate that is text": ({"fps": "x"}, "fps"),
}


@pytest.mark.parametrize(("recipe", "match"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_of_another_kind_is_refused(recipe, match, checkpoint):
    run = {"format": "ttvr-run/1", "clip": tiny_state(), "head": {}, "activation": "gelu"}
    torch.save({**run, "recipe": recipe}, checkpoint)
    with pytest.raises(IncompatibleError, match=match) as caught:
        ttvr.load(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fps", [None, 2, 2.5])
def test_a_rate_is_none_or_a_number(fps, checkpoint):
    run = {"format": "ttvr-run/1", "clip": tiny_state(), "head": {}, "activation": "gelu"}
    torch.save({**run, "recipe": {"fps": fps, "head_options": []}}, checkpoint)
    assert ttvr.load(checkpoint).recipe == Recipe(fps=fps)


def test_an_unknown_activation_is_said(checkpoint, caplog):
    retriever.load(checkpoint)
    assert "--activation" in caplog.text
    caplog.clear()
    model = retriever.load(checkpoint, activation="gelu")
    assert caplog.text == ""
    model.save(checkpoint)
    assert retriever.load(checkpoint).activation == "gelu"
    assert caplog.text == ""
    assert retriever.load(checkpoint, activation="quick_gelu").activation == "quick_gelu"
    assert "says gelu; taking quick_gelu" in caplog.text


def test_autocast_is_bf16_where_asked():
    device = torch.device("cpu")
    a = torch.randn(4, 4)
    with devices.autocast(device, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with devices.autocast(device, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_a_difference_in_token_reduction_is_mended_by_reduce(tmp_path):
    own = {
        "source": "x.pt",
        "arch": "a",
        "activation": "gelu",
        "head": "meanp",
        "reduce": ["kmedoids@2:4,8"],
        "fingerprint": "sha256:" + 12 * "0",
        "base": "1",
    }
    other = {**own, "reduce": [], "base": "2"}
    for first, second in ((own, other), (other, own)):
        with pytest.raises(IncompatibleError) as error:
            retriever.require_same(first, second, "base", folder=tmp_path, what="texts")
        reduce = " ".join(f"--reduce {part}" for part in first["reduce"] or ["none"])
        assert f"extract the other again with {reduce}" in str(error.value)
        assert "-w" not in str(error.value)
