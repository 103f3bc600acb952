"""What a training is made of says what its recipe says, and stops and goes on whole."""

from __future__ import annotations

import json
import logging
import signal

import pytest
import torch
from pair_head import install
from tiny_training import FRAMES, colors, data, read, recipe, write_start
from torch.nn import functional as F

import ttvr
from ttvr import frames as framing
from ttvr.clip import tokenizer
from ttvr.errors import UsageError
from ttvr.heads import meanp
from ttvr.heads.meanp import MeanP
from ttvr.losses import WordLoss
from ttvr.optim import BertAdam, is_frozen, schedule
from ttvr.recipes import Recipe
from ttvr.retriever import build
from ttvr.train import Options, rehearse, train, validate
from ttvr.train._setup import set_up
from ttvr.train._state import Meter, State

OFTEN = Options(eval_every=4, save_every=3, log_every=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


class Noisy(MeanP):
    """A head that learns by chance, as one with dropout does."""

    def similarities(self, text, video):
        return F.dropout(super().similarities(text, video), 0.3, self.training)


@pytest.fixture
def noisy(monkeypatch):
    monkeypatch.setattr(meanp, "PLUGIN", Noisy)


def test_chance_and_the_scale_of_gradients_go_on_too(tmp_path, start, noisy):
    """Stopped after step 6: the dropout to come, and fp16's scale, which overflows have halved."""
    settings, last = recipe(start, precision="fp16"), {}

    def interrupt(step, steps):
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    for name in ("whole", "run"):
        run = tmp_path / name
        if name == "run":
            with pytest.raises(KeyboardInterrupt):
                train(settings, data(), run, options=OFTEN, on_step=interrupt)
        train(settings, data(), run, options=OFTEN)
        last[name] = torch.load(run / "last.pt", weights_only=True)
    assert last["whole"]["scaler"]["scale"] < 2.0**16
    assert last["run"]["scaler"] == last["whole"]["scaler"]
    for part in ("model", "rng"):
        torch.testing.assert_close(last["run"][part], last["whole"][part], rtol=0, atol=0)


def test_a_contrast_of_one_pair_is_told(start, caplog):
    for size, count in ((2, 0), (1, 1)):
        found = rehearse(recipe(start, batch_size=size), data(), device="cpu")
        assert (found["nce"] == 0) == bool(count)
        assert caplog.text.count("a batch is one pair, which a contrastive loss") == count


def test_validation_is_without_chance_and_training_with(tmp_path, start, noisy):
    outcome = train(recipe(start, epochs=1), data(), tmp_path / "run", options=OFTEN)
    model = ttvr.load(tmp_path / "run" / "best.pt")
    assert validate(model, data().val, read) == outcome.metrics
    model.train()
    validate(model, data().val, read)
    assert model.training


@pytest.mark.parametrize("sampler", ["segment", "linspace"])
def test_validation_takes_the_frames_that_extract_would(start, sampler):
    chosen = []

    def spy(clip, choose, *, size):
        chosen.append(list(choose(FRAMES)))
        return read(clip, choose, size=size)

    validate(build(recipe(start, frames=4, sampler=sampler)), colors("val"), spy)
    assert chosen == [list(framing.SAMPLERS[sampler](FRAMES, 4))] * 8


def test_narrow_gradients_are_those_of_wide_ones(start):
    settings = (  # of a small scale, since a norm of 32 overflows fp16's first steps
        recipe(start, precision=precision, word_loss=0.0, initial_scale=1.0)
        for precision in ("fp32", "fp16")
    )
    wide, narrow = (rehearse(one, data(), device="cpu")["grad_norm"] for one in settings)
    assert narrow == pytest.approx(wide, rel=0.05)


def test_the_optimizer_and_the_loader_are_the_recipe_s(start):
    settings = recipe(start, betas=(0.7, 0.8), weight_decay=0.03, lr=2e-3, clip_lr=5e-4)
    parts = set_up(settings, data(), Options(), "cpu")
    groups = {group["name"]: group for group in parts.optimizer.param_groups}
    assert {group["betas"] for group in groups.values()} == {(0.7, 0.8)}
    assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.03}
    assert groups["new, decayed"]["peak_lr"] == 2e-3
    assert groups["clip, decayed"]["peak_lr"] == 5e-4
    other = set_up(settings.__class__(**{**vars(settings), "seed": 1}), data(), Options(), "cpu")
    first, second = (next(made.loader.batches(0)).owner for made in (parts, other))
    assert not torch.equal(first, second)


def test_the_optimizer_is_the_one_the_recipe_names(start):
    adam = set_up(recipe(start, eps=1e-5), data(), Options(), "cpu").optimizer
    assert isinstance(adam, torch.optim.AdamW)
    assert {group["eps"] for group in adam.param_groups} == {1e-5}
    settings = recipe(start, optimizer="bert_adam", eps=1e-6, max_grad_norm=0.5, decay="all")
    bert = set_up(settings, data(), Options(), "cpu").optimizer
    assert isinstance(bert, BertAdam)
    facts = {(g["eps"], g["max_norm"], g["betas"], g["weight_decay"]) for g in bert.param_groups}
    assert facts == {(1e-6, 0.5, settings.betas, settings.weight_decay)}


