"""TC-MGC against what its authors' code computes, its printed equations, and a loop over pairs."""

from __future__ import annotations

import pytest
import torch
from aggregation import aggregate
from golden_heads import EXACT, Golden

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads import _low_rank, tc_mgc
from ttvr.heads._reorganize import decorrelation, fused, interactive, largest, reorganized
from ttvr.heads._text_pooling import pool
from ttvr.heads.tc_mgc import TcMgc
from ttvr.records import TextFeatures, VideoFeatures

CODE = [
    "m32_rand_lam100_corr",
    "small_identity_lam100_corr",
    "small_identity_lam100_iid",
    "small_rand_lam100_corr",
    "small_rand_lam100_iid",
    "small_rand_lam10_corr",
    "small_rand_lam1_corr",
]
PRINTED = [
    f"{kind}_{case}"
    for kind in ("literal", "l2norm", "l2norm_lam100", "l2norm_lam100_h4")
    for case in ("corr", "iid")
]
MASKED = ["recommended_masked_corr", "recommended_masked_iid"]
FORMS = {"direct": True, "low_rank": False}  # whether the head is training, here without dropout
SCALE = torch.tensor(100.0)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
ROUNDED = {"rtol": 1e-5, "atol": 1e-6}  # gradients that a file holds in float32
EQUATIONS = {
    "W_vw": "attentive_word_logit_weight",
    "W_sf": "concat_frame_word_logit_weight",
    "W_f1": "attentive_frame_word_mat_weight",
    "W_w1": "attentive_word_mat_weight2",
    "W_w2": "attentive_word_mat_weight",
    "W_f2": "attentive_frame_word_mat_weight2",
    "W_lsa": "logit_weight",
    "FC_w": "pool_frames.linear_proj.weight",
    "FC_b": "pool_frames.linear_proj.bias",
    **{
        f"ln{n}_{letter}": f"pool_frames.layer_norm{n}.{part}"
        for n in (1, 2, 3)
        for letter, part in (("g", "weight"), ("b", "bias"))
    },
}
MAPS = {"WQ": "q_proj", "WK": "k_proj", "WV": "v_proj", "WO": "out_proj"}


def golden_head(golden, **options):
    """A head with the parameters of a file of either kind, without temporal step and dropout."""
    state = {name: x for name, x in golden.state().items() if name != "logit_scale"}
    if "WQ" in state:
        named = {EQUATIONS[name]: x for name, x in state.items() if name in EQUATIONS}
        if options.get("bilinear", True):
            eye = torch.eye(len(state["WQ"]), dtype=golden.dtype)
            named |= {"global_mat_weight": eye, "local_mat_weight": eye}
        if options.get("projections"):
            # They act on row vectors, as the equations have it.
            named |= {f"lva_projections.{MAPS[name]}.weight": state[name].T for name in MAPS}
        state = named
    sizes = {"frames": golden["frames"].shape[1], "words": golden["words"].shape[1]}
    lam = golden.meta.get("softmax_lambda", golden.meta.get("lam_isa", 100.0))
    head = TcMgc.from_official(
        state, heads=golden.meta["heads"], softmax_lambda=lam, dropout=0.0, **sizes, **options
    )
    return head.to(golden.dtype).eval()


def printed(name):
    """Options of the equations as printed; with or without unit vectors."""
    is_cosine = name.startswith("l2norm")
    return {"projections": True, "scaled": False, "normalize": is_cosine, "bilinear": False}


def first(text, count):
    return TextFeatures(*(x[:count] for x in text))


