"""Spectral clustering: golden graphs and medoids, plain loops, graphs that fall apart."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from cluster_oracle import oracle

from ttvr.cluster import spectral as module
from ttvr.cluster.kmedoids import kkz, kmedoids
from ttvr.cluster.spectral import affinity, embedding, neighborhood, spectral
from ttvr.errors import TtvrError

STABLE = (
    *("mog16_b2_n98_d32_k16_heat", "mog16_b2_n98_d32_k16_knn", "randn_b2_n98_d32_k16_knn"),
    *("video_b2_n147_d64_k49_heat", "video_b2_n147_d64_k49_knn"),
)
APART = "separated_b2_n98_d32_k16_knn"


def golden(shared, name):
    arrays = np.load(shared / "golden" / "centerclip" / f"spec_{name}.npz", allow_pickle=False)
    facts = json.loads(str(arrays["cfg"]))
    graph = {"KNN": "knn", "HeatKernel": "dense"}[facts["mode"]]
    options = {"neighbours": facts["knn_k"], "sigma": facts["sigma"], "graph": graph}
    first = torch.from_numpy(arrays["first_seed"]).long()
    return arrays, torch.from_numpy(arrays["X"]), facts["K"], options, first


def eigenvalues(weights):
    scale = weights.double().sum(-1).rsqrt()
    laplacian = torch.eye(len(scale[0])) - weights * scale[:, :, None] * scale[:, None]
    return torch.linalg.eigvalsh(laplacian)


@pytest.mark.parametrize("name", [*STABLE, APART])
def test_golden_graph_and_embedding(shared, name):
    arrays, points, k, options, _ = golden(shared, name)
    weights = affinity(points, **options)
    np.testing.assert_allclose(weights, arrays["W"], atol=1e-5)
    np.testing.assert_allclose(eigenvalues(weights), arrays["eig_asc_fp64"], atol=1e-5)
    rows = embedding(weights, k)
    np.testing.assert_allclose(rows @ rows.mT, arrays["row_gram"], atol=1e-4)
    longest = module._rows(weights, k)[1].argmax(1)
    np.testing.assert_array_equal(longest, arrays["argmax_prenorm_row"])
    own, given = (spectral(points, k, first=first, **options) for first in (None, longest))
    assert all(a.equal(b) for a, b in zip(own, given, strict=True))


@pytest.mark.parametrize("name", [*STABLE, APART])
def test_golden_medoids_of_the_golden_rows(shared, name):
    arrays, _, k, _, first = golden(shared, name)
    rows = torch.from_numpy(arrays["Q_official"])
    np.testing.assert_array_equal(kkz(rows, k, first=first), arrays["kkz_canon"])
    found = kmedoids(rows, k, first=first)
    if name == APART:  # rows of a component are equal but for noise: only the groups are fixed
        for mine, theirs in zip(found.assignment, arrays["assign_canon"], strict=True):
            assert len(set(zip(mine.tolist(), theirs.tolist(), strict=True))) == k
    else:
        np.testing.assert_array_equal(found.centers, arrays["ids_canon"])
        np.testing.assert_array_equal(found.assignment, arrays["assign_canon"])


@pytest.mark.parametrize("name", [*STABLE, APART])
def test_golden_medoids(shared, name):
    arrays, points, k, options, first = golden(shared, name)
    found = spectral(points, k, first=first, **options)
    match = arrays["fp64_match"]
    assert match.all() == (name != APART)
    np.testing.assert_array_equal(found.centers[match], arrays["ids_fp64"][match])
    for mine, theirs in zip(found.assignment, arrays["assign_canon"], strict=True):
        assert len(set(zip(mine.tolist(), theirs.tolist(), strict=True))) == k


def test_golden_neighborhoods(shared):
    arrays = np.load(shared / "golden" / "centerclip" / "spg_mask.npz", allow_pickle=False)
    for near, name in (
        (neighborhood(3, 49), "n147_p49_s9_t7"),
        (neighborhood(5, 49, window=3, span=3), "n245_p49_s3_t3"),
    ):
        np.testing.assert_array_equal(np.packbits(near.numpy()), arrays[name].ravel())
        rows = arrays[f"rowsum_{name.split('_')[0]}"]
        np.testing.assert_array_equal(near.sum(1), rows)


@pytest.mark.parametrize(("frames", "patches", "window"), [(2, 9, 9), (3, 100, 19), (1, 1, 9)])
def test_neighborhoods_by_loops(frames, patches, window):
    near, side = neighborhood(frames, patches), math.isqrt(patches)
    places = [(t, y, x) for t in range(frames) for y in range(side) for x in range(side)]
    for i in range(0, len(places), 7):
        for j, place in enumerate(places):
            t, y, x = (abs(a - b) for a, b in zip(places[i], place, strict=True))
            assert near[i, j] == (t <= 3 and max(x, y) <= window // 2)


def graph_oracle(points, neighbours, sigma, near=None):
    """Weights [N, N] float64 of points [N, D], by loops."""
    count = len(points)
    whole = np.array([[math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2)) for b in points]
                      for a in points])  # fmt: skip
    weights = np.zeros_like(whole)
    for i in range(count):
        for j in range(count):
            least = [sorted(whole[place])[-min(neighbours, count)] for place in (i, j)]
            if whole[i, j] >= min(least) and (near is None or near[i, j]):
                weights[i, j] = whole[i, j]
    return weights


@pytest.mark.parametrize("seed", range(6))
def test_loops_over_random_points(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(4, 18, 5, generator=generator)
    near = neighborhood(2, 9, window=3, span=3) if seed % 3 == 0 else None
    options = {"neighbours": 5 + seed, "sigma": 1 + seed / 4}
    k = 2 + seed
    weights = affinity(points, graph_mask=near, **options)
    rows = embedding(weights, k)
    found = spectral(points, k, graph_mask=near, **options)
    for sample in range(4):
        expected = graph_oracle(points[sample].tolist(), **options, near=near)
        np.testing.assert_allclose(weights[sample], expected, atol=1e-6)
        scale = expected.sum(1) ** -0.5
        laplacian = np.eye(18) - scale[:, None] * expected * scale
        values, vectors = np.linalg.eigh(laplacian)
        assert values[k] - values[k - 1] > 1e-4, "an embedding that is not fixed tests nothing"
        lowest = vectors[:, :k]
        norms = np.linalg.norm(lowest, axis=1)
        lowest = lowest / (norms[:, None] + 1e-6)
        np.testing.assert_allclose(rows[sample] @ rows[sample].T, lowest @ lowest.T, atol=2e-4)
        _, centers, assignment = oracle(rows[sample].tolist(), k, first=int(norms.argmax()))
        assert found.centers[sample].tolist() == centers
        assert found.assignment[sample].tolist() == assignment


def test_a_dense_graph_has_every_edge():
    points = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    dense = affinity(points, graph="dense")
    assert torch.equal(dense, affinity(points, neighbours=9))
    assert torch.equal(dense, affinity(points, neighbours=99))
    expected = (torch.cdist(points.double(), points.double()) ** 2 / -8).exp()
    torch.testing.assert_close(dense.double(), expected, rtol=1e-6, atol=0)


def test_ties_are_kept_and_edges_go_both_ways():
    points = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [10.0]]])
    edges = affinity(points, neighbours=2, sigma=5.0)[0] > 0
    # 1 is as far from 0 as from 2; 4 has chosen 3, which has not chosen it.
    expected = torch.tensor([
        [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]
    ])  # fmt: skip
    assert torch.equal(edges.long(), expected)


def test_the_options_of_kmedoids_reach_the_rows():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(2, 30, 4, generator=generator)
    weights = affinity(points, neighbours=6)
    first = torch.tensor([4, 9])
    for options in (
        {"metric": "cosine"},
        {"p": 1.0},
        {"rule": "nearest_mean"},
        {"iterations": 0},
        {"tolerance": 1e9},
    ):
        found = spectral(points, 6, neighbours=6, first=first, **options)
        expected = kmedoids(embedding(weights, 6), 6, first=first, **options)
        assert torch.equal(found.centers, expected.centers)
        assert torch.equal(found.assignment, expected.assignment)


@pytest.mark.parametrize("value", [torch.zeros(3), torch.ones(3)])
def test_equal_points_and_one_point(value):
    found = spectral(value.expand(2, 8, 3), 3, graph="dense")
    assert all(len(set(row.tolist())) == 3 for row in found.centers)
    assert spectral(value.expand(2, 1, 3), 1, neighbours=5).centers.tolist() == [[0], [0]]


def test_parts_change_nothing(monkeypatch):
    points = torch.randn(5, 30, 4, generator=torch.Generator().manual_seed(2))
    whole = spectral(points, 5, neighbours=6)
    monkeypatch.setattr(module, "_BYTES", 2 * 4 * 30 * 30)
    parts = spectral(points, 5, neighbours=6)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    points[4, 2] = torch.inf
    with pytest.raises(TtvrError, match="sample 4: token 2"):
        spectral(points, 5, neighbours=6)


def test_the_warning_counts_real_points_alone(caplog):
    points = 100.0 * torch.arange(10.0).view(1, 10, 1)
    points[:, 4:] = 0
    mask = torch.arange(10).unsqueeze(0) < 4
    affinity(points, neighbours=3)
    assert not caplog.text
    affinity(points, neighbours=3, mask=mask)
    assert "all but the identity in 1 of 1 samples" in caplog.text


def test_a_graph_that_defeats_the_solver_changes_no_other(monkeypatch):
    weights = affinity(torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(3)),
                       graph="dense")  # fmt: skip
    expected, solve = embedding(weights, 3), torch.linalg.eigh

    def fails(matrix):
        # The entry names the middle graph, in whatever company.
        if matrix.dtype == torch.float32 and (matrix[:, 0, 1] == bad).any():
            raise torch.linalg.LinAlgError("did not converge")
        return solve(matrix)

    scale = weights[1].sum(-1).rsqrt()
    bad = -(weights[1, 0, 1] * scale[0] * scale[1])
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    found = embedding(weights, 3)
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert not torch.equal(found[1], expected[1])
    torch.testing.assert_close(found @ found.mT, expected @ expected.mT, rtol=0, atol=1e-4)


def test_the_solver_is_asked_again_in_float64(monkeypatch):
    weights = affinity(torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(3)),
                       graph="dense")  # fmt: skip
    expected = embedding(weights, 3)
    solve = torch.linalg.eigh

    def fails(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    found = embedding(weights, 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found @ found.mT, expected @ expected.mT, rtol=0, atol=1e-4)


def test_a_graph_without_edges_is_told(caplog):
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(3, 20, 8, generator=generator)
    with caplog.at_level(logging.WARNING):
        spectral(points, 4, neighbours=5)
        assert not caplog.records
        points[1:] *= 50
        spectral(points, 4, neighbours=5)
    assert "identity in 2 of 3 samples" in caplog.text
    assert "sigma=2" in caplog.text


def test_what_a_programmer_gets_wrong():
    points = torch.zeros(2, 5, 3)
    for wrong, words in (
        ({}, "neighbours"),
        ({"neighbours": 0}, "at least 1"),
        ({"neighbours": 3, "graph": "full"}, "knn, dense"),
        ({"neighbours": 3, "sigma": 0}, "sigma"),
        ({"neighbours": 3, "graph_mask": torch.ones(4, 4, dtype=torch.bool)}, r"\[5, 5\]"),
        ({"neighbours": 3, "graph_mask": torch.ones(5, 5)}, "bool"),
        ({"neighbours": 3, "graph_mask": torch.ones(5, 5).tril() > 0}, "symmetric"),
        ({"neighbours": 3, "graph_mask": torch.zeros(5, 5) > 0}, "diagonal"),
    ):
        with pytest.raises(ValueError, match=words):
            spectral(points, 2, **wrong)
    with pytest.raises(ValueError, match="square grid"):
        neighborhood(2, 50)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"got {k}"):
            embedding(torch.ones(1, 5, 5), k)
