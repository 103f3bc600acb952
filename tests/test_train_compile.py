"""--compile: the same gradients but for rounding, under the same names, and never in validation.

A CPU traces graphs and runs them as they are: to differentiate and compile them takes a minute.
"""

from __future__ import annotations

import os

import pytest
import torch
from groups import together
from test_train_processes import assert_alike
from tiny import tiny_state
from tiny_training import data, recipe
from torch._dynamo.utils import counters
from torch._inductor.exc import TritonMissing

from ttvr.errors import RequirementError
from ttvr.train import Options, train
from ttvr.train._gradients import add_gradients
from ttvr.train._setup import set_up

COMPILED = Options(log_every=1, select="last", compile=True)
PLAIN = COMPILED._replace(compile=False)
COMPILE = torch.compile


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing here survives a power cut, and graphs run as they are, by no compiler."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(torch, "compile", lambda call: COMPILE(call, backend="eager"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.pt"
    torch.save(tiny_state(image=16, vocabulary=49408, layers=3), path)
    return str(path)


def found(settings, options, device="cpu"):
    """Losses and gradients by name of the first batch, and features without training."""
    parts = set_up(settings, data(), options, device)
    batch, model = next(parts.loader.batches(0)), parts.model
    losses = add_gradients(parts, batch, settings)
    grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.eval()
    with torch.inference_mode():
        return {**losses, **grads}, model.features(batch)[1].frames


def test_gradients_are_those_without(start):
    """In parts, by a tower that computes again what it has not kept, before and after a stage."""
    settings = recipe(start, accumulate=2, checkpointing=True, reduce=("kmedoids@1:1,2",))
    stats = counters["stats"]
    plain, expected = found(settings, PLAIN)
    before = stats["unique_graphs"]
    compiled, features = found(settings, COMPILED)
    # The first block and the last, with and without a graph: no more, though texts differ.
    assert stats["unique_graphs"] == before + 4
    assert plain.keys() == compiled.keys()
    for name, one in plain.items():
        # Rounding of float32, in sums of some hundred terms.
        assert (compiled[name] - one).norm() <= 1e-5 * one.norm(), name
    # What ranks is what will be used.
    assert torch.equal(features, expected)


def test_two_processes_go_on_without(tmp_path, start):
    settings = recipe(start, batch_size=5, epochs=2, lr=2e-4, clip_lr=2e-4)
    train(settings, data(val=None), tmp_path / "one", options=PLAIN)

    def stop(step, steps):
        if step == 4:
            raise KeyboardInterrupt

    def learned():
        options = COMPILED._replace(save_every=1)
        with pytest.raises(KeyboardInterrupt):
            train(settings, data(val=None), tmp_path / "run", options=options, on_step=stop)
        return counters["stats"]["unique_graphs"]

    assert min(together(learned, world=2, folder=tmp_path / "out")) > 0
    stored = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert stored["step"] == 4
    train(settings, data(val=None), tmp_path / "run", options=PLAIN)
    assert_alike(tmp_path / "run", tmp_path / "one")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("No working C++ compiler\nfound\n\nAdvice."), r"C\+\+ compiler found"),
        (TritonMissing(None), "working triton installation.*"),
    ],
    ids=["C++", "Triton"],
)
def test_without_a_compiler(start, monkeypatch, failure, said):
    def fail(graph, inputs):
        raise failure

    monkeypatch.setattr(torch, "compile", lambda call: COMPILE(call, backend=fail))
    with pytest.raises(RequirementError, match=rf"--compile: .*{said}\); install"):
        found(recipe(start), COMPILED)


@pytest.mark.cuda
def test_a_gpu_compiles(start, monkeypatch):
    monkeypatch.setattr(torch, "compile", COMPILE)
    settings = recipe(start, accumulate=2, checkpointing=True, reduce=("kmedoids@1:1,2",))
    plain, compiled = (found(settings, options, "cuda")[0] for options in (PLAIN, COMPILED))
    for name, one in plain.items():
        # Sums on a GPU are rounded in no fixed order, and clusters are of nearly equal patches.
        assert (compiled[name] - one).norm() <= 1e-2 * one.norm(), name