def check_pair(golden, head, text, video):
    """What happens to the first text and the first video, step by step."""
    compared = head.contrasts(text, video)
    mask = text.mask if head.mask else None
    real = text.mask[0] if head.mask else slice(None)
    golden.close(compared.to_video[1:, 0, 0][real], "pair00_vw")
    golden.close(compared.to_frames[0, 0, 0][real], "pair00_sf")
    golden.close(compared.to_frames[0, 0, 1:][real].T[real], "pair00_fw")
    kept = reorganized(compared, head.k, mask)
    for part in ("vw", "sf", "fw"):
        golden.close(getattr(kept, part)[..., 0, 0], f"pair00_{part}_sr")
    lam = head.softmax_lambda
    matrices = (
        (head.attentive_frame_word_mat_weight, head.attentive_word_mat_weight2),
        (head.attentive_word_mat_weight, head.attentive_frame_word_mat_weight2),
    )
    names = "pair00_s_frame_then_word", "pair00_s_word_then_frame"
    fw = kept.fw[..., 0, 0]  # [k frames, k words]
    for x, (inner, outer), name in zip((fw.T, fw), matrices, names, strict=True):
        some = aggregate(x, inner, twice=True, sharpness=lam)
        golden.close(aggregate(some, outer, twice=True, sharpness=lam), name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CODE)
def test_scores_and_losses_equal_the_published_code(shared, case, form):
    golden = Golden(shared, f"tcmgc_code_{case}")
    head = golden_head(golden).train(FORMS[form])
    assert head.k == golden.meta["k"]
    text, video, scale = golden.text(), golden.video(), golden.scale()
    texts, videos = head.prepare_text(text), head.prepare_video(video)
    sims = head.similarities(texts, videos)
    golden.close(scale * sims, "sim4")
    golden.close(head.fuse(sims, scale), "sim")
    golden.close(head.granularity_weights(scale * sims).permute(1, 2, 0), "lsa_weights")
    golden.close(sims[:, 0, 0], "pair00_s4")
    check_pair(golden, head, texts, videos)

    losses = head.losses(first(text, len(video.frames)), video, scale)
    golden.close(losses["nce"], "loss_infonce")
    golden.close(losses["sdr"] / head.alpha, "loss_sdr")
    sum(losses.values()).backward()
    golden.close(sum(losses.values()), "loss")
    check_gradients(golden, head, rounded="m32" in case)

    single = Golden(shared, f"tcmgc_code_{case}", torch.float32)
    head = golden_head(single).train(FORMS[form])
    single.near(head(single.text(), single.video(), single.scale()))


def check_gradients(golden, head, *, rounded):
    if not rounded:
        golden.gradients_are_close(head, ("frames", "sent", "words"))
        return
    own = {f"grad/{name}": p.grad for name, p in head.named_parameters()}
    own |= {f"grad_{name}": leaf.grad for name, leaf in golden.leaves.items()}
    own["grad/logit_scale"] = golden.log_scale.grad
    stored = {name for name in golden.exact if name.startswith("grad")}
    assert stored <= set(own)
    for name in stored:
        torch.testing.assert_close(own[name], golden[name], **ROUNDED)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", PRINTED + MASKED)
def test_scores_and_losses_equal_the_equations(shared, case, form):
    golden = Golden(shared, f"tcmgc_eq_{case}")
    is_masked = case in MASKED
    options = {"mask": True, "projections": True} if is_masked else printed(case)
    head = golden_head(golden, **options)
    head.train(FORMS[form])
    text, video = golden.text(), golden.video()
    texts, videos = head.prepare_text(text), head.prepare_video(video)
    sims = head.similarities(texts, videos)
    seen = SCALE * sims if is_masked else sims
    golden.close(seen, "s4")
    golden.close(sims[:, 0, 0], "pair00_s4")
    fused_scores = head.fuse(sims, SCALE)
    golden.close(fused_scores if is_masked else fused_scores / SCALE, "sim")
    golden.close(head.granularity_weights(seen).permute(1, 2, 0), "lsa_weights")
    check_pair(golden, head, texts, videos)
    if is_masked and FORMS[form]:
        sentences = pool(head.layers, texts.query[:, 0], videos, masked=True)
        golden.close(sentences.transpose(0, 1), "zc")

    text = first(text, len(video.frames))
    losses = head.losses(text, video, SCALE)
    golden.close(losses["nce"], "loss_infonce_mean")
    golden.close(losses["sdr"] / head.alpha, "sdr_ddof1")
    golden.close(sum(losses.values()), "loss_mean_ddof1")
    head.mean = False
    golden.close(sum(head.losses(text, video, SCALE).values()), "loss_sum_ddof1")


