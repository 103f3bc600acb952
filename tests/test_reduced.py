"""A model with token reducers: loaded, trained, stored, and what its features belong with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_extract import draw
from tiny import tiny_state
from tiny_training import data, recipe, write_start

import ttvr
from ttvr import retriever
from ttvr.commands.extract import main as extract
from ttvr.commands.rank import main as rank
from ttvr.commands.train import main as train_command
from ttvr.errors import IncompatibleError, UsageError
from ttvr.optim import parameter_groups
from ttvr.recipes import Recipe, from_settings, parse, settings_of
from ttvr.records import Batch
from ttvr.store import Features
from ttvr.train import Options, train
from ttvr.train._setup import set_up

TWO = "kmedoids@1:2,5"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(tiny_state(), tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def run_file(path, *, reducers=None, **settings):
    run = {"format": "ttvr-run/1", "clip": tiny_state(), "head": {}, "activation": "gelu"}
    torch.save({**run, "reducers": reducers or {}, "recipe": settings}, path)
    return path


def videos():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, 4, 3, 32, 32, generator=generator)
    return frames, torch.tensor([[True] * 4, [True, False, False, False]])


def test_load_reduces_as_the_tower_does(checkpoint):
    model = ttvr.load(checkpoint, reduce=[TWO])
    with torch.inference_mode():
        found = model.encode_video(*videos(), patches=True)
        expected = model.clip.encode_video(*videos(), model.plan.reducers, patches=True)
        plain = ttvr.load(checkpoint).encode_video(*videos())
    assert found.frames.shape == (2, 2, 32)
    assert found.patches.shape == (2, 2, 5, 32)
    assert found.mask.tolist() == [[True, True], [True, False]]
    assert plain.frames.shape == (2, 4, 32)
    assert torch.equal(found.frames[0], expected.frames[0])
    assert model.recipe == Recipe(reduce=(TWO,))
    assert model.head.frames == 2
    assert ttvr.load(checkpoint, reduce=["token_shift"]).head.frames == 12


@pytest.mark.parametrize("reduce", [TWO, "pooling@1:2", "temporal_shift", f"{TWO},mask=true"])
def test_padding_is_the_last_frame_again(checkpoint, reduce):
    """As CenterCLIP's loader has it: gray frames would be clustered, and their class tokens."""
    model = ttvr.load(checkpoint, reduce=[reduce])
    frames, _ = videos()
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    repeated = torch.stack([frames[0, [0, 1, 2, 2]], frames[1, [0, 0, 0, 0]]])
    with torch.inference_mode():
        found = model.encode_video(frames, mask, patches=True)
        zeros = model.encode_video(frames * mask[:, :, None, None, None], mask, patches=True)
        alone = model.encode_video(frames, mask)
        padding = model.padding(4, patches=True)
        expected = model.clip.encode_video(repeated, mask, model.plan.reducers, patches=True)
    real = found.mask
    assert not real.all()
    assert torch.equal(zeros.frames, found.frames)
    assert torch.equal(found.frames[real], expected.frames[real])
    assert torch.equal(found.patches[real], expected.patches[real])
    # To heads: what folders are filled with, where there is no real frame. With patches the last
    # block computes other shapes, which some processors round in another way.
    assert (alone.frames[~real] == model.pad_frame(4)).all()
    assert (found.frames[~real] == padding.frames[0, -1]).all()
    assert (found.patches[~real] == model.pad_patches(4)).all()
    torch.testing.assert_close(alone.frames, found.frames)


def test_identity_has_the_plan(checkpoint):
    plain = ttvr.load(checkpoint).identity()
    one = ttvr.load(checkpoint, reduce=[TWO]).identity()
    assert (plain["reduce"], one["reduce"]) == ([], [TWO])
    assert one["fingerprint"] == plain["fingerprint"]
    assert one["base"] != plain["base"]
    assert one["space"] != plain["space"]
    assert ttvr.load(checkpoint, reduce=[f"{TWO},metric=euclidean"]).identity() == one
    other = ttvr.load(checkpoint, reduce=["kmedoids@1:2,6"]).identity()
    assert other["base"] != one["base"]
    assert json.loads(json.dumps(one)) == one


