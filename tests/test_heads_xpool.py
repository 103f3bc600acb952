"""X-Pool against its authors' numbers, a loop, and its two forms against each other."""

from __future__ import annotations

import pytest
import torch
from golden_heads import Golden
from torch.nn import functional as F

from ttvr.errors import UsageError
from ttvr.heads.xpool import XPool
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

CASES = [
    f"xpool_{kind}_{case}"
    for kind in ("h1_identity", "h1_rand", "h4_rand")
    for case in ("corr", "iid")
]


def features(texts=4, videos=3, frames=5, width=16):
    generator = torch.Generator().manual_seed(0)
    sentence = torch.randn(texts, width, generator=generator).double()
    seen = torch.randn(videos, frames, width, generator=generator).double()
    mask = torch.arange(frames) < torch.tensor([5, 3, 1])[:videos, None]
    text = TextFeatures(sentence, sentence[:, None], torch.ones(texts, 1, dtype=torch.bool))
    return text, VideoFeatures(seen, mask, None)


def learned(**options):
    """A head whose every tensor is far from its start."""
    torch.manual_seed(1)
    head = XPool(width=16, frames=5, dropout=0.0, **options).double()
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return head


@pytest.mark.parametrize("name", CASES)
def test_equals_its_authors(shared, name):
    for is_training in (False, True):
        golden = Golden(shared, name)
        head = golden.head(XPool, dropout=0.0).train(is_training)
        sims = head(golden.text(), golden.video(), torch.ones(()))
        golden.close(sims, "sim")
        B = min(sims.shape)
        loss = info_nce(golden["logit_scale"].exp() * sims[:B, :B])
        golden.close(loss, "loss")
        loss.backward()
        golden.close(golden.leaves["frames"].grad, "grad_frames")
        golden.close(golden.leaves["sent"].grad, "grad_sent")
        for key in golden.exact:
            if key.startswith("grad/"):
                own = head.pool_frames.get_parameter(key.removeprefix("grad/"))
                golden.close(own.grad, key)
    text, video = golden.text(), golden.video()
    pooled = head.pool_frames.direct(head.prepare_text(text).query, video.frames, video.mask)
    golden.close(pooled, "pooled_vtd")
    single = Golden(shared, name, torch.float32)
    single.near(single.head(XPool)(single.text(), single.video(), torch.ones(())))


@pytest.mark.parametrize("case", ["corr", "iid"])
@pytest.mark.parametrize("pooling", ["avg", "topk", "attention"])
def test_poolings_without_parameters_equal_their_authors(shared, pooling, case):
    golden = Golden(shared, f"xpool_baseline_{case}")
    head = XPool(width=32, frames=6, pooling=pooling).double().eval()
    golden.close(head(golden.text(), golden.video(), torch.ones(())), f"sim_{pooling}")


@pytest.mark.parametrize("options", [{}, {"heads": 4}, {"mask": True}, {"heads": 2, "mask": True}])
def test_both_forms_are_equal(options):
    head, (text, video) = learned(**options), features()
    direct = head.train()(text, video, torch.ones(()))
    low_rank = head.eval()(text, video, torch.ones(()))
    torch.testing.assert_close(low_rank, direct, rtol=1e-10, atol=1e-12)
    text = text._replace(sentence=text.sentence.float())
    video = video._replace(frames=video.frames.float())
    narrow = head.float()(text, video, torch.ones(()))
    assert (narrow - direct).abs().max() < 1e-6


@pytest.mark.parametrize("mask", [False, True])
def test_equals_a_loop(mask):
    head, (text, video) = learned(heads=2, mask=mask).eval(), features()
    block, D, H = head.pool_frames, 16, 2
    sims = head(text, video, torch.ones(()))

    def norm(x, layer):
        return F.layer_norm(x, (D,), layer.weight, layer.bias, 1e-5)

    for t in range(4):
        for v in range(3):
            query = block.cross_attn["q_proj"](norm(text.sentence[t], block.layer_norm1))
            seen = [j for j in range(5) if not mask or video.mask[v, j]]
            parts = []
            for h in range(H):
                part = slice(h * D // H, (h + 1) * D // H)
                keys, values = [], []
                for j in seen:
                    frame = norm(video.frames[v, j], block.layer_norm1)
                    keys.append(block.cross_attn["k_proj"](frame)[part])
                    values.append(block.cross_attn["v_proj"](frame)[part])
                weights = torch.stack([key @ query[part] / (D / H) ** 0.5 for key in keys])
                weights = weights.softmax(0)
                parts.append(sum(w * value for w, value in zip(weights, values, strict=True)))
            pooled = norm(block.cross_attn["out_proj"](torch.cat(parts)), block.layer_norm2)
            pooled = norm(pooled + block.linear_proj(pooled), block.layer_norm3)
            cosine = F.cosine_similarity(pooled, text.sentence[t], dim=0)
            torch.testing.assert_close(sims[t, v], cosine)


def test_parameters_are_as_many_as_published():
    assert sum(parameter.numel() for parameter in XPool().parameters()) == 1_316_352
    assert not list(XPool(pooling="avg").parameters())


def test_a_common_factor_changes_nothing():
    head, (text, video) = learned().eval(), features()
    sims = head(text, video, torch.ones(()))
    text, video = (x._replace(**{x._fields[0]: 50 * x[0]}) for x in (text, video))
    torch.testing.assert_close(head(text, video, torch.ones(())), sims, rtol=0, atol=1e-4)


def test_dropout_acts_in_training_alone():
    head, (text, video) = XPool(width=16, frames=5).double(), features()
    torch.manual_seed(0)
    first, second = (head.train()(text, video, torch.ones(())) for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (head.eval()(text, video, torch.ones(())) for _ in range(2))
    assert torch.equal(first, second)


def test_weights_of_frames():
    head, (text, video) = learned(mask=True).eval(), features()
    shown = head.frame_weights(text, video)
    assert shown.words is None
    assert shown.sentence.shape == (4, 3, 5)
    torch.testing.assert_close(shown.sentence.sum(-1), torch.ones(4, 3).double())
    assert not shown.sentence[:, 2, 1:].any()
    with pytest.raises(UsageError, match="the head xpool has no weights"):
        XPool(pooling="avg").frame_weights(text, video)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"heads": 3}, "width 512 does not divide into 3 heads"),
        ({"dropout": 1.0}, "dropout is from 0"),
        ({"pooling": "max"}, "pooling is one of block, avg"),
        ({"top": 13}, "top is 1 to the number of frames, 12, got 13"),
        ({"temperature": 0.0}, "temperature is above 0"),
    ],
)
def test_what_cannot_be_is_refused(options, match):
    with pytest.raises(UsageError, match=match):
        XPool(**options)
