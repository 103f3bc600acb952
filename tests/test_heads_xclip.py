"""X-CLIP against its authors' numbers, its equations as loops, and what its softmaxes promise."""

from __future__ import annotations

import pytest
import torch
from aggregation import aggregate
from golden_heads import EXACT, Golden

from ttvr.bench import _direct_fine
from ttvr.errors import UsageError
from ttvr.heads import _fine_grained
from ttvr.heads._fine_grained import aggregate_videos_last
from ttvr.heads.xclip import XCLIP
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

FILES = [
    f"xclip_{kind}_{case}"
    for kind in ("meanP_identity", "meanP_rand", "seqTransf_rand")
    for case in ("corr", "iid")
]
D, T, L = 12, 4, 5
SIZES = {"width": D, "frames": T, "words": L}
SCALE = torch.tensor(20.0, dtype=torch.float64)


def features(texts=4, videos=3, *, full=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, D, generator=generator, dtype=torch.float64)

    lengths = torch.full((texts,), L) if full else torch.tensor([5, 2, 4, 3])[:texts]
    counts = torch.full((videos,), T) if full else torch.tensor([4, 1, 3])[:videos]
    return (
        TextFeatures(draw(texts), draw(texts, L), torch.arange(L) < lengths[:, None]),
        VideoFeatures(draw(videos, T), torch.arange(T) < counts[:, None], None),
    )


def make(**options):
    """A head whose matrices are no longer the identity, in float64."""
    torch.manual_seed(0)
    head = XCLIP(**SIZES, **{"temporal": "none", **options}).eval()
    with torch.no_grad():
        for matrix in head.parameters():
            matrix.add_(0.2 * torch.randn_like(matrix))
    return head.double()


def sims_of(head, text, video):
    return head.similarities(head.prepare_text(text), head.prepare_video(video))


@pytest.mark.parametrize("file", FILES)
def test_it_equals_its_authors(shared, file):
    golden = Golden(shared, file)
    head = golden.head(XCLIP)
    assert head.temporal == ("seq_transf" if "seqTransf" in file else "none")
    text, video = golden.text(), golden.video()
    logits = head(text, video, golden.scale())
    golden.close(logits, "sim")
    golden.close(sims_of(head, text, video)[3], "frame_word_unscaled")
    B = min(logits.shape)
    loss = info_nce(logits[:B, :B])
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("frames", "sent", "words"))
    with torch.no_grad():
        golden.close(head(text, video, golden.scale()), "sim")
        golden.close(_direct_fine.xclip(head, text, video, golden.scale()), "sim")

    single = Golden(shared, file, torch.float32)
    single.near(single.head(XCLIP)(single.text(), single.video(), single.scale()))


def attend(x, matrix, real):
    """Over a list of similarities, of which those at the indices `real` count."""
    exps = {i: torch.exp(100 * (x[i] - max(x))) for i in real}
    total = sum(exps.values())
    return sum(x[k] * sum(exps[i] / total * matrix[i, k] for i in real) for k in real)


@pytest.mark.parametrize("mask", [False, True])
def test_it_equals_a_loop(mask):
    head, (text, video) = make(mask=mask), features()
    found = sims_of(head, text, video)
    for t in range(4):
        for v in range(3):
            real = {"words": range(L), "frames": range(T)}
            if mask:
                real["words"] = range(int(text.mask[t].sum()))
                real["frames"] = range(int(video.mask[v].sum()))
            frames = [f / f.norm() for f in video.frames[v]]
            words = [w / w.norm() for w in text.words[t]]
            sentence = text.sentence[t] / text.sentence[t].norm()
            vector = sum(frames[j] for j in range(int(video.mask[v].sum())))
            vector = vector / vector.norm()
            A = [[w @ head.local_mat_weight @ f for f in frames] for w in words]
            per_frame = [
                attend([A[i][j] for i in range(L)], head.word_mat_weight, real["words"])
                for j in range(T)
            ]
            per_word = [attend(A[i], head.frame_mat_weight, real["frames"]) for i in range(L)]
            expected = [
                sentence @ head.global_mat_weight @ vector,
                attend([sentence @ f for f in frames], head.frame_logit_weight, real["frames"]),
                attend([w @ vector for w in words], head.word_logit_weight, real["words"]),
                attend(per_frame, head.frame_mat_weight2, real["frames"]) / 2
                + attend(per_word, head.word_mat_weight2, real["words"]) / 2,
            ]
            torch.testing.assert_close(found[:, t, v], torch.stack(expected))


@pytest.mark.parametrize("gradients", [False, True])
def test_tiles_give_the_whole(monkeypatch, gradients):
    head, (text, video) = make(mask=True), features()
    with torch.set_grad_enabled(gradients):
        whole = sims_of(head, text, video)
        monkeypatch.setattr(_fine_grained, "_TILE_CPU", 2 * L * (1 + T))
        for texts in (1, 2):
            monkeypatch.setattr(_fine_grained, "_TEXTS", texts)
            torch.testing.assert_close(sims_of(head, text, video), whole)


