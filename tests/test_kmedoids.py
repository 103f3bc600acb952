"""k-medoids: the golden medoids, plain loops over small and degenerate inputs, exact distances."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cluster_oracle import oracle

from ttvr.cluster import _distance, _medoids
from ttvr.cluster import kmedoids as module
from ttvr.cluster._distance import distances
from ttvr.cluster.kmedoids import kkz, kmedoids
from ttvr.errors import TtvrError

EXACT = (
    *("allsame_b1_n60_d8_k10", "cos_b4_n147_d64_k49", "cos_mog16_b4_n147_d64_k16"),
    *("dup_b2_u49x3_d32_k49", "iter1_b2_n147_d64_k49", "iter2_b2_n147_d64_k49", "k1_b2_n50_d16"),
    *("keqn_b2_n49_d32_k49", "l1_b4_n147_d64_k49", "mog16_b4_n147_d64_k16"),
    *("mog49_b4_n147_d64_k49", "prenorm_b4_n147_d64_k49", "prenorm_mog16_b4_n147_d64_k16"),
    *("randn_b2_n196_d32_k49", "randn_b2_n600_d32_k160", "randn_b4_n147_d64_k49_s0"),
    *("randn_b4_n147_d64_k49_s1", "small_b2_n24_d16_k6", "video_b2_n147_d64_k49"),
    "video_b2_n196_d32_k20",
)
COPIES = ("dup_b2_u20x6_d16_k30", "dup_b2_u49x3_d32_k49", "COSTONLY_dup_b2_u49x3_d32_k20")


def golden(shared, name):
    """Arrays of a file, and what to call with."""
    arrays = np.load(shared / "golden" / "centerclip" / f"kmed_{name}.npz", allow_pickle=False)
    facts = json.loads(str(arrays["cfg"]))
    options = {"metric": facts["distance"], "p": facts["norm_p"], "pre_norm": facts["pre_norm"]}
    if facts["pre_norm"]:  # the published first seed is rounding noise there
        options["first"] = torch.from_numpy(arrays["kkz_canon"][:, 0]).long()
    loop = {"iterations": facts["iter_limit"], "tolerance": facts["threshold"]}
    return arrays, torch.from_numpy(arrays["X"]), facts["K"], options, loop


@pytest.mark.parametrize("name", EXACT)
def test_golden_medoids(shared, name):
    arrays, points, k, options, loop = golden(shared, name)
    assert arrays["fp64_match"].all()
    found = kmedoids(points, k, **options, **loop)
    np.testing.assert_array_equal(kkz(points, k, **options), arrays["kkz_canon"])
    np.testing.assert_array_equal(found.centers, arrays["ids_canon"])
    np.testing.assert_array_equal(found.assignment, arrays["assign_canon"])
    options.pop("first", None)
    apart = distances(points, **options).matrix
    cost = torch.stack(
        [d[:, ids].amin(1).sum() for d, ids in zip(apart, found.centers, strict=True)]
    )
    np.testing.assert_allclose(cost, arrays["cost_canon"], rtol=1e-5)
    # The medoids of the published run follow its noise; what they cost is all to compare.
    np.testing.assert_allclose(cost, arrays["cost_official"], rtol=0.02)


@pytest.mark.parametrize("name", COPIES)
def test_golden_copies(shared, name):
    arrays, points, k, options, loop = golden(shared, name)
    centers, assignment = kmedoids(points, k, **options, **loop)
    np.testing.assert_array_equal(kkz(points, k, **options), arrays["kkz_canon"])
    assert all(len(row.unique()) == k for row in centers)
    torch.testing.assert_close(assignment.gather(1, centers), torch.arange(k).repeat(2, 1))
    for sample in range(2):
        kinds = arrays["value_class"][sample]
        chosen = sorted(kinds[centers[sample]])
        if name.startswith("COSTONLY"):
            apart = points[sample] - points[sample, centers[sample, assignment[sample]]]
            cost = apart.double().norm(dim=1).sum().item()
            assert cost == pytest.approx(arrays["cost_canon"][sample], rel=0.02)
        elif k > len(set(kinds)):
            assert set(chosen) == set(kinds)
        else:
            assert chosen == sorted(kinds[arrays["ids_canon"][sample]])


def check(points, k, **options):
    seeds = kkz(points, k, **{n: v for n, v in options.items() if n != "rule"})
    found = kmedoids(points, k, **options)
    for sample, one in enumerate(points):
        first = options.get("first")
        single = options | ({} if first is None else {"first": int(first[sample])})
        expected = oracle(one.tolist(), k, **single)
        got = [seeds[sample].tolist(), *(part[sample].tolist() for part in found)]
        assert got == list(expected)


OPTIONS = (
    {},
    {"p": 1.0},
    {"p": 3.0},
    {"metric": "cosine"},
    {"pre_norm": True},
    {"rule": "nearest_mean"},
    {"rule": "nearest_mean", "p": 1.0},
    {"rule": "nearest_mean", "metric": "cosine"},
    {"rule": "nearest_mean", "pre_norm": True},
    {"first": torch.tensor([3, 0, 7])},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loops_over_random_points(options):
    generator = torch.Generator().manual_seed(1)
    for count, k, width in ((8, 3, 2), (13, 5, 4), (20, 4, 3), (17, 16, 5), (30, 7, 8), (24, 2, 6)):
        check(torch.randn(3, count, width, generator=generator), k, **options)


@pytest.mark.parametrize("options", [{}, {"p": 1.0}, {"rule": "nearest_mean"}], ids=str)
def test_loops_over_points_full_of_ties(options):
    """Whole numbers: many distances, and sums of them, are equal."""
    generator = torch.Generator().manual_seed(2)
    for count, k in ((9, 3), (16, 5), (25, 6), (12, 11), (20, 2), (30, 9), (40, 8)):
        check(torch.randint(0, 4, (3, count, 2), generator=generator).float(), k, **options)


@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
def test_loops_over_degenerate_points(options):
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(2, 6, 4, generator=generator)
    for k in (1, 6):
        check(points, k, **options)
    check(points.repeat(1, 3, 1), 6, **options)  # as many clusters as values
    check(points.repeat(1, 3, 1), 10, **options)  # more
    check(points[:, :1].repeat(1, 9, 1), 4, **options)  # one value
    check(torch.zeros(1, 5, 3), 5, **options)
    check(points[:, :1], 1, **options)
    huge = points.clone()
    huge[0, 2] *= 1e4
    huge[1, 3] *= 1e15
    check(huge, 3, **options)
    check(points + 1000, 3, **options)  # far from the origin, where products cancel


def test_a_huge_point_changes_nothing_elsewhere():
    points = torch.randn(4, 40, 16, generator=torch.Generator().manual_seed(4))
    before = kmedoids(points, 9)
    points[1, 5] *= 1e5
    after = kmedoids(points, 9)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[[0, 2, 3]], other[[0, 2, 3]])


@pytest.mark.parametrize("options", [{}, {"p": 1.0}, {"metric": "cosine"}, {"pre_norm": True}])
def test_results_do_not_depend_on_parts(monkeypatch, options):
    points = torch.randn(7, 50, 12, generator=torch.Generator().manual_seed(5))
    points[2, 10:20] = points[2, 30:40]
    whole = kmedoids(points, 11, **options)
    monkeypatch.setattr(module, "_BYTES", 3 * 4 * 50 * 50)
    monkeypatch.setattr(_distance, "_BYTES", (2 * 8 * 50 * 50,) * 2)
    monkeypatch.setattr(_distance, "_SIDE", 16)
    monkeypatch.setattr(_distance, "_PAIRS", 3)
    monkeypatch.setattr(_medoids, "_PAIRS", 60)
    for one, other in zip(whole, kmedoids(points, 11, **options), strict=True):
        assert torch.equal(one, other)


def test_iterations_and_tolerance():
    points = torch.randn(3, 60, 4, generator=torch.Generator().manual_seed(6))
    none = kmedoids(points, 8, iterations=0)
    assert torch.equal(none.centers, kkz(points, 8).sort(1).values)
    once = kmedoids(points, 8, iterations=1)
    assert not torch.equal(once.centers, none.centers)
    assert torch.equal(kmedoids(points, 8, tolerance=1e9).centers, once.centers)


@pytest.mark.parametrize("side", [5, 96])
def test_distances_are_those_of_differences(monkeypatch, side):
    """Far from the origin and near to each other, where float32 products would leave noise."""
    monkeypatch.setattr(_distance, "_SIDE", side)
    generator = torch.Generator().manual_seed(7)
    points = 100 + torch.randn(2, 40, 24, generator=generator)
    points[:, 10:20] = points[:, :10] + 1e-4 * torch.randn(2, 10, 24, generator=generator)
    points[:, 30:] = points[:, :10]
    points[:, 25:30] = points[:, 10:15]  # copies of what is near to a lower point
    matrix, norms = distances(points)
    exact = (points.double()[:, :, None] - points.double()[:, None]).norm(dim=-1)
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.double(), exact, rtol=2e-7, atol=0)
    torch.testing.assert_close(norms, points.double().norm(dim=-1).float(), rtol=2e-7, atol=0)
    for metric, p in (("euclidean", 2), ("euclidean", 1), ("cosine", 2)):
        matrix, norms = distances(points, metric=metric, p=p)
        assert torch.equal(matrix, matrix.mT)
        assert (matrix == 0).sum() == 2 * (40 + 2 * 15)
        assert torch.equal(matrix[:, 30:], matrix[:, :10])
        assert torch.equal(matrix[:, 25:30], matrix[:, 10:15])
        assert torch.equal(norms[:, 25:], norms[:, [*range(10, 15), *range(10)]])


def test_cosine_is_that_of_the_published_code():
    points = torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(8))
    points[0, 3] = 0
    units = points.double() / (points.double().norm(dim=-1, keepdim=True) + 1e-6)
    expected = 1 - units @ units.mT
    expected.diagonal(dim1=1, dim2=2).zero_()
    matrix = distances(points, metric="cosine").matrix
    torch.testing.assert_close(matrix.double(), expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("options", [{}, {"p": 1.0}, {"metric": "cosine"}, {"pre_norm": True}])
def test_what_has_no_distance(monkeypatch, bad, options):
    points = torch.randn(5, 20, 3, generator=torch.Generator().manual_seed(9))
    points[3, 7, 1] = bad
    for size in (1 << 20, 2 * 4 * 20 * 20):
        monkeypatch.setattr(module, "_BYTES", size)
        for call in (kmedoids, kkz):
            with pytest.raises(TtvrError, match="sample 3: token 7"):
                call(points, 4, **options)


def test_seeds_of_few_points_repeat_the_last_pick():
    points = torch.tensor([[[0.0], [9.0], [1.0], [5.0], [7.0]]])
    mask = torch.tensor([[True, False, True, True, False]])
    assert kkz(points, 5, mask=mask).tolist() == [[3, 0, 2, 2, 2]]


def test_distances_beyond_float32_are_no_ties():
    """Of a small order they grow beyond all bounds, though the points are plain."""
    points = torch.zeros(3, 20, 768)
    points[1] = torch.randn(20, 768, generator=torch.Generator().manual_seed(10))
    assert kmedoids(points, 4, p=0.1).centers.shape == (3, 4)
    with pytest.raises(TtvrError, match="sample 1: token 0 "):
        kmedoids(points, 4, p=0.05)


def test_what_a_programmer_gets_wrong():
    points = torch.zeros(2, 5, 3)
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"got {k} of \[2, 5, 3\]"):
            kmedoids(points, k)
    for wrong, words in (
        ({"rule": "mean"}, "medoid, nearest_mean"),
        ({"metric": "dot"}, "euclidean, cosine"),
        ({"p": 0}, "p is above 0"),
        ({"first": torch.tensor([0, 5])}, "below 5"),
        ({"first": torch.tensor([0])}, r"\[2\]"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"bool \[2, 5\]"),
        ({"mask": torch.ones(2, 5)}, "got torch.float32"),
        ({"mask": torch.arange(5).repeat(2, 1) > 0, "first": torch.tensor([1, 0])}, "leaves out"),
    ):
        with pytest.raises(ValueError, match=words):
            kmedoids(points, 2, **wrong)
    for shape in (points[0], points.long()):
        with pytest.raises(ValueError, match=r"\[B, N, D\]"):
            kmedoids(shape, 2)
