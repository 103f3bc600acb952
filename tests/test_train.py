"""The loop: it learns, it can be stopped at any moment, and it never learns from nonsense."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import signal

import pytest
import torch
from tiny_training import COLORS, colors, data, read, recipe, unreadable, write_start
from torch.nn import functional as F

import ttvr
from ttvr import recipes
from ttvr.clip import layers, tokenizer
from ttvr.clip.layers import Attention, QuickGELU
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads import meanp
from ttvr.heads._layers import unit
from ttvr.heads.meanp import MeanP
from ttvr.losses import WordLoss
from ttvr.recipes import RECIPES, Recipe
from ttvr.retriever import Retriever, build
from ttvr.train import Options, check_usable, rehearse, train, validate
from ttvr.train._setup import set_up

OFTEN = Options(eval_every=4, save_every=3, log_every=2)
STEPS = 12  # two epochs of 24 captions, 4 at a time
CHANGING = ("seconds", "mib", "clips_per_second", "wait")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing here survives a power cut, so nothing has to wait for the disk; Ctrl-C works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
        yield
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe(start), data(), folder, options=OFTEN)
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def steady(folder):
    """The log without what another run may have otherwise."""
    return [{k: v for k, v in one.items() if k not in CHANGING} for one in lines(folder)]


def equal(one, other):
    """Whether two files that torch wrote hold the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def stored(folder, name):
    content = torch.load(folder / name, weights_only=True)
    content.pop("seconds", None)
    return content


def assert_same(folder, other):
    for name in ("last.pt", "best.pt"):
        assert equal(stored(folder, name), stored(other, name)), name
    assert steady(folder) == steady(other)
    assert (folder / "recipe.json").read_text() == (other / "recipe.json").read_text()
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}


def test_it_learns_eight_clips_by_heart(tmp_path, start):
    settings = recipe(start, epochs=20, batch_size=8, train_frames=3, word_loss=0.1)
    few = data(train=colors("train"))
    outcome = train(settings, few, tmp_path / "run")
    assert outcome.metrics["t2v"]["R@1"] == 100
    model = ttvr.load(tmp_path / "run" / "best.pt")
    assert model.recipe == settings
    assert validate(model, few.train, few.read) == outcome.metrics
    assert not model.training
    steps = [one for one in lines(tmp_path / "run") if "nce" in one]
    assert steps[-1]["nce"] < steps[0]["nce"] / 2
    assert steps[-1]["words"] < 0.9 * steps[0]["words"]


def test_checkpointing_changes_no_result(tmp_path, whole, start):
    train(recipe(start, checkpointing=True), data(), tmp_path / "run", options=OFTEN)
    losses = [[one.get("loss") for one in lines(run)] for run in (whole, tmp_path / "run")]
    assert losses[0] == losses[1]
    assert build(recipe(start, checkpointing=True)).clip.visual.checkpointing
    stored = recipes.settings_of(recipe(start))
    del stored["checkpointing"]  # as it was stored before there was such a setting
    assert recipes.from_settings(stored) == recipe(start)


def test_the_log_says_all_of_a_step(whole, start):
    found = lines(whole)
    validations = [one for one in found if "val" in one]
    steps = [one for one in found if "val" not in one]
    assert [one["step"] for one in steps] == [2, 4, 6, 8, 10, 12]
    assert [one["step"] for one in validations] == [4, 6, 8, 12]
    for one in steps:
        assert one["loss"] == pytest.approx(one["nce"] + one["words"])
        assert one["lr"] == pytest.approx(1e-3 * rate(one["step"] - 1))
        assert one["epoch"] == (one["step"] - 1) // 6
        assert one["grad_norm"] > 0
        assert one["scale"] == pytest.approx(13.5, rel=0.1)
        assert all(one[name] > 0 for name in CHANGING)
        assert one["wait"] < 1
    for one in validations:
        assert 0 <= one["val"]["t2v"]["R@1"] <= 100
        assert one["val"]["videos"] == 8
    assert [one["seconds"] for one in found] == sorted(one["seconds"] for one in found)
    assert recipes.from_settings(json.loads((whole / "recipe.json").read_text())) == recipe(start)


