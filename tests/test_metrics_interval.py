"""The interval of R@1 against all resamples there are, and against the binomial distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttvr import metrics
from ttvr.metrics import recall_interval

# Of 10,000 resamples a share of 2.5 % has a standard deviation of 0.16 %: four of them.
SLACK = 0.0063


def all_resamples(hits, group):
    """The recall of every way to draw as many videos as there are, each as likely as the others."""
    videos = sorted(set(group))
    own = {v: [hit for hit, of in zip(hits, group, strict=True) if of == v] for v in videos}
    for drawn in itertools.product(videos, repeat=len(videos)):
        queries = [hit for video in drawn for hit in own[video]]
        yield 100 * sum(queries) / len(queries)


@st.composite
def queries(draw, most=5):
    """Of up to five videos, each with some captions, in any order."""
    group = draw(st.lists(st.integers(0, most - 1), min_size=1, max_size=9))
    hits = st.lists(st.sampled_from((0.0, 0.5, 1.0)), min_size=len(group), max_size=len(group))
    return draw(hits), group


@settings(deadline=None, max_examples=30)
@given(queries())
def test_the_ends_are_quantiles_of_all_resamples(case):
    low, high = recall_interval(*case)
    found = np.array([*all_resamples(*case)])
    for end, share in ((low, 0.025), (high, 0.975)):
        assert np.mean(found < end - 1e-9) <= share + SLACK
        assert np.mean(found <= end + 1e-9) >= share - SLACK


@settings(deadline=None, max_examples=100)
@given(queries(most=9))
def test_it_holds_the_estimate_and_comes_out_the_same(case):
    low, high = recall_interval(*case)
    assert low - 1e-9 <= 100 * np.mean(case[0]) <= high + 1e-9
    hits, group = (values[::-1] for values in case)
    assert recall_interval(hits, [7 * video for video in group]) == (low, high)


@pytest.mark.parametrize(("N", "share"), [(100, 0.5), (1000, 0.44), (1000, 0.99)])
def test_of_independent_queries_it_is_the_binomial_one(N, share):
    hits = np.arange(N) < share * N
    chances = [math.comb(N, n) * share**n * (1 - share) ** (N - n) for n in range(N + 1)]
    below = np.cumsum(chances)
    expected = [100 * int(np.searchsorted(below, tail)) / N for tail in (0.025, 0.975)]
    # One query up or down: the slack of the share at the quantile is less than a step there.
    assert recall_interval(hits, np.arange(N)) == pytest.approx(expected, abs=100 / N + 1e-9)


def test_captions_of_one_video_stay_together():
    """Twenty that are all hit or all missed say as much as one."""
    one = np.arange(50) < 30
    alone = recall_interval(one, np.arange(50))
    together = recall_interval(np.repeat(one, 20), np.repeat(np.arange(50), 20))
    apart = recall_interval(np.repeat(one, 20), np.arange(1000))
    assert together == alone
    assert apart[1] - apart[0] < (alone[1] - alone[0]) / 3


def test_a_summary_has_it_in_both_directions():
    sims = np.array([[0.9, 0.1, 0.2], [0.8, 0.1, 0.2], [0.1, 0.9, 0.3], [0.5, 0.4, 0.1]])
    owner = [0, 0, 1, 2]
    found = metrics.summary(sims, owner)
    assert found["t2v"]["R@1_interval"] == [*recall_interval([1, 1, 1, 0], owner)]
    best = [1, 1, 0]
    for way in ("v2t", "v2t_sentence"):
        assert found[way]["R@1"] == pytest.approx(100 * np.mean(best))
        assert found[way]["R@1_interval"] == [*recall_interval(best, range(3))]
    lost = metrics.summary(sims, owner, missed=(3, 2))
    hits, group = [1, 1, 1, 0, 0, 0, 0], [*owner, 3, 4, 3]
    assert lost["t2v"]["R@1_interval"] == [*recall_interval(hits, group)]
    assert lost["v2t"]["R@1_interval"] == [*recall_interval([*best, 0, 0], range(5))]
    assert metrics.summary(sims, owner, compat="clip4clip")["t2v"]["R@1_interval"] is None


def test_shared_ties_count_by_their_chance():
    found = metrics.summary(np.zeros((2, 2)), [0, 1], ties="shared")
    assert found["t2v"]["R@1_interval"] == [50.0, 50.0]


@pytest.mark.parametrize("wrong", [([], []), ([1.0], [0, 1]), ([[1.0]], [[0]])])
def test_what_has_no_interval_is_refused(wrong):
    with pytest.raises(ValueError, match="hits and group"):
        recall_interval(*wrong)
