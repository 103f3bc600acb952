"""Files of results: a line each, whatever was killed in the middle of one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_evaluate import home, run  # noqa: F401

from ttvr.commands import _results
from ttvr.errors import TtvrError, UsageError

FACTS = {"SumR": 1.5, "protocol": {"split": "café", "versions": {"ttvr": "1"}}}


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_are_added_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        [*pool.map(lambda n: _results.append(path, "x", {**FACTS, "n": n}), range(40))]
    assert sorted(line["n"] for line in read(path)) == [*range(40)]


@pytest.mark.parametrize("cut", [1, 5, 40])
@pytest.mark.parametrize("size", [10, 200_000])
def test_a_part_of_a_line_goes(tmp_path, cut, size):
    path = tmp_path / "results.jsonl"
    _results.append(path, "x", FACTS)
    whole = path.read_bytes()
    _results.append(path, "x", {**FACTS, "long": "a" * size})
    torn = path.read_bytes()[: len(whole) + cut if size == 10 else -1]
    path.write_bytes(torn)
    _results.append(path, "x", {**FACTS, "n": 2})
    assert path.read_bytes().startswith(whole)
    assert [line.get("n") for line in read(path)] == [None, 2]


def test_something_else_is_not_touched(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("one\ntwo")
    for call in (lambda: _results.check(str(path)), lambda: _results.append(path, "x", FACTS)):
        with pytest.raises(UsageError, match=r"notes.txt does not end as a file of results"):
            call()
    assert path.read_text() == "one\ntwo"


def test_the_same_result_comes_once(tmp_path):
    path = tmp_path / "results.jsonl"
    newer = {**FACTS, "protocol": {**FACTS["protocol"], "versions": {"ttvr": "2"}}}
    for facts in (FACTS, FACTS, newer, {**FACTS, "SumR": 2.5}):
        _results.append_new(path, "x", facts)
    assert [line["SumR"] for line in read(path)] == [1.5, 2.5]
    path.write_text("two\n")
    with pytest.raises(TtvrError, match=r"results.jsonl holds a line that is no result"):
        _results.append_new(path, "x", FACTS)


def test_eval_adds_what_it_prints(home, capsys, tmp_path):  # noqa: F811
    path = tmp_path / "results.jsonl"
    arguments = (home / "feats", "--gt", home / "pairs.tsv", "--json", "--results", path)
    first = json.loads(run(capsys, *arguments)[1])
    run(capsys, *arguments, "--ties", "pessimistic")
    one, two = read(path)
    assert {name: one[name] for name in first} == first
    assert {*one} == {"date", "command", "arguments", *first}
    assert one["arguments"]["features"] == str(home / "feats")
    assert [line["arguments"]["ties"] for line in (one, two)] == [None, "pessimistic"]
    model = one["protocol"]["model"]
    assert all(model[name] for name in ("base", "space", "head", "fingerprint"))


@pytest.mark.parametrize(("name", "match"), [("none/x", "no folder"), ("", "is a folder")])
def test_eval_checks_the_file_before_it_works(home, capsys, tmp_path, name, match):  # noqa: F811
    truth = (home / "feats", "--gt", home / "pairs.tsv", "--results", tmp_path / name)
    code, out, err = run(capsys, *truth)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert match in err
