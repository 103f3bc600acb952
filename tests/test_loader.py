"""Batches are a pure function of seed, epoch and number, and hold what the split says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_training import FRAMES, colors, read, unreadable

from ttvr import frames as framing
from ttvr.clip import tokenizer
from ttvr.errors import TtvrError, UsageError
from ttvr.loader import Loader, Wanted, stacked


def make(split=None, **changes):
    options = {"batch_size": 4, "frames": 2, "size": 8, "words": 77, "seed": 3, **changes}
    return Loader(split or colors("train", 3), read, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_depends_on_seed_epoch_and_number_alone():
    first, again = (list(make().batches(1)) for _ in range(2))
    assert len(first) == len(make()) == 6
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    with_threads = list(make(jobs=3).batches(1))
    assert all(same(a, b) for a, b in zip(first, with_threads, strict=True))
    assert not all(same(a, b) for a, b in zip(first, make().batches(2), strict=True))
    assert not all(same(a, b) for a, b in zip(first, make(seed=4).batches(1), strict=True))


@pytest.mark.parametrize("start", range(7))
def test_starting_late_is_skipping(start):
    whole, rest = list(make().batches(0)), list(make().batches(0, start))
    assert len(rest) == 6 - start
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_every_caption_comes_once_per_epoch():
    split = colors("train", 3)
    for epoch in range(3):
        seen = Counter()
        for batch in make(split).batches(epoch):
            for ids, owner in zip(batch.ids.tolist(), batch.owner.tolist(), strict=True):
                seen[tokenizer.decode(ids[1 : ids.index(49407)]).strip(), owner] += 1
        assert seen == Counter(zip(split.captions, split.owner, strict=True))


def test_what_makes_no_whole_batch_is_left_out():
    loader = make(batch_size=5)
    sizes = [len(batch.owner) for batch in loader.batches(0)]
    assert sizes == [5] * len(loader) == [5] * 4
    with pytest.raises(UsageError, match="24 captions, fewer than one batch of 25"):
        make(batch_size=25)


def test_a_row_is_a_caption_with_frames_of_its_clip():
    split, chosen = colors("train", 3), []

    def spy(clip, choose, *, size):
        chosen.append(choose(FRAMES))
        return read(clip, choose, size=size)

    loader = Loader(split, spy, batch_size=4, frames=2, size=8, words=77, seed=0)
    batches = list(loader.batches(0))
    for batch, picks in zip(batches, zip(*[iter(chosen)] * 4, strict=True), strict=True):
        assert batch.frames.shape == (4, 2, 8, 8, 3)
        assert batch.mask.all()
        for row, pick in enumerate(picks):
            clip = split.clips[batch.owner[row]]
            pixels = read(clip, lambda n, pick=pick: pick, size=8)
            assert np.array_equal(batch.frames[row], pixels)
    for pick in chosen:  # a random frame of each half
        assert 0 <= pick[0] < 3 <= pick[1] < 6
    assert len({tuple(pick) for pick in chosen}) > 3


def test_texts_are_as_long_as_the_longest():
    split = colors("train")._replace(captions=("red", "a very dark blue", *["!"] * 6))
    batch = next(make(split, batch_size=8).batches(0))
    assert batch.ids.shape == (8, 6)
    assert (batch.ids == 49407).sum(dim=1).tolist() == [1] * 8
    assert next(make(split, batch_size=8, words=4).batches(0)).ids.shape == (8, 4)


def test_texts_have_all_their_positions_where_padding_counts():
    split = colors("train")._replace(captions=("red", "a very dark blue", *["!"] * 6))
    for words in (4, 12):
        ids = next(make(split, batch_size=8, words=words, is_padded=True).batches(0)).ids
        plain = next(make(split, batch_size=8, words=words).batches(0)).ids
        assert ids.shape == (8, words)
        assert torch.equal(ids[:, : plain.shape[1]], plain)
        assert not ids[:, plain.shape[1] :].any()


def test_missing_frames_are_padding():
    batch = next(make(frames=8).batches(0))
    assert batch.mask.tolist() == [[True] * FRAMES + [False] * 2] * 4
    assert not batch.frames[:, FRAMES:].any()
    assert batch.frames[:, :FRAMES].any(dim=4).all()


def test_a_clip_that_cannot_be_read_is_named():
    loader = Loader(colors("train"), unreadable, batch_size=8, frames=2, size=8, words=77, seed=0)
    with pytest.raises(TtvrError, match=r"pink: cannot be read .*no frame.*pink\.mp4"):
        list(loader.batches(0))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (np.uint8, (2, 8, 8, 1)),
        (np.uint8, (2, 1, 8, 3)),
        (np.uint8, (2, 9, 8, 3)),
        (np.uint8, (8, 8, 3)),
        (np.uint8, (3, 8, 8, 3)),
        (np.uint8, (0, 8, 8, 3)),
        (np.float32, (2, 8, 8, 3)),
    ],
)
def test_what_a_dataset_should_not_give_is_refused(dtype, shape):
    def give(clip, choose, *, size):
        return np.ones(shape, dtype)

    wanted = [Wanted(colors("val").clips[0], lambda n: [0, 1])]
    with pytest.raises(ValueError, match=r"expected 1 to 2 frames \[8, 8, 3\] uint8, got"):
        list(stacked(wanted, give, at_once=1, frames=2, size=8))


def test_clips_are_stacked_in_order():
    split = colors("val")
    wanted = [Wanted(clip, lambda n: [0, n - 1]) for clip in split.clips[:5]]
    parts = list(stacked(wanted, read, at_once=2, frames=2, size=8, jobs=2))
    assert [len(frames) for frames, _ in parts] == [2, 2, 1]
    found = torch.cat([frames for frames, _ in parts])
    assert found.dtype == torch.uint8
    assert np.array_equal(found, [read(*one, size=8) for one in wanted])
    assert list(stacked([], read, at_once=2, frames=2, size=8)) == []


@pytest.mark.cuda
def test_a_gpu_copies_from_pinned_memory():
    batches = list(make(frames=8, is_pinned=True).batches(0))
    assert all(same(a, b) for a, b in zip(batches, make(frames=8).batches(0), strict=True))
    for batch in batches:
        assert batch.frames.is_pinned()
        on_gpu = [one.cuda(non_blocking=True) for one in (batch.frames, batch.mask)]
        expected = framing.normalize(batch.frames, batch.mask)
        torch.testing.assert_close(framing.normalize(*on_gpu).cpu(), expected)