def test_what_reducers_learn_is_stored(checkpoint, tmp_path, caplog):
    learning = f"{TWO},cluster_embedding=true"
    model = ttvr.load(checkpoint, reduce=[learning], activation="gelu")
    assert f"clip.pt was not trained with {learning}" in caplog.text
    caplog.clear()
    embedding = model.plan.reducers[1].cluster_embedding
    assert torch.equal(embedding, model.clip.visual.positional_embedding[1:6])
    before = model.identity()
    with torch.no_grad():
        embedding += 1
    assert model.identity()["base"] != before["base"]
    model.save(tmp_path / "best.pt")
    again = ttvr.load(tmp_path / "best.pt")
    assert torch.equal(again.plan.reducers[1].cluster_embedding, embedding)
    assert {**again.identity(), "source": ""} == {**model.identity(), "source": ""}
    # However it is spelled.
    spelled = ttvr.load(tmp_path / "best.pt", reduce=[f"{learning},metric=euclidean"])
    assert spelled.identity() == again.identity()
    assert caplog.text == ""
    # Another plan does not take what this one learned.
    other = ttvr.load(tmp_path / "best.pt", reduce=["kmedoids@1:4,5,cluster_embedding=true"])
    assert torch.equal(
        other.plan.reducers[1].cluster_embedding, model.clip.visual.positional_embedding[1:6]
    )
    broken = torch.load(tmp_path / "best.pt", weights_only=True)
    torch.save({**broken, "reducers": {}}, tmp_path / "best.pt")
    with pytest.raises(IncompatibleError, match=r"no fitting weights for .*kmedoids@1:2,5"):
        ttvr.load(tmp_path / "best.pt")


def test_a_checkpoint_brings_its_plan(tmp_path):
    path = run_file(tmp_path / "run.pt", reduce=[TWO])
    assert ttvr.load(path).identity()["reduce"] == [TWO]
    assert ttvr.load(path, reduce=["none"]).identity()["reduce"] == []
    assert ttvr.load(path, reduce=["pooling@1:3"]).recipe.reduce == ("pooling@1:3",)
    old = run_file(tmp_path / "old.pt", frames=6)
    assert ttvr.load(old).recipe == Recipe(frames=6)
    for reduce in (["x"], [5], "kmedoids@1:2,5", ["kmedoids@9:2,5"], ["pooling@1:5"]):
        run_file(path, reduce=reduce)
        with pytest.raises(IncompatibleError, match=r"recipe of .*run\.pt") as caught:
            ttvr.load(path)
        assert "\n" not in str(caught.value)


def test_a_feature_folder_brings_its_plan(tmp_path):
    path = run_file(tmp_path / "run.pt", reduce=[TWO])
    for reduce in ([TWO], ["none"], ["pooling@0:6"]):
        made_with = ttvr.load(path, reduce=reduce).identity()
        again = retriever.load_for(made_with)
        assert again.identity() == made_with
    # As many frames as the features had, which the recipe does not know.
    made_with = ttvr.load(path, reduce=["pooling@1:5"], frames=10).identity()
    assert retriever.load_for(made_with).identity() == made_with
    with pytest.raises(IncompatibleError, match="made with other weights: kmedoids@9:2,5"):
        retriever.load_for({**made_with, "reduce": ["kmedoids@9:2,5"]})


def test_the_number_of_frames_is_checked(checkpoint):
    with pytest.raises(UsageError, match="12 frames do not divide into 5 segments"):
        ttvr.load(checkpoint, reduce=["pooling@1:5"])
    assert ttvr.load(checkpoint, reduce=["pooling@1:5"], frames=10).head.frames == 5
    with pytest.raises(UsageError, match="10 frames do not divide into 4 segments"):
        ttvr.load(checkpoint, reduce=["pooling@1:4"], frames=10)


def test_padding_is_a_segment_of_padding(checkpoint):
    model = ttvr.load(checkpoint, reduce=[TWO])
    zeros, mask = torch.zeros(1, 4, 3, 32, 32), torch.ones(1, 4, dtype=torch.bool)
    with torch.inference_mode():
        expected = model.encode_video(zeros, mask).frames[0, 0]
    torch.testing.assert_close(model.pad_frame(4), expected)
    assert not torch.allclose(model.pad_frame(4), ttvr.load(checkpoint).pad_frame(4))
    # Behind the last frame there is none that anything could come from.
    model = ttvr.load(checkpoint, reduce=["temporal_shift"])
    with torch.inference_mode():
        expected = model.encode_video(zeros, mask).frames[0]
    torch.testing.assert_close(model.pad_frame(4), expected[-1])
    assert not torch.allclose(expected[-1], expected[0])


