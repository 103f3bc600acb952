"""`ttvr-train --seeds N`: a run per seed, mean and standard deviation of what they measure."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from groups import together
from test_train import equal
from tiny_training import write_start

from ttvr import train
from ttvr.commands import _results
from ttvr.commands.train import main
from ttvr.train._folder import claimed

SMALL = "--data synthetic --limit 8 --eval-limit 8 -b 4 --frames 2 --device cpu --epochs 1"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Nothing here survives a power cut, so nothing has to wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


def arguments(start, out, *more):
    return [*SMALL.split(), "--set", "clip_lr=1e-2", "-w", start, "-o", str(out), *map(str, more)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    out = tmp_path_factory.mktemp("seeds") / "x"
    assert main(arguments(start, out, "--seeds", 2, "--seed", 3)) == 0
    return out


def read(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def model(folder):
    return torch.load(folder / "best.pt", weights_only=True)


def test_mean_and_sd_are_of_the_runs(whole, start, capsys):
    command = arguments(start, whole, "--seeds", 2, "--seed", 3)
    assert main([*command, "--json", "-q"]) == 0  # over: the same result, once
    found = json.loads(capsys.readouterr().out)
    assert {*found} == {"mean", "sd", "runs"}
    (kept,) = read(whole)
    assert {name: kept[name] for name in ("mean", "sd")} == {k: found[k] for k in ("mean", "sd")}
    alone = [read(whole / f"seed{seed}")[0] for seed in (3, 4)]
    assert [one["protocol"]["seed"] for one in alone] == [3, 4]
    for way in ("t2v", "v2t"):
        for name in ("R@1", "R@5", "R@10", "MdR", "MnR", "RSum"):
            one, other = (run[way][name] for run in alone)
            assert found["mean"][way][name] == pytest.approx((one + other) / 2)
            assert found["sd"][way][name] == pytest.approx(abs(one - other) / 2**0.5)
    one, other = (run["SumR"] for run in alone)
    assert found["sd"]["SumR"] == pytest.approx(abs(one - other) / 2**0.5)
    assert found["sd"]["t2v"]["MnR"] + found["sd"]["v2t"]["MnR"] > 0

    assert main(command) == 0
    rows = capsys.readouterr().out.splitlines()
    names = ["t2v_mean", "v2t_mean", "SumR_mean", "t2v_sd", "v2t_sd", "SumR_sd"]
    assert [row.split("\t")[0] for row in rows[1:7]] == names
    assert ["| seed 3 |" in rows[7], "| seed 4 |" in rows[8], len(rows)] == [True, True, 9]


def test_a_run_of_a_seed_is_that_of_the_seed_alone(whole, start, tmp_path):
    assert main(arguments(start, tmp_path / "y", "--seed", 4)) == 0
    assert equal(model(tmp_path / "y"), model(whole / "seed4"))
    assert not equal(model(whole / "seed3"), model(whole / "seed4"))


def test_stopped_it_goes_on_with_the_seed_it_was_at(whole, start, tmp_path, monkeypatch, capsys):
    command = arguments(start, tmp_path / "x", "--seeds", 2, "--seed", 3)
    done, learn, begun = [], train.train, []

    def stopped(recipe, data, folder, **how):
        begun.append(folder.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        done.append(folder)
        return learn(recipe, data, folder, **how)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train", stopped)
        assert main(command) == 130
    assert capsys.readouterr().err.endswith("the same command run again goes on from here\n")
    assert begun == ["seed3", "seed4"]
    assert not (tmp_path / "x" / "results.jsonl").exists()
    before = (tmp_path / "x" / "seed3" / "last.pt").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "x" / "seed3" / "last.pt").stat().st_mtime_ns == before
    assert equal(model(tmp_path / "x" / "seed4"), model(whole / "seed4"))


def test_what_is_begun_anew_leaves_no_result_of_before(whole, start, tmp_path, monkeypatch):
    out = tmp_path / "x"
    shutil.copytree(whole, out)
    (out / ".hidden").touch()  # as file managers leave them, which is nobody's run

    def begun(on_step):
        def stop(step, steps):
            on_step(step, steps)
            raise KeyboardInterrupt

        return stop

    command = arguments(start, out, "--seeds", 2, "--seed", 3)
    with claimed(out / "seed3"):  # by another process, which may be about to finish it
        assert main([*command, "--overwrite"]) == 1
    assert len(read(out)) == 1
    learn = train.train
    monkeypatch.setattr(
        train, "train", lambda *what, on_step, **how: learn(*what, on_step=begun(on_step), **how)
    )
    assert main([*command, "--overwrite"]) == 130
    assert not (out / "results.jsonl").exists()


def test_two_processes_train_each_seed_together(whole, start, tmp_path):
    command = arguments(start, tmp_path / "x", "--seeds", 2, "--seed", 3, "--gpus", 2)
    codes = together(main, command, world=2, folder=tmp_path / "out", joins=False)
    assert codes == [0, 0]
    (one,), (two,) = read(whole), read(tmp_path / "x")
    assert [run["protocol"]["seed"] for run in two["runs"]] == [3, 4]
    for way in ("t2v", "v2t"):  # the steps are those of one process but for rounding
        assert two["mean"][way] == pytest.approx(one["mean"][way])


def test_what_fails_between_two_seeds_ends_all_processes(start, tmp_path, monkeypatch, capfd):
    def fail(path, *what):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(_results, "append_new", fail)
    command = arguments(start, tmp_path / "x", "--seeds", 2)
    codes = together(main, command, world=2, folder=tmp_path / "out", joins=False)
    assert codes == [1, 1]
    err = capfd.readouterr().err
    assert err.count("results.jsonl: No space left on device") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "x" / "seed1").exists()


def test_what_does_not_go_with_several_seeds(whole, start, tmp_path, capsys):
    single, other = whole / "seed3", tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    for out, more, match in (
        (tmp_path / "x", ("--dry-run",), "leave --seeds out"),
        (single, (), "seed3 holds a run of a single seed, nothing was changed; pass another -o"),
        (tmp_path / "x", ("--seed", 2**63 - 1), "from seed 9223372036854775807 on goes beyond"),
        (other, (), "other holds notes.txt, with --seeds it holds a folder per seed alone"),
    ):
        assert main(arguments(start, out, "--seeds", 2, *more)) == 2
        error = capsys.readouterr().err
        assert match in error
        assert error.count("\n") == 1
    assert main(arguments(start, whole)) == 2  # and several are no single run
    error = capsys.readouterr().err
    assert "holds the runs of several seeds, nothing was changed; pass --seeds to go on" in error
    assert f"as -o {whole / 'seed3'}, or another -o" in error
