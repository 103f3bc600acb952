"""The contract of every clustering: shapes, order, independence of samples, masks, errors."""

from __future__ import annotations

import inspect

import pytest
import torch

from ttvr import plugins
from ttvr.cluster import Clusters
from ttvr.errors import TtvrError

CLUSTERINGS = plugins.names("cluster")
B, N, D, K = 5, 24, 6, 7


def points(count=N):
    """One cloud a sample, and a seed with which nothing hangs on the last digits.

    Between processors eigenvectors differ in these: clusters stay when rows of the embedding, of
    unit length, move by 1e-3. Groups that are far apart would do worse, since all rows of one are
    then nearly the same.
    """
    return torch.randn(B, count, D, generator=torch.Generator().manual_seed(66))


def cluster(name, given, k, **options):
    plugin = plugins.load("cluster", name)
    if "neighbours" in inspect.signature(plugin).parameters:
        options["neighbours"] = 6
    return plugin(given, k, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", CLUSTERINGS)
@pytest.mark.parametrize("k", [1, K, N])
def test_shapes_order_and_range(name, k):
    found = cluster(name, points(), k)
    assert isinstance(found, Clusters)
    centers, assignment = found
    assert (centers.shape, assignment.shape) == ((B, k), (B, N))
    assert centers.dtype == assignment.dtype == torch.int64
    assert (centers.diff(dim=1) > 0).all()
    assert centers.min() >= 0
    assert centers.max() < N
    assert assignment.min() >= 0
    assert assignment.max() < k
    # Each center belongs to itself.
    assert torch.equal(assignment.gather(1, centers), torch.arange(k).expand(B, k))


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_samples_do_not_depend_on_each_other(name):
    given = points()
    whole = cluster(name, given, K)
    for sample in range(B):
        alone = cluster(name, given[sample : sample + 1], K)
        assert same(alone, (part[sample : sample + 1] for part in whole))
    backwards = cluster(name, given.flip(0), K)
    assert same(backwards, (part.flip(0) for part in whole))
    given[2, 3] *= 1e4
    others = [0, 1, 3, 4]
    after = cluster(name, given, K)
    assert same((part[others] for part in after), (part[others] for part in whole))
    none = cluster(name, given[:0], K)
    assert [part.shape for part in none] == [(0, K), (0, N)]


@pytest.mark.parametrize("name", CLUSTERINGS)
@pytest.mark.parametrize("fill", [0.0, 1e6, float("nan")])
def test_points_that_are_masked_count_for_nothing(name, fill):
    given = points()
    whole = cluster(name, given, K)
    places = torch.arange(N) + torch.arange(N) // 5  # a gap behind every fifth point
    padded = torch.full((B, N + 8, D), fill)
    padded[:, places] = given
    mask = torch.zeros(B, N + 8, dtype=torch.bool)
    mask[:, places] = True
    centers, assignment = cluster(name, padded, K, mask=mask)
    assert torch.equal(centers, places[whole.centers])
    assert torch.equal(assignment[:, places], whole.assignment)
    assert (assignment[~mask] == -1).all()


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_fewer_points_than_clusters(name):
    valid = [[2, 9, 20], [], [23], list(range(N)), [0, 1, 2, 3, 4, 5, 6]]
    mask = torch.zeros(B, N, dtype=torch.bool)
    for row, places in zip(mask, valid, strict=True):
        row[places] = True
    given = points().masked_fill(~mask[..., None], float("nan"))
    centers, assignment = cluster(name, given, K, mask=mask)
    assert centers[:3].tolist() == [[2, 9, 20, 20, 20, 20, 20], [0] * K, [23] * K]
    assert centers[4].tolist() == valid[4]
    assert assignment[0, valid[0]].tolist() == [0, 1, 2]
    assert assignment[2, 23] == 0
    assert (assignment[~mask] == -1).all()
    assert (assignment[mask] >= 0).all()
    assert same(cluster(name, given[3:4], K), (part[3:4] for part in (centers, assignment)))


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_autocast_and_gradients_change_nothing(name):
    given = points()
    whole = cluster(name, given, K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(cluster(name, given, K), whole)
    found = cluster(name, given.requires_grad_(), K)
    assert same(found, whole)
    assert not any(part.requires_grad for part in found)


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_half_precision_is_taken_as_it_is(name):
    given = points().bfloat16()
    assert same(cluster(name, given, K), cluster(name, given.float(), K))


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_points_in_any_layout(name):
    given = points()
    whole = cluster(name, given, K)
    assert same(cluster(name, given.mT.contiguous().mT, K), whole)
    assert same(cluster(name, torch.stack((given, given), 1)[:, 0], K), whole)


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_a_nan_names_its_sample(name):
    given = points()
    given[3, 4, 1] = torch.nan
    with pytest.raises(TtvrError, match="sample 3: token 4 is NaN"):
        cluster(name, given, K)


@pytest.mark.parametrize("name", CLUSTERINGS)
@pytest.mark.parametrize("k", [0, N + 1])
def test_more_clusters_than_points(name, k):
    with pytest.raises(ValueError, match=str(N)):
        cluster(name, points(), k)


@pytest.mark.parametrize("name", CLUSTERINGS)
@pytest.mark.cuda
def test_a_gpu_finds_the_same(name):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    given = points()
    whole = cluster(name, given, K)
    assert same((part.cpu() for part in cluster(name, given.cuda(), K)), whole)
