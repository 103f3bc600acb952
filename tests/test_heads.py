"""The contract of every head, and each head against its equations and its authors' numbers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from golden_heads import Golden

from ttvr import plugins, score
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads.meanp import MeanP
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

HEADS = plugins.names("heads")
WIDTH, FRAMES, WORDS = 32, 6, 8
SIZES = {"width": WIDTH, "frames": FRAMES, "words": WORDS}
SCALE = torch.tensor(20.0)
PADDING = torch.linspace(-1, 1, WIDTH)
KNOW_NOTHING = ("tight_transf",)
"""Heads that score by what they have learned alone; their own tests teach them first."""


def masked(plugin):
    """Options: heads that ignore masks as published have a choice; the others have none."""
    return {"mask": True} if "mask" in inspect.signature(plugin).parameters else {}


def make(name, *, mask=True):
    torch.manual_seed(0)
    plugin = plugins.load("heads", name)
    return plugins.construct(plugin, masked(plugin) if mask else {}, **SIZES).eval()


WITH_AND_WITHOUT_MASK = [
    (name, mask)
    for name in HEADS
    for mask in (True, False)
    if mask or masked(plugins.load("heads", name))
]


def features(texts=5, videos=4, seed=0, padding=0.0):
    """Random features; of what is padded, frames are `padding` and words are random too."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(texts, WORDS, WIDTH, generator=generator)
    lengths = torch.tensor([8, 5, 3, 6, 4])[:texts]
    text = TextFeatures(
        words[torch.arange(texts), lengths - 1], words, torch.arange(WORDS) < lengths[:, None]
    )
    counts = torch.tensor([6, 4, 1, 5])[:videos]
    frames = torch.randn(videos, FRAMES, WIDTH, generator=generator)
    patches = torch.randn(videos, FRAMES, 4, WIDTH, generator=generator)
    mask = torch.arange(FRAMES) < counts[:, None]
    frames = torch.where(mask[..., None], frames, padding)
    return text, VideoFeatures(frames, mask, torch.where(mask[..., None, None], patches, padding))


@pytest.mark.parametrize("name", HEADS)
def test_shapes_and_vectors(name):
    head, (text, video) = make(name), features()
    sims = head.similarities(head.prepare_text(text), head.prepare_video(video))
    assert sims.shape[1:] == (5, 4)
    assert head(text, video, SCALE).shape == (5, 4)
    torch.testing.assert_close(head.fuse(sims, SCALE), head(text, video, SCALE))
    vectors = head.vector_text(text), head.vector_video(video)
    for vector in vectors:
        torch.testing.assert_close(vector.norm(dim=1), torch.ones(len(vector)))
    if head.offline:
        scores = head.vector_gain * vectors[0] @ vectors[1].T
        torch.testing.assert_close(sims.mean(0), scores)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_built_with_sizes(name):
    plugin = plugins.load("heads", name)
    for head in (
        plugin(**SIZES),
        make(name),
        plugin.from_official(make(name).state_dict(), **SIZES),
    ):
        assert {size: getattr(head, size) for size in SIZES} == SIZES
    head = plugin()
    assert (head.width, head.frames, head.words) == (512, 12, 32)


@pytest.mark.parametrize("name", HEADS)
def test_autocast_changes_no_bit(name):
    head, (text, video) = make(name), features(texts=4)

    def everything():
        vectors = head.vector_text(text), head.vector_video(video)
        return [head(text, video, SCALE), *vectors, *head.losses(text, video, SCALE).values()]

    expected = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = everything()
    assert all(one.dtype == torch.float32 for one in found)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_padding_never_changes_a_score(name):
    head, (text, video) = make(name), features()
    loud = VideoFeatures(
        torch.where(video.mask[..., None], video.frames, 1e3),
        video.mask,
        torch.where(video.mask[..., None, None], video.patches, 1e3),
    )
    words = torch.where(text.mask[..., None], text.words, -1e3)
    padded = head(text._replace(words=words), loud, SCALE)
    torch.testing.assert_close(padded, head(text, video, SCALE))


