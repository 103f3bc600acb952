"""The feature folder: any crash changes nothing, and one process at a time."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from store_files import (
    TEXTS,
    changed,
    content,
    fill,
    fill_texts,
    quick,
    settings,
    sources,
    whole,
)

from ttvr.errors import TtvrError
from ttvr.store._claim import Lock, clear_partial

__all__ = ["quick", "whole"]


class Crash(BaseException):
    """Stands for the death of the process."""


_CALLS = ("write", "pwrite", "fsync", "ftruncate", "unlink", "mkdir", "rmdir", "rename")


def crash_at(monkeypatch, step, *, after):
    """Make call number `step` that changes the disk the last one; returns the counter."""
    counter = {"calls": 0}

    def wrapped(real):
        def call(*args, **kwargs):
            counter["calls"] += 1
            if counter["calls"] > step or (counter["calls"] == step and not after):
                raise Crash
            result = real(*args, **kwargs)
            if counter["calls"] == step:
                raise Crash
            return result

        return call

    for name in _CALLS:
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    monkeypatch.setattr(pathlib.Path, "replace", wrapped(pathlib.Path.replace))
    return counter


def crash_everywhere(monkeypatch, tmp_path, begin, run, expected, *, every=1):
    """Run after a crash at every step in turn; the bytes have to be those of no crash."""
    step, tried, survived = 1, 0, False
    while not survived:
        folder = tmp_path / f"{step}" / "feats"
        begin(folder)
        with monkeypatch.context() as patch:
            crash_at(patch, step, after=tried % 2 == 0)
            try:
                run(folder)
                survived = True
            except Crash:
                pass
        if not survived and folder.exists():
            with monkeypatch.context() as patch:  # a second crash, in the middle of recovering
                crash_at(patch, 1 + step % 7, after=True)
                with contextlib.suppress(Crash):
                    run(folder)
        run(folder)
        assert content(folder) == expected, step
        step += every
        tried += 1
    return step


def test_a_crash_at_any_step_changes_nothing(monkeypatch, tmp_path, whole):
    steps = crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: folder.parent.mkdir(),
        lambda folder: fill(folder, sources(11)),
        content(whole),
    )
    assert steps > 100


def test_a_crash_while_inputs_change(monkeypatch, tmp_path):
    items = changed(sources(7))
    fill(tmp_path / "expected", items)
    fill(tmp_path / "before", sources(7))
    crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: shutil.copytree(tmp_path / "before", folder),
        lambda folder: fill(folder, items),
        content(tmp_path / "expected"),
        every=2,
    )


def test_a_crash_while_overwriting(monkeypatch, tmp_path):
    other = settings(model={"fingerprint": "sha256:bb"})
    fill(tmp_path / "expected", sources(5), made=other)
    fill(tmp_path / "before", sources(7))
    crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: shutil.copytree(tmp_path / "before", folder),
        lambda folder: fill(folder, sources(5), made=other, overwrite=True),
        content(tmp_path / "expected"),
        every=2,
    )


def test_a_crash_while_writing_texts(monkeypatch, tmp_path):
    fill_texts(tmp_path / "expected", TEXTS)
    crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: folder.parent.mkdir(),
        lambda folder: fill_texts(folder, TEXTS),
        content(tmp_path / "expected"),
    )


_CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import store_files
if sys.argv[1] == "hold":
    with store_files.writer(Path(sys.argv[2]), store_files.sources(3)):
        print("held", flush=True)
        time.sleep(60)
real = store_files.outcome
def slow(item):
    time.sleep(0.002)
    return real(item)
store_files.outcome = slow
print("begun", flush=True)
store_files.fill(Path(sys.argv[2]), store_files.sources(300))
"""


def child(*arguments):
    code = _CHILD.format(tests=str(pathlib.Path(__file__).parent))
    root = pathlib.Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, cwd=root
    )
    process.stdout.readline()
    return process


def test_kill_9_several_times(tmp_path):
    fill(tmp_path / "expected", sources(300))
    folder, rng, kills = tmp_path / "feats", random.Random(0), 0
    journal, lines = folder / "items.jsonl", 0
    for _ in range(4):
        process = child("fill", folder)
        lines += rng.randrange(5, 40)
        while process.poll() is None and _lines(journal) < lines:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        lines = _lines(journal)
    assert kills >= 2  # a child that nobody could stop in time may have finished
    fill(folder, sources(300))
    assert content(folder) == content(tmp_path / "expected")


def _lines(journal):
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "feats"
    process = child("hold", folder)
    try:
        with pytest.raises(TtvrError, match=f"being written by process {process.pid}"):
            fill(folder, sources(3))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert fill(folder, sources(3)) == ["v00", "v01", "v02"]  # the dead process's lock is void


def test_a_process_that_comes_as_another_ends(monkeypatch, tmp_path):
    """Between the removal of the lock and that of its folder the next process takes both."""
    folder, real, locks = tmp_path / "feats", pathlib.Path.rmdir, [Lock(tmp_path / "feats")]

    def rmdir(path):
        locks.append(Lock(folder))
        real(path)

    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    clear_partial(folder)
    with pytest.raises(TtvrError, match="being written by process"):
        Lock(folder)
    for lock in locks:
        lock.release()


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), PermissionError(13, "denied")])
def test_a_folder_that_another_process_removed(monkeypatch, tmp_path, error):
    """That other one may even have come to its own end by then; what else fails is an error."""
    lock = Lock(tmp_path)

    def rmdir(path):
        raise error

    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    allowed = isinstance(error, FileNotFoundError)
    with contextlib.nullcontext() if allowed else pytest.raises(PermissionError):
        clear_partial(tmp_path)
    lock.release()
