"""CRET's parts and the whole head against stored numbers and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from cret_golden import CretGolden

from ttvr import metrics
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads._cret_ccm import CCM
from ttvr.heads._cret_embed import embed, local_units, safe_unit
from ttvr.heads._cret_temporal import TemporalEncoder, time_code
from ttvr.heads.cret import CRET
from ttvr.records import TextFeatures, VideoFeatures

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
SMALL = {"width": 16, "centers": 3, "temporal_layers": 2}
SCALE = torch.tensor(20.0)


def features(texts=4, videos=4, width=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    words, frames, patches = (
        draw(texts, 6, width),
        draw(videos, 5, width),
        draw(videos, 5, 3, width),
    )
    lengths, counts = torch.tensor([6, 2, 4, 5])[:texts], torch.tensor([5, 1, 3, 2])[:videos]
    text = TextFeatures(
        words[torch.arange(texts), lengths - 1], words, torch.arange(6) < lengths[:, None]
    )
    return text, VideoFeatures(frames, torch.arange(5) < counts[:, None], patches)


def make(**options):
    torch.manual_seed(0)
    return CRET(**{**SMALL, **options}).eval()


def scores(head, text, video):
    return head.similarities(head.prepare_text(text), head.prepare_video(video))[0]


@BOTH
def test_centers_equal_the_golden(shared, dtype):
    golden = CretGolden(shared, dtype)
    pooled, *sides = golden.tokens()
    golden.close(pooled, "E_v_pool")
    golden.close(sides[0][0], "E_v")
    attention, block = golden.attention(), golden.block()
    slots, blocks = {}, {}
    for name, (tokens, mask) in zip("vt", sides, strict=True):
        weights, gathered = attention.layers[0].attend(attention.centers[None], tokens, mask)
        golden.close(weights, f"A_{name}")
        golden.close(gathered, f"Zh_{name}")
        assert not weights.masked_select(~mask[:, None, None]).any()
        slots[name], blocks[name] = attention(tokens, mask), block(tokens, mask)
        golden.close(slots[name], f"Zc_{name}")
        golden.close(blocks[name], f"blk_Zc_{name}")
        order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0))
        for ccm in (attention, block):
            other = ccm(tokens[:, order], mask[:, order])
            torch.testing.assert_close(other, ccm(tokens, mask))
    for prefix, Z in (("", slots), ("blk_", blocks)):
        for suffix, per_center in (("", False), ("_percentre", True)):
            t, v = (local_units(Z[side], per_center=per_center) for side in "tv")
            golden.close(t @ v.T, f"{prefix}S_l{suffix}")


@BOTH
def test_the_whole_head_equals_the_golden(shared, dtype):
    golden = CretGolden(shared, dtype)
    text, video = golden.features()
    head = golden.head()
    found = scores(head, text, video)
    golden.close(found, "S")
    root = head.vector_gain**0.5
    golden.close(root * head.vector_text(text), "emb_t")
    golden.close(root * head.vector_video(video), "emb_v")
    golden.close(scores(golden.head(beta=0), text, video), "S_g")
    losses = head.losses(text, video, SCALE)
    assert set(losses) == {"gees", "ccm"}
    golden.close(losses["gees"], "norm_L_gees_sym")
    golden.close(losses["ccm"], "L_ccm_cos_sym")
    golden.close(sum(losses.values()), "norm_L_total")

    owner = list(range(len(found)))
    summary, sims = metrics.summary(found.numpy(force=True), owner), found.numpy(force=True)
    for name, ranks in (
        ("t2v", metrics.ranks(sims, owner)),
        ("v2t", metrics.video_ranks(sims, owner)),
    ):
        assert (1 + ranks).tolist() == golden[f"rank_{name}"].tolist()
        values = [summary[name][measure] for measure in ("R@1", "R@5", "R@10", "MdR")]
        golden_values = golden.exact[f"metrics_{name}"].tolist()
        assert values == pytest.approx(golden_values, rel=1e-12)


def test_the_head_with_other_choices_equals_the_golden(shared):
    golden = CretGolden(shared)
    text, video = golden.features()
    for loss in ("nce_mean", "nce_frames"):
        for direction in ("sym", "t2v", "v2t", "union"):
            head = golden.head(loss=loss, direction=direction, alpha=0.5)
            assert head.main_loss == loss
            losses = head.losses(text, video, SCALE)
            golden.close(losses[loss], f"norm_L_{loss}_{direction}")
            golden.close(2 * losses["ccm"], f"L_ccm_cos_{direction}")
    for options, name in (
        ({"covariance": "full"}, "L_gees_full_sym"),
        ({"unbiased": True}, "L_gees_unbiased_sym"),
        ({"variance_weight": 0.25, "direction": "union"}, "L_gees_lam025_union"),
        ({"bound": "slide", "direction": "v2t"}, "L_slide_v2t"),
        ({"bound": "difference", "direction": "t2v"}, "L_gees_diff_t2v"),
    ):
        golden.close(golden.head(**options).losses(text, video, SCALE)["gees"], f"norm_{name}")
    for direction in ("sym", "t2v", "v2t", "union"):
        head = golden.head(local_logits="product", direction=direction)
        golden.close(head.losses(text, video, SCALE)["ccm"], f"L_ccm_ip_{direction}")
    ramped = golden.head(variance_weight=0.5, ramp=True, direction="union")
    ramped.progress = 0.5
    golden.close(ramped.losses(text, video, SCALE)["gees"], "norm_L_gees_lam025_union")
    per_center = golden.head(per_center=True)
    expected = golden["S_g"] + per_center.beta * golden["S_l_percentre"]
    torch.testing.assert_close(scores(per_center, text, video), expected)


@pytest.mark.parametrize("per_center", [False, True])
def test_a_score_is_one_inner_product_of_equal_norms(per_center):
    for beta in (0.0, 0.3, 2.0):
        head = make(beta=beta, per_center=per_center, out_width=4).double()
        text, video = features(dtype=torch.float64)
        t, v = head.vector_text(text), head.vector_video(video)
        assert t.shape == v.shape == (4, 16 + 3 * 4)
        mean = head.temporal_frames(video).sum(1) / video.mask.sum(1, keepdim=True)
        slots = head.text_slots(text), head.video_slots(video)
        e_t = embed(text.sentence, slots[0], beta=beta, per_center=per_center)
        e_v = embed(mean, slots[1], beta=beta, per_center=per_center)
        S = scores(head, text, video)
        torch.testing.assert_close(e_t @ e_v.T, S)
        for e in (e_t, e_v):
            torch.testing.assert_close(e.square().sum(1), torch.full((4,), 1 + beta).double())
        torch.testing.assert_close(torch.cdist(e_t, e_v) ** 2, 2 * (1 + beta) - 2 * S)
        assert torch.equal(torch.cdist(t, v).argsort(1), S.argsort(1, descending=True))
        for i in range(4):
            alone = head.vector_video(VideoFeatures(*(x[i : i + 1] for x in video)))
            torch.testing.assert_close(alone[0], v[i])


@pytest.mark.parametrize("pooling", ["max", "none"])
def test_padding_is_as_if_it_were_not_there(pooling):
    """Not only its content: a shorter video padded is the shorter video, in scores and losses."""
    head = make(pooling=pooling)
    text, video = features()
    loud = VideoFeatures(
        video.frames.masked_fill(~video.mask[..., None], torch.nan),
        video.mask,
        video.patches.masked_fill(~video.mask[..., None, None], torch.nan),
    )
    noisy = text._replace(words=text.words.masked_fill(~text.mask[..., None], torch.nan))
    expected = head.vector_text(text), head.vector_video(video)
    torch.testing.assert_close((head.vector_text(noisy), head.vector_video(loud)), expected)
    for i in range(4):
        T, L = int(video.mask[i].sum()), int(text.mask[i].sum())
        short = VideoFeatures(
            video.frames[i, None, :T], video.mask[i, None, :T], video.patches[i, None, :T]
        )
        torch.testing.assert_close(head.vector_video(short)[0], expected[1][i])
        words = TextFeatures(text.sentence[[i]], text.words[i, None, :L], text.mask[i, None, :L])
        torch.testing.assert_close(head.vector_text(words)[0], expected[0][i])
    for loss in ("gees", "nce_mean", "nce_frames"):
        head = make(pooling=pooling, loss=loss)
        quiet = head.losses(text, video, SCALE)
        loud = loud._replace(frames=loud.frames.detach().requires_grad_())
        parts = head.losses(noisy, loud, SCALE)
        torch.testing.assert_close(parts, quiet)
        sum(parts.values()).backward()
        assert loud.frames.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in head.parameters())


def attended(attention, x, tokens):
    """Attention of one item by loops over heads, centers and tokens."""
    H, D = attention.heads, x.shape[1]
    q, k, v = (
        [part.weight @ row + (0 if part.bias is None else part.bias) for row in rows]
        for part, rows in ((attention.query, x), (attention.key, tokens), (attention.value, tokens))
    )
    out = torch.zeros_like(x)
    for h in range(H):
        part = slice(h * D // H, (h + 1) * D // H)
        for c in range(len(x)):
            exps = [math.exp(q[c][part] @ key[part] / math.sqrt(D / H)) for key in k]
            for e, value in zip(exps, v, strict=True):
                out[c, part] += e / sum(exps) * value[part]
    return out


def slots_by_loops(ccm, tokens, is_block):
    x = ccm.centers.detach()
    for layer in ccm.layers:
        if not is_block:
            x = attended(layer, x, tokens)
            continue
        x = layer.norm_own(x + layer.own_out(attended(layer.own, x, x)))
        x = layer.norm_cross(x + layer.cross_out(attended(layer.cross, x, tokens)))
        x = layer.norm_inner(x + layer.narrow(layer.widen(x).clamp(min=0)))
    return x if isinstance(ccm.out, torch.nn.Identity) else x @ ccm.out.weight.T


def encoded_by_torch(encoder, x, heads):
    """The temporal encoder as torch's own layers, on the frames of one video [T, D]."""
    T, D = x.shape
    turns = [0.5 * 64 ** (i / (D // 2 - 1)) for i in range(D // 2)]
    code = torch.zeros_like(x)
    for m in range(T):
        for i, turn in enumerate(turns):
            angle = 2 * math.pi * turn * (m + 0.5) / T
            code[m, i], code[m, D // 2 + i] = math.sin(angle), math.cos(angle)
    y = (x + code)[None]
    for part in encoder.layers:
        block = part.block
        layer = torch.nn.TransformerEncoderLayer(
            D, heads, 4 * D, 0.1, "gelu", batch_first=True, norm_first=True, dtype=x.dtype
        )
        own = {
            "self_attn.in_proj_weight": block.attn.in_proj_weight,
            "self_attn.in_proj_bias": block.attn.in_proj_bias,
        }
        for theirs, ours in (
            ("self_attn.out_proj", block.attn.out_proj),
            ("linear1", block.mlp.c_fc),
            ("linear2", block.mlp.c_proj),
            ("norm1", block.ln_1),
            ("norm2", block.ln_2),
        ):
            own |= {f"{theirs}.{name}": tensor for name, tensor in ours.state_dict().items()}
        layer.load_state_dict(own)
        y = layer.eval()(y)
    return y[0] - code


@pytest.mark.parametrize("pooling", ["max", "none"])
@pytest.mark.parametrize(
    "options", [{"mode": "attn"}, {"layers": 2}, {"out_width": 5, "per_center": True}]
)
@torch.no_grad()
def test_a_score_equals_loops_over_pairs(options, pooling):
    width = 128  # two heads in the temporal encoder
    head = make(**{**SMALL, "width": width, "heads": 4, "beta": 0.7, "pooling": pooling, **options})
    head.double()
    text, video = features(texts=3, videos=3, width=width, dtype=torch.float64)
    found, is_block = scores(head, text, video), options.get("mode") != "attn"
    for j in range(3):
        T = int(video.mask[j].sum())
        mean = encoded_by_torch(head.temporal, video.frames[j, :T], 2).sum(0) / T
        patches = video.patches[j, :T]
        if pooling == "max":
            tokens = [torch.stack(list(patches[:, p])).max(0).values for p in range(3)]
        else:
            tokens = [patches[m, p] for m in range(T) for p in range(3)]
        Z_v = slots_by_loops(head.ccm, head.patches_to_words(torch.stack(tokens)), is_block)
        for i in range(3):
            words = text.words[i, 1 : int(text.mask[i].sum())]
            Z_t = slots_by_loops(head.ccm, words, is_block)
            if head.per_center:
                cosines = [a @ b / a.norm() / b.norm() for a, b in zip(Z_t, Z_v, strict=True)]
                local = sum(cosines) / len(cosines)
            else:
                local = (Z_t * Z_v).sum() / Z_t.norm() / Z_v.norm()
            sentence = text.sentence[i]
            whole = mean @ sentence / mean.norm() / sentence.norm()
            torch.testing.assert_close(found[i, j], whole + 0.7 * local)


def test_the_parts_fall_on_pairs_that_match():
    head = make(mode="attn")
    text, video = features()
    words = video.patches.amax(dim=1)
    full = torch.ones(4, 4, dtype=torch.bool)
    same = TextFeatures(text.sentence, torch.cat([words[:, :1], words], dim=1), full)
    full = video._replace(mask=torch.ones_like(video.mask))
    ccm = head.losses(same, full, SCALE)["ccm"]
    local = local_units(head.text_slots(same)) * local_units(head.video_slots(full))
    torch.testing.assert_close(local.sum(1), torch.ones(4))
    assert ccm < head.losses(text, full, SCALE)["ccm"]


def test_the_encoder_starts_near_its_input_and_can_be_left_out():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 4, 64), torch.tensor([[True] * 4, [True, True, False, False]])
    expected = x.masked_fill(~mask[..., None], 0.0)
    assert torch.equal(TemporalEncoder(64, 0, 0.0)(x, mask), expected)
    encoder = TemporalEncoder(64, 3, 0.1).eval()
    cosine = torch.cosine_similarity(encoder(x, mask), expected, dim=-1)
    assert (cosine[mask] > 0.8).all()
    assert not torch.equal(encoder.train()(x, mask), encoder(x, mask))
    # Both branches of a block are dropped: if all that they add is, the input is left.
    torch.testing.assert_close(TemporalEncoder(64, 2, 1.0).train()(x, mask), expected)


def test_time_is_that_of_real_frames():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    code = time_code(mask, 7, torch.float64)
    assert code.shape == (2, 4, 7)
    torch.testing.assert_close(code[1, :2], time_code(mask[1:, :2], 7, torch.float64)[0])
    # The slowest sine is half a turn long: sin(pi time).
    times = (torch.arange(4) + 0.5) / 4
    torch.testing.assert_close(code[0, :, 0], (math.pi * times).sin().double(), atol=1e-6, rtol=0)


def test_parameters_are_as_many_as_the_layers_have():
    D, C = 512, 8
    temporal = 3 * (12 * D * D + 13 * D)
    projection = D * D + D
    block = 8 * (D * D + D) + 8 * D * D + 5 * D + 6 * D
    for options, expected in (
        ({}, temporal + projection + C * D + block),
        ({"temporal_layers": 0, "out_width": 64}, projection + C * D + block + 64 * D),
        ({"temporal_layers": 0, "mode": "attn"}, projection + C * D + 4 * D * D),
    ):
        with torch.device("meta"):
            head = CRET(**options)
        assert sum(parameter.numel() for parameter in head.parameters()) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "attn", "out_width": 5, "centers": 4},
        {"layers": 2, "out_width": 7, "temporal_layers": 1},
        {"temporal_layers": 0},
    ],
)
def test_sizes_are_read_from_a_state(options):
    head = make(**options)
    again = CRET.from_official(head.state_dict()).eval()
    torch.testing.assert_close(again(*features(), SCALE), head(*features(), SCALE))
    with pytest.raises(IncompatibleError, match="CRET"):
        CRET.from_official({"unrelated": torch.ones(1)})


