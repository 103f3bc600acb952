"""What every dataset promises, and what the synthetic one does."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import numpy as np
import pytest

from ttvr import frames, plugins, synthetic, video
from ttvr.clip import tokenizer
from ttvr.datasets._base import Dataset
from ttvr.datasets.synthetic import caption_of, scene_of
from ttvr.errors import UsageError
from ttvr.records import Clip, Split, Twin

NAMES = plugins.names("datasets")
FREE = [name for name in NAMES if not plugins.load("datasets", name).needs_root]
"""Those that can be looked into without files."""
SPLITS = [(name, split) for name in FREE for split in plugins.load("datasets", name).splits]
LIMIT = 6
WAYS = r"\b(left|right|up|down)\b"


@functools.cache
def drawn(split):
    """The whole of a small synthetic split, and the scenes of its clips."""
    made = dataset("synthetic").load(None, split)
    return made, [scene_of(clip.id) for clip in made.clips]


def dataset(name):
    return plugins.load("datasets", name)


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_says_what_it_has(name):
    made = dataset(name)
    assert isinstance(made, Dataset)
    assert made.splits
    assert type(made).__doc__
    with pytest.raises(UsageError, match=f"{name} has no split 'nothing'; .*{made.splits[0]}"):
        made.load(Path(), "nothing")
    if made.needs_root:
        with pytest.raises(UsageError, match="pass --root DIR"):
            made.load(None, made.splits[0])


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_a_split_holds_together(name, split):
    made = dataset(name).load(None, split, limit=LIMIT)
    assert made.name == f"{name}/{split}"
    assert len(made.clips) == LIMIT
    assert len({clip.id for clip in made.clips}) == LIMIT
    assert len(made.captions) == len(made.owner)
    assert set(made.owner) == set(range(LIMIT))
    for caption in made.captions:
        assert caption == " ".join(caption.split()) != ""
    again = dataset(name).load(None, split, limit=2 * LIMIT)
    assert len(again.clips) == 2 * LIMIT
    assert tuple(again.clips)[:LIMIT] == tuple(made.clips)
    assert tuple(again.captions)[: len(made.captions)] == tuple(made.captions)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_frames_are_those_that_are_chosen(name, split):
    made = dataset(name)
    asked = []

    def choose(count):
        asked.append(count)
        return [0, 2, 2, count - 1]

    for clip in made.load(None, split, limit=2).clips:
        everything = made.read(clip, range, size=32)
        assert everything.dtype == np.uint8
        assert everything.shape == (len(everything), 32, 32, 3)
        np.testing.assert_array_equal(made.read(clip, choose, size=32), everything[[0, 2, -1]])
        assert asked.pop() == len(everything)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_twins_are_mutual_and_in_the_split(name, split):
    made = dataset(name)
    clips = made.load(None, split, limit=LIMIT).clips
    twins = {clip.id: made.twin(clip) for clip in clips}
    known = {clip.id for clip in made.load(None, split, limit=LIMIT + 1).clips}
    for clip, twin in twins.items():
        if twin is not None:
            assert twin.id != clip
            assert twin.id in known
            assert twins.get(twin.id, Twin(clip, "")).id == clip


def test_clips_of_files_are_decoded(tmp_path):
    """By the base class: each frame has a gray of its own."""
    grays = np.arange(10, dtype=np.uint8) * 20
    path = tmp_path / "clip.mp4"
    video.write(path, np.broadcast_to(grays[:, None, None, None], (10, 16, 24, 3)), fps=5)

    class Files(Dataset):
        splits = ("train",)

        def load(self, root, split, *, limit=None):
            self.check(root, split)
            return Split("files/train", (Clip("clip", root / "clip.mp4"),), ("gray",), (0,))

    made = Files()
    clip = made.load(tmp_path, "train").clips[0]
    read = made.read(clip, lambda count: (0, 3, count - 1), size=8)
    assert read.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(read.mean((1, 2, 3)), grays[[0, 3, 9]], atol=3)
    part = made.read(clip._replace(start=0.8, end=1.6), range, size=8)
    np.testing.assert_allclose(part.mean((1, 2, 3)), grays[4:8], atol=3)
    assert made.twin(clip) is None


def test_the_synthetic_splits_have_their_sizes():
    made = dataset("synthetic")
    assert len(made.load(None, "train").clips) == 400_000
    sizes = {split: len(drawn(split)[0].clips) for split in ("val", "test", "twins")}
    assert sizes == {"val": 500, "test": 500, "twins": 840}
    assert len(made.load(None, "train", limit=500_000).captions) == 400_000
    assert len(made.load(None, "test", limit=10_000).clips) == 500


def test_an_id_tells_the_clip():
    for split in ("train", "val", "test", "twins"):
        made = dataset("synthetic").load(None, split, limit=20)
        for clip, caption in zip(made.clips, made.captions, strict=True):
            assert caption == caption_of(clip.id)
            assert synthetic.split_of(scene_of(clip.id)) == split.replace("twins", "test")
    still = next(at for at in range(99) if not synthetic.is_temporal(synthetic.nth("test", at)[0]))
    no_reversal = f"twins-{still:05d}r"
    for wrong in ("rest-00001", "test-1r", "test-", "twins", no_reversal, "x/test-00001"):
        with pytest.raises(UsageError, match=f"no synthetic clip {wrong!r}"):
            scene_of(wrong)


def test_a_folder_of_images_is_replaced_whole(tmp_path, monkeypatch):
    """Stopped at any moment, by whatever means, a clip has all of its images or none."""
    made = dataset("synthetic")
    clip = made.load(None, "test", limit=1).clips[0]
    path = tmp_path / clip.id
    made.write(clip, path)
    stopped, steps = 0, ("unlink", "rmdir", "rename", "replace")

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    for name in steps:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, stop)
            try:
                made.write(clip, path)
            except KeyboardInterrupt:
                stopped += 1
        assert not path.exists() or len(list(path.iterdir())) == synthetic.FRAMES
    assert stopped


def test_two_may_write_the_same_clip_at_once(tmp_path, monkeypatch):
    made = dataset("synthetic")
    clip = made.load(None, "test", limit=1).clips[0]
    path, rename, others = tmp_path / clip.id, Path.replace, []

    def replace(self, target):
        if target == path and len(others) < 2:  # somebody else was faster
            others.append(Path(target))
            target.mkdir()
            (target / "00.png").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    made.write(clip, path)
    assert len(others) == 2
    assert [one.name for one in tmp_path.iterdir()] == [clip.id]
    assert len(video.read_frames(path, range).pixels) == synthetic.FRAMES


def test_captions_that_are_made_when_asked_for_are_a_sequence():
    made = dataset("synthetic").load(None, "train", limit=50)
    everything = list(made.captions)
    assert everything == [made.captions[at] for at in range(50)]
    assert made.captions[-1] == everything[-1]
    assert made.captions[10:40:7] == tuple(everything[10:40:7])
    assert made.clips[3:4] == (made.clips[3],)
    for at in (50, -51):
        with pytest.raises(IndexError):
            made.captions[at]


def test_some_training_captions_are_short():
    captions = dataset("synthetic").load(None, "train").captions[:2000]
    # Of the 0.3 that are short half say no background; five standard deviations.
    share = np.mean([not caption.endswith("background") for caption in captions])
    assert share == pytest.approx(0.15, abs=5 * (0.15 * 0.85 / 2000) ** 0.5)
    for split in ("val", "test", "twins"):
        assert all(caption.endswith("background") for caption in drawn(split)[0].captions)


def test_a_gallery_repeats_no_meaning_and_tests_what_was_not_trained():
    seen = {}
    for split in ("val", "test", "twins"):
        said = [synthetic.wordings(scene) for scene in drawn(split)[1]]
        seen[split] = set().union(*said)
        assert len(seen[split]) == sum(map(len, said))
    assert seen["val"].isdisjoint(seen["test"] | seen["twins"])
    trained = {synthetic.meaning(synthetic.nth("train", at)[0]) for at in range(1000)}
    assert trained.isdisjoint(seen["val"] | seen["test"] | seen["twins"])


def test_twins_are_clips_with_their_reversals():
    made = dataset("synthetic")
    split, scenes = drawn("twins")
    kinds = set()
    for at in range(0, len(scenes), 2):
        (clip, other), (scene, reversal) = split.clips[at : at + 2], scenes[at : at + 2]
        assert other.id == f"{clip.id}r"
        assert reversal == synthetic.reverse(scene) != scene
        assert made.twin(clip) == Twin(other.id, scene.kind)
        assert made.twin(other) == Twin(clip.id, reversal.kind)
        kinds |= {scene.kind, reversal.kind}
    assert len(kinds) == 13
    clip, other = split.clips[:2]
    frames = (made.read(one, range, size=32) for one in (clip, other))
    np.testing.assert_array_equal(next(frames), next(frames)[::-1])
    pairs = list(zip(split.captions[::2], split.captions[1::2], strict=True))
    assert all(a != b for a, b in pairs)
    # The same synonyms where they fit: the two differ in what has an order alone.
    moves = [pair for pair in pairs if re.search(r"(moves|slides|drifts|travels)", pair[0])]
    assert all(re.sub(WAYS, "", a) == re.sub(WAYS, "", b) for a, b in moves)
    assert len(moves) > 50


def test_eight_frames_are_the_same_from_either_end():
    """So that a model that takes their mean sees a clip and its reversal alike."""
    chosen = frames.uniform_indices(synthetic.FRAMES, 8)
    assert chosen == sorted(synthetic.FRAMES - 1 - index for index in chosen)


def test_words_of_the_galleries_occur_in_training():
    """What a model that keeps the tokens of some training captions alone has to know."""

    def tokens(captions):
        words = {word for caption in captions for word in caption.split()}
        return set(np.unique(tokenizer.tokenize(sorted(words))))

    known = tokens(dataset("synthetic").load(None, "train").captions[:5000])
    for split in ("val", "test", "twins"):
        assert tokens(drawn(split)[0].captions) <= known
