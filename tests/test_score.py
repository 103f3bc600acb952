"""Top-k against a plain sort of exact scores, whatever the block; the matrix against a loop."""

from __future__ import annotations

import math
import operator
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttvr.errors import TtvrError
from ttvr.heads._base import Head
from ttvr.heads.meanp import MeanP
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score import _gallery, _precision, _top_k, inner_products, similarity_matrix, top_k


class Shards:
    def __init__(self, *shards):
        self.shards = shards


def oracle(queries, gallery, k):
    """Exactly rounded inner products, sorted one by one; rows ascending among equals."""
    expected = []
    for query in np.asarray(queries, np.float64):
        products = (np.asarray(gallery, np.float64) * query).tolist()
        scores = [float(np.float32(math.fsum(row))) for row in products]
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
        expected.append((order, [scores[row] for row in order]))
    return expected


def unit_rows(generator, n, d, dtype=np.float16):
    rows = generator.standard_normal((n, d)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def near_ties(seed, n, d, dtype=np.float16):
    """A gallery of few distinct directions: duplicates, and copies that differ in a last bit."""
    generator = np.random.default_rng(seed)
    gallery = unit_rows(generator, max(1, n // 6), d, dtype)
    gallery = gallery[generator.integers(0, len(gallery), n)]
    touched = generator.integers(0, n, n // 3)
    column = generator.integers(0, d, n // 3)
    gallery[touched, column] = np.nextafter(gallery[touched, column], dtype(1))
    return gallery


def as_queries(seed, n, d):
    return torch.from_numpy(unit_rows(np.random.default_rng(seed), n, d, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 90),
    d=st.sampled_from([1, 3, 8, 64, 130]),
    k=st.integers(1, 20),
    block=st.integers(1, 100),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_equals_the_oracle(seed, n, d, k, block, dtype):
    gallery = near_ties(seed, n, d, dtype)
    queries = as_queries(seed + 1, 3, d)
    scores, rows = top_k(queries, gallery, k, block=block)
    assert scores.dtype == torch.float32
    assert rows.dtype == torch.int64
    for query, (order, values) in enumerate(oracle(queries, gallery, k)):
        assert rows[query].tolist() == order
        assert scores[query].tolist() == values


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 3000), max_size=4),
    block=st.integers(1, 4000),
    look=st.integers(1, 4000),
    batch=st.integers(1, 9),
)
def test_blocks_shards_and_batches_change_no_bit(seed, cuts, block, look, batch):
    gallery = near_ties(seed, 3000, 48)
    queries = as_queries(seed + 1, 9, 48)
    whole = top_k(queries, gallery, 15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_top_k, "LOOK_SCORES", look * batch)
        patch.setattr(_top_k, "QUERIES_AT_ONCE", batch)
        split = Shards(*np.split(gallery, sorted(cuts)))
        again = top_k(queries, split, 15, block=block)
    five = top_k(queries[:1], split, 5, block=block)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert all(torch.equal(a[:1, :5], b) for a, b in zip(whole, five, strict=True))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.integers(0, 60))
def test_settling_candidates_early_changes_no_bit(seed, limit):
    gallery = near_ties(seed, 900, 16)
    queries = as_queries(seed + 1, 4, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_top_k, "LOOK_SCORES", 200)
        plain = top_k(queries, gallery, 7, block=25)
        init = _top_k._Candidates.__init__

        def small(self, *args):
            init(self, *args)
            self._limit = limit

        patch.setattr(_top_k._Candidates, "__init__", small)
        settled = top_k(queries, gallery, 7, block=25)
    assert all(torch.equal(a, b) for a, b in zip(plain, settled, strict=True))


def test_threads_change_no_bit():
    gallery = near_ties(0, 20_000, 64)
    queries = as_queries(1, 20, 64)
    one = top_k(queries, gallery, 10)
    torch.set_num_threads(2)
    try:
        two = top_k(queries, gallery, 10)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_gallery_of_one_row_repeated_ties_by_row():
    gallery = np.repeat(unit_rows(np.random.default_rng(0), 1, 32), 30_000, axis=0)
    _, rows = top_k(as_queries(1, 2, 32), gallery, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_memory_of_candidates_is_bounded(monkeypatch):
    monkeypatch.setattr(_top_k, "PENDING_LIMIT", 1000)
    monkeypatch.setattr(_top_k, "LOOK_SCORES", 1)
    seen = []
    offer = _top_k._Candidates.offer

    def watched(self, *args):
        offer(self, *args)
        seen.append(self._count)

    monkeypatch.setattr(_top_k._Candidates, "offer", watched)
    gallery = np.repeat(unit_rows(np.random.default_rng(0), 1, 8), 40_000, axis=0)
    top_k(as_queries(1, 1, 8), gallery, 3)
    assert len(seen) > 3
    assert max(seen) <= 1000


def test_rows_of_any_magnitude():
    generator = np.random.default_rng(0)
    for dtype, powers in ((np.float16, (-8, 10)), (np.float32, (-60, 60))):
        scale = np.exp2(generator.integers(*powers, (200, 1)))
        gallery = (generator.standard_normal((200, 16)) * scale).astype(dtype)
        queries = generator.standard_normal((2, 16)).astype(np.float32)
        scores, rows = top_k(queries, gallery, 20, block=33)
        for query, (order, values) in enumerate(oracle(queries, gallery, 20)):
            assert rows[query].tolist() == order
            assert scores[query].tolist() == values


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.integers(-14, 13), single=st.booleans())
def test_the_bound_on_a_block_holds(seed, power, single):
    dtype = np.float32 if single else np.float16
    values = (np.random.default_rng(seed).uniform(-1, 1, (5, 6)) * 2.0**power).astype(dtype)
    parts = _gallery.open_parts(values)
    (block,) = _gallery.stream(parts, 10, torch.device("cpu"))
    largest = float(np.abs(values).max())
    assert largest <= block.magnitude
    assert block.magnitude <= 2 or largest > 1


def test_tensors_views_and_memory_maps(tmp_path):
    gallery = near_ties(3, 100, 12)
    np.save(tmp_path / "g.npy", gallery)
    queries = as_queries(1, 2, 12)
    expected = top_k(queries, gallery, 4)
    column_major = torch.from_numpy(np.asfortranarray(gallery))
    mapped = np.load(tmp_path / "g.npy", mmap_mode="r")
    for same in (torch.from_numpy(gallery), column_major, mapped, Shards(mapped[:50], mapped[50:])):
        found = top_k(queries, same, 4)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def settings_of_products():
    """What the process allows of float32 products, by the newer settings of torch or the older."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        cuda, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        return cuda.fp32_precision, mkldnn.fp32_precision
    return (torch.get_float32_matmul_precision(),)


@pytest.fixture
def recorded(monkeypatch):
    """The settings during each search."""
    seen, search = [], _top_k._search

    def watched(*args):
        seen.append(settings_of_products())
        return search(*args)

    monkeypatch.setattr(_top_k, "_search", watched)
    return seen


def needs_new_settings():
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch 2.9 has these settings first")


@pytest.mark.parametrize(
    ("owner", "value"),
    [
        ("cuda.matmul", "tf32"),
        ("mkldnn.matmul", "bf16"),
        ("", "tf32"),
    ],
)
def test_precision_by_the_newer_settings_is_raised_and_put_back(recorded, owner, value):
    needs_new_settings()
    holder = operator.attrgetter(f"backends.{owner}" if owner else "backends")(torch)
    queries, gallery = as_queries(1, 3, 64), near_ties(5, 400, 64)
    expected = top_k(queries, gallery, 10)
    untouched = settings_of_products()
    holder.fp32_precision = value
    try:
        asked_for = settings_of_products()
        found = top_k(queries, gallery, 10)
        assert settings_of_products() == asked_for != untouched
        holder.fp32_precision = "ieee"
        assert set(settings_of_products()) <= {"ieee", "none"}  # nothing stays behind
    finally:
        holder.fp32_precision = "none"
    assert recorded == [("ieee", "ieee")] * 2
    assert settings_of_products() == untouched
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("newer", [True, False])
def test_precision_by_the_older_call_is_raised_and_put_back(recorded, monkeypatch, newer):
    if newer:
        needs_new_settings()
    else:
        monkeypatch.setattr(_precision, "_switches", lambda: ())
    torch.set_float32_matmul_precision("medium")
    try:
        asked_for = settings_of_products()
        top_k(as_queries(1, 3, 64), near_ties(5, 400, 64), 10)
        assert torch.get_float32_matmul_precision() == "medium"
        assert settings_of_products() == asked_for
    finally:
        torch.set_float32_matmul_precision("highest")
    assert recorded == [settings_of_products()]


def test_searches_that_overlap_keep_full_precision_until_the_last_ends():
    torch.set_float32_matmul_precision("medium")
    try:
        asked_for = settings_of_products()
        first, second = _precision.full_precision(), _precision.full_precision()
        first.__enter__()
        raised = settings_of_products()
        second.__enter__()
        first.__exit__(None, None, None)
        assert settings_of_products() == raised != asked_for
        second.__exit__(None, None, None)
        assert settings_of_products() == asked_for
    finally:
        torch.set_float32_matmul_precision("highest")


def test_what_the_fast_pass_loses_to_flushed_denormals_is_found_again():
    gallery = np.zeros((2, 64), np.float32)
    gallery[0, 0] = 1.2e-19  # one product that float32 holds
    gallery[1] = 1.1e-19  # many that are flushed, whose sum is greater
    queries = torch.full((1, 64), 1.02e-19)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    try:
        assert (queries @ torch.from_numpy(gallery).T).argmax() == 0
        scores, rows = top_k(queries, gallery, 1)
    finally:
        torch.set_flush_denormal(False)
    assert rows.tolist() == [[1]]
    assert scores.tolist() == [[oracle(queries, gallery, 1)[0][1][0]]]


def test_fewer_rows_than_k_and_none_at_all():
    gallery = unit_rows(np.random.default_rng(0), 3, 8)
    scores, rows = top_k(as_queries(1, 2, 8), gallery, 10)
    assert scores.shape == rows.shape == (2, 3)
    assert top_k(as_queries(1, 2, 8), gallery[:0], 10)[0].shape == (2, 0)
    assert top_k(as_queries(1, 2, 8), Shards(), 10)[0].shape == (2, 0)
    assert top_k(torch.empty(0, 8), gallery, 2)[1].shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_finite_is_named(tmp_path, bad, dtype):
    shards = [unit_rows(np.random.default_rng(n), 40, 8, dtype) for n in range(2)]
    shards[1][17, 3] = bad
    for name, shard in zip(("00000.npy", "00001.npy"), shards, strict=True):
        np.save(tmp_path / name, shard)
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("00000.npy", "00001.npy")]
    with pytest.raises(TtvrError, match=r"row 57 .*\(row 17 of .*00001\.npy\)"):
        top_k(as_queries(1, 1, 8), Shards(*mapped), 3, block=7)
    queries = as_queries(1, 3, 8)
    queries[2, 0] = bad
    with pytest.raises(TtvrError, match="query 2 is not finite"):
        top_k(queries, shards[0], 3)


def test_scores_that_overflow_are_refused():
    gallery = np.full((4, 8), 3e38, np.float32)
    with pytest.raises(TtvrError, match="score of query 0 and row 0 is not finite"):
        top_k(torch.ones(1, 8), gallery, 1)


def test_programmers_slips():
    gallery = unit_rows(np.random.default_rng(0), 3, 8)
    with pytest.raises(ValueError, match="do not fit"):
        top_k(torch.ones(1, 7), gallery, 1)
    with pytest.raises(ValueError, match="at least 1"):
        top_k(torch.ones(1, 8), gallery, 0)
    with pytest.raises(ValueError, match="expected float16 or float32"):
        top_k(torch.ones(1, 8), gallery.astype(np.float64), 1)


class Words(NamedTuple):
    words: torch.Tensor
    mask: torch.Tensor


class BestWord(Head):
    """A head that is not offline: the greatest inner product of a valid word and a valid frame."""

    offline: ClassVar[bool] = False

    def prepare_text(self, text):
        return Words(text.words, text.mask)

    def prepare_video(self, video):
        assert not self.training
        return Words(video.frames, video.mask)

    def similarities(self, text, video):
        pairs = torch.einsum("tid,vjd->tvij", text.words, video.words)
        valid = text.mask[:, None, :, None] & video.mask[None, :, None, :]
        return pairs.masked_fill(~valid, -torch.inf).amax((2, 3)).unsqueeze(0)


def features(seed, Nt=13, Nv=9, L=4, T=3, D=16):
    generator = torch.Generator().manual_seed(seed)
    text = TextFeatures(
        torch.randn(Nt, D, generator=generator),
        torch.randn(Nt, L, D, generator=generator),
        torch.arange(L) < torch.randint(1, L + 1, (Nt, 1), generator=generator),
    )
    video = VideoFeatures(
        torch.randn(Nv, T, D, generator=generator),
        torch.arange(T) < torch.randint(1, T + 1, (Nv, 1), generator=generator),
        None,
    )
    return text, video


def test_meanp_matrix_against_a_loop():
    text, video = features(0)
    sims = similarity_matrix(MeanP(), text, video, block=4, scale=100.0)
    for i, sentence in enumerate(text.sentence.double()):
        for j in range(len(video.frames)):
            frames = video.frames[j][video.mask[j]].double()
            mean = (frames / frames.norm(dim=1, keepdim=True)).mean(0)
            cosine = (sentence / sentence.norm()) @ (mean / mean.norm())
            assert float(sims[i, j]) == pytest.approx(100 * float(cosine), abs=2e-5)


class Doubled(MeanP):
    vector_gain = 2.0


def test_the_matrix_of_an_offline_head_has_its_gain():
    text, video = features(4)
    assert torch.equal(
        similarity_matrix(Doubled(), text, video, scale=3.0),
        2 * similarity_matrix(MeanP(), text, video, scale=3.0),
    )


@pytest.mark.parametrize("head", [MeanP(), BestWord()], ids=["offline", "pairs"])
def test_autocast_does_not_change_the_matrix(head):
    text, video = features(5)
    expected = similarity_matrix(head, text, video)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarity_matrix(head, text, video)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_inner_products_equal_a_loop_and_ties_are_exact(block):
    gallery = np.repeat(unit_rows(np.random.default_rng(0), 5, 24), 2, axis=0)
    text = as_queries(1, 4, 24)
    sims = inner_products(text, gallery, block=block)
    for i, query in enumerate(text.double().numpy()):
        for j, row in enumerate(gallery.astype(np.float64)):
            assert sims[i, j] == np.float32(math.fsum(query * row))
    assert torch.equal(sims[:, ::2], sims[:, 1::2])
    assert torch.equal(inner_products(text, torch.from_numpy(gallery)), sims)


@pytest.mark.parametrize("block", [1, 2, 5, 100])
def test_the_matrix_does_not_depend_on_the_block(block):
    text, video = features(1)
    repeated = video._replace(frames=video.frames[[0, 1] * 6], mask=video.mask[[0, 1] * 6])
    expected = similarity_matrix(MeanP(), text, repeated)
    found = similarity_matrix(MeanP(), text, repeated, block=block)
    assert torch.equal(found, expected)
    assert torch.equal(found[:, :2].repeat(1, 6), found)
    words = similarity_matrix(BestWord(), text, video, block=block)
    assert torch.allclose(words, similarity_matrix(BestWord(), text, video), atol=1e-5)


class Several(BestWord):
    def similarities(self, text, video):
        sims = super().similarities(text, video)
        return torch.cat([sims, -sims.square(), sims + 1])


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("head", [MeanP(), Doubled(), Several()], ids=["meanp", "gain", "pairs"])
def test_granularities_are_what_is_fused(head, block):
    text, video = features(6)
    parts = similarity_matrix(head, text, video, block=block, scale=7.0, granularities=True)
    fused = similarity_matrix(head, text, video, block=block, scale=7.0)
    assert parts.shape == (1 if head.offline else 3, *fused.shape)
    torch.testing.assert_close(head.fuse(parts, torch.tensor(7.0)), fused)
    video.frames[5, 0, 0] = torch.nan
    with pytest.raises(TtvrError, match="text row 0 and video row 5 "):
        similarity_matrix(head, text, video, block=block, granularities=True)


def test_arrays_are_read_in_blocks_and_the_head_keeps_its_mode():
    text, video = features(2)
    arrays = VideoFeatures(video.frames.numpy().astype(np.float16), video.mask.numpy(), None)
    head = BestWord().train()
    found = similarity_matrix(head, text, arrays, block=2)
    halves = video._replace(frames=video.frames.half().float())
    assert torch.allclose(found, similarity_matrix(head, text, halves), atol=1e-6)
    assert head.training


def test_a_score_that_is_not_finite_is_named():
    text, video = features(3)
    video.frames[5, 0, 0] = torch.nan
    with pytest.raises(TtvrError, match="text row 0 and video row 5 "):
        similarity_matrix(MeanP(), text, video, block=2)


@pytest.mark.cuda
def test_cuda_gives_the_same_bits():
    gallery = near_ties(7, 70_000, 512)
    queries = as_queries(1, 70, 512)
    expected = top_k(queries, gallery, 10)
    on_device = queries.cuda()
    for same in (gallery, torch.from_numpy(gallery).cuda(), gallery.astype(np.float32)):
        scores, rows = top_k(on_device, same, 10)
        assert scores.is_cuda
        assert torch.equal(scores.cpu(), expected[0])
        assert torch.equal(rows.cpu(), expected[1])