def longer(x, count=3):
    """Features [N, T, ...] with more rows, or a mask with more rows that are not real."""
    more = torch.full_like(x[:, :1], 0 if x.dtype == torch.bool else 9.0)
    return torch.cat([x, more.repeat_interleave(count, dim=1)], dim=1)


@pytest.mark.parametrize("name", HEADS)
def test_more_padding_changes_no_score(name):
    head, (text, video) = make(name), features()
    more_words = TextFeatures(text.sentence, longer(text.words), longer(text.mask))
    more_frames = VideoFeatures(*(longer(x) for x in video))
    if head.fixed_frames:
        with pytest.raises(UsageError, match="has matrices for 6 frames, got 9"):
            head(text, more_frames, SCALE)
        with pytest.raises(UsageError, match="has matrices for 8 words, got 11"):
            head(more_words, video, SCALE)
    else:
        expected = head(text, video, SCALE)
        torch.testing.assert_close(head(more_words, more_frames, SCALE), expected)


@pytest.mark.parametrize(("name", "mask"), WITH_AND_WITHOUT_MASK)
def test_blocks_give_the_whole(name, mask):
    head, (text, video) = make(name, mask=mask), features(padding=PADDING)
    whole = head(text, video, SCALE)
    for t in range(5):
        for v in range(4):
            part = head(
                TextFeatures(*(x[t : t + 1] for x in text)),
                VideoFeatures(*(x[v : v + 1] for x in video)),
                SCALE,
            )
            torch.testing.assert_close(part[0, 0], whole[t, v])


@pytest.mark.parametrize(("name", "mask"), WITH_AND_WITHOUT_MASK)
@pytest.mark.parametrize(("texts", "videos"), [(0, 4), (5, 0), (0, 0)])
def test_of_nothing_there_is_an_empty_matrix(name, mask, texts, videos):
    head, (text, video) = make(name, mask=mask), features(padding=PADDING)
    granularities = len(score.similarity_matrix(head, text, video, granularities=True))
    text = TextFeatures(*(x[:texts] for x in text))
    video = VideoFeatures(*(x[:videos] for x in video))
    for _ in range(2):
        assert head(text, video, SCALE).shape == (texts, videos)
        head.train()
    head.eval()
    assert score.similarity_matrix(head, text, video).shape == (texts, videos)
    parts = score.similarity_matrix(head, text, video, granularities=True)
    assert parts.shape == (granularities, texts, videos)
    assert score.streamed_matrix(head, text, iter([video])).shape == (texts, videos)
    assert score.streamed_matrix(head, text, iter([])).shape == (texts, 0)
    for found in score.top_pairs(head, text, video, 3):
        assert found.shape == (texts, min(3, videos))
    for vectors, count in (
        (score.text_vectors(head, text, device=SCALE.device), texts),
        (score.video_vectors(head, video, device=SCALE.device), videos),
    ):
        assert vectors.shape == (count, head.vector_width)


@pytest.mark.parametrize(("name", "mask"), WITH_AND_WITHOUT_MASK)
def test_permuting_items_permutes_scores(name, mask):
    head, (text, video) = make(name, mask=mask), features(padding=PADDING)
    rows, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 3, 0, 1])
    shuffled = head(
        TextFeatures(*(x[rows] for x in text)), VideoFeatures(*(x[columns] for x in video)), SCALE
    )
    torch.testing.assert_close(shuffled, head(text, video, SCALE)[rows][:, columns])


