"""Scores in blocks: the same whatever the memory, which is kept to; and what is read how often."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from pair_head import PairHead, Rows

from ttvr.errors import TtvrError
from ttvr.heads.meanp import MeanP
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score import (
    _blocks,
    similarity_matrix,
    streamed_matrix,
    text_vectors,
    video_vectors,
)

D, L, T = 16, 5, 4
CPU = torch.device("cpu")


def features(Nt=23, Nv=31, seed=0):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(Nt, L, D, generator=generator)
    text = TextFeatures(words[:, 2], words, torch.arange(L) <= torch.arange(Nt)[:, None] % L)
    frames = torch.randn(Nv, T, D, generator=generator)
    patches = torch.randn(Nv, T, 3, D, generator=generator)
    return text, VideoFeatures(frames, torch.arange(T) <= torch.arange(Nv)[:, None] % T, patches)


def head(**options):
    torch.manual_seed(1)
    made = PairHead(width=D, frames=T, words=L, **options)
    torch.nn.init.normal_(made.mix)
    return made.eval()


class Watched(PairHead):
    """Tells how many items each call got."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.texts, self.videos, self.blocks = [], [], []

    def prepare_text(self, text):
        self.texts.append(len(text.sentence))
        return super().prepare_text(text)

    def prepare_video(self, video):
        self.videos.append(len(video.frames))
        return super().prepare_video(video)

    def similarities(self, text, video):
        self.blocks.append((len(text.rows), len(video.rows)))
        return super().similarities(text, video)


def slow_scores(head, text, video):
    """One pair at a time, in float64."""
    made = np.empty((len(text.sentence), len(video.frames)))
    mix = head.mix.detach().double()
    for t, words in enumerate(text.words.double()):
        for v, frames in enumerate(video.frames.double()):
            total = 0.0
            for word in words:
                query = (word / word.norm()) @ mix
                cosines = [float(query @ frame / frame.norm()) for frame in frames]
                weights = [math.exp(10 * (cosine - max(cosines))) for cosine in cosines]
                products = [w * c for w, c in zip(weights, cosines, strict=True)]
                total += sum(products) / sum(weights)
            made[t, v] = total / len(words)
    return made


@pytest.fixture(scope="module")
def expected():
    return slow_scores(head(), *features())


@pytest.mark.parametrize("memory", [1, 4096, 65536, 1 << 30])
@pytest.mark.parametrize("block", [None, 1, 7])
def test_no_memory_and_no_block_changes_a_score(memory, block, expected):
    text, video = features()
    scale = torch.tensor(20.0)
    found = similarity_matrix(head(), text, video, memory=memory, block=block, scale=scale)
    np.testing.assert_allclose(found.numpy(), 20 * expected, rtol=1e-4, atol=1e-4)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("memory", [1, 30_000, 200_000, 1 << 30])
def test_memory_is_kept_to(memory):
    text, video = features(Nt=60, Nv=50)
    watched = Watched(width=D, frames=T, words=L)
    similarity_matrix(watched, text, video, memory=memory)
    item = 4 * (D + L * D + L)
    for texts in watched.texts:
        assert texts == 1 or texts * item * _blocks._PREPARING <= memory / 4
    for videos in watched.videos:
        each = 4 * (T * D + T + 3 * T * D)
        assert videos == 1 or videos * each * _blocks._PREPARING <= memory / 4
    pair = 4 * watched.pair_floats()
    assert all(t * v == 1 or t * v * pair <= memory / 2 for t, v in watched.blocks)
    assert sum(t * v for t, v in watched.blocks) == 60 * 50


def test_a_block_fits_a_cache_and_few_texts_take_more_videos(monkeypatch):
    text, video = features(Nt=60, Nv=50)
    watched = Watched(width=D, frames=T, words=L)
    pair = 4 * watched.pair_floats()
    monkeypatch.setattr(_blocks, "CACHE", 100 * pair)
    similarity_matrix(watched, text, video)
    assert max(t * v for t, v in watched.blocks) == 100
    assert watched.blocks[0] == (10, 10)
    one = TextFeatures(*(field[:2] for field in text))
    watched.blocks.clear()
    similarity_matrix(watched, one, video)
    assert watched.blocks == [(2, 50)]


