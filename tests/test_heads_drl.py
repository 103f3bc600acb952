"""DRL against its authors' numbers, its equations, and its published evaluation."""

from __future__ import annotations

import pytest
import torch
from golden_heads import Golden

from ttvr.bench._direct_drl import drl
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads import _token_wise
from ttvr.heads import drl as plugin
from ttvr.heads._cdcr import Pairs, cdcr_loss, random_pairs, uniform
from ttvr.heads.drl import DRL
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score import similarity_matrix

SCORES = (
    *(
        f"{name}_None_{case}"
        for name in ("dp", "ti", "wti1", "wti2", "wti3")
        for case in ("corr", "iid")
    ),
    *("dp_seqLSTM_corr", "wti2_seqTransf_corr"),
)
LOSSES = [
    f"cdcr{kind}_{case}" for kind in ("1_dp", "2_ti", "2_wti", "3_wti") for case in ("corr", "iid")
]
SCALE = torch.tensor(20.0)
D, L, T = 16, 7, 5
SIZES = {"width": D, "words": L, "frames": T}


def text_of(golden, count=None):
    """Texts whose sentence is the word at end-of-text, so that gradients reach the words alone."""
    words, mask = golden.leaves["words"][:count], golden["text_mask"].bool()[:count]
    return TextFeatures(words[torch.arange(len(words)), mask.sum(1) - 1], words, mask)


def video_of(golden, count=None):
    return VideoFeatures(*(None if x is None else x[:count] for x in golden.video()))


def official(golden, name, **options):
    interaction = name.split("_")[0].rstrip("123")
    return golden.head(DRL, interaction=interaction, **options)


@pytest.mark.parametrize("name", SCORES)
def test_scores_equal_their_authors(shared, name):
    golden = Golden(shared, f"drl_{name}")
    head = official(golden, name, cdcr=0)
    golden.close(head(text_of(golden), video_of(golden), torch.tensor(1.0)), "sim_eval")
    B = int(golden["train_B"])
    text, video = text_of(golden, B), video_of(golden, B)
    scale = golden.scale()
    golden.close(head(text, video, scale), "train_sim")
    losses = head.losses(text, video, scale)
    assert list(losses) == ["nce"]
    golden.close(losses["nce"], "train_nce")
    losses["nce"].backward()
    for key in ("frames", "words"):
        golden.close(golden.leaves[key].grad[:B], f"train_grad_{key}")
    golden.gradients_are_close(head, skip=("frame_position_embeddings.weight",) * ("LSTM" in name))

    single = Golden(shared, f"drl_{name}", torch.float32)
    found = official(single, name)(text_of(single), video_of(single), torch.tensor(1.0))
    single.near(found, "sim_eval")


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_authors(shared, name):
    kind, interaction, _ = name.split("_")
    golden = Golden(shared, f"drl_{name}")
    head = golden.head(
        DRL,
        interaction=interaction,
        cdcr=int(kind[-1]),
        cdcr_lambda=float(golden["cdcr_lambda"]),
        alpha1=float(golden["alpha1"]),
        alpha2=float(golden["alpha2"]),
    )
    text, video, scale = text_of(golden), video_of(golden), golden.scale()
    golden.close(head.train()(text, video, scale), "sim")
    losses = head.losses(text, video, scale)
    golden.close(losses["nce"], "nce")
    golden.close(losses["cdcr"] / golden["cdcr_lambda"], "cdcr")
    loss = losses["nce"] + losses["cdcr"]
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("frames", "words"))


