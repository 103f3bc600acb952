"""ttvr-bench encode and memory on a tiny tower: every contender, and counts that are known."""

from __future__ import annotations

import pytest
import torch
from bench_options import options
from tiny import tiny_state

from ttvr.bench import _tower, encode, memory
from ttvr.bench._memory import used
from ttvr.bench._table import alternate
from ttvr.clip import weights
from ttvr.errors import UsageError

PLAN = "kmedoids@1:2,5"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("tower") / "clip.pt"
    torch.save(tiny_state(layers=3), path)
    return ("-w", path, "--frames", 4, "--videos", 2, "--reduce", PLAN)


def test_a_table_of_times(small):
    table = encode.run(options(encode, *small, "--rounds", 1))
    assert len(set(table.columns)) == len(table.columns)  # they are the keys of --json
    names = (f"none{encode.EVERY}", PLAN + encode.EVERY, "none", PLAN)
    assert [row[1:3] for row in table.rows] == [
        (name, precision) for precision in ("fp32", "bf16") for name in names
    ]
    rows = [dict(enumerate(row)) for row in table.rows]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(row[3] > 0 for row in rows)
    assert all(row[5] == row[6] == "-" for row in rows[:4])
    assert [row[4] for row in rows if row[1].startswith("none")] == [1] * 4
    # Two kinds of zero would be: bfloat16 that was never on, and other videos.
    assert all(0 < row[6] < 2e-2 for row in rows[4:])
    alone = encode.run(options(encode, *small, "--rounds", 1, "--precision", "bf16"))
    assert [row[5:7] for row in alone.rows] == [("-", "-")] * 4


def test_the_work_is_that_of_the_products(small):
    table = encode.run(options(encode, *small, "--rounds", 1, "--precision", "fp32"))
    every, all_reduced, none, plan = (1e9 * row[7] for row in table.rows)
    T, N, D, E = 4, 17, 64, 32

    def block(tokens, asked):
        attention = 2 * D * D * tokens + 2 * D * D * asked + 2 * D * tokens * asked
        return attention + 8 * D * D * asked

    def tower(*blocks, projected):
        return 2 * (T * 16 * 192 * D + sum(blocks) + projected * D * E)

    assert every == tower(3 * T * block(N, N), projected=T * N)
    assert none == tower(2 * T * block(N, N), T * block(N, 1), projected=T)
    reduced = tower(T * block(N, N), 2 * block(6, 6), 2 * block(6, 1), projected=2)
    gram = 2 * 2 * 32 * 32 * D  # of the two segments, at most: half of it is taken and mirrored
    assert reduced < plan <= reduced + gram
    more = tower(T * block(N, N), 4 * block(6, 6), projected=12) - reduced
    assert all_reduced - plan == more
    assert table.rows[1][8] == all_reduced / every
    assert table.rows[3][8] == plan / none


def test_a_table_of_memory(small):
    table = memory.run(options(memory, *small))
    assert [row[1:3] for row in table.rows] == [
        ("none", "no"), (PLAN, "no"), ("none", "yes"), (PLAN, "yes")
    ]  # fmt: skip
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(set(table.columns)) == len(table.columns)
    kept = [row[3] for row in table.rows]
    peak = [row[5] for row in table.rows]
    assert all(0 < a < b for a, b in zip(kept, peak, strict=True))
    assert kept[1] < kept[0] > kept[2] > kept[3]
    assert peak[1] < peak[0] > peak[2]
    assert table.rows[0][4] == table.rows[0][6] == 1
    assert memory.run(options(memory, *small)).rows == table.rows
    narrow = memory.run(options(memory, *small, "--precision", "bf16"))
    assert narrow.rows[0][3] < kept[0]


def test_the_peak_is_of_both_passes():
    x = torch.zeros(1000, requires_grad=True)
    x.grad = torch.zeros(1000)
    found = memory.step(lambda: x.exp().sum())
    # The result of exp is kept, and its gradient is made while it is there.
    assert 4000 <= found.kept < 4200
    assert 8000 <= found.peak < 8400
    found = memory.step(lambda: x.exp().exp().exp().sum())
    # Three are kept, and of each gradient one is left when the next is made.
    assert 12000 <= found.kept < 12400
    assert 16000 <= found.peak < 16800


def test_what_is_freed_counts_as_such():
    def call():
        one = torch.zeros(500)
        del one
        return torch.zeros(10)

    found = used(call)
    assert 40 <= found.kept < 200
    assert 2000 <= found.peak < 2200


def test_a_clock_of_ones_own():
    now = iter(range(100))
    found = alternate({"a": str, "b": str}, rounds=2, clock=lambda: next(now) ** 2)
    assert found == {"a": [1, 9], "b": [5, 13]}


def test_sizes_have_the_plans_of_the_paper(monkeypatch):
    narrow = {"width": 64, "text_width": 64, "text_layers": 1, "vocab": 10}
    sizes = weights.SIZES["ViT-B/32"]._replace(**narrow)
    monkeypatch.setitem(weights.SIZES, "ViT-B/32", sizes)
    made = list(_tower.towers(options(encode)))
    assert [one.name for one in made] == ["ViT-B/32", "ViT-B/16"]
    assert [one.plan.patches for one in made] == [49, 196]
    assert [one.plan.canonical for one in made] == [["kmedoids@6:4,49"], ["kmedoids@6:4,160"]]
    assert not any(one.visual.training for one in made)


def test_clips_move(small):
    frames, mask = _tower.clips(options(memory, *small), 32)
    assert frames.shape == (2, 4, 3, 32, 32)
    assert mask.shape == (2, 4)
    assert mask.all()
    assert not torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0, 0], frames[0, 3])


def test_what_cannot_be_measured(small, tmp_path):
    for wrong in (("--frames", 0), ("--videos", 0), ("--rounds", 0), ("--threads", 0)):
        with pytest.raises(UsageError, match="at least 1"):
            encode.run(options(encode, *small, *wrong))
    with pytest.raises(UsageError, match="5 frames do not divide"):
        memory.run(options(memory, *small, "--frames", 5))
    with pytest.raises(UsageError, match="say --reduce"):
        memory.run(options(memory, "-w", small[1]))
    text = {name: one for name, one in tiny_state().items() if not name.startswith("visual.")}
    torch.save(text, tmp_path / "text.pt")
    with pytest.raises(UsageError, match="no visual tower"):
        memory.run(options(memory, "-w", tmp_path / "text.pt", "--reduce", PLAN))
