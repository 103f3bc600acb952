"""A batch that goes through the towers in parts has the losses and the gradient of one that does
not.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from groups import together
from test_train_processes import Noisy, assert_alike, assert_same, lines
from tiny import tiny_state
from tiny_training import COLORS, data, recipe, write_start

from ttvr import plugins
from ttvr.errors import TtvrError, UsageError
from ttvr.heads import meanp
from ttvr.heads._selector import TokenSelector
from ttvr.losses import WordLoss
from ttvr.records import Batch
from ttvr.reducers.sparse import Sparse
from ttvr.retriever import Retriever, build
from ttvr.train import Options, _setup, train
from ttvr.train._gradients import add_gradients, cut
from ttvr.train._setup import check_rows, set_up

HEADS = plugins.names("heads")
REDUCERS = (
    *("kmedoids@1:1,2", "spectral@1:1,2,sigma=20", "pooling@1:1", "sparse@1:1,2"),
    *("token_shift", "temporal_shift", "patch_shift"),
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing here survives a power cut, so nothing has to wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A start with patches enough for every reducer: 16."""
    path = tmp_path_factory.mktemp("large") / "start.pt"
    torch.save(tiny_state(image=32, vocabulary=49408), path)
    return str(path)


def begun(settings):
    """The parts of a training, and a batch in which a clip has a frame less than the others.

    Of noisy clips: which of equal patches are a cluster would be for rounding to decide. And fp16's
    scale does not overflow.
    """
    parts = set_up(settings, data(), Options(), "cpu")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=settings.precision == "fp16")
    parts, batch = parts._replace(scaler=scaler), next(parts.loader.batches(0))
    batch.frames.random_(256, generator=torch.Generator().manual_seed(0))
    if settings.train_frames > 1:
        batch.mask[1, -1] = False
        batch.frames[1, -1] = 0
    return parts, batch


@pytest.fixture
def double(monkeypatch):
    """What turns to float64 all that is float32 otherwise."""

    def turn():
        noise = TokenSelector._noise
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        monkeypatch.setattr(TokenSelector, "_noise", lambda *given: noise(*given).double())
        monkeypatch.setattr(_setup, "build", lambda *given, **more: build(*given, **more).double())
        monkeypatch.setattr(_setup, "WordLoss", lambda *given: WordLoss(*given).double())

    return turn


def found(settings):
    """Losses and gradients by name of the first batch, and where the generator stands then."""
    parts, batch = begun(settings)
    losses = add_gradients(parts, batch, settings)
    losses = {name: loss.detach() for name, loss in losses.items()}
    scale = parts.scaler.get_scale()
    gradients = {
        name: None if tensor.grad is None else tensor.grad / scale
        for name, tensor in parts.model.named_parameters()
    }
    return losses, gradients, torch.get_rng_state()


def assert_equal(one, other, *, most):
    """Losses, and each gradient but for what rounding makes of a whole that is much larger."""
    assert one[0].keys() == other[0].keys()
    for name, loss in other[0].items():
        torch.testing.assert_close(one[0][name], loss, rtol=most, atol=0)
    made = {name: tensor for name, tensor in other[1].items() if tensor is not None}
    assert {name for name, tensor in one[1].items() if tensor is not None} == set(made)
    largest = max(tensor.norm() for tensor in made.values())
    assert largest > 0
    for name, tensor in made.items():
        rounding = most * (tensor.norm() + 1e-2 * largest)
        assert (one[1][name] - tensor).norm() <= rounding, name


def in_parts(settings, parts):
    return replace(settings, accumulate=parts)


def small(start, **changes):
    return recipe(start, batch_size=7, frames=3, train_frames=3, words=12, **changes)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_has_the_gradient_of_the_whole_batch(start, head, double):
    """With the word loss; what heads leave out by chance is the same."""
    double()
    settings = small(start, head=head)
    whole, parts = (found(in_parts(settings, n)) for n in (1, 3))
    assert whole[0]["words"].dtype == torch.float64
    assert_equal(parts, whole, most=1e-10)
    assert torch.equal(parts[2], whole[2])