def test_where_the_published_code_keeps_nothing_one_is_kept(shared):
    golden = Golden(shared, "tcmgc_code_edge_k0")
    torch.manual_seed(0)
    head = TcMgc(width=32, frames=6, words=8, temporal="none").double().eval()
    head.pool_frames.linear_proj.weight.data.copy_(golden["param/pool_frames.linear_proj.weight"])
    texts, videos = head.prepare_text(golden.text()), head.prepare_video(golden.video())
    sims = head.similarities(texts, videos)
    scale = SCALE.double().log().float().double().exp()  # its logarithm is kept in float32
    torch.testing.assert_close(scale * sims[0], golden["sim4"][0], **EXACT)
    assert not golden["sim4"][[1, 3]].any()
    assert head.k == 1
    assert sims[[1, 3]].all()
    # All words are the rest there, and the one number of it is the similarity.
    frames = head.contrasts(texts, videos).to_frames[:, :, 0].permute(2, 0, 1)
    rest = fused(frames, 0, frames.amax(dim=0))
    torch.testing.assert_close(scale * rest.T, golden["sim4"][2], **EXACT)


@pytest.mark.parametrize("case", [f"code_{name}" for name in CODE] + [f"eq_{n}" for n in PRINTED])
def test_pooled_frames_equal_both(shared, case):
    golden = Golden(shared, f"tcmgc_{case}")
    is_printed = case.startswith("eq_")
    head = golden_head(golden, **(printed(case[3:]) if is_printed else {}))
    text = head.prepare_text(golden.text())
    queries = text.query.flatten(0, 1)
    basis = head.prepare_video(golden.video())
    parts = _low_rank.combinations(head.layers, basis, queries, masked=False, unit=False)
    frames = head.train().prepare_video(golden.video())
    for z in (parts.mT @ basis.rows, pool(head.layers, queries, frames, masked=False)):
        by_text = z.unflatten(1, text.query.shape[:2]).transpose(0, 1)  # [Nt, Nv, 1+L, D]
        golden.close(by_text[:, :, 0], "zc")
        if "zf" in golden:
            by_word = by_text[:, :, 1:]
            golden.close(by_word if is_printed else by_word.transpose(1, 2), "zf")


def disturbed(seed=0, noise=0.3, **options):
    """A small head in float64 without temporal step, its weights not as they start."""
    torch.manual_seed(seed)
    own = {"width": 16, "frames": 4, "words": 7, "keep_rate": 0.43, "temporal": "none"}
    head = TcMgc(**{**own, "dropout": 0.0, **options}).double().eval()
    for parameter in head.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return head