def test_mask_changes_nothing_where_nothing_is_padded():
    text, video = features(full=True)
    torch.testing.assert_close(
        make(mask=True)(text, video, SCALE), make(mask=False)(text, video, SCALE)
    )
    padded = features()
    assert not torch.allclose(make(mask=True)(*padded, SCALE), make(mask=False)(*padded, SCALE))


@pytest.mark.parametrize("temporal", ["none", "seq_transf"])
def test_scale_of_the_features_is_of_no_account_without_temporal_step(temporal):
    head, (text, video) = make(temporal=temporal), features()
    louder = (
        text._replace(sentence=3 * text.sentence, words=5 * text.words),
        video._replace(frames=7 * video.frames),
    )
    same = torch.allclose(head(*louder, SCALE), head(text, video, SCALE))
    assert same == (temporal == "none")


def test_at_first_a_score_lies_among_its_similarities():
    head, (text, video) = XCLIP(**SIZES, temporal="none").double(), features()
    state = head.prepare_text(text), head.prepare_video(video)
    sims, (texts, videos) = head.similarities(*state), state
    for t in range(4):
        for v in range(3):
            every = [
                videos.for_sentence[v, 1:] @ texts.sentence[t],
                texts.words[t] @ videos.for_words[v, 0],
                texts.words[t] @ videos.for_words[v, 1:].T,
            ]
            for found, among in zip(sims[1:, t, v], every, strict=True):
                assert among.min() - 1e-9 <= found <= among.max() + 1e-9


@pytest.mark.parametrize("twice", [False, True])
def test_aggregation_equals_a_loop(twice):
    torch.manual_seed(0)
    x, matrix = torch.rand(3, 5).double(), torch.eye(5).double() + 0.1 * torch.randn(5, 5)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    found = aggregate(x, matrix, twice=twice, sharpness=10.0, mask=mask)
    for row in range(3):
        real = range(int(mask[row].sum()))
        exps = [torch.exp(10 * x[row, i]) for i in real]
        first = [
            sum(e / sum(exps) * matrix[i, j] for i, e in zip(real, exps, strict=True)) for j in real
        ]
        if twice:
            exps = [torch.exp(10 * weight) for weight in first]
            first = [e / sum(exps) for e in exps]
        expected = sum(weight * x[row, j] for j, weight in zip(real, first, strict=True))
        torch.testing.assert_close(found[row], expected)
    whole = aggregate(x, matrix, twice=twice, sharpness=10.0)
    masked = aggregate(x, matrix, twice=twice, sharpness=10.0, mask=torch.ones_like(mask))
    torch.testing.assert_close(whole, masked)
    torch.testing.assert_close(whole[0], found[0])


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_aggregation_with_videos_last_is_that_of_all_heads(twice, spread):
    # With a spread of 30 most exponentials are too small for any float.
    torch.manual_seed(0)
    x = spread * torch.randn(3, 5, 4, dtype=torch.float64)
    matrix = torch.eye(5).double() + 0.1 * torch.randn(5, 5)
    mask = torch.arange(5)[:, None] < torch.tensor([5, 3, 1, 4])
    for real in (None, mask):
        moved = None if real is None else real.T
        expected = aggregate(x.transpose(1, 2), matrix, twice=twice, mask=moved)
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                found = aggregate_videos_last(100 * x, matrix, twice=twice, mask=real) / 100
            torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("mask", [False, True])
def test_frame_weights_are_those_of_the_score(mask):
    head, (text, video) = make(mask=mask), features()
    shown = head.frame_weights(text, video)
    assert shown.words.shape == (4, 3, L, T)
    texts, videos = head.prepare_text(text), head.prepare_video(video)
    cosines = torch.einsum("td,vnd->tvn", texts.sentence, videos.for_sentence[:, 1:])
    sims = head.similarities(texts, videos)
    torch.testing.assert_close((shown.sentence * cosines).sum(-1), sims[1])
    if mask:
        assert not shown.sentence[:, ~video.mask].any()
        assert not shown.words.transpose(2, 3)[:, ~video.mask].any()
    fresh = XCLIP(**SIZES, temporal="none", mask=mask).double().frame_weights(text, video)
    for weights in fresh[:2]:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_parameters_are_as_many_as_published():
    parameters = sum(parameter.numel() for parameter in XCLIP().parameters())
    assert parameters == 527_792 + 12_648_960


def test_features_of_another_size_are_refused():
    head, (text, video) = make(), features()
    with pytest.raises(UsageError, match="XCLIP has matrices for 5 words, got 3"):
        head.prepare_text(text._replace(words=text.words[:, :3], mask=text.mask[:, :3]))
    with pytest.raises(UsageError, match="XCLIP has matrices for 4 frames, got 2"):
        head.prepare_video(VideoFeatures(video.frames[:, :2], video.mask[:, :2], None))