def test_build_checks_what_training_sees(start):
    settings = recipe(start, frames=6, train_frames=4, reduce=(TWO,))
    assert retriever.build(settings).head.frames == 2
    with pytest.raises(UsageError, match="3 frames do not divide into 2 segments"):
        retriever.build(recipe(start, frames=6, train_frames=3, reduce=(TWO,)))
    # A patch of 8 in frames of 16 pixels: four tokens of a frame.
    with pytest.raises(UsageError, match="9 centers of the 8 tokens of a segment"):
        retriever.build(recipe(start, frames=6, train_frames=4, reduce=("kmedoids@1:2,9",)))


def test_a_cluster_embedding_learns_as_clip_does(start):
    reduce = ("kmedoids@1:1,3,cluster_embedding=true",)
    model = retriever.build(recipe(start, reduce=reduce))
    rates = {"lr": 1.0, "clip_lr": 0.5, "scale_lr_factor": 1.0, "weight_decay": 0.1}
    groups = parameter_groups(model.named_parameters(), **rates)
    embedding = model.plan.reducers[1].cluster_embedding
    (group,) = (one for one in groups if any(tensor is embedding for tensor in one["params"]))
    assert (group["peak_lr"], group["weight_decay"]) == (0.5, 0.0)
    assert torch.equal(embedding, model.clip.visual.positional_embedding[1:4])


