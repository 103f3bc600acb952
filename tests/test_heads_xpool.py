"""X-Pool against its authors' numbers and its equations, in both of its forms."""

from __future__ import annotations

import pytest
import torch
from golden_heads import Golden

from ttvr.errors import TtvrError, UsageError
from ttvr.heads import _low_rank, xpool
from ttvr.heads._text_pooling import pool
from ttvr.heads.xpool import POOLINGS, XPool
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

CASES = [
    f"{kind}_{case}" for kind in ("h1_identity", "h1_rand", "h4_rand") for case in ("corr", "iid")
]
FORMS = {"direct": True, "low_rank": False}  # whether the head is training, here without dropout
ONE = torch.tensor(1.0)
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def disturbed(seed=0, noise=0.3, **options):
    """A head in float64 whose weights are no longer the identity."""
    torch.manual_seed(seed)
    head = XPool(**{"width": 16, "frames": 5, "dropout": 0.0, **options}).double().eval()
    for parameter in head.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return head


def features(texts=3, videos=4, width=16, seed=0, frames=5):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(texts, 2, width, generator=generator).double()
    x = torch.randn(videos, frames, width, generator=generator).double()
    mask = torch.arange(frames) < torch.tensor([frames, 3, 1, 2])[:videos, None]
    text = TextFeatures(words[:, 0], words, torch.ones(texts, 2, dtype=torch.bool))
    return text, VideoFeatures(x, mask, None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_the_transformer_equals_its_authors(shared, case, form):
    golden = Golden(shared, f"xpool_{case}")
    head = golden.head(XPool, dropout=0.0).train(FORMS[form])
    text, video = golden.text(), golden.video()
    golden.close(head.similarities(head.prepare_text(text), head.prepare_video(video))[0], "sim")
    logits = head(text, video, golden.scale())
    B = min(logits.shape)
    loss = info_nce(logits[:B, :B])
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("frames", "sent"))

    single = Golden(shared, f"xpool_{case}", torch.float32)
    head = single.head(XPool, dropout=0.0).train(FORMS[form])
    single.near(head(single.text(), single.video(), ONE))


@pytest.mark.parametrize("case", CASES)
def test_pooled_frames_equal_their_authors(shared, case):
    golden = Golden(shared, f"xpool_{case}")
    head = golden.head(XPool)
    query, video = head.prepare_text(golden.text()).query, golden.video()
    frames = head.train().prepare_video(video)
    golden.close(pool(head.eval().layers, query, frames, masked=False), "pooled_vtd")
    basis = head.prepare_video(video)
    parts = _low_rank.combinations(head.layers, basis, query, masked=False, unit=False)
    golden.close(parts.mT @ basis.rows, "pooled_vtd")


@pytest.mark.parametrize("pooling", POOLINGS[1:])
@pytest.mark.parametrize("case", ["corr", "iid"])
def test_baselines_equal_their_authors(shared, case, pooling):
    golden = Golden(shared, f"xpool_baseline_{case}")
    head = XPool(width=32, frames=6, pooling=pooling)
    golden.close(head(golden.text(), golden.video(), ONE), f"sim_{pooling}")
    assert not list(head.parameters())