def features(texts=3, videos=3, width=16, words=7, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(texts, words, width, generator=generator).double()
    x = torch.randn(videos, frames, width, generator=generator).double() + w[:1, :1]
    mask = torch.arange(words) < torch.tensor([words, 3, 2, 5])[:texts, None]
    seen = torch.arange(frames) < torch.tensor([frames, 3, 1])[:videos, None]
    return TextFeatures(w[:, 1], w, mask), VideoFeatures(x, seen, None)


def full(text, video):
    """The same without padding."""
    return (
        text._replace(mask=torch.ones_like(text.mask)),
        video._replace(mask=torch.ones_like(video.mask)),
    )


def loop(head, text, video, t, v):
    """The four similarities of one pair, by the equations, one number after the other."""
    lam, k = head.softmax_lambda, head.k
    words = [i for i in range(text.mask.shape[1]) if text.mask[t, i] or not head.mask]
    frames = [j for j in range(video.mask.shape[1]) if video.mask[v, j] or not head.mask]
    layers = head.layers

    def norm(x, by):
        x = (x - x.mean()) / ((x - x.mean()).pow(2).mean() + 1e-5).sqrt()
        return by.weight * x + by.bias

    def direction(x):
        return x / x.norm() if head.normalize else x

    def pooled(query):
        query, attended = norm(query, layers.before), []
        keys = values = [norm(video.frames[v, j], layers.before) for j in frames]
        if layers.maps:
            query = layers.maps["q_proj"](query)
            keys, values = ([layers.maps[f"{n}_proj"](x) for x in keys] for n in "kv")
        for part in range(head.heads):
            part = slice(part * head.width // head.heads, (part + 1) * head.width // head.heads)
            scores = [key[part] @ query[part] / (part.stop - part.start) ** 0.5 for key in keys]
            shares = torch.stack(scores).softmax(0)
            attended.append(sum(a * x[part] for a, x in zip(shares, values, strict=True)))
        x = torch.cat(attended)
        x = norm(layers.maps["out_proj"](x) if layers.maps else x, layers.between)
        return direction(norm(x + layers.linear.weight @ x + layers.linear.bias, layers.after))

    def isa(x, matrix, places):
        exps = [torch.exp(lam * (one - max(x))) for one in x]
        shares = [e / sum(exps) for e in exps]
        weights = [
            sum(share * matrix[a, b] for share, a in zip(shares, places, strict=True))
            for b in places
        ]
        exps = [torch.exp(lam * (one - max(weights))) for one in weights]
        return sum(e / sum(exps) * one for e, one in zip(exps, x, strict=True))

    def descending(x):
        return sorted(x, reverse=True)[:k]

    s = direction(text.sentence[t])
    w = [direction(text.words[t, i]) for i in words]
    c = pooled(text.sentence[t])
    f = [pooled(text.words[t, i]) for i in words]
    kept = list(range(min(k, len(words))))
    vw = descending([word @ c for word in w])
    sf = sorted([s @ frame for frame in f], reverse=True)
    places, rest = list(kept), sf[k:]
    sf = sf[:k]
    if rest:
        exps = [torch.exp(one) for one in rest]
        sf.append(sum(e * one for e, one in zip(exps, rest, strict=True)) / sum(exps))
        places.append(k)
    rows = [descending([frame @ (word @ head.local_mat_weight) for word in w]) for frame in f]
    columns = [descending([row[rank] for row in rows]) for rank in kept]  # by words, then frames
    m3, m4 = head.attentive_frame_word_mat_weight, head.attentive_word_mat_weight2
    m5, m6 = head.attentive_word_mat_weight, head.attentive_frame_word_mat_weight2
    frames_first = isa([isa(column, m3, kept) for column in columns], m4, kept)
    by_frame = [[column[a] for column in columns] for a in kept]
    words_first = isa([isa(row, m5, kept) for row in by_frame], m6, kept)
    return torch.stack(
        [
            (s @ head.global_mat_weight) @ c,
            isa(vw, head.attentive_word_logit_weight, kept),
            isa(sf, head.concat_frame_word_logit_weight, places),
            (frames_first + words_first) / 2,
        ]
    )


OPTIONS = [
    {},
    {"mask": True},
    {"heads": 4, "mask": True},
    {"projections": True, "heads": 2},
    {"normalize": False, "softmax_lambda": 1.0},
    {"keep_rate": 1.0, "mask": True},
    {"keep_rate": 0.01},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_similarities_equal_a_loop(options, form):
    head = disturbed(**options).train(FORMS[form])
    text, video = features()
    with torch.no_grad():
        sims = head.similarities(head.prepare_text(text), head.prepare_video(video))
        for t in range(3):
            for v in range(3):
                torch.testing.assert_close(sims[:, t, v], loop(head, text, video, t, v))
        x = 3.0 * sims
        weights = torch.einsum("gtv,gh->htv", x, head.logit_weight).softmax(0)
        torch.testing.assert_close(head.fuse(sims, torch.tensor(3.0)), (weights * x).sum(0))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_both_forms_are_one(options):
    text, video = features(seed=1)
    gradients = []
    for train in (True, False):
        head = disturbed(**options).train(train)
        frames, words = (x.clone().requires_grad_() for x in (video.frames, text.words))
        losses = head.losses(
            text._replace(words=words), video._replace(frames=frames), torch.tensor(5.0)
        )
        sum(losses.values()).backward()
        parameters = [p.grad for p in head.parameters()]
        gradients.append([*losses.values(), frames.grad, words.grad, *parameters])
    for direct, low_rank in zip(*gradients, strict=True):
        assert low_rank.isfinite().all()
        torch.testing.assert_close(low_rank, direct, **TIGHT)


def test_the_temporal_step_comes_first():
    text, video = features()
    head = disturbed(temporal="seq_transf", layers=2, temporal_heads=2, noise=0.1)
    after = VideoFeatures(head.temporal_frames(video), video.mask, None)
    expected = head(text, video, SCALE)
    head.temporal = "none"
    torch.testing.assert_close(head(text, after, SCALE), expected)
    assert (head(text, video, SCALE) - expected).abs().max() > 1


@pytest.mark.parametrize("step", ["seq_transf", "seq_lstm"])
def test_the_temporal_step_as_printed_adds_no_frames(step):
    _, video = features()
    plain = disturbed(temporal=step, layers=1, temporal_heads=2, residual=False)
    made, added = plain.temporal_frames(video), disturbed(temporal=step, layers=1, temporal_heads=2)
    torch.testing.assert_close(added.temporal_frames(video), video.frames + made)
    assert torch.isfinite(plain(features()[0], video, SCALE)).all()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 300), (1, 9000), (100, 1), (100, 300)])
