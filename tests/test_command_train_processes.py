"""`ttvr-train --gpus N --device cpu`: real processes, and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from groups import together
from test_train_processes import assert_alike, assert_same
from tiny_training import write_start

from ttvr.commands.train import main

ROOT = Path(__file__).parents[1]
SMALL = "--data synthetic --limit 8 --eval-limit 4 -b 4 --frames 2 --device cpu --set clip_lr=1e-4"
SECONDS = 60  # more than any of it takes


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing here survives a power cut, so nothing has to wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


def command(start, run, *arguments):
    return [*SMALL.split(), "-w", start, "-o", str(run), *map(str, arguments)]


def begun(arguments, last):
    """`bin/ttvr-train` that has taken a step, or some, and saved them."""
    before = last.stat().st_mtime_ns if last.exists() else None
    line = [sys.executable, "bin/ttvr-train", *arguments]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + SECONDS
    while not last.exists() or last.stat().st_mtime_ns == before or step_of(last) == 0:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def step_of(last):
    return torch.load(last, weights_only=True, mmap=True)["step"]


def members(process):
    """Ids of the processes that a launcher has started and that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
    return sorted(found)


def are_gone(ids):
    until = time.monotonic() + 10
    while any(Path(f"/proc/{one}").exists() for one in ids) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(Path(f"/proc/{one}").exists() for one in ids)


def test_torchrun_s_processes_do_what_one_does(tmp_path, capsys, start):
    runs = tmp_path / "one", tmp_path / "two"
    assert main(command(start, runs[0], "-b", 3, "--epochs", 1)) == 0
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "ttvr", "train", *command(start, runs[1], "-b", 3, "--epochs", 1)]
    made = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    # The name of the weights and their hash: what is rounded otherwise makes it another one.
    both = [re.sub(r"model \S+ \S+ ", "", out) for out in (made.stdout, capsys.readouterr().out)]
    assert both[0] == both[1]
    assert made.stderr.count("steps done") == 1
    assert_alike(*runs)


def test_a_run_that_is_stopped_in_every_way_ends_as_if_it_had_not_been(tmp_path, start):
    run, whole = tmp_path / "run", tmp_path / "whole"
    extra = ("--epochs", 3, "--limit", 24, "--save-every", 2, "--log-every", 1, "--gpus", 2)
    extra = (*extra, "--head", "tight_transf", "--set", "head_options=layers=1")
    arguments = [*command(start, run, *extra), "--progress", "never"]

    process = begun(arguments, run / "last.pt")
    one, other = members(process)
    killed = time.monotonic()
    os.kill(other, signal.SIGKILL)
    said = process.communicate(timeout=SECONDS)[1].splitlines()
    assert time.monotonic() - killed < 10
    assert process.returncode == 1
    assert re.match(r"ttvr-train: process \d of 2 was killed \(SIGKILL;", said[-1])
    assert sum("ttvr-train" in line for line in said) == 1
    assert "Traceback" not in "".join(said)
    assert are_gone([one])

    process = begun(arguments, run / "last.pt")
    ids = members(process)
    process.kill()
    assert are_gone(ids)
    process.communicate()

    process = begun(arguments, run / "last.pt")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=SECONDS)[1].splitlines()
    assert process.returncode == 130
    assert said[-1] == "ttvr-train: interrupted; the same command run again goes on from here"
    assert sum("interrupted" in line for line in said) == 1
    assert 0 < step_of(run / "last.pt") < 18

    for folder in (run, whole):
        arguments = command(start, folder, *extra)
        together(main, arguments, world=2, folder=tmp_path / "out", joins=False)
    assert step_of(run / "last.pt") == 18
    assert_same(run, whole)


WRONG = {
    "no GPUs": (["--gpus", 2, "--device", "cuda"], 5, "CUDA devices; pass a number that it has"),
    "a GPU for two": (["--gpus", 2, "--device", "cuda:0"], 2, "not with cuda:0"),
    "no processes": (["--gpus", 0], 2, "not a whole number of 1"),
}


@pytest.mark.parametrize(("extra", "code", "match"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_started_is_refused(tmp_path, capsys, start, extra, code, match):
    try:
        found = main(command(start, tmp_path / "run", *extra))
    except SystemExit as end:
        found = end.code
    assert found == code
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_more_processes_than_rows_of_a_batch_are_not_started(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ttvr.distributed.launch", lambda *_, **__: pytest.fail("started"))
    command = ["--data", "synthetic", "--device", "cpu", "-b", "4", "-o", str(tmp_path / "x")]
    assert main([*command, "--gpus", "5"]) == 2
    assert "a batch of 4 has nothing for some of 5 processes" in capsys.readouterr().err