def test_a_published_training_stops_and_goes_on(tmp_path, start):
    """BertAdam's means, and what is frozen, which stays as it was at the start."""
    settings, last = recipe(start, optimizer="bert_adam", freeze=1, word_loss=0.0), {}

    def interrupt(step, steps):
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    for name in ("whole", "run"):
        if name == "run":
            with pytest.raises(KeyboardInterrupt):
                train(settings, data(), tmp_path / name, options=OFTEN, on_step=interrupt)
        train(settings, data(), tmp_path / name, options=OFTEN)
        last[name] = torch.load(tmp_path / name / "last.pt", weights_only=True)["model"]
    torch.testing.assert_close(last["run"], last["whole"], rtol=0, atol=0)
    before = torch.load(start, weights_only=True)
    changed = {name for name, one in before.items() if not last["run"][f"clip.{name}"].equal(one)}
    assert changed == {name for name in before if not is_frozen(f"clip.{name}", 1)}


def test_words_that_the_start_never_saw_are_told(tmp_path, start, caplog):
    state = torch.load(start, weights_only=True)
    state["token_embedding.weight"][tokenizer.encode("pink")] = 0
    torch.save(state, tmp_path / "start.pt")
    with caplog.at_level(logging.WARNING, "ttvr.search"):
        set_up(recipe(str(tmp_path / "start.pt")), data(), Options(), "cpu")
    (said,) = [text for text in caplog.messages if text.startswith("words of")]
    assert said.startswith("words of the training captions that the model it starts from never saw")
    assert said.endswith(": pink")


def test_blocks_that_there_are_not_cannot_be_frozen(start):
    set_up(recipe(start, freeze=2), data(), Options(), "cpu")
    with pytest.raises(
        UsageError, match=r"freeze is 3, .* 2 in the visual tower and 2 in the text"
    ):
        set_up(recipe(start, freeze=3), data(), Options(), "cpu")


def test_the_rate_and_the_head_follow_the_steps(tmp_path, start, monkeypatch):
    told = []

    class Told(MeanP):
        def losses(self, text, video, scale):
            told.append(self.progress)
            return super().losses(text, video, scale)

    monkeypatch.setattr(meanp, "PLUGIN", Told)
    settings = recipe(start, schedule="warmup_cosine", epochs=1, warmup=0.5)
    train(settings, data(), tmp_path / "run", options=Options(log_every=1))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    rates = [line["lr"] for line in map(json.loads, lines) if "lr" in line]
    expected = [schedule(step, steps=6, warmup=0.5, rule="warmup_cosine") for step in range(6)]
    assert rates == pytest.approx([settings.lr * part for part in expected])
    assert told == [step / 6 for step in range(6)]
    assert MeanP().progress == 1.0


def test_the_logit_scale_keeps_to_its_bounds(start):
    low = recipe(start, initial_scale=1.0, min_scale=5.0)
    assert rehearse(low, data(), device="cpu")["scale"] == pytest.approx(5.0)
    free = rehearse(recipe(start, initial_scale=1.0), data(), device="cpu")["scale"]
    assert free == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("sampler", ["segment", "linspace"])
def test_training_takes_the_frames_of_its_sampler(start, sampler):
    chosen = []

    def spy(clip, choose, *, size):
        chosen.append(list(choose(FRAMES)))
        return read(clip, choose, size=size)

    rehearse(recipe(start, train_sampler=sampler), data(read=spy), device="cpu")
    assert chosen
    assert all(one == list(framing.SAMPLERS[sampler](FRAMES, 2)) for one in chosen)


def test_labels_are_the_tokens_that_the_model_is_shown(start):
    length = build(recipe(start)).text_length
    long = " ".join(["red"] * (length - 2) + ["green"])
    split = colors("train")._replace(captions=(long, *["a blue one"] * 7))
    parts = set_up(recipe(start), data(train=split), Options(), "cpu")
    assert parts.model.auxiliary.tokens.tolist() == sorted(tokenizer.encode("red a blue one"))


def test_heads_on_words_are_trained_on_all_positions(start, monkeypatch):
    install(monkeypatch)
    shapes = {}
    for head in ("pair_head", "meanp"):
        settings = recipe(start, head=head, words=20, train_frames=3, word_loss=0.0)
        shapes[head] = rehearse(settings, data(), device="cpu")["batch"]["ids"]
    assert shapes["pair_head"] == [4, 20]
    assert shapes["meanp"][1] < 10


def test_the_word_loss_has_its_weight(start):
    found = [rehearse(recipe(start, word_loss=x), data(), device="cpu") for x in (0.5, 2.0)]
    assert found[1]["words"] == pytest.approx(4 * found[0]["words"])
    assert found[1]["nce"] == found[0]["nce"]


def test_the_word_loss_is_wide_whatever_the_towers_are():
    torch.manual_seed(0)
    loss, ids = WordLoss([320, 321], 8), tokenizer.tokenize(["a red one"], 8)
    vectors = [torch.randn(1, 8), torch.randn(1, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = loss(ids, *vectors)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, loss(ids, *vectors))


def test_places_are_as_loud_as_patches_from_scratch():
    clip = build(Recipe(weights="scratch:ttvr-tiny")).clip
    assert float(clip.visual.positional_embedding.detach().std()) == pytest.approx(0.5)
    assert not clip.token_embedding.weight.any()


def test_the_part_of_the_time_that_batches_are_waited_for(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("ttvr.train._state.time.monotonic", lambda: clock[0])

    def batches():
        for number in range(4):
            clock[0] += 3.0
            yield number

    state = State(4)
    meter = Meter(state, 2, torch.device("cpu"))
    found = []
    for number in meter.waiting(batches()):
        clock[0] += 1.0
        state.step = number + 1
        if state.step % 2 == 0:
            found.append(meter.lap())
            clock[0] += 5.0  # a validation is no part of the steps
            assert "wait" not in meter.lap()
    assert [one["wait"] for one in found] == [0.75, 0.75]
    assert [one["clips_per_second"] for one in found] == [0.5, 0.5]