def test_cuts_inside_change_nothing(monkeypatch, sizes, mask):
    head = disturbed(mask=mask)
    text, video = features()
    whole = head(text, video, SCALE)
    monkeypatch.setattr(tc_mgc, "_TEXTS", sizes[0])
    monkeypatch.setattr(_low_rank, "_CACHE", sizes[1])
    torch.testing.assert_close(head(text, video, SCALE), whole, **TIGHT)


def test_masks_change_nothing_where_nothing_is_padded():
    text, video = full(*features())
    expected = disturbed()(text, video, SCALE)
    torch.testing.assert_close(disturbed(mask=True)(text, video, SCALE), expected, **TIGHT)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_shorter_than_what_is_kept_scores_as_in_company(form):
    text, video = features(texts=4, words=12)
    head = disturbed(mask=True, words=12, keep=10).train(FORMS[form])
    alone = TextFeatures(*(x[2:3] for x in text))
    assert int(alone.mask.sum()) < head.k
    torch.testing.assert_close(head(alone, video, SCALE)[0], head(text, video, SCALE)[2], **TIGHT)


def test_padding_counts_as_published():
    text, video = features()
    head = disturbed()
    videos = head.prepare_video(video)
    words = torch.where(text.mask[..., None], text.words, 2 * video.frames[0, 0])
    scores = [
        head.similarities(head.prepare_text(text._replace(words=words)), videos)
        for words in (text.words, words)
    ]
    moved = (scores[0] - scores[1]).abs().amax(dim=(0, 2))
    assert not moved[0]  # no padded word
    assert (moved[1:] > 1e-3).all()


def test_words_that_are_equal_give_their_similarity():
    text, video = features()
    words = text.words[:, :1].expand(-1, 7, -1)
    head = disturbed(noise=0.1)
    head.local_mat_weight.data.copy_(torch.eye(16))
    prepared = head.prepare_text(text._replace(words=words)), head.prepare_video(video)
    compared = head.contrasts(*prepared)
    sims = head.similarities(*prepared)
    torch.testing.assert_close(sims[1], compared.to_video[1].T)
    torch.testing.assert_close(sims[2], compared.to_frames[:, :, 0, 0].T)
    torch.testing.assert_close(sims[3], compared.to_frames[:, :, 1, 0].T)