@pytest.mark.parametrize(("name", "mask"), WITH_AND_WITHOUT_MASK)
def test_gradient_is_finite_and_reaches_the_inputs(name, mask):
    head = make(name, mask=mask).train()
    text, video = features(texts=4, padding=0.0 if mask else PADDING)
    words = text.words * text.mask[..., None] if mask else text.words
    given = {
        "sentence": text.sentence.requires_grad_(),
        "words": words.requires_grad_(),
        "frames": video.frames.requires_grad_(),
        "patches": video.patches.requires_grad_(),
    }
    parts = head.losses(text._replace(words=words), video, SCALE)
    assert head.main_loss in parts
    sum(parts.values()).backward()
    reached = {key for key, x in given.items() if x.grad is not None and x.grad.any()}
    assert all(given[key].grad.isfinite().all() for key in reached)
    assert {"frames", *["words"] * head.needs_words, *["patches"] * head.needs_patches} <= reached
    assert reached & {"sentence", "words"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_fusing_takes_matrices_at_the_scale_they_are_said_to_have(name):
    head, (text, video) = make(name), features()
    sims = head.similarities(head.prepare_text(text), head.prepare_video(video))
    factors, others = head.factors(sims, SCALE), head.factors(sims, 3 * SCALE)
    assert factors.shape == sims.shape[:1]
    same = head.fuse(sims * (factors / others)[:, None, None], 3 * SCALE)
    torch.testing.assert_close(same, head.fuse(sims, SCALE))


@pytest.mark.parametrize("name", [name for name in HEADS if name not in KNOW_NOTHING])
def test_loss_falls_on_matched_pairs(name):
    head = make(name)
    text, video = features(texts=4)
    matched = video._replace(frames=text.sentence[:, None].expand(-1, FRAMES, -1))
    loss = head.losses(text, matched, SCALE)[head.main_loss]
    assert loss < head.losses(text, video, SCALE)[head.main_loss]


@pytest.mark.parametrize("name", HEADS)
def test_a_state_round_trips_through_from_official(name):
    head = make(name)
    official = {f"module.{key}": value for key, value in head.state_dict().items()}
    plugin = plugins.load("heads", name)
    scale = {"module.clip.logit_scale": torch.ones(())}
    again = plugin.from_official({**official, **scale}, **masked(plugin))
    text, video = features()
    torch.testing.assert_close(again.eval()(text, video, SCALE), head(text, video, SCALE))
    with pytest.raises(IncompatibleError, match="stray"):
        plugin.from_official({**official, "stray": torch.ones(1)})


def test_meanp_refuses_a_video_without_frames(shared):
    golden = np.load(shared / "golden" / "heads" / "clip4clip_meanP_edge_zero_frames.npz")
    mask = torch.from_numpy(golden["video_mask"]).bool()
    video = VideoFeatures(torch.from_numpy(golden["frames"]), mask, None)
    with pytest.raises(TtvrError, match="video 1 of the batch has no real frame"):
        MeanP().prepare_video(video)


def test_meanp_equals_a_loop():
    text, video = features()
    for t in range(5):
        for v in range(4):
            total = torch.zeros(WIDTH)
            for j in range(FRAMES):
                if video.mask[v, j]:
                    total += video.frames[v, j] / video.frames[v, j].norm()
            total /= video.mask[v].sum()
            cosine = total @ text.sentence[t] / total.norm() / text.sentence[t].norm()
            found = MeanP()(text, video, SCALE)[t, v]
            torch.testing.assert_close(found, SCALE * cosine)


def test_info_nce_equals_a_loop():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double() * 5
    total = 0.0
    for i in range(6):
        total -= (logits[i, i] - torch.logsumexp(logits[i], 0)) / 12
        total -= (logits[i, i] - torch.logsumexp(logits[:, i], 0)) / 12
    torch.testing.assert_close(info_nce(logits), total)
    assert info_nce(logits.half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\[6, 5\]"):
        info_nce(logits[:, :5])


def test_info_nce_equals_the_published_one(shared):
    golden = Golden(shared, "losses")
    logits = golden["sim"].requires_grad_()
    loss = info_nce(logits)
    golden.close(loss, "loss_mean")
    golden.close((golden["loss_t2v"] + golden["loss_v2t"]) / 2, "loss_mean")
    loss.backward()
    golden.close(logits.grad, "grad")