@pytest.mark.parametrize("reduce", ["sparse@1:1,3", "kmedoids@0:1,3,cluster_embedding=true"])
def test_stopping_and_going_on_equals_not_stopping(tmp_path, start, reduce):
    """What sparse sampling draws in training goes on too."""
    settings, often = recipe(start, reduce=(reduce,)), Options(save_every=2)
    whole = train(settings, data(), tmp_path / "whole", options=often)

    def stop(step, steps):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, data(), tmp_path / "parts", options=often, on_step=stop)
    parts = train(settings, data(), tmp_path / "parts", options=often)
    assert parts.metrics == whole.metrics
    one, other = (
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert torch.equal(one["rng"], other["rng"])
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    model = ttvr.load(tmp_path / "parts" / "best.pt")
    assert model.recipe == settings
    assert not any(reducer.training for reducer in model.plan.reducers.values())


def test_a_training_from_before_there_were_reducers_goes_on(tmp_path, start):
    done = train(recipe(start, epochs=1), data(), tmp_path / "run")
    stored = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert stored["made_from"]["recipe"].pop("reduce") == []
    torch.save(stored, tmp_path / "run" / "last.pt")
    assert train(recipe(start, epochs=1), data(), tmp_path / "run") == done
    with pytest.raises(IncompatibleError, match=r"reduce is \[\], now \['pooling@1:1'\]"):
        train(recipe(start, epochs=1, reduce=("pooling@1:1",)), data(), tmp_path / "run")


def test_training_draws_anew_and_scoring_does_not(start):
    parts = set_up(recipe(start, reduce=("sparse@0:1,2",)), data(), Options(), "cpu")
    batch: Batch = next(iter(parts.loader.batches(0)))
    model = parts.model
    with torch.inference_mode():
        first, second = (model.features(batch)[1].frames for _ in range(2))
        model.eval()
        third, fourth = (model.features(batch)[1].frames for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(third, fourth)


def test_the_setting_is_read_and_written():
    assert parse(f"reduce={TWO} token_shift@0") == ("reduce", [TWO, "token_shift@0"])
    assert from_settings({"reduce": [TWO]}).reduce == (TWO,)
    assert from_settings({"reduce": ["none"]}, Recipe(reduce=(TWO,))).reduce == ()
    assert settings_of(Recipe(reduce=(TWO,)))["reduce"] == [TWO]
    for value in (TWO, [5], 5, None):
        with pytest.raises(UsageError, match="reduce is a list of token reducers"):
            from_settings({"reduce": value})


def test_extract_and_rank(tmp_path, checkpoint, capsys):
    torch.save(tiny_state(vocabulary=49408), checkpoint)
    draw(tmp_path / "videos" / "a.mp4", seed=1)
    draw(tmp_path / "videos" / "b.mp4", seed=2, count=2)
    feats = tmp_path / "feats"
    common = [str(tmp_path / "videos"), "-o", str(feats), "-w", str(checkpoint)]
    common += ["--activation", "quick_gelu", "--frames", "6", "-q", "--progress", "never"]
    assert extract([*common, "--reduce", "kmedoids@1:3,9", "--patches"]) == 0
    found = Features.open(feats)
    assert found.meta["model"]["reduce"] == ["kmedoids@1:3,9"]
    assert found.frames[0:2].shape == (2, 3, 32)
    assert found.mask[0:2].tolist() == [[True] * 3, [True, False, False]]
    assert np.isnan(found.times[0:2]).tolist() == [[False] * 3, [False, True, True]]
    plain = str(tmp_path / "plain")
    assert extract([common[0], "-o", plain, *common[3:]]) == 0
    starts = Features.open(plain).times[0:1][:, ::2]  # of each segment of two frames
    assert starts[0, 1] > starts[0, 0]
    assert np.array_equal(found.times[0:1], starts)
    patches = np.load(feats / "patches" / "00000.npy", allow_pickle=False)
    assert patches.shape == (2, 3, 9, 32)
    assert extract([*common, "--reduce", "kmedoids@1:3,9", "--patches"]) == 0
    assert extract([*common, "--reduce", "kmedoids@1:3,8", "--patches"]) == 4
    assert "reduce" in capsys.readouterr().err
    (tmp_path / "q.txt").write_text("a red bar\n")
    assert rank([str(tmp_path / "q.txt"), str(feats)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_texts_do_not_ask_for_frames(tmp_path, checkpoint):
    """A plan that fits the videos' number of frames, not the default of 12."""
    torch.save(tiny_state(vocabulary=49408), checkpoint)
    draw(tmp_path / "videos" / "a.mp4", seed=1)
    (tmp_path / "q.txt").write_text("a red bar\n")
    common = ["-w", str(checkpoint), "--activation", "gelu", "--reduce", "kmedoids@1:5,9", "-q"]
    feats, texts = str(tmp_path / "feats"), str(tmp_path / "texts")
    assert extract([str(tmp_path / "videos"), "-o", feats, *common, "--frames", "5"]) == 0
    assert extract(["--text", str(tmp_path / "q.txt"), "-o", texts, *common]) == 0
    assert Features.open(texts).meta["model"] == Features.open(feats).meta["model"]


def test_a_video_without_distances_is_named(tmp_path, checkpoint, capsys, monkeypatch):
    def encode_video(self, frames, mask, *, patches, padding):
        return self.clip.encode_video(frames * torch.nan, mask, self.plan.reducers)

    monkeypatch.setattr(retriever.Retriever, "encode_video", encode_video)
    draw(tmp_path / "a.mp4", seed=1)
    flags = ["-w", str(checkpoint), "--activation", "gelu", "--reduce", TWO, "-q"]
    assert extract([str(tmp_path / "a.mp4"), "-o", str(tmp_path / "feats"), *flags]) == 1
    assert "a.mp4: sample 0: token 0 is NaN" in capsys.readouterr().err


@pytest.mark.parametrize("main", [extract, train_command])
def test_a_reducer_that_cannot_be_is_wrong_use(main, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--data", "synthetic", "x", "--reduce", "kmeans@6:4,49"])
    assert end.value.code == 2
    assert "no reducer 'kmeans'; there are: kmedoids, " in capsys.readouterr().err


def test_the_flag_of_train(capsys):
    flags = ["--data", "synthetic", "--show-config", "--reduce", TWO, "--reduce", "sparse@0:4,3"]
    assert train_command(flags) == 0
    assert json.loads(capsys.readouterr().out)["reduce"] == [TWO, "sparse@0:4,3"]
    assert train_command(["--data", "synthetic", "--show-config", "--reduce", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["reduce"] == []