def test_the_reorganized_matrix_descends():
    text, video = features()
    head = disturbed()
    compared = head.contrasts(head.prepare_text(text), head.prepare_video(video))
    fw = reorganized(compared, 3, None).fw
    assert (fw[1:] <= fw[:-1]).all()
    assert (fw[:, 1:] <= fw[:, :-1]).all()
    matrix = compared.to_frames[:, :, 1:]
    torch.testing.assert_close(fw[0, 0], matrix.amax(dim=(2, 3)))
    # Words first, as published: frames first keeps other numbers.
    other = matrix.topk(3, dim=3).values.topk(3, dim=2).values.permute(3, 2, 0, 1)
    assert (fw - other).abs().max() > 1e-3


def test_a_score_lies_between_its_granularities():
    text, video = features()
    head = disturbed()
    sims = head.similarities(head.prepare_text(text), head.prepare_video(video))
    score = head.fuse(sims, SCALE)
    assert (score <= SCALE * sims.amax(0)).all()
    assert (score >= SCALE * sims.amin(0)).all()


def test_decorrelation_is_zero_where_granularities_agree():
    sims = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    expected = sum(sims[:, b, b].var(unbiased=True) for b in range(3)) / 3
    torch.testing.assert_close(decorrelation(sims), expected)
    assert expected > 0
    agreeing = sims.clone()
    agreeing[:, range(3), range(3)] = 0.5
    assert decorrelation(agreeing) == 0


def test_decorrelation_equals_the_published_one(shared):
    golden = Golden(shared, "losses")
    golden.close(decorrelation(golden["sim4"]), "sdr_torch")
    golden.close(decorrelation(golden["sim4"]), "sdr_ddof1")
    golden.close(decorrelation(golden["sim4"]) * 3 / 4, "sdr_ddof0")  # of four, not unbiased


def test_scores_do_not_depend_on_lengths():
    text, video = features(seed=3)
    head = disturbed()
    scores = [
        head(
            text._replace(sentence=c * text.sentence, words=c * text.words),
            video._replace(frames=c * video.frames),
            SCALE,
        )
        for c in (1e3, 1e4)
    ]
    assert (scores[0] - scores[1]).abs().max() < 1e-6  # but for the epsilon of norms


@pytest.mark.parametrize(("m", "k"), [(1, 1), (7, 3), (8, 8), (5, 5), (33, 4), (64, 7), (20, 12)])
def test_the_largest_are_those_of_sorting(m, k):
    generator = torch.Generator().manual_seed(m)
    x = torch.randint(0, 9, (m, 3, 50), generator=generator).double()  # many ties
    ranks = largest(x, k)
    assert torch.equal(ranks, x.sort(dim=0, descending=True).values[:k])
    if k < m:
        rest = x.sort(dim=0, descending=True).values[k:]
        expected = (rest.softmax(0) * rest).sum(0)
        torch.testing.assert_close(fused(x, k, largest(x, k + 1)[k]), expected)


@pytest.mark.parametrize("is_masked", [False, True])
def test_several_aggregations_are_those_of_one(is_masked):
    torch.manual_seed(0)
    x, matrices = torch.rand(2, 4, 5, 6).double(), torch.eye(4) + 0.2 * torch.randn(2, 5, 4)[:, :4]
    matrices = matrices.double()
    real = (
        (torch.arange(4)[:, None, None] < torch.tensor([1, 2, 3, 4, 4, 1])) if is_masked else None
    )
    found = interactive(x, matrices, sharpness=10.0, real=real)
    for one, matrix, result in zip(x, matrices, found, strict=True):
        mask = None if real is None else real.movedim(0, -1)
        expected = aggregate(one.movedim(0, -1), matrix, twice=True, sharpness=10.0, mask=mask)
        torch.testing.assert_close(result, expected)


def test_dropout_acts_in_training_alone():
    text, video = features()
    head = disturbed(dropout=0.5)
    assert torch.equal(head(text, video, SCALE), head(text, video, SCALE))
    head.train()
    assert not torch.equal(head(text, video, SCALE), head(text, video, SCALE))


