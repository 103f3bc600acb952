"""ttvr-bench cluster on small sizes: the published loop ends where ours does."""

from __future__ import annotations

import pytest
import torch
from bench_options import options

from ttvr.bench import cluster
from ttvr.bench._memory import used
from ttvr.cluster import kmedoids as module
from ttvr.cluster.kmedoids import kmedoids
from ttvr.errors import TtvrError, UsageError


def test_a_table_with_every_contender():
    small = ("--dim", 8, "--rounds", 1)
    table = cluster.run(options(cluster, "--sizes", "2,30,5", "3,21,7", *small))
    names = (cluster.GRAM, cluster.EIGEN, cluster.OURS, cluster.SPECTRAL, cluster.PUBLISHED)
    assert [row[:2] for row in table.rows] == [
        (name, size) for size in ("2,30,5", "3,21,7") for name in names
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(value > 0 for row in table.rows for value in row[2:])
    assert "of ttvr in 2 of 2 problems with exact distances" in table.notes[1]
    table = cluster.run(
        options(cluster, "--sizes", "2,9,5", "--no-published", "--redundant", *small)
    )
    assert [(row[0], row[5]) for row in table.rows] == [(name, "-") for name in names[:4]]


def test_memory_is_that_of_the_tensors():
    def call():
        one = torch.zeros(1000, dtype=torch.float64)
        del one
        return [torch.zeros(500) for _ in range(3)]

    assert 8000 <= used(call).peak < 8500


@pytest.mark.parametrize("k", [1, 160])
def test_clustering_holds_few_matrices(k):
    points = torch.randn(4, 588, 768, generator=torch.Generator().manual_seed(0))
    matrices = 4 * 4 * 588 * 588
    assert matrices < used(lambda: kmedoids(points, k)).peak < 5 * matrices


def test_the_published_loop_with_exact_distances_is_ours():
    points = torch.randn(6, 40, 5, generator=torch.Generator().manual_seed(0))
    found = kmedoids(points, 8).centers
    assert torch.equal(cluster.published(points, 8, is_exact=True), found)


def test_contenders_that_find_other_things_are_not_compared(monkeypatch):
    points = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "kmedoids", lambda points, k: kmedoids(0 * points, k))
    with pytest.raises(TtvrError, match="ends at"):
        cluster._agreement(points, cluster.Size(2, 30, 5))


@pytest.mark.parametrize("text", ["4,588", "4,5,6", "0,5,5", "a,b,c"])
def test_what_is_no_size(text, capsys):
    with pytest.raises(SystemExit):
        options(cluster, "--sizes", text)
    assert "PROBLEMS,TOKENS,CLUSTERS" in capsys.readouterr().err


def test_what_cannot_be_measured():
    with pytest.raises(UsageError, match="--dim"):
        cluster.run(options(cluster, "--dim", 0))
    with pytest.raises(UsageError, match="--rounds"):
        cluster.run(options(cluster, "--sizes", "1,4,2", "--rounds", 0, "--no-published"))
