"""The best videos by heads that score pairs: of all, or of candidates, against a slow loop."""

from __future__ import annotations

import pytest
import torch
from test_score_memory import D, L, T, head
from test_score_memory import features as drawn

from ttvr.errors import TtvrError
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score import _pairs, similarity_matrix, top_k, top_pairs

SCALE = 20.0


def features(Nt=7):
    return drawn(Nt=Nt)


def with_copies(video, *pairs):
    """Videos some of which are copies of others."""
    rows = list(range(len(video.frames)))
    for copy, original in pairs:
        rows[copy] = original
    return VideoFeatures(*(field[rows] for field in video))


def slow_top(text, video, k, among=None, made=None):
    """Rows best first, each score of one text with one video, equal ones by row."""
    found = []
    for t in range(len(text.sentence)):
        rows = range(len(video.frames)) if among is None else sorted(among[t].tolist())
        one = TextFeatures(*(field[t : t + 1] for field in text))
        scores = {}
        for v in rows:
            other = VideoFeatures(*(field[v : v + 1] for field in video))
            with torch.inference_mode():
                scores[v] = float((made or head())(one, other, torch.tensor(SCALE)))
        found.append(sorted(rows, key=lambda v: (-scores[v], v))[:k])
    return found


def candidates(Nt, Nv, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(Nv, generator=generator)[:count] for _ in range(Nt)])


COPIES = ((30, 2), (11, 2), (5, 6), (29, 0), (17, 0), (18, 0))