def test_single_precision_is_enough():
    text, video = features(texts=4, width=512, words=32, frames=12)
    head = disturbed(width=512, words=32, frames=12, keep_rate=0.1, noise=0.02)
    exact = head(text, video, SCALE)
    text, video = (type(x)(*(_single(y) for y in x)) for x in (text, video))
    single = head.float()(text, video, SCALE)
    assert (single.double() - exact).abs().max() < 6e-5


def _single(x):
    return x.float() if x is not None and x.is_floating_point() else x


def test_frame_weights_are_the_attention():
    text, video = features()
    head = disturbed(mask=True, temporal="seq_transf", layers=1, noise=0.1)
    found = head.frame_weights(text, video)
    assert found.sentence.shape == (3, 3, 4)
    assert found.words.shape == (3, 3, 7, 4)
    torch.testing.assert_close(found.words.sum(3), torch.ones(3, 3, 7).double())
    assert not found.sentence[:, ~video.mask].any()
    before, frames = head.layers.before, head.temporal_frames(video)
    for query, weights in (
        (text.sentence[1], found.sentence[1, 0]),
        (text.words[1, 2], found.words[1, 0, 2]),
    ):
        scores = before(frames[0]) @ before(query) / 4
        torch.testing.assert_close(weights, scores.softmax(0))
    assert torch.equal(head.train().frame_weights(text, video).words, found.words)


def test_parameters_are_as_many_as_published_and_start_as_published():
    head = TcMgc()
    counts = {name: p.numel() for name, p in head.named_parameters()}
    temporal = sum(
        n for name, n in counts.items() if "transformerClip" in name or "frame_pos" in name
    )
    assert temporal == 12_648_960
    assert sum(counts.values()) - temporal == 790_093
    assert head.k == 3
    assert torch.equal(head.global_mat_weight, torch.eye(512))
    assert head.pool_frames.linear_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.pool_frames.linear_proj.bias.any()
    assert TcMgc(words=64, temporal="none").k == 6
    assert TcMgc(words=32, keep_rate=0.3, temporal="none").k == 9  # of 9.6
    assert TcMgc(words=8, temporal="none").k == 1  # the code would keep none


def test_a_checkpoint_of_the_authors_loads():
    head = disturbed(temporal="seq_transf", layers=2, keep_rate=0.3).float()
    official = {f"module.{name}": x for name, x in head.state_dict().items()}
    for part in MAPS.values():
        official[f"module.pool_frames.cross_attn.{part}.weight"] = torch.ones(16, 16)
        official[f"module.pool_frames.cross_attn.{part}.bias"] = torch.ones(16)
    again = TcMgc.from_official(official, frames=4, words=7)
    assert (again.k, again.width, again.heads, len(again.transformerClip.resblocks)) == (
        2,
        16,
        1,
        2,
    )
    for name, x in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)


def test_memory_per_pair_is_told():
    assert TcMgc(temporal="none").eval().pair_floats() < 10
    assert TcMgc(temporal="none").train().pair_floats() >= 3 * 33 * 512


def test_what_does_not_fit_is_refused():
    small = {"width": 16, "temporal": "none"}
    for rate in (0, 1.5):
        with pytest.raises(UsageError, match=f"keep_rate is above 0 and at most 1, got {rate}"):
            TcMgc(keep_rate=rate, **small)
    with pytest.raises(UsageError, match="at most the 32 words, got 33"):
        TcMgc(keep=33, **small)
    with pytest.raises(UsageError, match="width 16 does not divide into 3 heads"):
        TcMgc(heads=3, **small)
    with pytest.raises(UsageError, match="dropout is at least 0 and below 1, got -1"):
        TcMgc(dropout=-1, **small)
    text, video = features()
    with pytest.raises(IncompatibleError, match="keeps 8 words of a text, got texts of 7"):
        TcMgc(words=32, keep=8, **small).double().prepare_text(text)
    empty = video._replace(mask=torch.zeros_like(video.mask))
    with pytest.raises(TtvrError, match="video 0 of the batch has no real frame"):
        disturbed().prepare_video(empty)