@pytest.mark.parametrize("reducer", REDUCERS)
def test_every_reducer_has_it(large, reducer):
    """Sparse sampling draws for each clip; with the visual tower's blocks computed again."""
    settings = small(large, head="meanp", reduce=(reducer,), checkpointing=True)
    if reducer.startswith("sparse"):
        # Its padding is drawn as well, once in each pass that meets some: here there is none.
        settings = replace(settings, train_frames=1, frames=1)
    assert_equal(found(in_parts(settings, 3)), found(settings), most=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_as_near_to_single(start, precision):
    """As the gradient of the whole batch; fp16's is scaled once."""
    settings = small(start, precision=precision)
    exact = found(replace(settings, precision="fp32"))
    errors = []
    for made in (found(in_parts(settings, 3)), found(settings)):
        apart = [tensor - exact[1][name] for name, tensor in made[1].items()]
        errors.append(torch.cat([one.flatten() for one in apart]).norm())
        for name, loss in exact[0].items():
            torch.testing.assert_close(made[0][name], loss, rtol=0.01, atol=0)
    assert 0 < errors[0] <= 1.1 * errors[1]


def test_frozen_towers_are_left_alone(start):
    settings = small(start, head="seq_transf", clip_lr=0.0)
    assert_equal(found(in_parts(settings, 3)), found(settings), most=1e-5)


@pytest.mark.parametrize(("rows", "parts"), [(7, 3), (4, 4), (3, 8), (5, 1)])
def test_parts_are_all_rows_in_order(rows, parts):
    numbers = torch.arange(rows)
    batch = Batch(*(numbers.view(-1, *[1] * ndim) for ndim in (1, 4, 1, 0)))
    made = cut(batch, parts)
    sizes = [len(part.ids) for part in made]
    assert len(sizes) == min(rows, parts)
    assert max(sizes) - min(sizes) <= 1
    for whole, column in zip(batch, zip(*made, strict=True), strict=True):
        assert torch.equal(torch.cat(column), whole)


@pytest.mark.parametrize("draw", ["even", "published"])
def test_a_part_draws_again_what_it_drew(large, monkeypatch, draw):
    """Without a graph and with one; after the step nothing was drawn twice."""
    drawn, features = Sparse._drawn, Retriever.features
    seen, owners = [], []

    def spy(self, counts):
        seen.append((torch.is_grad_enabled(), drawn(self, counts)))
        return seen[-1][1]

    def own(self, batch):
        owners.append(batch.owner)
        return features(self, batch)

    monkeypatch.setattr(Sparse, "_drawn", spy)
    monkeypatch.setattr(Retriever, "features", own)
    # One frame, no padding: it would be drawn as well, once in each pass that meets some.
    settings = small(large, reduce=(f"sparse@1:1,2,draw={draw}",), accumulate=3)
    settings = replace(settings, frames=1, train_frames=1)
    state = found(settings)[2]
    assert [is_learning for is_learning, _ in seen] == [False] * 3 + [True] * 3
    assert all(torch.equal(seen[at][1], seen[at + 3][1]) for at in range(3))
    assert all(torch.equal(owners[at], owners[at + 3]) for at in range(3))
    assert not torch.equal(seen[0][1], seen[1][1])
    parts, batch = begun(settings)
    for part in cut(batch, 3):
        parts.model.features(part)
    assert torch.equal(torch.get_rng_state(), state)


def test_twenty_steps_of_two_processes_are_those_of_one(tmp_path, start):
    """In 2 parts of 1 row, and in 2 parts of 1 and 2; the one has 2 and 3."""
    settings = recipe(start, batch_size=5, epochs=5, lr=2e-4, clip_lr=2e-4, accumulate=2)
    options = Options(log_every=1, select="last")
    train(settings, data(val=None), tmp_path / "one", options=options)

    def learned():
        train(settings, data(val=None), tmp_path / "run", options=options)
        return 0

    together(learned, world=2, folder=tmp_path / "out")
    assert len([one for one in lines(tmp_path / "run") if "loss" in one]) == 20
    assert_alike(tmp_path / "run", tmp_path / "one")


@pytest.mark.parametrize("head", ["cret", "tight_transf"])
def test_two_processes_have_the_gradient_of_whole_parts(tmp_path, start, double, head):
    """As `averaging` gives it, in float64; a process has 3 rows in parts of 1, one 4 of 1 and 2.

    One head draws for its vectors, too, and one takes its loss of a process's rows.
    """
    settings = small(start, head=head)

    def both():
        double()
        return [list(found(in_parts(settings, parts))[:2]) for parts in (1, 3)]

    one, other = together(both, world=2, folder=tmp_path / "out")
    for whole, parts in (one, other):
        assert_equal(parts, whole, most=1e-10)
    for name, tensor in one[1][1].items():
        assert tensor is None or torch.equal(tensor, other[1][1][name]), name


def test_going_on_equals_not_stopping(tmp_path, start, monkeypatch):
    """With chance in the head and in the tower, in two processes."""
    monkeypatch.setattr(meanp, "PLUGIN", Noisy)
    settings = recipe(start, epochs=1, batch_size=5, reduce=("sparse@1:1,2",), accumulate=3)
    options = Options(log_every=1, select="last")

    def runs():
        def ask(step, steps):
            if step == 1:
                signal.raise_signal(signal.SIGINT)

        train(settings, data(val=None), tmp_path / "whole", options=options)
        run = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            train(settings, data(val=None), run, options=options, on_step=ask)
        step = torch.load(run / "last.pt", weights_only=True)["step"]
        train(settings, data(val=None), run, options=options)
        return step

    assert together(runs, world=2, folder=tmp_path / "out") == [2, 2]
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_nonsense_stops_with_the_clips_of_the_batch(tmp_path, start, monkeypatch):
    """Of all its parts, though one alone went wrong."""
    forward, calls = Retriever.features, []

    def broken(self, batch):
        calls.append(batch)
        text, video = forward(self, batch)
        if len(calls) == 6:  # the second part of the second step
            text = text._replace(sentence=text.sentence * torch.nan)
        return text, video

    monkeypatch.setattr(Retriever, "features", broken)
    with pytest.raises(TtvrError) as caught:
        train(recipe(start, accumulate=2), data(), tmp_path / "run")
    owners = torch.cat([batch.owner for batch in calls[4:6]])
    assert len(owners) == 4
    assert str(caught.value).startswith("step 2: loss nan")
    assert str(caught.value).endswith(", ".join(list(COLORS)[at] for at in owners))


def test_more_parts_than_rows_are_refused(start):
    check_rows(recipe(start, accumulate=4), processes=1)
    with pytest.raises(UsageError, match="accumulate is 5, more parts than a batch of 4 has rows:"):
        check_rows(recipe(start, accumulate=5), processes=1)
    with pytest.raises(UsageError, match="rows in each of 2 processes: pass --accumulate 2 or"):
        check_rows(recipe(start, accumulate=3), processes=2)
