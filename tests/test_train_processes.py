"""Several processes learn what one learns, bit for bit where nothing is rounded otherwise."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from groups import together
from tiny_training import COLORS, colors, data, read, recipe, write_start
from torch.nn import functional as F

from ttvr import distributed, plugins
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads import meanp
from ttvr.heads.meanp import MeanP
from ttvr.records import Split
from ttvr.retriever import Retriever
from ttvr.train import Options, train, validate
from ttvr.train._loop import _learn
from ttvr.train._setup import set_up

OFTEN = Options(eval_every=4, save_every=3, log_every=1)
CHANGING = ("seconds", "mib", "clips_per_second", "wait")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing here survives a power cut, so nothing has to wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


def learned(settings, folder, options):
    """The model's tensors after a training, in this process."""
    models = []

    def keep(self, model, **_):
        models.append({name: part.clone() for name, part in model.state_dict().items()})
        return validate(model, colors("val"), read)

    class Kept(type(data())):
        validate = keep

    train(settings, Kept(*data()), folder, options=options)
    return models[-1]


def lines(folder):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in one.items() if k not in CHANGING} for one in found]


def assert_alike(folder, other, *, most=1e-6):
    """Both logs and all tensors of both last models, up to rounding.

    But for the biases of keys: they add the same to all scores of a query, so their gradient is
    rounding alone, which Adam's steps are as large for as for any other.
    """
    for one, two in zip(lines(folder), lines(other), strict=True):
        assert one.pop("val", None) == two.pop("val", None)
        assert one == pytest.approx(two, rel=most)
    one, two = (torch.load(run / "last.pt", weights_only=True) for run in (folder, other))
    assert one["made_from"] == two["made_from"]
    for name, tensor in two["model"].items():
        found = one["model"][name]
        if name.endswith("in_proj_bias"):
            found, tensor = (part.view(3, -1)[::2] for part in (found, tensor))
        assert (found - tensor).norm() <= most * tensor.norm(), name


def test_twenty_steps_of_two_processes_are_those_of_one(tmp_path, start):
    """With slices of 2 and 3 rows; word loss, clip of the norm and limit of the scale act."""
    settings = recipe(
        start,
        batch_size=5,
        epochs=5,
        max_grad_norm=0.5,
        initial_scale=13.6,
        max_scale=13.6,
        lr=2e-4,
        clip_lr=2e-4,
    )
    options = Options(log_every=1)
    train(settings, data(), tmp_path / "one", options=options)
    models = together(
        learned, settings, tmp_path / "run", options, world=2, folder=tmp_path / "out"
    )
    steps = [one for one in lines(tmp_path / "run") if "loss" in one]
    assert len(steps) == 20
    assert all(one["grad_norm"] > 0.5 for one in steps)
    assert_alike(tmp_path / "run", tmp_path / "one")
    for model in models[1:]:
        assert all(torch.equal(model[name], tensor) for name, tensor in models[0].items())


@pytest.mark.parametrize("clips", [1, 3, 69])
def test_validation_shares_the_clips(tmp_path, start, clips):
    """Fewer than processes, one slice, and a last slice with less than a clip for each."""
    names = list(colors("x").clips)
    split = Split(
        "many",
        tuple(names[at % 8]._replace(path=str(at)) for at in range(clips)),
        tuple(colors("x").captions[at % 8] for at in range(clips)),
        tuple(range(clips)),
    )
    model = set_up(recipe(start), data(), Options(), "cpu").model

    def shaded(clip, choose, *, size):
        pixels = read(clip, choose, size=size)
        pixels[..., 0] = int(clip.path) * 37 % 251  # no two score alike
        return pixels

    def shared():
        seen = []

        def spy(clip, choose, *, size):
            seen.append(int(clip.path))
            return shaded(clip, choose, size=size)

        return {"found": validate(model, split, spy), "seen": seen}

    found = together(shared, world=2, folder=tmp_path / "out")
    assert found[0]["found"] == validate(model, split, shaded)
    assert found[1]["found"] is None
    seen = [one["seen"] for one in found]
    assert len(seen[0] + seen[1]) == (2 if clips == 1 else clips)
    assert sorted({*seen[0], *seen[1]}) == list(range(clips))


class Noisy(MeanP):
    """A head that learns by chance, as one with dropout does."""

    def similarities(self, text, video):
        return F.dropout(super().similarities(text, video), 0.3, self.training)


class Local(Noisy):
    """Which takes its loss of each process's rows."""

    gather = False


def test_a_loss_per_process_is_weighted_by_its_rows(tmp_path, start, monkeypatch):
    """The mean over processes, of losses and of gradients, counts every row once."""
    monkeypatch.setattr(meanp, "PLUGIN", type("Still", (MeanP,), {"gather": False}))
    settings = recipe(start, batch_size=5, word_loss=0.0)
    model = set_up(settings, data(), Options(), "cpu").model
    batch = next(set_up(settings, data(), Options(), "cpu").loader.batches(0))

    def gradient(rows):
        model.zero_grad()
        losses = model(type(batch)(*(part[rows] for part in batch)))
        losses["nce"].backward()
        return [losses["nce"].detach(), model.clip.visual.proj.grad.clone()]

    def own():
        return gradient(distributed.part(5, rank=distributed.rank(), world=2))

    found = together(own, world=2, folder=tmp_path / "out")
    parts = gradient(slice(0, 2)), gradient(slice(2, 5))
    for number in range(2):
        mean = (found[0][number] + found[1][number]) / 2
        torch.testing.assert_close(mean, 0.4 * parts[0][number] + 0.6 * parts[1][number])


