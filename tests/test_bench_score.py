"""ttvr-bench score on small sizes: the direct forms score what the heads score."""

from __future__ import annotations

import pytest
from bench_options import options

from ttvr.bench import score
from ttvr.errors import TtvrError, UsageError
from ttvr.heads.xpool import XPool

SMALL = ("--texts", 5, "--videos", 4, "--frames", 3, "--words", 6, "--dim", 64, "--rounds", 1)
DIRECT = ("tc_mgc", "xpool", "drl", "xclip", "ucofia")


def test_a_table_with_every_contender():
    table = score.run(options(score, *SMALL, "--real-words", 2, 5))
    forms = (score.OURS, score.PREPARED, score.DIRECT)
    assert [row[:3] for row in table.rows] == [
        (name, form, 20) for name in DIRECT for form in forms
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(value > 0 for row in table.rows for value in row[3:])
    assert [row[5] for row in table.rows if row[1] == score.DIRECT] == [1.0] * len(DIRECT)


def test_the_direct_form_may_score_less(monkeypatch):
    monkeypatch.setitem(score._SMALLER, "xpool", 3)
    table = score.run(options(score, *SMALL, "--heads", "xpool"))
    ours, _, direct = table.rows
    assert (ours[2], direct[2]) == (20, 9)
    assert ours[5] == pytest.approx(direct[4] / ours[4])


def test_heads_without_a_direct_form_are_timed_alone():
    table = score.run(options(score, *SMALL, "--heads", "meanp", "ts2net", "--patches", 4))
    assert [row[:2] for row in table.rows] == [
        (name, form) for name in ("meanp", "ts2net") for form in (score.OURS, score.PREPARED)
    ]
    assert all(row[5] == "-" for row in table.rows)
    assert table.notes[1:3] == ["meanp: no direct form here", "ts2net: no direct form here"]
    table = score.run(options(score, *SMALL, "--heads", "xpool", "--no-direct"))
    assert [row[5] for row in table.rows] == ["-", "-"]


def test_two_stages():
    table = score.run(options(score, *SMALL, "--heads", "tc_mgc", "--gallery", 9, "--rerank", 4))
    assert [row[:2] for row in table.rows] == [("tc_mgc", score.ALL), ("tc_mgc", score.NEAREST)]
    assert table.rows[0][3] == 1.0
    assert "9 videos, 4 in the second stage" in table.title


def test_forms_that_score_other_things_are_not_compared(monkeypatch):
    monkeypatch.setattr(XPool, "fuse", lambda self, sims, scale: 1.01 * scale * sims[0])
    with pytest.raises(TtvrError, match=r"xpool: scores are 0\.01 of the largest from"):
        score.run(options(score, *SMALL, "--heads", "xpool"))


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (("--frames", 0), "--frames is at least 1"),
        (("--gallery", 0), "--gallery is at least 1"),
        (("--real-words", 3, 7), "--real-words lie in 1 to 6"),
        (("--real-words", 4, 2), "--real-words lie in 1 to 6"),
        (("--rounds", 0), "--rounds"),
    ],
)
def test_what_cannot_be_measured(argv, match):
    with pytest.raises(UsageError, match=match):
        score.run(options(score, *SMALL, "--heads", "xpool", *argv))