def rate(step):
    return (step + 1) if step < 1 else (1 + math.cos(math.pi * (step - 1) / (STEPS - 1))) / 2


def test_the_best_model_is_the_first_of_the_best_validations(whole):
    validations = [one for one in lines(whole) if "val" in one]
    recalls = [one["val"]["t2v"]["R@1"] for one in validations]
    step, found = stored(whole, "last.pt")["best"]
    assert step == validations[recalls.index(max(recalls))]["step"]
    assert found["t2v"]["R@1"] == max(recalls)
    model = ttvr.load(whole / "best.pt")
    assert validate(model, data().val, read)["t2v"]["R@1"] == max(recalls)


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_stopping_and_going_on_equals_not_stopping(tmp_path, whole, start, stop):
    run = tmp_path / "run"

    def interrupt(step, steps):
        assert steps == STEPS
        if step == stop:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(start), data(), run, options=OFTEN, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert stored(run, "last.pt")["step"] == stop + 1
    seen = []
    train(recipe(start), data(), run, options=OFTEN, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(stop + 1, STEPS + 1))
    assert_same(run, whole)


def test_an_interruption_that_is_ignored_stays_so(tmp_path, whole, start):
    """As in a script's background, where Ctrl-C is meant for another process."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(
            recipe(start),
            data(),
            tmp_path / "run",
            options=OFTEN,
            on_step=lambda step, steps: signal.raise_signal(signal.SIGINT),
        )
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert_same(tmp_path / "run", whole)


def test_an_interruption_in_the_last_step_is_too_late(tmp_path, whole, start):
    def interrupt(step, steps):
        if step == STEPS - 1:
            signal.raise_signal(signal.SIGINT)

    train(recipe(start), data(), tmp_path / "run", options=OFTEN, on_step=interrupt)
    assert_same(tmp_path / "run", whole)


def test_killing_and_going_on_equals_not_stopping(tmp_path, whole, start):
    """`kill -9` at any moment: in a step, in a validation, while a file is being written."""
    run, moments, kills = tmp_path / "run", random.Random(0), 0
    process = multiprocessing.get_context("fork").Process
    while True:
        child = process(target=train, args=(recipe(start), data(), run), kwargs={"options": OFTEN})
        child.start()
        child.join(moments.uniform(0.05, 0.15 + 0.1 * kills))  # the longer, the more often killed
        if not child.is_alive():
            break
        child.kill()
        child.join()
        kills += 1
    assert child.exitcode == 0
    assert kills
    assert_same(run, whole)


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path, whole, start):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = torch.load(run / "last.pt", weights_only=True)
    log = run / "log.jsonl"
    (run / ".last.123.part.pt").write_bytes(b"half")
    odd = b'\0\0\0\n{"step": 12}\xff\n[]\n{"step": 99, "epoch": 9}\n{"step": 5, "epo'
    log.write_bytes(log.read_bytes() + odd)
    torch.save({**last, "step": STEPS - 2}, run / "last.pt")
    train(recipe(start), data(), run, options=OFTEN)
    assert [one["step"] for one in lines(run)] == [one["step"] for one in lines(whole)]
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_finished_run_is_left_as_it_is(whole, start):
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    outcome = train(recipe(start), data(), whole, options=OFTEN)
    assert outcome.metrics == stored(whole, "last.pt")["best"][1]
    assert outcome.steps == STEPS
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


OTHERWISE = {
    "lr is 0.001, now 0.1": {"recipe": {"lr": 0.1}},
    "betas": {"recipe": {"betas": (0.9, 0.99)}},
    "train is sha256:[0-9a-f]{12}, now sha256:[0-9a-f]{12};": {"data": {"train": colors("train")}},
    "val is": {"data": {"val": colors("val", 2)}},
    "dataset is 'colors', now 'x'": {"data": {"name": "x"}},
    "eval_every is 4, now 5": {"options": {"eval_every": 5}},
    "activation is None, now 'gelu'": {"options": {"activation": "gelu"}},
    "otherwise, nothing was changed: best.pt was chosen on the split val, now on test .*; use": {
        "options": {"chosen_on": "test"},
        "data": {"val": colors("test")},
    },
}


@pytest.mark.parametrize(("match", "changes"), OTHERWISE.items(), ids=OTHERWISE)
def test_another_training_is_refused_and_named(whole, start, match, changes):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(IncompatibleError, match=match) as caught:
        train(
            recipe(start, **changes.get("recipe", {})),
            data(**changes.get("data", {})),
            whole,
            options=OFTEN._replace(**changes.get("options", {})),
        )
    assert "--overwrite" in str(caught.value)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_the_log_and_the_readers_may_change(tmp_path, whole, start):
    run = tmp_path / "run"

    def stop(step, steps):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(start), data(), run, options=OFTEN, on_step=stop)
    last = torch.load(run / "last.pt", weights_only=True)
    old = {**last["made_from"], "log_every": 2}  # as it was stored while it was compared
    torch.save({**last, "made_from": old}, run / "last.pt")
    train(recipe(start), data(), run, options=OFTEN._replace(log_every=1, jobs=2, save_every=5))
    for name in ("last.pt", "best.pt"):
        assert equal(stored(run, name), stored(whole, name)), name
    assert [one["step"] for one in lines(run) if "loss" in one] == [2, 4, *range(5, STEPS + 1)]


class Odd:
    """What no checkpoint holds."""


DAMAGED = {
    "half a file": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "an empty file": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("hello world"),
    "a list": lambda path: torch.save([1, 2], path),
    "code": lambda path: torch.save({"format": Odd()}, path),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_told_in_a_line(tmp_path, whole, start, damage):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    damage(run / "last.pt")
    with pytest.raises(TtvrError, match=r"last\.pt: truncated, damaged, .*--overwrite") as caught:
        train(recipe(start), data(), run, options=OFTEN)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200 + len(str(run))


def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(tmp_path, whole, start):
    """Who is told to start anew does so."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "last.pt").unlink()
    (run / "last.pt").mkdir()  # the tests may run as root, whom no permission stops
    with pytest.raises(IsADirectoryError):
        train(recipe(start), data(), run, options=OFTEN)