@pytest.mark.parametrize("head", [Noisy, Local])
def test_going_on_equals_not_stopping_with_chance(tmp_path, start, monkeypatch, head):
    """Interrupted in one process; all draw the same again, wherever they stood."""
    monkeypatch.setattr(meanp, "PLUGIN", head)
    settings = recipe(start, batch_size=5, epochs=1)  # whose slices draw more or fewer numbers

    def whole():
        train(settings, data(), tmp_path / "whole", options=OFTEN)
        return torch.get_rng_state()

    def stopped():
        def ask(step, steps):
            if step == 1 and distributed.rank() == 1:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(settings, data(), tmp_path / "run", options=OFTEN, on_step=ask)
        last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
        train(settings, data(), tmp_path / "run", options=OFTEN)
        return last["step"]

    states = together(whole, world=2, folder=tmp_path / "out")
    assert torch.equal(*states)
    assert together(stopped, world=2, folder=tmp_path / "out") == [2, 2]
    assert_same(tmp_path / "run", tmp_path / "whole")


def assert_same(folder, other):
    """Bit by bit."""
    assert lines(folder) == lines(other)
    for name in ("last.pt", "best.pt"):
        one, two = (torch.load(run / name, weights_only=True) for run in (folder, other))
        assert equal({**one, "seconds": 0}, {**two, "seconds": 0}), name


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_another_number_of_processes_goes_on_where_the_loss_is_the_same(
    tmp_path, start, monkeypatch
):
    settings = recipe(start, epochs=1, lr=2e-4, clip_lr=2e-4)

    def half(folder):
        def ask(step, steps):
            if step == 2:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(settings, data(), folder, options=OFTEN, on_step=ask)

    train(settings, data(), tmp_path / "whole", options=OFTEN)
    together(half, tmp_path / "run", world=2, folder=tmp_path / "out")
    train(settings, data(), tmp_path / "run", options=OFTEN)
    assert_alike(tmp_path / "run", tmp_path / "whole")
    monkeypatch.setattr(meanp, "PLUGIN", Local)
    together(half, tmp_path / "local", world=2, folder=tmp_path / "out")
    with pytest.raises(IncompatibleError, match="processes is 2, now 1;"):
        train(settings, data(), tmp_path / "local", options=OFTEN)


def test_processes_share_fp16_s_scale(tmp_path, start):
    """Which starts too large: the first steps overflow, and are skipped by all or none."""

    def learn():
        parts = set_up(recipe(start, precision="fp16", batch_size=5), data(), Options(), "cpu")
        scales = []
        for step, batch in enumerate(parts.loader.batches(0)):
            _learn(parts, batch, recipe(start, precision="fp16"), step, 12)
            scales.append(parts.scaler.get_scale())
        return [scales, dict(parts.model.state_dict())]

    (scales, model), (others, other) = together(learn, world=2, folder=tmp_path / "out")
    assert scales == others
    assert scales[0] == 2.0**15
    assert scales[-1] == scales[-2]
    assert all(torch.equal(other[name], tensor) for name, tensor in model.items())


def test_nonsense_in_one_process_stops_all_with_the_clips_of_the_batch(
    tmp_path, start, monkeypatch
):
    forward, calls = Retriever.features, []

    def broken(self, batch):
        calls.append(batch)
        text, video = forward(self, batch)
        if len(calls) == 3 and distributed.rank() == 1:
            text = text._replace(sentence=text.sentence * torch.nan)
        return text, video

    monkeypatch.setattr(Retriever, "features", broken)

    def told():
        with pytest.raises(TtvrError) as caught:
            train(recipe(start), data(), tmp_path / "run", options=OFTEN)
        return [str(caught.value), [list(COLORS)[at] for at in calls[-1].owner]]

    (one, first), (other, second) = together(told, world=2, folder=tmp_path / "out")
    assert one == other
    assert one.startswith("step 3: loss nan")
    assert one.endswith(", ".join(first + second))


def test_a_batch_with_nothing_for_a_process_is_refused(tmp_path, start):
    def told():
        with pytest.raises(UsageError, match="a batch of 2 has nothing for some of 3 processes"):
            train(recipe(start, batch_size=2), data(), tmp_path / "run")

    together(told, world=3, folder=tmp_path / "out")


GATHERING = [name for name in plugins.names("heads") if plugins.load("heads", name).gather]


@pytest.mark.parametrize("head", GATHERING)
def test_every_head_learns_in_two_processes_as_in_one(tmp_path, start, head):
    """One step: its losses and the norm of its gradient; dropout leaves out the same numbers."""
    settings = recipe(start, head=head, batch_size=5, frames=3, train_frames=3, words=12)
    settings = replace(settings, word_loss=0.0)  # CRET draws for it, too

    def step():
        parts = set_up(settings, data(), Options(), "cpu")
        return _learn(parts, next(parts.loader.batches(0)), settings, 0, 9)

    def step_of_one():
        parts = set_up(settings, data(), Options(), "cpu")
        torch.randint(1 << 62, ())  # which of several makes what each draws for itself
        return _learn(parts, next(parts.loader.batches(0)), settings, 0, 9)

    found, other = together(step, world=2, folder=tmp_path / "out")
    assert found == other
    assert found == pytest.approx(step_of_one(), rel=1e-5)
