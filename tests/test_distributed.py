"""Slices of a batch, and a gather whose gradient is that of the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from groups import together
from torch.nn import functional as F

from ttvr import distributed
from ttvr.errors import UsageError
from ttvr.losses import info_nce


@pytest.mark.parametrize(("total", "world"), [(4, 1), (4, 2), (7, 2), (10, 4), (5, 3), (4, 4)])
def test_slices_are_all_rows_once_and_differ_by_one(total, world):
    own = [range(total)[distributed.part(total, rank=r, world=world)] for r in range(world)]
    assert [row for rows in own for row in rows] == list(range(total))
    assert {len(rows) for rows in own} <= {total // world, -(-total // world)}


def gradients(features, towers, scale):
    """Of both towers and of the scale, of this process's rows of the loss of all."""
    own = distributed.part(len(features[0]), rank=distributed.rank(), world=distributed.world())
    one, other = (
        F.normalize(x[own] @ tower, dim=1) for x, tower in zip(features, towers, strict=True)
    )
    mask = torch.arange(own.start, own.stop) % 3 > 0
    rows = distributed.sizes(len(one))
    one, other, absent, mask = distributed.gather([one, other, None, mask], rows)
    assert absent is None
    assert mask.equal(torch.arange(len(features[0])) % 3 > 0)
    loss = info_nce(scale.exp() * one @ other.T)
    loss.backward()
    return [loss.detach(), *(tensor.grad for tensor in (*towers, scale))]


@pytest.mark.parametrize(("world", "rows"), [(1, 8), (2, 8), (4, 8), (2, 7), (3, 8), (4, 10)])
def test_a_gathered_loss_has_the_gradient_of_the_whole_batch(tmp_path, world, rows):
    """Ratio 1.000 for the towers and the scale alike, which averaging leaves as it is."""
    generator = torch.Generator().manual_seed(world)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = draw(rows, 6), draw(rows, 6)
    towers = [draw(6, 5).requires_grad_() for _ in range(2)]
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    expected = gradients(features, towers, scale)
    for tensor in (*towers, scale):
        tensor.grad = None
    found = together(gradients, features, towers, scale, world=world, folder=tmp_path / "out")
    for number, whole in enumerate(expected):
        mean = sum(own[number] for own in found) / world
        torch.testing.assert_close(mean, whole, rtol=1e-12, atol=1e-14)
        assert float(mean.norm() / whole.norm()) == pytest.approx(1, abs=1e-12)


def test_gradients_of_processes_are_averaged_where_any_has_one(tmp_path, monkeypatch):
    """In messages that hold two of them, or one that is larger; the frozen one stays as it is."""
    monkeypatch.setattr("ttvr.distributed._group._AT_ONCE", 8)

    def averaged():
        rank = distributed.rank()
        made = [torch.full((2, 2), float(rank), requires_grad=at != 3) for at in range(6)]
        made.append(torch.full((3, 3), float(rank), requires_grad=True))
        distributed.start_alike(made)
        starts = [tensor.detach().clone() for tensor in made]
        for at in (0, 1, 2, 6) if rank else (1, 4, 6):
            made[at].grad = torch.full_like(made[at], 1.0 + at + 10 * rank).T
        distributed.average_gradients(made)
        return starts, [tensor.grad for tensor in made]

    expected = [5.5, (2 + 12) / 2, 6.5, None, 2.5, None, (7 + 17) / 2]
    for starts, found in together(averaged, world=2, folder=tmp_path / "out"):
        assert all(not tensor.any() for tensor in starts)
        for tensor, mean in zip(found, expected, strict=True):
            assert tensor is None if mean is None else bool((tensor == mean).all())


ENDED = """
import torch
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from ttvr import distributed

def step():
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()

with distributed.joined(torch.device("cpu")):
    step()
print([path.read_text() for path in Path("/proc/self/task").glob("*/comm")])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux")
def test_the_threads_of_a_group_end_with_it():
    """One that let go of a tensor at Python's end aborted the process, whose work was done."""
    joins = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    made = subprocess.run(
        [sys.executable, "-c", ENDED],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **joins},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert "python" in made.stdout
    assert "gloo" not in made.stdout


def test_a_launcher_that_does_not_say_where_to_meet(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    message = "WORLD_SIZE, MASTER_ADDR, MASTER_PORT not"
    with pytest.raises(UsageError, match=message), distributed.joined(torch.device("cpu")):
        pass


def test_an_interruption_waits_until_it_can_be_heard(capfd):
    """Of processes that have yet to import torch, and know nothing of interruptions."""
    timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        distributed.launch(time.sleep, 60, processes=2)
    assert time.monotonic() - started < 50
    assert capfd.readouterr().err == ""
