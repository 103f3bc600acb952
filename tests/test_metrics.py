"""Ranks and recalls against a slow loop, their properties, and the published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttvr import metrics
from ttvr.errors import TtvrError

NAMES = ("R@1", "R@5", "R@10", "MdR", "MnR")
POLICIES = ("optimistic", "average", "pessimistic")
SHARE = {"optimistic": 0.0, "average": 0.5, "pessimistic": 1.0, "shared": 0.5}


@st.composite
def problems(draw, most=9, levels=4):
    """A small matrix with many ties, captions in any order, some videos without any."""
    Nt, Nv = draw(st.integers(1, most)), draw(st.integers(1, most))
    cells = st.integers(-levels, levels).map(lambda whole: whole / 4)
    flat = draw(st.lists(cells, min_size=Nt * Nv, max_size=Nt * Nv))
    owner = draw(st.lists(st.integers(0, Nv - 1), min_size=Nt, max_size=Nt))
    return np.array(flat).reshape(Nt, Nv), owner


def slow_rank(own, others, ties):
    greater = sum(other > own for other in others)
    return greater + SHARE[ties] * sum(other == own for other in others)


def slow_text(sims, owner, ties):
    return [
        slow_rank(row[video], [row[v] for v in range(len(row)) if v != video], ties)
        for row, video in zip(sims, owner, strict=True)
    ]


def slow_video(sims, owner, ties, level):
    found = []
    for video in sorted(set(owner)):
        groups = {v: [sims[t][video] for t in range(len(owner)) if owner[t] == v] for v in owner}
        own = max(groups.pop(video))
        cut = (lambda group: [max(group)]) if level == "group" else list
        others = [score for group in groups.values() for score in cut(group)]
        found.append(slow_rank(own, others, ties))
    return found


def slow_measures(ranks):
    ranks = sorted(ranks)
    recalls = [100 * sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
    middle = (ranks[(len(ranks) - 1) // 2] + ranks[len(ranks) // 2]) / 2
    return [*recalls, middle + 1, sum(ranks) / len(ranks) + 1]


def listed(direction):
    return [direction[name] for name in NAMES]


@settings(deadline=None)
@given(problems(), st.sampled_from(POLICIES))
def test_ranks_and_summary_equal_the_slow_loop(problem, ties):
    sims, owner = problem
    texts, group = slow_text(sims, owner, ties), slow_video(sims, owner, ties, "group")
    sentence = slow_video(sims, owner, ties, "sentence")
    assert metrics.ranks(sims, owner, ties).tolist() == texts
    assert metrics.video_ranks(sims, owner, ties=ties).tolist() == group
    assert metrics.video_ranks(sims, owner, ties=ties, level="sentence").tolist() == sentence
    found = metrics.summary(sims, owner, ties=ties)
    assert listed(found["t2v"]) == pytest.approx(slow_measures(texts))
    assert listed(found["v2t"]) == pytest.approx(slow_measures(group))
    several = len(set(owner)) < len(owner)
    assert ("v2t_sentence" in found) == several
    if several:
        assert listed(found["v2t_sentence"]) == pytest.approx(slow_measures(sentence))
    rsum = sum(listed(found["t2v"])[:3])
    assert found["t2v"]["RSum"] == pytest.approx(rsum)
    assert found["SumR"] == pytest.approx(rsum + found["v2t"]["RSum"])
    tied = [a != b for a, b in zip(slow_text(sims, owner, "optimistic"), texts, strict=True)]
    if ties != "optimistic":
        assert found["t2v"]["tie_fraction"] == pytest.approx(np.mean(tied))
    assert (found["t2v"]["queries"], found["v2t"]["queries"]) == (len(owner), len(set(owner)))
    assert (found["captions"], found["videos"]) == sims.shape


@settings(deadline=None)
@given(problems())
def test_shared_recalls_are_the_mean_over_all_orders_of_equal_scores(problem):
    sims, owner = problem
    found = metrics.summary(sims, owner, ties="shared")
    ends = [slow_text(sims, owner, ties) for ties in ("optimistic", "pessimistic")]
    for k in (1, 5, 10):
        places = [range(int(first), int(last) + 1) for first, last in zip(*ends, strict=True)]
        chances = [sum(place < k for place in each) / len(each) for each in places]
        assert found["t2v"][f"R@{k}"] == pytest.approx(100 * np.mean(chances))
    average = metrics.summary(sims, owner, ties="average")
    for way in ("t2v", "v2t"):
        assert [found[way][name] for name in ("MdR", "MnR")] == [
            average[way][name] for name in ("MdR", "MnR")
        ]
    assert metrics.ranks(sims, owner, "shared").tolist() == slow_text(sims, owner, "shared")


@settings(deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_order_of_captions_and_videos_does_not_matter(problem, chance):
    sims, owner = problem
    texts, videos = list(range(sims.shape[0])), list(range(sims.shape[1]))
    chance.shuffle(texts)
    chance.shuffle(videos)
    place = {video: at for at, video in enumerate(videos)}
    moved = [place[owner[text]] for text in texts]
    before = metrics.summary(sims, owner)
    after = metrics.summary(sims[np.ix_(texts, videos)], moved)
    for name in ("t2v", "v2t"):
        assert listed(after[name]) == pytest.approx(listed(before[name]))


@settings(deadline=None)
@given(problems(), st.sampled_from([np.exp, np.arctan, lambda x: x**3, lambda x: 1000 * x - 3]))
def test_growing_transforms_do_not_matter(problem, grow):
    sims, owner = problem
    assert (metrics.ranks(grow(sims), owner) == metrics.ranks(sims, owner)).all()
    assert (metrics.video_ranks(grow(sims), owner) == metrics.video_ranks(sims, owner)).all()


@settings(deadline=None, max_examples=30)
@given(problems(), st.sampled_from([1, 7, 30]))
def test_block_size_does_not_matter(problem, cells):
    sims, owner = problem
    whole = metrics.summary(sims, owner), metrics.summary(sims, owner, compat="clip4clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics._counts, "_BLOCK_CELLS", cells)
        cut = metrics.summary(sims, owner), metrics.summary(sims, owner, compat="clip4clip")
    assert cut == whole


@pytest.mark.parametrize("size", [1, 2, 20])
def test_constant_matrix(size):
    sims, owner = np.full((size, size), 0.3), range(size)
    assert (metrics.ranks(sims, owner, "optimistic") == 0).all()
    assert (metrics.ranks(sims, owner, "pessimistic") == size - 1).all()
    assert (metrics.ranks(sims, owner) == (size - 1) / 2).all()
    found = metrics.summary(sims, owner, compat="clip4clip")
    assert found["t2v"]["R@1"] == pytest.approx(100 / size)
    assert metrics.summary(sims, owner)["v2t"]["tie_fraction"] == (size > 1)


def test_scores_are_compared_as_they_are():
    near = np.array([[1.0, np.nextafter(1.0, 2.0)]])
    assert metrics.ranks(near, [0]).tolist() == [1]
    assert metrics.ranks(near.astype(np.float32), [0]).tolist() == [0.5]
    huge = np.full((3, 3), np.finfo(np.float32).max, np.float32)
    assert metrics.ranks(huge, [0, 1, 2]).tolist() == [1, 1, 1]
    assert metrics.ranks(torch.tensor([[0.1, 0.2]]), torch.tensor([1])).tolist() == [0]
    assert metrics.ranks(np.array([[3, 1, 2]]), [2]).tolist() == [1]


def test_many_candidates_are_counted_in_full():
    sims = np.arange(70_000, dtype=np.float64)[None]
    assert metrics.ranks(sims, [0]).tolist() == [69_999]
    assert metrics.video_ranks(sims.T, [0] * 70_000).tolist() == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_an_error_with_its_place(bad):
    sims = np.zeros((600, 700), np.float32)
    sims[512, 3] = bad
    for call in (metrics.ranks, metrics.video_ranks, metrics.summary):
        with pytest.raises(
            TtvrError, match=r"row 512 \(text\) and column 3 \(video\) is -?(nan|i)"
        ):
            call(sims, np.arange(600))


def test_captions_of_no_video_are_errors():
    for owner, text in (([0, 2], "caption 1 belongs to video 2 of 2"), ([-1, 0], "video -1 of 2")):
        with pytest.raises(TtvrError, match=text):
            metrics.summary(np.zeros((2, 2)), owner)
    with pytest.raises(TtvrError, match="0 captions and 3 videos"):
        metrics.ranks(np.zeros((0, 3)), [])


def test_slips_are_value_errors():
    sims = np.eye(3)
    for call in (
        lambda: metrics.ranks(sims, [0, 1]),
        lambda: metrics.ranks(sims[0], [0]),
        lambda: metrics.ranks(sims, [0, 1, 2], "best"),
        lambda: metrics.video_ranks(sims, [0, 1, 2], level="word"),
        lambda: metrics.summary(sims, [0, 1, 2], compat="clip"),
    ):
        with pytest.raises(ValueError, match="got"):
            call()


def test_missed_queries_never_count_as_found():
    found = metrics.summary(np.eye(3), range(3), missed=(3, 1))
    assert listed(found["t2v"])[:3] == [50, 50, 50]
    assert found["t2v"]["queries"] == 6
    assert found["t2v"]["MnR"] == (1 + 1 + 1 + 4 + 4 + 4) / 6
    assert found["v2t"]["R@10"] == 75
    assert found["v2t"]["MdR"] == 1


def test_several_captions_with_compat_take_the_lower_median():
    sims = np.array([[3.0, 2, 1], [1, 3, 2], [1, 2, 3], [3, 1, 2]])
    owner = [0, 0, 1, 1]
    assert metrics.summary(sims, owner)["t2v"]["MdR"] == 2.5
    assert metrics.summary(sims, owner, compat="clip4clip")["t2v"]["MdR"] == 2


@pytest.fixture(scope="module")
def square(shared):
    return np.load(shared / "golden/heads/metrics_square.npz", allow_pickle=False)


CASES = ("random", "ties_quantised", "constant", "ties_diag_row", "wide_T_lt_V")
BROKEN = ("nan_offdiag", "nan_diag", "neginf_diag", "posinf_offdiag")


@pytest.mark.parametrize("case", CASES + BROKEN)
def test_golden_square(square, case):
    sims = square[f"{case}/sim"]
    found = metrics.summary(sims, range(len(sims)), compat="clip4clip")
    for way in ("t2v", "v2t"):
        if f"{case}/{way}/official" in square.files:
            assert listed(found[way]) == pytest.approx(square[f"{case}/{way}/official"])
    for ties in POLICIES:
        if case in BROKEN:
            with pytest.raises(TtvrError, match="row"):
                metrics.ranks(sims, range(len(sims)), ties)
            continue
        texts = metrics.ranks(sims, range(len(sims)), ties)
        assert (texts == square[f"{case}/t2v/rec_rank_{ties}"]).all()
        if f"{case}/v2t/rec_rank_{ties}" in square.files:
            videos = metrics.video_ranks(sims, range(len(sims)), ties=ties)
            assert (videos == square[f"{case}/v2t/rec_rank_{ties}"]).all()


@pytest.mark.parametrize("case", ["random", "ties", "nan"])
def test_golden_multisentence(shared, case):
    golden = np.load(shared / "golden/heads/metrics_multisentence.npz", allow_pickle=False)
    sims, owner = golden[f"{case}/sim"], golden["owner"]
    found = metrics.summary(sims, owner, compat="clip4clip")
    assert listed(found["v2t"]) == pytest.approx(golden[f"{case}/v2t_official"])
    if case != "ties":  # the published order inside a tie is unspecified
        # The published recalls are float32.
        assert listed(found["t2v"]) == pytest.approx(golden[f"{case}/t2v_official"], rel=1e-6)
    if case == "nan":
        with pytest.raises(TtvrError, match="nan"):
            metrics.summary(sims, owner)
        return
    assert (metrics.ranks(sims, owner) == golden[f"{case}/rec_t2v_rank_average"]).all()
    groups = metrics.video_ranks(sims, owner)
    assert (groups == golden[f"{case}/rec_v2t_group_rank_average"]).all()
    alone = metrics.video_ranks(sims, owner, ties="optimistic", level="sentence")
    assert (alone == golden[f"{case}/alt_v2t_best_caption_rank_optimistic"]).all()
    if case == "random":  # without ties all definitions are one, X-Pool's too
        found = metrics.summary(sims, owner)
        for way in ("t2v", "v2t"):
            xpool = golden[f"{case}/xpool_{way}"][[0, 1, 2, 5, 6]]
            assert listed(found[way]) == pytest.approx(xpool)


def test_golden_ties_of_qb_norm(shared):
    """Its ranks are our default ones; its R@1 counts rank 0 alone, where ours counts below 1."""
    golden = np.load(shared / "golden/heads/qbnorm.npz", allow_pickle=False)
    sims, owner = golden["ties/sim"], np.arange(24) // 3
    texts = metrics.ranks(sims, owner)
    # Of a video its best caption, ties with own captions included, which ours leave out.
    videos = metrics.ranks(sims.T[owner], range(24)).reshape(8, 3).min(axis=1)
    for found, way in ((texts, "t2v"), (videos, "v2t")):
        recalls = [found == 0, found < 5, found < 10, found < 50]
        measured = [*(100 * hit.mean() for hit in recalls), np.median(found) + 1, found.mean() + 1]
        assert measured == pytest.approx(golden[f"ties/{way}"][:6], abs=0.051)  # one decimal
    assert metrics.summary(sims, owner)["t2v"]["MnR"] == texts.mean() + 1


def test_golden_centerclip(shared):
    golden = np.load(shared / "golden/centerclip/metrics.npz", allow_pickle=False)
    square = range(60)

    def near(found, name):
        assert listed(found) == pytest.approx(golden[name].tolist(), rel=1e-6)

    for compat in (None, "clip4clip"):
        found = metrics.summary(golden["sim"], square, compat=compat)
        near(found["t2v"], "t2v")
        near(found["v2t"], "v2t")
        owner = np.repeat(np.arange(25), golden["multi_counts"])
        found = metrics.summary(golden["multi_sim"], owner, compat=compat)
        near(found["t2v"], "multi_t2v")
        near(found["v2t"], "multi_v2t")
    for ties, name in (("optimistic",) * 2, ("pessimistic",) * 2, ("average", "mean")):
        near(metrics.summary(golden["sim_ties"], square, ties=ties)["t2v"], f"t2v_ties_{name}")
    for case in ("ties", "nan", "const"):
        found = metrics.summary(golden[f"sim_{case}"], square, compat="clip4clip")
        near(found["t2v"], f"t2v_{case}_official")
    near(metrics.summary(golden["sim_nan"], square, compat="clip4clip")["v2t"], "v2t_nan_official")
    with pytest.raises(TtvrError, match="nan"):
        metrics.summary(golden["sim_nan"], square)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16])
def test_scores_of_any_real_dtype(dtype):
    sims = np.array([[3, 1, 7], [0, 2, 5], [2, 2, 1]])
    owner = [0, 1, 0]  # nobody describes the last video
    found = metrics.summary(sims.astype(dtype), owner)
    assert found == metrics.summary(sims.astype(np.float64), owner)