def test_new_centers_differ():
    torch.manual_seed(0)
    centers = CCM(64, 8, mode="attn").centers
    torch.testing.assert_close(centers @ centers.T, 64 * torch.eye(8))
    assert CCM(64, 8).centers.std().item() == pytest.approx(0.02, rel=0.15)
    assert [CCM(width, 2).layers[0].own.heads for width in (512, 768, 60, 7)] == [8, 8, 6, 7]


def test_a_zero_vector_stays_one():
    x = torch.zeros(2, 3, requires_grad=True)
    safe_unit(x).sum().backward()
    assert not safe_unit(x).any()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "nce"}, "loss of cret is one of gees, nce_mean, nce_frames, got 'nce'"),
        ({"mode": "self"}, "mode of cret is one of block, attn"),
        ({"pooling": "mean"}, "pooling of cret is one of max, none"),
        ({"direction": "both"}, "direction of cret"),
        ({"bound": "upper"}, "bound of cret"),
        ({"covariance": "none"}, "covariance of cret"),
        ({"tau": 0}, "tau of cret is a number above 0 up to 1e\\+06, got 0"),
        ({"tau_local": "x"}, "tau_local of cret"),
        ({"beta": -1}, "beta of cret is a number from 0 up to"),
        ({"alpha": float("nan")}, "alpha of cret"),
        ({"dropout": 1.5}, "dropout of cret is a number from 0 up to 1, got 1.5"),
        ({"temporal_layers": -1}, "temporal_layers of cret is a whole number from 0 on, got -1"),
        ({"centers": 0}, "centers of cret is a whole number from 1 on"),
        ({"out_width": 0}, "out_width of cret"),
        ({"heads": 3}, "width 16 does not divide into 3 heads of cret"),
        ({"mode": "attn", "layers": 2}, "mode attn of cret has 1 layer, got 2"),
        ({"local_logits": "dot"}, "local_logits of cret is one of cosine, product, got 'dot'"),
        ({"ramp": 1.5}, "ramp of cret is one of False, True, got 1.5"),
        ({"per_center": "yes"}, "per_center of cret is one of False, True, got 'yes'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        make(**options)


def test_features_that_lack_something_are_refused():
    head, (text, video) = make(), features()
    with pytest.raises(TtvrError, match="needs the patches of every frame"):
        head.prepare_video(video._replace(patches=None))
    empty = video._replace(mask=video.mask & torch.tensor([[True], [True], [False], [True]]))
    with pytest.raises(TtvrError, match="video 2 of the batch has no real frame"):
        head.prepare_video(empty)
    with pytest.raises(TtvrError, match="text 1 of the batch has no word feature after start"):
        head.prepare_text(text._replace(mask=text.mask & (torch.arange(4) != 1)[:, None]))
    with pytest.raises(TtvrError, match="text 0 of the batch has no word feature"):
        head.prepare_text(TextFeatures(text.sentence, text.words[:, :0], text.mask[:, :0]))
