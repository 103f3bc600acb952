"""ttvr-bench train on a tiny model: both loops, every reduction, and what counts of a step."""

from __future__ import annotations

import itertools
import logging
import os

import pytest
import torch
from bench_options import options
from tiny import tiny_state
from tiny_training import data, recipe

from ttvr.bench import _training, train
from ttvr.clip import weights
from ttvr.errors import UsageError
from ttvr.train import Options


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    state = tiny_state(image=16, vocabulary=49408)
    return weights.save(state, tmp_path_factory.mktemp("start") / "start.pt", activation="gelu")


@pytest.fixture(scope="module")
def small(path):
    return ("-w", path, "--frames", 4, "--videos", 3, "--steps", 1, "--rounds", 1)


def test_both_loops_with_and_without_a_reduction(small, caplog, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    caplog.set_level(logging.INFO)
    plan = "token_shift@0 pooling@1:2"
    table = train.run(options(train, *small, "--reduce", plan, "--accumulate", 3))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["reduction"], row["loop"]) for row in rows] == [
        (name, loop) for name in ("none", plan) for loop in train.LOOPS
    ]
    for row in rows:
        assert row["clips/s"] == pytest.approx(3 * row["steps/s"])
        assert row["steps/s"] > 0
        assert (row["of plain"] == 1) or row["loop"] == train.OURS
        assert (row["reducers"] > 0) == (row["reduction"] == plan)
        assert row["reducers"] < 1
        # The table of tokens, its gradient, and two moments.
        assert 4 * 4 * 49408 * 64 < row["peak MiB"] * 2**20 < 100e6
    assert caplog.text == ""


def test_of_a_reducer_only_the_steps_count_that_are_timed(path):
    """By a clock that ticks when it is asked: a forward pass takes one tick, its step three."""
    ticks = itertools.count()
    settings = recipe(str(path), reduce=("pooling@1:1",), word_loss=0.0)
    task = _training.Task(settings, Options(), data(), torch.device("cpu"), 2, lambda: next(ticks))
    assert _training.share(task) == 2 / 5


def test_what_cannot_be_measured(small):
    for wrong in ("--frames", "--videos", "--steps", "--rounds", "--threads", "--accumulate"):
        with pytest.raises(UsageError, match="at least 1"):
            train.run(options(train, *small, wrong, 0))
    with pytest.raises(UsageError, match="4 frames"):
        train.run(options(train, *small, "--reduce", "kmedoids@1:3,2"))