def loop(head, text, video, t, v):
    """The cosine of one pair, by the equations, head by head and frame by frame."""
    layers, maps = head.layers, head.cross_attn
    D, H = head.width, head.heads
    real = [j for j in range(video.mask.shape[1]) if video.mask[v, j] or not head.mask]

    def norm(x, by):
        x = (x - x.mean()) / ((x - x.mean()).pow(2).mean() + 1e-5).sqrt()
        return by.weight * x + by.bias

    query = maps["q_proj"](norm(text.sentence[t], layers.before))
    frames = [norm(video.frames[v, j], layers.before) for j in real]
    keys, values = ([maps[f"{name}_proj"](x) for x in frames] for name in "kv")
    attended = []
    for h in range(H):
        part = slice(h * D // H, (h + 1) * D // H)
        scores = [torch.exp(key[part] @ query[part] / (D / H) ** 0.5) for key in keys]
        weighted = [e / sum(scores) * x[part] for e, x in zip(scores, values, strict=True)]
        attended.append(sum(weighted))
    x = norm(maps["out_proj"](torch.cat(attended)), layers.between)
    z = norm(x + head.linear_proj.weight @ x + head.linear_proj.bias, layers.after)
    return z @ text.sentence[t] / z.norm() / text.sentence[t].norm()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_the_transformer_equals_a_loop(heads, mask, form):
    head = disturbed(heads=heads, mask=mask).train(FORMS[form])
    text, video = features()
    found = head(text, video, ONE)
    for t in range(3):
        for v in range(4):
            torch.testing.assert_close(found[t, v], loop(head, text, video, t, v))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_both_forms_are_one(heads, mask):
    text, video = features(seed=heads)
    gradients = []
    for train in (True, False):
        head = disturbed(heads=heads, mask=mask).train(train)
        frames = video.frames.clone().requires_grad_()
        scores = head(text, video._replace(frames=frames), ONE)
        scores.square().sum().backward()
        gradients.append([scores, frames.grad, *(p.grad for p in head.parameters())])
    for direct, low_rank in zip(*gradients, strict=True):
        torch.testing.assert_close(low_rank, direct, **TIGHT)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS[1:])
def test_baselines_equal_a_loop(pooling, mask):
    head = XPool(width=16, frames=5, pooling=pooling, mask=mask, k=2, temperature=0.2)
    text, video = features()
    found = head(text, video, ONE)
    weights = head.frame_weights(text, video).sentence
    for t in range(3):
        for v in range(4):
            s = text.sentence[t] / text.sentence[t].norm()
            real = [j for j in range(5) if video.mask[v, j] or not mask]
            x = {j: video.frames[v, j] / video.frames[v, j].norm() for j in real}
            share = {j: 1 / len(real) for j in real}
            if pooling == "topk":
                best = sorted(real, key=lambda j: -float(x[j] @ s))[:2]
                share = {j: float(j in best) for j in real}
            if pooling == "attention":
                share = {j: torch.exp(x[j] @ s / 0.2) for j in real}
                share = {j: e / sum(share.values()) for j, e in share.items()}
            pooled = sum(share[j] * x[j] for j in real)
            torch.testing.assert_close(found[t, v], pooled @ s / pooled.norm())
            expected = torch.tensor([float(share.get(j, 0.0)) for j in range(5)]).double()
            torch.testing.assert_close(weights[t, v], expected, check_dtype=False)


def test_dropout_acts_in_training_alone():
    text, video = features()
    head = disturbed(dropout=0.5)
    assert torch.equal(head(text, video, ONE), head(text, video, ONE))
    head.train()
    assert not torch.equal(head(text, video, ONE), head(text, video, ONE))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("sizes", [(1, 1), (2, 300), (1, 9000), (100, 1), (100, 300)])
def test_cuts_inside_change_nothing(monkeypatch, pooling, sizes):
    head = disturbed(pooling=pooling, mask=True)
    text, video = features()
    whole = head(text, video, ONE)
    monkeypatch.setattr(xpool, "_TEXTS", sizes[0])
    monkeypatch.setattr(_low_rank, "_CACHE", sizes[1])
    torch.testing.assert_close(head(text, video, ONE), whole, **TIGHT)


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (7, 9), (40, 40)])
def test_blocks_inside_fit_the_cache(monkeypatch, shape):
    monkeypatch.setattr(_low_rank, "_CACHE", 1000)
    seen = torch.zeros(shape)

    def score(text, video):
        assert len(text.sentence) * len(video.mask) * 30 <= 1000
        seen[text.query[0, 0].long() :][: len(text.query), video.mask[0, 0].long() :][
            :, : len(video.mask)
        ] += 1
        return text.query[:, :1].expand(-1, len(video.mask)).unsqueeze(0)

    Nt, Nv = shape
    text = xpool.Texts(torch.zeros(Nt, 1), torch.arange(Nt)[:, None])
    video = xpool.UnitFrames(
        torch.zeros(Nv, 1, 1), torch.zeros(Nv, 1, 1), torch.arange(Nv)[:, None]
    )
    found = _low_rank.in_blocks(score, text, video, texts=8, floats=30)
    assert torch.equal(found[0], torch.arange(Nt)[:, None].expand(shape))
    assert (seen == 1).all()