def features(texts=4, videos=3, seed=0):
    """Some texts and videos, one of each without padding, in float64."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(texts, L, D, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([4, L, 2, 5, 6, 3])[:texts]
    mask = torch.arange(L) < lengths[:, None]
    text = TextFeatures(words[torch.arange(texts), lengths - 1], words, mask)
    frames = torch.randn(videos, T, D, generator=generator, dtype=torch.float64)
    counts = torch.tensor([T, 2, 4, 1, 3, T])[:videos]
    return text, VideoFeatures(frames, torch.arange(T) < counts[:, None], None)


def made(**options):
    """A head whose MLPs say something."""
    torch.manual_seed(0)
    head = DRL(**SIZES, **{"temporal": "none", **options}).double().eval()
    for parameter in head.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return head


def mlp(module, x):
    maps = [module] if isinstance(module, torch.nn.Linear) else list(module)[::2]
    for number, one in enumerate(maps):
        x = one.weight @ (x.clamp(min=0) if number else x) + one.bias
    return x[0]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("options", [{"interaction": "ti"}, {"wti_arch": 1}, {"wti_arch": 3}])
@torch.no_grad()
def test_scores_equal_a_loop(options, mask):
    head, (text, video) = made(mask=mask, **options), features()
    found = head(text, video, SCALE)
    for t in range(4):
        for v in range(3):
            words = [x for x, real in zip(text.words[t], text.mask[t], strict=True) if real]
            frames = [x for x, real in zip(video.frames[v], video.mask[v], strict=True) if real]
            alpha, beta = [1.0] * len(words), [1.0] * len(frames)
            if head.interaction == "wti":
                alpha = [torch.exp(mlp(head.text_weight_fc, x)) for x in words]
                beta = [torch.exp(mlp(head.video_weight_fc, x)) for x in frames]
            # A padded row is one more to choose from, of the cosine 0.
            no_frame = [0.0] if len(frames) < T and not mask else []
            no_word = [0.0] if len(words) < L and not mask else []
            cosines = [[float(w @ f / w.norm() / f.norm()) for f in frames] for w in words]
            by_words = sum(
                a * max(row + no_frame) for a, row in zip(alpha, cosines, strict=True)
            ) / sum(alpha)
            by_frames = sum(
                b * max([row[j] for row in cosines] + no_word) for j, b in enumerate(beta)
            ) / sum(beta)
            expected = torch.as_tensor(SCALE * (by_words + by_frames) / 2).double()
            torch.testing.assert_close(found[t, v], expected)


def standardized(vectors):
    x = torch.stack(vectors)
    mean = sum(vectors) / len(vectors)
    variance = sum((one - mean) ** 2 for one in vectors) / (len(vectors) - 1)
    return (x - mean) / variance.sqrt()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("mode", [2, 3])
@torch.no_grad()
def test_cdcr_equals_a_loop(mode, mask):
    B = 6
    text, video = features(B, B)
    head = made(cdcr=mode, cdcr_lambda=0.5, alpha1=0.7, alpha2=0.3, mask=mask)
    word = text.words / text.words.norm(dim=-1, keepdim=True)
    frame = video.frames / video.frames.norm(dim=-1, keepdim=True)
    sides = (([], [], []), ([], [], []))
    for b in range(B):
        scores = (
            [mlp(head.text_weight_fc, x).exp() for x in text.words[b]],
            [mlp(head.video_weight_fc, x).exp() for x in video.frames[b]],
        )
        is_real = text.mask[b], video.mask[b]
        for side, (own, other) in enumerate(((word[b], frame[b]), (frame[b], word[b]))):
            total = sum(s for s, real in zip(scores[side], is_real[side], strict=True) if real)
            for i, x in enumerate(own):
                if not is_real[side][i]:
                    continue
                hidden = float("-inf") if mask else 0.0
                found = [
                    float(x @ y) if real else hidden
                    for y, real in zip(other, is_real[1 - side], strict=True)
                ]
                sides[side][0].append(x)
                sides[side][1].append(other[found.index(max(found))])
                sides[side][2].append(scores[side][i] / total / B)
    C = torch.zeros(D, D).double()
    for left, right, weights in sides:
        if mode == 2:
            weights = [1 / len(left)] * len(left)
        a, b = standardized(left), standardized(right)
        C += sum(w * torch.outer(x, y) for w, x, y in zip(weights, a, b, strict=True)) / 2
    expected = 0.7 * (C.diag() - 1).pow(2).sum() + 0.3 * (C - C.diag().diag()).pow(2).sum()
    torch.testing.assert_close(head.losses(text, video, SCALE)["cdcr"], 0.5 * expected)


def test_mode_3_with_equal_weights_is_mode_2(monkeypatch):
    B, (text, video) = 6, features(6, 6)
    parts = DRL._parts

    def equal(head, rows, mask, weigher):
        """Weights of B altogether, as those of a batch are, but the same for all of its rows."""
        made = parts(head, rows, mask, weigher)
        return made._replace(weights=B * mask / mask.sum())

    modes = [made(cdcr=mode, alpha2=0.2, cdcr_lambda=1.0) for mode in (2, 3)]
    losses = [head.losses(text, video, SCALE)["cdcr"] for head in modes]
    assert (losses[0] - losses[1]).abs() > 1e-3
    monkeypatch.setattr(DRL, "_parts", equal)
    torch.testing.assert_close(modes[1].losses(text, video, SCALE)["cdcr"], losses[0])


@pytest.mark.parametrize(("interaction", "mode"), [("dp", 1), ("ti", 2), ("wti", 3)])
def test_the_order_of_a_batch_does_not_matter(interaction, mode):
    head, (text, video) = made(interaction=interaction, cdcr=mode, alpha2=0.1), features(6, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = head.losses(
        TextFeatures(*(x[order] for x in text)),
        VideoFeatures(video.frames[order], video.mask[order], None),
        SCALE,
    )
    for name, loss in head.losses(text, video, SCALE).items():
        torch.testing.assert_close(found[name], loss)


def test_cdcr_falls_when_channels_agree():
    x = torch.randn(64, D, generator=torch.Generator().manual_seed(0)).double()
    same = cdcr_loss([uniform(x, x)], alpha1=1.0, alpha2=0.0)
    # The unbiased variance makes the diagonal (N - 1) / N.
    assert same.item() == pytest.approx(D / 64**2)
    assert cdcr_loss([uniform(x, x.roll(1, 0))], alpha1=1.0, alpha2=0.0) > 0.5 * D


def test_mode_1_takes_a_random_real_word_and_frame(monkeypatch):
    head, (text, video) = made(interaction="ti", cdcr=1), features(6, 6)
    taken = []
    monkeypatch.setattr(
        plugin, "cdcr_loss", lambda groups, **options: taken.append(groups) or torch.zeros(())
    )
    torch.manual_seed(0)
    for _ in range(20):
        head.losses(text, video, SCALE)
    torch.manual_seed(0)
    head.losses(text, video, SCALE)
    for found, x in ((0, text.words), (1, video.frames)):
        assert torch.equal(taken[0][0][found], taken[20][0][found])
        units = x / x.norm(dim=-1, keepdim=True)
        mask = (text.mask, video.mask)[found]
        seen = torch.zeros_like(mask)
        for (pair,) in taken:
            assert isinstance(pair, Pairs)
            distance = (units - pair[found][:, None]).abs().amax(dim=2)
            assert (distance.amin(dim=1) < 1e-12).all()
            seen |= distance < 1e-12
        assert not (seen & ~mask).any()
        assert (seen.sum(1) >= mask.sum(1).clamp(max=3)).all()


def test_random_pairs_are_of_real_rows_alone():
    rows = torch.arange(5.0).repeat(400, 1)[..., None]
    masks = torch.arange(5) < 3, torch.arange(5) < 2
    torch.manual_seed(0)
    pairs = random_pairs(rows, rows, *(mask.expand(400, 5) for mask in masks))
    for side, mask in zip(pairs[:2], masks, strict=True):
        shares = side.flatten().long().bincount(minlength=5) / 400
        torch.testing.assert_close(shares, mask / mask.sum(), atol=0.1, rtol=0)  # four deviations
        assert not shares[~mask].any()


@pytest.mark.parametrize("held", [1, 4 * L * T, 9 * L * T, 1 << 20])
@pytest.mark.parametrize("interaction", ["ti", "wti"])
@torch.no_grad()
def test_blocks_equal_the_published_evaluation(monkeypatch, held, interaction):
    head, (text, video) = (
        made(interaction=interaction, temporal="seq_transf", heads=2),
        features(6, 6),
    )
    monkeypatch.setattr(_token_wise, "_HELD", held)
    torch.testing.assert_close(head(text, video, SCALE), drl(head, text, video, SCALE))


@torch.no_grad()
def test_what_is_padded_is_not_computed(monkeypatch):
    head, (text, video) = made(), features(6, 6)
    monkeypatch.setattr(_token_wise, "_HELD", 4 * L * T)  # two texts, two videos
    lengths, block = [], _token_wise._block

    def noted(words, *rest):
        lengths.append(words.shape[0])
        return block(words, *rest)

    monkeypatch.setattr(_token_wise, "_block", noted)
    head(text, video, SCALE)
    assert lengths == [3] * 3 + [5] * 3 + [7] * 3


@torch.no_grad()
def test_the_clamp_is_padding_alone():
    text, video = features()
    opposite = video._replace(frames=-text.words[:3, :1].expand(-1, T, -1).contiguous())
    clamped, masked = made(), made(mask=True)
    scores = clamped(text, opposite, SCALE), masked(text, opposite, SCALE)
    assert (scores[0] >= scores[1] - 1e-12).all()
    assert (scores[0] - scores[1]).max() > 0.1
    # The second text and the first video have no padding.
    torch.testing.assert_close(scores[0][1, 0], scores[1][1, 0])


@torch.no_grad()
def test_more_padding_changes_no_weight_and_no_masked_score():
    text, video = features()
    nothing = torch.full((3, 4, D), torch.nan).double()
    longer = VideoFeatures(
        torch.cat([video.frames, nothing], dim=1),
        torch.cat([video.mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1),
        None,
    )
    for options in ({"interaction": "dp"}, {"mask": True}, {"mask": True, "interaction": "ti"}):
        head = made(**options)
        torch.testing.assert_close(head(text, longer, SCALE), head(text, video, SCALE))
    weights = made().frame_weights(text, longer).sentence
    torch.testing.assert_close(weights[..., :T], made().frame_weights(text, video).sentence)
    assert not weights[..., T:].any()


@torch.no_grad()
def test_the_length_of_features_matters_to_wti_alone():
    text, video = features()
    doubled = (
        text._replace(words=2 * text.words, sentence=2 * text.sentence),
        video._replace(frames=2 * video.frames),
    )
    for interaction, is_same in (("dp", True), ("ti", True), ("wti", False)):
        head = made(interaction=interaction)
        difference = head(*doubled, SCALE) - head(text, video, SCALE)
        assert (difference.abs().max() < 1e-9) == is_same


@torch.no_grad()
def test_dp_is_one_inner_product():
    torch.manual_seed(0)
    head = DRL(**SIZES, interaction="dp", heads=2).double().eval()
    text, video = features()
    assert (head.offline, head.needs_words) == (True, False)
    assert (made().offline, made().needs_words, DRL.offline) == (False, True, False)
    vectors = head.vector_text(text), head.vector_video(video)
    torch.testing.assert_close(head(text, video, SCALE), SCALE * vectors[0] @ vectors[1].T)
    head, text = head.float(), TextFeatures(text.sentence.float(), None, None)
    video = video._replace(frames=video.frames.float())
    torch.testing.assert_close(
        similarity_matrix(head, text, video).double(), vectors[0] @ vectors[1].T, atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_frame_weights():
    text, video = features()
    wti = made().frame_weights(text, video)
    assert wti.sentence.shape == (4, 3, T)
    assert wti.words.shape == (4, 3, L, T)
    assert wti.what.startswith("learned weights of the frames")
    for v in range(3):
        real = video.mask[v]
        scores = [mlp(made().video_weight_fc, x) for x in video.frames[v][real]]
        expected = torch.stack(scores).softmax(0)
        for t in range(4):
            torch.testing.assert_close(wti.sentence[t, v, real], expected)
            assert not wti.sentence[t, v, ~real].any()
            for i in range(L):
                for j in range(T):
                    word, frame = text.words[t, i], video.frames[v, j]
                    cosine = word @ frame / word.norm() / frame.norm()
                    cosine = cosine if real[j] and text.mask[t, i] else torch.zeros(()).double()
                    torch.testing.assert_close(wti.words[t, v, i, j], cosine)
    for interaction in ("ti", "dp"):
        equal = made(interaction=interaction).frame_weights(text, video)
        expected = video.mask / video.mask.sum(1, keepdim=True)
        torch.testing.assert_close(equal.sentence, expected.double().expand(4, -1, -1))
        assert equal.what.startswith("equal weights")
        assert (equal.words is None) == (interaction == "dp")


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"interaction": "dp"}, 0),
        ({"interaction": "ti"}, 0),
        ({"wti_arch": 1}, 1_026),
        ({}, 526_338),
        ({"wti_arch": 3}, 1_051_650),
        ({"temporal": "seq_transf"}, 526_338 + 12_648_960),
    ],
)
def test_parameters_are_as_many_as_published(options, parameters):
    head = DRL(**{"temporal": "none", **options})
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters


def test_a_checkpoint_tells_the_options():
    for options in ({"wti_arch": 1}, {"wti_arch": 3}, {"temporal": "seq_lstm"}):
        state = DRL(width=D, heads=2, **options).state_dict()
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        if "temporal" in options:
            state["module.frame_position_embeddings.weight"] = torch.ones(9, D)
        head = DRL.from_official(state, heads=2)
        assert (head.width, head.interaction) == (D, "wti")
        assert head.temporal == options.get("temporal", "seq_transf")
    with pytest.raises(IncompatibleError, match=r"missing .*text_weight_fc\.0\.bias"):
        DRL.from_official({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interaction": "xti"}, "interaction is one of dp, ti, wti, got 'xti'"),
        ({"wti_arch": 4}, "wti_arch is one of 1, 2, 3, got 4"),
        ({"wti_arch": True}, "wti_arch is one of 1, 2, 3, got True"),
        ({"mask": 1}, "mask is one of false, true, got 1"),
        ({"cdcr": 4}, "cdcr of wti is one of 0, 1, 2, 3, got 4"),
        ({"interaction": "dp", "cdcr": 2}, "cdcr of dp is one of 0, 1, got 2"),
        ({"interaction": "ti", "cdcr": 3}, "cdcr of ti is one of 0, 1, 2, got 3"),
        ({"alpha1": -1}, "alpha1 is a number of at least 0, got -1"),
        ({"alpha2": "much"}, "alpha2 is a number of at least 0, got 'much'"),
        ({"cdcr_lambda": float("nan")}, "cdcr_lambda is a number of at least 0, got nan"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DRL(**SIZES, heads=2, **options)


def test_features_that_do_not_fit_are_refused():
    text, video = features(1, 1)
    with pytest.raises(TtvrError, match="a batch size of at least 2"):
        made(interaction="dp").losses(text, video, SCALE)
    empty = video._replace(mask=torch.zeros_like(video.mask))
    for interaction in ("dp", "wti"):
        head = made(interaction=interaction)
        for call in (
            lambda h=head: h.prepare_video(empty),
            lambda h=head: h.frame_weights(text, empty),
        ):
            with pytest.raises(TtvrError, match="video 0 of the batch has no real frame"):
                call()
