"""ttvr-bench rank on a small gallery: every contender answers, and the gallery can be kept."""

from __future__ import annotations

import contextlib
import multiprocessing

import numpy as np
import pytest
from bench_options import options

from ttvr.bench import rank
from ttvr.errors import TtvrError, UsageError


def test_a_table_with_every_contender(tmp_path):
    kept = tmp_path / "gallery.npy"
    small = ("--rows", 3000, "--dim", 16, "--queries", 1, 3, "--rounds", 1, "--keep", kept)
    table = rank.run(options(rank, *small))
    assert {row[:2] for row in table.rows} >= {
        (name, count) for name in (rank.OURS, rank.NUMPY) for count in (1, 3)
    }
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(row[2] > 0 for row in table.rows)
    gallery = np.load(kept)
    assert gallery.shape == (3000, 16)
    assert gallery.dtype == np.float16
    assert np.allclose(np.linalg.norm(gallery.astype("f4"), axis=1), 1, atol=1e-2)


def test_what_cannot_be_measured(tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        rank.run(options(rank, "--rows", 0))
    with pytest.raises(UsageError, match="at least 1"):
        rank.run(options(rank, "--rows", 5, "--rounds", 0, "--keep", tmp_path / "none.npy"))
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "other.npy", np.zeros((2, 2), np.float16))
    with pytest.raises(UsageError, match=r"holds float16 \[2, 2\]"):
        rank.run(options(rank, "--rows", 3, "--dim", 2, "--keep", tmp_path / "other.npy"))


def test_contenders_that_find_other_things_are_not_compared():
    scores = {rank.OURS: np.zeros((1, 2)), rank.NUMPY: np.full((1, 2), 0.1)}
    with pytest.raises(TtvrError, match=r"differ by 0\.1"):
        rank._compare(scores)
    scores[rank.NUMPY][0, 1] = np.nan
    with pytest.raises(TtvrError, match="differ by nan"):
        rank._compare(scores)


def dies(name, *others):
    """In place of `rank._serve`: our process ends at once, the others wait for the end."""
    if name != rank.OURS:
        with contextlib.suppress(EOFError):
            others[-1].recv()


def test_the_process_that_died_is_named(monkeypatch):
    monkeypatch.setattr(rank, "_serve", dies)
    with pytest.raises(TtvrError, match=f"the process of {rank.OURS} died"):
        rank.run(options(rank, "--rows", 5, "--dim", 2, "--rounds", 1))
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(TtvrError, match="the process of it died"):
        rank._ask("it", ours, 1)


def test_no_column_for_memory_where_it_is_not_known():
    args = options(rank, "--queries", 2)
    seconds = {(name, 2): 1.0 for name in (rank.OURS, rank.NUMPY)}
    for known, columns in ((3.0, 7), (None, 6)):
        memory = dict.fromkeys((rank.OURS, rank.NUMPY), known)
        table = rank._table(args, [rank.OURS, rank.NUMPY], seconds, memory)
        assert {len(table.columns), *map(len, table.rows)} == {columns}
        assert ("memory is not measured" in " ".join(table.notes)) is (known is None)