def test_a_checkpoint_of_another_format_is_refused(tmp_path, whole, start):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    torch.save({"format": "ttvr-train/9"}, run / "last.pt")
    with pytest.raises(IncompatibleError, match="'ttvr-train/9', this ttvr goes on with"):
        train(recipe(start), data(), run, options=OFTEN)


def test_a_run_without_its_best_model_does_not_claim_one(tmp_path, whole, start):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "best.pt").unlink()
    with pytest.raises(TtvrError, match=r"best\.pt is gone"):
        train(recipe(start), data(), run, options=OFTEN)


def test_a_folder_of_something_else_is_left_alone(tmp_path, whole, start):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not the folder of a run"):
        train(recipe(start), data(), tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        train(recipe(start), data(), tmp_path / "note.txt")
    with pytest.raises(UsageError, match="--no-resume"):
        train(recipe(start), data(), whole, options=OFTEN, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_run_that_was_killed_as_it_began_may_begin_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".recipe.1.part.json").write_text("{")
    check_usable(tmp_path, resume=True, overwrite=False)


def test_a_best_model_is_not_overwritten_unasked(tmp_path, whole, start):
    """Who keeps best.pt alone, to save space, does not lose it by typing the command again."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "last.pt").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UsageError, match=r"without the last\.pt"):
        train(recipe(start), data(), run, options=OFTEN)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    train(recipe(start), data(), run, options=OFTEN, overwrite=True)
    assert_same(run, whole)


def test_a_run_can_be_gone_on_with_from_its_first_moment(tmp_path, start):
    run = tmp_path / "run"

    def look(step, steps):
        assert stored(run, "last.pt")["step"] <= step
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(start), data(), run, on_step=look)
    assert stored(run, "last.pt")["step"] == 0


def test_overwriting_starts_anew(tmp_path, whole, start):
    run = tmp_path / "run"
    train(recipe(start, epochs=1, lr=0.1), data(), run)
    train(recipe(start), data(), run, options=OFTEN, overwrite=True)
    assert_same(run, whole)


def test_one_process_at_a_time(tmp_path, start):
    def again(step, steps):
        if step == 1:
            with pytest.raises(TtvrError, match="written by another process"):
                train(recipe(start), data(), tmp_path / "run")

    train(recipe(start, epochs=1), data(), tmp_path / "run", on_step=again)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nonsense_stops_with_the_clips_of_the_batch(tmp_path, monkeypatch, start, what):
    run, forward, batches = tmp_path / "run", Retriever.forward, []

    def broken(self, batch):
        batches.append(batch)
        losses = forward(self, batch)
        if len(batches) == 5:
            bad = losses["nce"] * torch.nan if what == "loss" else root_of_zero(losses["nce"])
            losses["nce"] = bad
        return losses

    monkeypatch.setattr(Retriever, "forward", broken)
    with pytest.raises(TtvrError, match=r"step 5: loss .*gradient norm nan") as caught:
        train(recipe(start), data(), run, options=OFTEN)
    names = [list(COLORS)[owner] for owner in batches[-1].owner]
    assert str(caught.value).endswith(", ".join(names))
    last = stored(run, "last.pt")
    assert last["step"] == 4
    assert all(tensor.isfinite().all() for tensor in last["model"].values())


def test_a_step_too_far_is_told_when_it_is_validated(tmp_path, start):
    run = tmp_path / "run"
    with pytest.raises(TtvrError, match=r"val are not finite, .* a lower learning"):
        train(recipe(start, clip_lr=1e30), data(), run, options=Options(eval_every=1))
    assert stored(run, "last.pt")["step"] == 0


class Biased(MeanP):
    """A head that has something to learn."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def similarities(self, text, video):
        return super().similarities(text, video) + self.bias


def test_what_learns_at_a_rate_of_0_is_frozen(start, monkeypatch):
    """Its gradient would count in the norm, and scale down that of what learns."""
    monkeypatch.setattr(meanp, "PLUGIN", Biased)
    parts = set_up(recipe(start, clip_lr=0.0, word_loss=0.0), data(), Options(), "cpu")
    learning = [name for name, p in parts.model.named_parameters() if p.requires_grad]
    assert learning == ["head.bias"]
    before = {name: p.clone() for name, p in parts.model.clip.state_dict().items()}
    sum(parts.model(next(parts.loader.batches(0))).values()).backward()
    parts.optimizer.step()
    assert equal(before, dict(parts.model.clip.state_dict()))
    parts = set_up(recipe(start, lr=0.0), data(), Options(), "cpu")
    assert not parts.model.head.bias.requires_grad
    assert all(p.requires_grad for p in parts.model.clip.parameters())


@pytest.mark.parametrize("word_loss", [0.0, 0.5])
def test_a_training_that_would_learn_nothing_is_refused(start, word_loss):
    with pytest.raises(UsageError, match="nothing would be learned"):
        set_up(recipe(start, clip_lr=0.0, word_loss=word_loss), data(), Options(), "cpu")


def root_of_zero(loss):
    """The same loss, whose gradient is not a number."""
    return loss + (loss * 0).sqrt()


def test_a_clip_that_cannot_be_read_stops_it(tmp_path, start):
    with pytest.raises(TtvrError, match="pink: cannot be read"):
        train(recipe(start), data(read=unreadable), tmp_path / "run")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_train_as_well(tmp_path, start, precision):
    settings = recipe(start, precision=precision, epochs=1)
    wide, narrow = (rehearse(one, data(), device="cpu") for one in (recipe(start), settings))
    assert narrow["nce"] == pytest.approx(wide["nce"], rel=0.05)  # of three digits or two
    assert narrow["nce"] != wide["nce"]
    train(settings, data(), tmp_path / "run", options=OFTEN)
    last = stored(tmp_path / "run", "last.pt")
    assert bool(last["scaler"]) == (precision == "fp16")
    assert all(0 < one["loss"] < 20 for one in lines(tmp_path / "run") if "loss" in one)


def test_the_logit_scale_starts_and_stops_where_it_is_told(tmp_path, start):
    # One that is frozen stays, whatever the most is: features belong to it.
    for factor, stays in ((1e-6, 49.0), (0.0, 50.0)):
        run = tmp_path / str(stays)
        told = {"initial_scale": 50.0, "max_scale": 49.0, "scale_lr_factor": factor}
        train(recipe(start, **told, epochs=1), data(), run, options=Options(log_every=1))
        scales = [one["scale"] for one in lines(run) if "scale" in one]
        assert scales == pytest.approx([stays] * 6, rel=1e-5)


def test_starting_from_scratch_leaves_unknown_words_zero(tmp_path):
    tiny = RECIPES["ttvr-tiny"]
    settings = Recipe(**{**vars(tiny), "batch_size": 4, "frames": 1, "train_frames": 1})
    train(settings, data(train=colors("train")), tmp_path / "run")
    table = ttvr.load(tmp_path / "run" / "best.pt").clip.token_embedding.weight
    known = {49406, 49407, *(t for text in colors("x").captions for t in tokenizer.encode(text))}
    assert set(table.any(dim=1).nonzero().flatten().tolist()) == known
    last = stored(tmp_path / "run", "last.pt")["model"]
    assert any(name.startswith("auxiliary.") for name in last)
    with pytest.raises(UsageError, match="ttvr-tiny"):
        build(Recipe(weights="scratch:huge"))


def test_a_rehearsal_tells_the_sizes(tmp_path, start):
    found = rehearse(recipe(start), data(), device="cpu")
    assert found["steps"] == STEPS
    assert found["batch"]["frames"] == [4, 2, 16, 16, 3]
    total = sum(found["parameters"].values())
    model = build(recipe(start))
    labels = {t for text in data().train.captions for t in tokenizer.encode(text)}
    assert total == sum(p.numel() for p in model.parameters()) + 33 * len(labels)
    with pytest.raises(UsageError, match="fps"):
        rehearse(recipe(start, fps=1.0), data(), device="cpu")


def test_the_word_loss_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    texts = ["a red ball", "red red wine !", "nothing known"]
    ids = tokenizer.tokenize(texts, 12)
    labels = [token for text in texts[:2] for token in tokenizer.encode(text)]
    labels = sorted({*labels, 0})
    loss = WordLoss(labels, 4)
    vectors = [unit(torch.randn(3, 4, generator=generator)) for _ in range(2)]
    total = 0.0
    for text, *pair in zip(texts, *vectors, strict=True):
        has = [token in tokenizer.encode(text) for token in labels]
        for vector in pair:
            for logit, label in zip(loss.read(10 * vector).tolist(), has, strict=True):
                total += math.log1p(math.exp(-logit if label else logit)) / 6
    assert loss(ids, *vectors).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("causal", "queries"), [(False, None), (True, None), (False, 1)])
def test_attention_that_learns_equals_torch_s(causal, queries):
    torch.manual_seed(0)
    attention = Attention(16, 2)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, y = (torch.randn(3, 5, 16).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    with torch.no_grad():
        expected = attention(x, causal=causal, queries=queries)
    found = attention(x, causal=causal, queries=queries)
    torch.testing.assert_close(found, expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_attend", F.scaled_dot_product_attention)
        attention(y, causal=causal, queries=queries).square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_quick_gelu_that_learns_equals_its_formula():
    x = torch.linspace(-6, 6, 50).requires_grad_()
    made = QuickGELU()(x)
    torch.testing.assert_close(made, x * torch.sigmoid(1.702 * x))
    with torch.no_grad():
        torch.testing.assert_close(QuickGELU()(x.clone()), made)