def test_items_are_prepared_once_where_texts_fit():
    text, video = features()
    watched = Watched(width=D, frames=T, words=L)
    similarity_matrix(watched, text, video)
    assert watched.texts == [23]
    assert sum(watched.videos) == 31
    similarity_matrix(watched, text, video, memory=30_000)
    groups = len(watched.texts) - 1
    assert groups > 1
    assert sum(watched.videos) == 31 * (1 + groups)


class Lazy:
    """An array that tells what is read of it."""

    def __init__(self, values):
        self.values, self.shape, self.most = values.numpy(), values.shape, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        rows = self.values[key]
        self.most = max(self.most, len(rows))
        return rows


def test_arrays_are_read_some_at_a_time():
    text, video = features()
    expected = similarity_matrix(head(), text, video)
    words, frames = Lazy(text.words), Lazy(video.frames)
    lazy = text._replace(words=words, mask=Lazy(text.mask))
    videos = VideoFeatures(frames, Lazy(video.mask), None)
    found = similarity_matrix(head(), lazy, videos, memory=60_000)
    torch.testing.assert_close(found, expected)
    assert words.most < len(words)
    assert frames.most < len(frames)


@pytest.mark.parametrize("made", [head(), MeanP(width=D)], ids=["pairs", "offline"])
def test_a_stream_of_videos_gives_the_same(made):
    text, video = features()
    expected = similarity_matrix(made, text, video, scale=20.0)
    cuts = (0, 1, 9, 31)
    parts = (
        VideoFeatures(*(field[start:stop] for field in video))
        for start, stop in itertools.pairwise(cuts)
    )
    found = streamed_matrix(made.train(), text, parts, scale=20.0)
    torch.testing.assert_close(found, expected)
    assert made.training
    made.eval()


def test_what_is_not_finite_is_named_in_the_stream_too():
    text, video = features()
    video.frames[9, 1, 3] = torch.inf
    made = head().train()
    for run in (
        lambda: similarity_matrix(made, text, video, block=4),
        lambda: streamed_matrix(made, text, [VideoFeatures(*(f[:5] for f in video)), video]),
    ):
        with pytest.raises(TtvrError, match=r"text row 0 and video row (9|14) "):
            run()
        assert made.training


class Two(PairHead):
    """Two granularities, of which the second counts twice."""

    def similarities(self, text, video):
        sims = super().similarities(text, video)
        return torch.cat([sims, sims.square()])

    def fuse(self, sims, scale):
        return scale * (sims[0] + 2 * sims[1])


@pytest.mark.parametrize("memory", [1, 50_000, 1 << 30])
def test_granularities_are_given_as_they_are_fused(memory):
    text, video = features()
    made = Two(width=D, frames=T, words=L)
    sims = similarity_matrix(made, text, video, memory=memory, granularities=True, scale=20.0)
    assert sims.shape == (2, 23, 31)
    fused = similarity_matrix(made, text, video, memory=memory, scale=20.0)
    torch.testing.assert_close(made.fuse(sims, 20.0), fused)
    one = similarity_matrix(MeanP(width=D), text, video, granularities=True, scale=20.0)
    torch.testing.assert_close(20 * one[0], similarity_matrix(MeanP(), text, video, scale=20.0))
    video.frames[3] = torch.nan
    with pytest.raises(TtvrError, match="text row 0 and video row 3 "):
        similarity_matrix(made, text, video, memory=memory, granularities=True)


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_vectors_do_not_depend_on_memory(memory):
    text, video = features()
    made = MeanP(width=D)
    found = video_vectors(made, video, device=CPU, memory=memory)
    torch.testing.assert_close(found, made.vector_video(video))
    words = text._replace(words=Lazy(text.words))
    found = text_vectors(made, words, device=CPU, memory=memory)
    torch.testing.assert_close(found, made.vector_text(text))


def test_states_are_cut_by_rows():
    state = Rows(torch.arange(12).view(6, 2), torch.ones(6, 3))
    assert _blocks.count(state) == 6
    part = _blocks.take(state, slice(2, 4))
    assert part.rows.tolist() == [[4, 5], [6, 7]]
    assert _blocks.take(state, torch.tensor([5, 0])).rows.tolist() == [[10, 11], [0, 1]]
    assert _blocks.count(state.rows) == 6
    halves = [_blocks.take(state, slice(0, 4)), _blocks.take(state, slice(4, 6))]
    assert all(torch.equal(a, b) for a, b in zip(_blocks.joined(halves), state, strict=True))