@pytest.mark.parametrize("memory", [1, 50_000, 1 << 30])
@pytest.mark.parametrize("block", [None, 1, 5])
def test_the_order_is_that_of_a_loop(memory, block):
    text, video = features()
    video = with_copies(video, *COPIES)
    scores, rows = top_pairs(head(), text, video, 9, scale=SCALE, memory=memory, block=block)
    assert rows.tolist() == slow_top(text, video, 9)
    whole = similarity_matrix(head(), text, video, scale=SCALE)
    torch.testing.assert_close(scores, whole.gather(1, rows))
    assert (scores.dtype, rows.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("count", [9, 20, 31])
@pytest.mark.parametrize("crossing", [0, 100], ids=["one by one", "all at once"])
@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_candidates_alone_are_ranked(count, crossing, memory, monkeypatch):
    monkeypatch.setattr(_pairs, "CROSSING", crossing)
    text, video = features()
    video = with_copies(video, *COPIES)
    among = candidates(7, 31, count)
    scores, rows = top_pairs(head(), text, video, 9, among=among, scale=SCALE, memory=memory)
    assert rows.tolist() == slow_top(text, video, 9, among)
    if count == 31:
        _, all_rows = top_pairs(head(), text, video, 9, scale=SCALE)
        assert torch.equal(rows, all_rows)
    whole = similarity_matrix(head(), text, video, scale=SCALE)
    torch.testing.assert_close(scores, whole.gather(1, rows))


@pytest.mark.parametrize("among", [None, candidates(7, 31, 20)], ids=["all", "some"])
def test_few_are_the_first_of_many(among):
    text, video = features()
    video = with_copies(video, *COPIES)
    many = top_pairs(head(), text, video, 15, among=among, scale=SCALE)
    for k in (1, 5, 14):
        few = top_pairs(head(), text, video, k, among=among, scale=SCALE)
        assert all(torch.equal(a, b[:, :k]) for a, b in zip(few, many, strict=True))


def test_a_crowd_of_copies_comes_by_row(monkeypatch):
    """More of them than there is room for, wherever they stand in the blocks."""
    monkeypatch.setattr(_pairs, "SPARE", 2)
    text, video = features(Nt=6)
    crowd = with_copies(video, *((row, 3) for row in range(4, 31) if row % 5))
    for memory in (1, 40_000, 1 << 30):
        _, rows = top_pairs(head(), text, crowd, 8, scale=SCALE, memory=memory)
        assert rows.tolist() == slow_top(text, crowd, 8)
    alike = with_copies(video, *((row, 3) for row in range(31)))
    scores, rows = top_pairs(head(), text, alike, 8, scale=SCALE, memory=40_000)
    assert rows.tolist() == [list(range(8))] * 6
    assert torch.equal(scores, scores[:, :1].expand(-1, 8))


def test_the_slow_way_is_taken_for_near_scores_alone(monkeypatch):
    asked = []
    alone = _pairs._alone
    monkeypatch.setattr(_pairs, "_alone", lambda *given: asked.append(1) or alone(*given))
    text, video = features(Nt=6)
    # Far apart: frames of one direction each, more and more like the words.
    steps = torch.linspace(0.1, 3, 31)[:, None, None]
    spread = video._replace(frames=steps + torch.zeros(31, T, D) + torch.eye(D)[:T] * 2)
    top_pairs(head(), text, spread, 5, scale=SCALE)
    assert not asked
    top_pairs(
        head(),
        text,
        with_copies(spread, *((row + 1, row) for row in range(0, 30, 2))),
        5,
        scale=SCALE,
    )
    assert asked


def test_memory_does_not_grow_with_the_gallery():
    generator = torch.Generator().manual_seed(0)
    best = _pairs._Best(3, 4, None)
    for start in range(0, 5000, 100):
        best.offer(torch.randn(3, 100, generator=generator), torch.arange(start, start + 100))
        assert best._scores.shape[1] <= 4 + _pairs.SPARE


def test_what_is_not_finite_is_named():
    text, video = features()
    video.frames[17, 0, 0] = torch.nan
    with pytest.raises(TtvrError, match="text row 0 and video row 17 "):
        top_pairs(head(), text, video, 3)
    among = torch.tensor([[1, 17, 30]] * 7)
    with pytest.raises(TtvrError, match="text row 0 and video row 17 "):
        top_pairs(head(), text, video, 3, among=among)
    among = torch.tensor([[1, 16, 30]] * 7)
    assert top_pairs(head(), text, video, 3, among=among)[0].isfinite().all()


def test_fewer_videos_than_asked_for_and_no_texts():
    text, video = features()
    assert top_pairs(head(), text, video, 99)[1].shape == (7, 31)
    assert top_pairs(head(), text, video, 99, among=candidates(7, 31, 4))[1].shape == (7, 4)
    none = TextFeatures(torch.empty(0, D), torch.empty(0, L, D), torch.empty(0, L).bool())
    assert top_pairs(head(), none, video, 3)[1].shape == (0, 3)


def test_a_coarse_pass_then_the_head():
    """What is among the nearest vectors and scores best, whatever the others score."""
    text, video = features()
    vectors = head().vector_video(video)
    among = top_k(head().vector_text(text), vectors, 6)[1]
    _, rows = top_pairs(head(), text, video, 4, among=among, scale=SCALE)
    everything = similarity_matrix(head(), text, video, scale=SCALE)
    for t in range(7):
        expected = sorted(among[t].tolist(), key=lambda v: -float(everything[t, v]))
        assert rows[t].tolist() == expected[:4]


@pytest.mark.cuda
@pytest.mark.parametrize("among", [None, candidates(7, 31, 20)], ids=["all", "some"])
def test_cuda_gives_the_same_order(among):
    text, video = features()
    video = with_copies(video, *COPIES)
    expected = top_pairs(head(), text, video, 9, among=among, scale=SCALE)
    on_device = TextFeatures(*(field.cuda() for field in text))
    for crossing in (0, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_pairs, "DEVICE_CROSSING", crossing)
            found = top_pairs(head().cuda(), on_device, video, 9, among=among, scale=SCALE)
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found[0], expected[0])
    whole = similarity_matrix(head().cuda(), on_device, video, scale=SCALE)
    torch.testing.assert_close(whole, similarity_matrix(head(), text, video, scale=SCALE))