def test_padding_counts_as_published():
    text, video = features()
    head = disturbed()
    padded = video._replace(frames=torch.where(video.mask[..., None], video.frames, 7.0))
    moved = (head(text, padded, ONE) - head(text, video, ONE)).abs().amax(dim=0)
    assert not moved[0]  # no padded frame
    assert (moved[1:] > 1e-3).all()


def test_scores_do_not_depend_on_lengths():
    text, video = features(seed=3)
    head = disturbed()
    larger = head(
        text._replace(sentence=1e3 * text.sentence), video._replace(frames=1e3 * video.frames), ONE
    )
    larger = larger - head(
        text._replace(sentence=1e4 * text.sentence), video._replace(frames=1e4 * video.frames), ONE
    )
    assert larger.abs().max() < 1e-9  # but for the epsilon of norms


def test_single_precision_is_enough():
    text, video = features(texts=16, videos=4, width=512, frames=12)
    head = disturbed(width=512, frames=12, noise=0.02)
    exact = 100 * head(text, video, ONE)
    text, video = (type(x)(*(_single(y) for y in x)) for x in (text, video))
    single = 100 * head.float()(text, video, ONE)
    assert (single.double() - exact).abs().max() < 6e-5


def _single(x):
    return x.float() if x is not None and x.is_floating_point() else x


def test_frame_weights_are_the_attention():
    text, video = features()
    head = disturbed(heads=2, mask=True)
    found = head.frame_weights(text, video)
    assert found.words is None
    torch.testing.assert_close(found.sentence.sum(2), torch.ones(3, 4).double())
    assert not found.sentence[:, ~video.mask].any()
    before, maps = head.layers.before, head.cross_attn
    query = maps["q_proj"](before(text.sentence[1]))
    keys = maps["k_proj"](before(video.frames[0]))
    expected = sum(
        (keys[:, part] @ query[part] / 8**0.5).softmax(0) / 2 for part in (slice(8), slice(8, 16))
    )
    torch.testing.assert_close(found.sentence[1, 0], expected)
    assert torch.equal(head.train().frame_weights(text, video).sentence, found.sentence)


def test_it_starts_as_the_identity_with_as_many_parameters_as_published():
    head = XPool()
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_316_352
    maps = [*head.cross_attn.values(), head.linear_proj]
    assert all(torch.equal(linear.weight, torch.eye(512)) for linear in maps)
    assert not any(linear.bias.any() for linear in maps)


def test_a_checkpoint_of_the_authors_loads():
    head = disturbed(heads=4).float()
    official = {f"module.pool_frames.{name}": x for name, x in head.state_dict().items()}
    official["module.clip.logit_scale"] = torch.ones(())
    again = XPool.from_official(official, heads=4, frames=5)
    assert again.width == 16
    for name, x in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)


def test_memory_per_pair_is_told():
    assert XPool().eval().pair_floats() < 10
    assert XPool().train().pair_floats() >= 3 * 512
    assert XPool(pooling="avg").train().pair_floats() < 10


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="pooling is one of transformer, avg"):
        XPool(pooling="mean")
    with pytest.raises(UsageError, match="width 512 does not divide into 3 heads"):
        XPool(heads=3)
    with pytest.raises(UsageError, match="at most the 12 frames, got 13"):
        XPool(pooling="topk", k=13)
    with pytest.raises(UsageError, match="temperature is above 0, got 0"):
        XPool(pooling="attention", temperature=0)
    with pytest.raises(UsageError, match=r"dropout is at least 0 and below 1, got 1.5"):
        XPool(dropout=1.5)
    _, video = features()
    empty = video._replace(mask=torch.zeros_like(video.mask))
    with pytest.raises(TtvrError, match="video 0 of the batch has no real frame"):
        disturbed().prepare_video(empty)
