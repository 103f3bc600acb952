"""A head alone learns from folders of features: the same loop, and CLIP stays as it is."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from groups import together
from test_train import assert_same, equal, lines, stored
from test_train_processes import assert_alike
from tiny import tiny_state
from tiny_training import COLORS, colors, read

import ttvr
from ttvr import extract, frames, retriever, search
from ttvr.commands.train import main
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.extract import Options as Stores
from ttvr.recipes import Recipe
from ttvr.store import Features
from ttvr.train import Options, Stored, StoredData, rehearse, train
from ttvr.train._batches import FeatureLoader, dealt
from ttvr.train._setup import set_up
from ttvr.video import Frames, Status, VideoInfo

T, WORDS = 4, 16
OFTEN = Options(eval_every=4, save_every=3, log_every=2)
STEPS = 12
HEAD = "seq_lstm"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing here survives a power cut, so nothing has to wait for the disk; Ctrl-C works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)


def seen(clip, choose, *, fps, size, timeout, stop):
    """The frames of a color, of which `gray` has one and `pink` two."""
    chosen = choose(6)[: {"gray": 1, "pink": 2}.get(clip.id)]
    pixels = read(clip, lambda n: chosen, size=size)
    info = VideoInfo(size, size, 6.0, 1.0, 6, "drawn", 0, 0.0)
    return Frames(pixels, np.array(chosen, "f4") / 6, Status("ok", 1.0, 1.0, 0), info)


def write_videos(model, folder, names, *, frames=T):
    """A folder of videos of these colors."""
    clips = {clip.id: clip for clip in colors("x").clips}
    inputs = [
        extract.Input(clips[name], extract._inputs.Source(name, "data:colors", name, None, None))
        for name in names
    ]
    options = Stores(frames=frames, sampler="segment", fps=None, shard_rows=3)
    extract.run(inputs, folder, retriever=model, options=options, provenance={}, read=seen)
    return folder


def write_texts(model, folder, split, *, words=WORDS, pairs=True):
    """A folder of its captions, as `ttvr-extract --text` makes it."""
    found = [(row, split.clips[at].id) for row, at in enumerate(split.owner)]
    extract.run_texts(
        split.captions,
        folder,
        retriever=model,
        encode=lambda texts: search.encode_texts(model, texts, words=True, length=words),
        options=extract.TextOptions(words, shard_rows=5),
        provenance={"precision": "fp32"},
        pairs=found if pairs else None,
    )
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """start.pt, and folders of features made with it: three captions of eight videos, and one."""
    home = tmp_path_factory.mktemp("home")
    torch.save(tiny_state(image=16, vocabulary=49408), home / "start.pt")
    model = retriever.load(home / "start.pt", activation="quick_gelu")
    write_videos(model, home / "feats", list(COLORS)[::-1])
    write_texts(model, home / "texts", colors("train", 3))
    write_videos(model, home / "val", COLORS)
    write_texts(model, home / "tval", colors("val"))
    return home


@pytest.fixture(scope="module")
def data(home):
    learned = Stored.open(home / "feats", home / "texts")
    return StoredData(learned, Stored.open(home / "val", home / "tval"))


@pytest.fixture(scope="module")
def settings(home):
    def make(**changes):
        made = {"weights": str(home / "start.pt"), "head": HEAD, "frames": T, "clip_lr": 0.0}
        made |= {"epochs": 2, "batch_size": 4, "lr": 1e-3, "words": WORDS}
        return Recipe(**{**made, **changes})

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data, settings):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(settings(), data, folder, options=OFTEN)
    return folder


def test_it_learns_eight_pairs_by_heart(tmp_path, home, data, settings):
    split = data.ranked.split
    often = split._replace(captions=split.captions * 10, owner=split.owner * 10)
    few = data._replace(learned=data.ranked._replace(split=often, rows=[*data.ranked.rows] * 10))
    recipe = settings(
        **{"head": "seq_transf", "head_options": (("layers", 2),), "epochs": 15},
        **{"batch_size": 8, "lr": 1e-2, "weight_decay": 0.0, "max_grad_norm": 1e3},
    )
    outcome = train(recipe, few, tmp_path / "run", options=Options(select="last"))
    assert outcome.metrics["t2v"]["R@1"] == 100
    steps = [one for one in lines(tmp_path / "run") if "nce" in one]
    assert steps[-1]["nce"] < steps[0]["nce"] / 10
    assert steps[-1]["scale"] == steps[0]["scale"] == pytest.approx(math.exp(4.6))
    start, model = retriever.load(home / "start.pt"), ttvr.load(tmp_path / "run" / "best.pt")
    assert equal(dict(model.clip.state_dict()), dict(start.clip.state_dict()))
    assert model.recipe == recipe
    assert model.identity()["base"] == data.learned.videos.meta["model"]["base"]
    # The whole model, on pixels and captions.
    assert few.validate(model, jobs=1) == outcome.metrics
    clip = colors("x").clips[1]
    video = model.encode_video(*pixels_of(clip))
    captions = colors("val").captions
    sims = model.head(search.encode_texts(model, captions), video, torch.tensor(1.0))
    assert sims.argmax() == 1


def pixels_of(clip):
    chosen = frames.SAMPLERS["segment"](6, T)
    made = frames.normalize(read(clip, lambda n: chosen, size=16))[None]
    return made, torch.ones(1, T, dtype=torch.bool)


@pytest.mark.parametrize("head", ["seq_transf", "xpool"])
def test_other_heads_learn_as_well(tmp_path, data, settings, head):
    recipe = settings(head=head, epochs=1)
    train(recipe, data, tmp_path / "run", options=Options(log_every=1))
    model = ttvr.load(tmp_path / "run" / "best.pt")
    start = set_up(recipe, data, Options(), "cpu").model
    changed = {
        name
        for name, tensor in model.head.state_dict().items()
        if not torch.equal(tensor, start.head.state_dict()[name])
    }
    assert changed
    assert model.head_name == head


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_stopping_and_going_on_equals_not_stopping(tmp_path, whole, data, settings, stop):
    run = tmp_path / "run"

    def interrupt(step, steps):
        assert steps == STEPS
        if step == stop:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(settings(), data, run, options=OFTEN, on_step=interrupt)
    assert stored(run, "last.pt")["step"] == stop + 1
    torch.manual_seed(99)
    train(settings(), data, run, options=OFTEN)
    assert_same(run, whole)


def test_a_checkpoint_holds_what_learns(whole):
    """Of CLIP the weights are a file already, maybe of hundreds of megabytes."""
    names = set(stored(whole, "last.pt")["model"])
    assert {name for name in names if name.startswith("clip.")} == {"clip.logit_scale"}
    assert any(name.startswith("head.") for name in names)
    assert any(name.startswith("visual.") for name in stored(whole, "best.pt")["clip"])


def test_the_last_model_can_be_the_one_to_keep(tmp_path, whole, data, settings):
    run, alone = tmp_path / "run", StoredData(data.learned, None)
    options = OFTEN._replace(select="last")
    outcome = train(settings(), alone, run, options=options)
    assert (outcome.step, outcome.metrics) == (STEPS, None)
    assert not any("val" in one for one in lines(run))
    last = stored(whole, "last.pt")["model"]
    head = {f"head.{name}": tensor for name, tensor in stored(run, "best.pt")["head"].items()}
    assert all(torch.equal(last[name], tensor) for name, tensor in head.items())
    with pytest.raises(UsageError, match="nothing to choose the best model by"):
        train(settings(), alone, tmp_path / "other")
    with pytest.raises(IncompatibleError, match="select is 'best', now 'last'"):
        train(settings(), data, whole, options=options)
    both = train(settings(), data, tmp_path / "both", options=options)
    assert both.step == STEPS
    assert both.metrics["t2v"]["queries"] == len(COLORS)


def test_the_logit_scale_learns_if_it_has_a_rate(tmp_path, data, settings, caplog):
    train(settings(clip_lr=1e-2), data, tmp_path / "run", options=Options(log_every=1))
    scales = [one["scale"] for one in lines(tmp_path / "run") if "scale" in one]
    assert len(set(scales)) > 1
    assert "these features will not belong to the trained model" in caplog.text
    model = ttvr.load(tmp_path / "run" / "best.pt")
    start = retriever.load(settings().weights)
    others = set(start.clip.state_dict()) - {"logit_scale"}
    assert all(torch.equal(model.clip.state_dict()[n], start.clip.state_dict()[n]) for n in others)


def test_a_logit_scale_beyond_the_most_stays_where_it_is_frozen(data, settings):
    """A lower one were another CLIP, to which these features do not belong."""
    scale = rehearse(settings(max_scale=50.0), data, device="cpu")["scale"]
    assert scale == pytest.approx(math.exp(4.6))
    learning = settings(max_scale=50.0, clip_lr=1e-6)
    assert rehearse(learning, data, device="cpu")["scale"] == pytest.approx(50)


def test_the_word_loss_reads_the_captions(tmp_path, data, settings):
    found = rehearse(settings(word_loss=0.5), data, device="cpu")
    assert found["loss"] == pytest.approx(found["nce"] + found["words"])
    assert found["batch"]["frames"] == [4, T, 32]
    assert set(found["parameters"]) == {"new", "new, decayed", "scale"}


def loader(data, **changes):
    options = {"batch_size": 4, "words": WORDS, "seed": 3, **changes}
    model = retriever.load(data.learned.videos.meta["model"]["source"])
    learned = data.learned
    text = retriever.stored_texts(model, learned.texts, learned.rows)
    return FeatureLoader(
        learned.split, text, retriever.stored_videos(model, learned.videos), **options
    )


def test_a_batch_depends_on_seed_epoch_and_number_alone(data):
    made = loader(data)
    first, again = (list(one.batches(1)) for one in (made, loader(data)))
    assert len(first) == len(made) == 6
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    for start in range(7):
        assert all(equal(a, b) for a, b in zip(first[start:], made.batches(1, start), strict=True))
    owners = [batch.owner.tolist() for batch in first]
    assert owners != [batch.owner.tolist() for batch in made.batches(2)]
    assert owners != [batch.owner.tolist() for batch in loader(data, seed=4).batches(1)]
    with pytest.raises(UsageError, match="24 captions, fewer than one batch of 25"):
        loader(data, batch_size=25)


def test_a_row_is_a_caption_with_its_video(home, data):
    """Frames and words are what the encoders give, and padding is what they make of it."""
    model, split = retriever.load(home / "start.pt"), data.train
    told = set(zip(colors("train", 3).captions, map(str, colors("train", 3).owner), strict=True))
    count = 0
    for batch in loader(data).batches(0):
        assert batch.text.sentence.dtype == batch.video.frames.dtype == torch.float32
        for row, owner in enumerate(batch.owner.tolist()):
            clip = split.clips[owner]
            caption = next(
                c
                for c in split.captions
                if torch.equal(
                    batch.ids[row], ttvr.clip.tokenizer.tokenize([c], batch.ids.shape[1])[0]
                )
            )
            assert (caption, str(list(COLORS).index(clip.id))) in told
            sentence = search.encode_texts(model, [caption]).sentence[0]
            torch.testing.assert_close(batch.text.sentence[row], sentence, atol=2e-3, rtol=2e-3)
            real = {"gray": 1, "pink": 2}.get(clip.id, T)
            assert batch.video.mask[row].tolist() == [True] * real + [False] * (T - real)
            pad = model.pad_frame().expand(T - real, -1)
            torch.testing.assert_close(batch.video.frames[row, real:], pad, atol=2e-3, rtol=2e-3)
            count += 1
    assert count == 24


CASES = {
    "as many of each": ([3] * 8, 8),
    "a batch of half": ([3] * 8, 4),
    "one caption each": ([1] * 20, 7),
    "captions of one kind": ([9, 1, 1, 1, 1, 1, 1, 1, 1, 1], 2),
    "too few videos": ([5, 5], 3),
    "unlike": ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 5),
}


@pytest.mark.parametrize(("counts", "batch_size"), CASES.values(), ids=CASES)
def test_two_captions_of_a_video_are_kept_apart(counts, batch_size):
    videos = [video for video, count in enumerate(counts) for _ in range(count)]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(videos)).tolist()
        made = dealt(order, videos, batch_size)
        whole = len(videos) // batch_size * batch_size
        assert len(made) == len(set(made)) == whole
        left = Counter(videos)
        for start in range(0, whole, batch_size):
            batch = [videos[row] for row in made[start : start + batch_size]]
            # As many videos as there are, and a row for each.
            possible = min(batch_size, len(+left))
            if len(counts) >= batch_size:
                assert len(set(batch)) == possible
            left -= Counter(batch)
    assert dealt([0, 1, 2, 3], [0, 1, 2, 3], 2) == [0, 1, 2, 3]
    assert dealt([0, 1, 2, 3], [7, 7, 8, 9], 2) == [0, 2, 1, 3]


def test_captions_of_videos_that_failed(tmp_path, home, settings):
    model = retriever.load(home / "start.pt", activation="quick_gelu")
    write_videos(model, tmp_path / "feats", [name for name in COLORS if name != "red"])
    with pytest.raises(TtvrError, match=r"1 of 8 videos .* red \(not in the folder\).*--missing"):
        Stored.open(tmp_path / "feats", home / "texts")
    made = Stored.open(tmp_path / "feats", home / "texts", missing="skip")
    assert made.absent == {"red": "not in the folder"}
    assert len(made.split.captions) == len(made.rows) == 21
    texts = Features.open(home / "texts")
    assert [texts.texts[row] for row in made.rows] == list(made.split.captions)
    assert not any("red" in caption for caption in made.split.captions)
    assert rehearse(
        settings(), StoredData(made, None), options=Options(select="last"), device="cpu"
    )


def test_what_does_not_belong_together_is_refused(tmp_path, home, data, settings):
    torch.manual_seed(0)
    other = retriever.load(home / "start.pt", activation="gelu")
    write_videos(other, tmp_path / "feats", COLORS)
    write_texts(other, tmp_path / "texts", colors("val"))
    with pytest.raises(IncompatibleError, match="was made with"):
        Stored.open(tmp_path / "feats", home / "texts")
    elsewhere = Stored.open(tmp_path / "feats", tmp_path / "texts")
    for one in (StoredData(elsewhere, None), StoredData(data.learned, elsewhere)):
        with pytest.raises(IncompatibleError, match=r"gelu.*the training is to start with"):
            set_up(settings(), one, Options(select="last", activation="quick_gelu"), "cpu")
    write_videos(retriever.load(home / "start.pt"), tmp_path / "longer", COLORS, frames=5)
    longer = StoredData(data.learned, Stored.open(tmp_path / "longer", home / "tval"))
    with pytest.raises(IncompatibleError, match="other frames"):
        set_up(settings(), longer, Options(), "cpu")
    with pytest.raises(IncompatibleError, match="holds texts"):
        Stored.open(home / "texts", home / "texts")
    with pytest.raises(IncompatibleError, match="expected texts"):
        Stored.open(home / "feats", home / "feats")
    write_texts(retriever.load(home / "start.pt"), tmp_path / "bare", colors("val"), pairs=False)
    with pytest.raises(TtvrError, match=r"no gt\.tsv"):
        Stored.open(home / "feats", tmp_path / "bare")


REFUSED = {
    "the head meanp has no parameters": {"head": "meanp"},
    "frames is 4 in .*, 5 in the recipe": {"frames": 5},
    "fps is None in .*, 1.0 in the recipe": {"fps": 1.0},
    "initial_scale has to be none": {"initial_scale": 30.0},
    "accumulate has to be 1": {"accumulate": 2},
    "lr, that of the head, is 0": {"lr": 0.0},
    "fewer than one batch of 25": {"batch_size": 25},
}


@pytest.mark.parametrize(("match", "changes"), REFUSED.items(), ids=REFUSED)
def test_settings_that_cannot_be(data, settings, match, changes):
    with pytest.raises(UsageError, match=match):
        set_up(settings(**changes), data, Options(), "cpu")


def test_a_head_on_words_takes_texts_of_its_length(home, monkeypatch):
    model = retriever.load(home / "start.pt", activation="quick_gelu")
    texts = Features.open(home / "texts")
    monkeypatch.setattr(type(model.head), "needs_words", True)
    monkeypatch.setattr(type(model), "text_length", 8)
    made = retriever.stored_texts(model, texts, [3, 0, 3])
    assert made.words.shape == (*made.mask.shape, 32) == (3, 8, 32)
    np.testing.assert_array_equal(made.words[:], texts.words[[3, 0, 3]][:, :8])
    np.testing.assert_array_equal(made.mask[[2, 1]], texts.mask[[3, 0]][:, :8])
    for length, match in ((20, "has 16 positions"), (5, "a text of 7 tokens")):
        monkeypatch.setattr(type(model), "text_length", length)
        with pytest.raises(IncompatibleError, match=match):
            retriever.stored_texts(model, texts, [3, 0, 3])


def test_another_training_is_refused_and_named(tmp_path, whole, data, settings):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    changed = data.learned._replace(split=data.learned.split._replace(captions=("x",) * 24))
    with pytest.raises(IncompatibleError, match=r"pairs is sha256:.*, now sha256:"):
        train(settings(), StoredData(changed, data.ranked), run, options=OFTEN)
    before = (run / "last.pt").stat().st_mtime_ns
    train(settings(), data, run, options=OFTEN)
    assert (run / "last.pt").stat().st_mtime_ns == before


def test_texts_that_were_cut_are_other_texts(tmp_path, home):
    """Their captions are the same; what became of them is not."""
    model = retriever.load(home / "start.pt", activation="quick_gelu")
    for length in (5, WORDS + 4):
        write_texts(model, tmp_path / str(length), colors("train", 3), words=length)
    cut, long = (Stored.open(home / "feats", tmp_path / name) for name in ("5", "20"))
    before = Stored.open(home / "feats", home / "texts")
    assert long.identity() == before.identity()
    assert cut.identity() != before.identity()


def call(*arguments):
    try:
        return main(list(map(str, arguments)))
    except SystemExit as end:
        return end.code


def flags(home):
    return [
        *("--features", home / "feats", "--text-features", home / "texts", "--head", HEAD),
        *("--val-features", home / "val", "--val-text-features", home / "tval", "-b", 4),
    ]


def test_the_command(tmp_path, home, capsys):
    run = tmp_path / "run"
    command = [*flags(home), "--epochs", 2, "--lr", "3e-3", "--device", "cpu", "-o", run]
    assert call(*command) == 0
    captured = capsys.readouterr()
    rows = captured.out.splitlines()
    assert [row.split("\t")[0] for row in rows[:4]] == ["direction", "t2v", "v2t", "SumR"]
    assert f"split {home / 'tval'} sha256:" in rows[4]
    assert "selection best on val" in rows[4]
    assert f"-w {run / 'best.pt'}" in captured.err
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["frames"], recipe["clip_lr"], recipe["lr"]) == (T, 0.0, 3e-3)
    assert recipe["weights"] == str(home / "start.pt")
    assert call(*command) == 0
    assert capsys.readouterr().out.splitlines() == rows
    alone = [*flags(home)[:6], "-b", 4, "--device", "cpu", "--select", "last"]
    assert call(*alone, "--epochs", 1, "-o", tmp_path / "last", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    last = {"select": "last", "on": None, "step": 6, "steps": 6}
    assert found["protocol"]["selection"] == last
    assert set(found) == {"protocol"}
    assert call(*alone, "--epochs", 1, "-o", tmp_path / "last") == 0
    assert capsys.readouterr().out.startswith("# split ")


def test_features_of_a_test_split_choose_if_it_is_said(tmp_path, home, capsys):
    copied = tmp_path / "val"
    shutil.copytree(home / "val", copied)
    meta = json.loads((copied / "meta.json").read_text())
    meta["data"] = {"dataset": "colors", "split": "test"}
    (copied / "meta.json").write_text(json.dumps(meta))
    command = [*flags(home), "--val-features", copied, "--epochs", 1, "--device", "cpu"]
    assert call(*command, "-o", tmp_path / "run") == 2
    assert f"{copied} holds features of the test split" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert call(*command, "-o", tmp_path / "run", "--select", "test") == 0
    captured = capsys.readouterr()
    assert "selection best on test, after step " in captured.out
    assert "best.pt is chosen on test" in captured.err
    assert retriever.load(tmp_path / "run" / "best.pt").trained["on"] == "test"


def test_the_command_lists_what_is_missing(tmp_path, home, capsys):
    model = retriever.load(home / "start.pt", activation="quick_gelu")
    write_videos(model, tmp_path / "feats", [name for name in COLORS if name != "red"])
    command = ["--features", tmp_path / "feats", "--text-features", home / "texts", "-b", 4]
    command += ["--head", HEAD, "--select", "last", "--epochs", 1, "--device", "cpu"]
    assert call(*command, "-o", tmp_path / "run") == 1
    assert "--missing skip" in capsys.readouterr().err
    assert call(*command, "--missing", "skip", "-o", tmp_path / "run") == 3
    line = f"{tmp_path / 'feats'}: no features of 1 video, left out: red (not in the folder)"
    assert line in capsys.readouterr().err.splitlines()


WRONG = {
    "neither": ([], "nothing to learn from: pass --data NAME, --features or --recipe NAME"),
    "both": (["--data", "synthetic", "--features", "x"], "not allowed with"),
    "captions of nothing": (["--data", "synthetic", "--text-features", "x"], "only with --feat"),
    "no captions": (["--features", "x"], "goes with --text-features"),
    "half a validation": (
        ["--features", "x", "--text-features", "y", "--val-features", "z"],
        "go together",
    ),
    "no validation": (["--features", "x", "--text-features", "y"], "--select last"),
    "a limit": (["--features", "x", "--text-features", "y", "--limit", "3"], "--limit: only with"),
}


@pytest.mark.parametrize(("arguments", "match"), WRONG.values(), ids=WRONG)
def test_wrong_use(capsys, arguments, match):
    assert call(*arguments, "-o", "nowhere") == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert match in captured.err


def test_wrong_use_of_folders(home, capsys, tmp_path):
    for more, code, match in (
        (["--frames", 3], 2, "frames: .* tells what it was made with"),
        (["--set", "reduce=none"], 2, "reduce: "),
        (["--head", "meanp"], 2, "has no parameters"),
        (["--features", home / "texts"], 4, "holds texts"),
        (["--features", tmp_path], 1, "is no feature folder"),
    ):
        arguments = flags(home)
        if more[0] in arguments:
            arguments[arguments.index(more[0]) + 1] = more[1]
            more = []
        assert call(*arguments, *more, "--device", "cpu", "-o", tmp_path / "run") == code
        err = capsys.readouterr().err
        assert re.search(match, err)


def test_two_processes_learn_what_one_does(tmp_path, data, settings):
    """Each with its rows of features; slices differ by one."""
    for name, world in (("one", 1), ("two", 2)):
        together(
            lambda folder: train(settings(batch_size=5), data, folder, options=OFTEN).step,
            tmp_path / name,
            world=world,
            folder=tmp_path / "out",
        )
    assert_alike(tmp_path / "two", tmp_path / "one")
