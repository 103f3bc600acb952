"""TS2-Net's token selector and head against their equations and their authors' numbers."""

from __future__ import annotations

import pytest
import torch
from golden_heads import Golden

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads._layers import unit
from ttvr.heads._loose import Vectors
from ttvr.heads._selector import TokenSelector
from ttvr.heads.ts2net import Frames, TS2Net, _units
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

SELECTORS = ("ts2net_selector", "ucofia_selector_train")
HEAD_CASES = ("fullmask_corr", "fullmask_iid", "padmask_corr", "padmask_iid")


def selector_of(golden):
    """The selector with the authors' weights, and tokens split into class tokens and patches."""
    B, N, D = golden["x"].shape
    T = golden.meta["n"]
    x = golden["x"].reshape(B, T, N // T, D).clone().requires_grad_()
    selector = TokenSelector(D, samples=golden.meta["num_samples"])
    selector.load_state_dict(golden.state())
    return selector, x


def tokens(seed=0, B=2, T=3, P=7, D=16):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, 1 + P, D, generator=generator)
    return x[:, :, 0], x[:, :, 1:]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SELECTORS)
def test_the_selector_equals_its_authors(shared, name, training):
    golden = Golden(shared, name, torch.float32)
    selector, x = selector_of(golden)
    cls, patches = x[:, :, 0], x[:, :, 1:]
    scores = selector.score_predictor(cls.flatten(0, 1), patches.flatten(0, 1))
    golden.near(torch.cat([golden["score"][:, :1, 0], scores], 1).unsqueeze(2), "score")
    selected = selector.train(training)(cls, patches, golden["noise"])
    golden.near(selected, "selected")
    if "loss_weight" in golden:
        (selected * golden["loss_weight"]).sum().backward()
        golden.near(x.grad.flatten(1, 2), "grad_x")
        for parameter, value in selector.named_parameters():
            golden.near(value.grad, f"grad/{parameter}")


@pytest.mark.parametrize("cells", [1, 200, 1 << 22])
def test_selection_equals_a_loop(monkeypatch, cells):
    monkeypatch.setattr("ttvr.heads._selector._CELLS_AT_ONCE", cells)
    torch.manual_seed(0)
    selector = TokenSelector(16, top=2, samples=20, sigma=0.3).double()
    cls, patches = (part.double() for part in tokens())
    patches.requires_grad_()
    noise = torch.randn(6, 20, 7)
    found = selector(cls, patches, noise)
    layers = selector.score_predictor
    norm, first = layers.in_conv[0], layers.in_conv[1].weight
    weight = torch.randn(found.shape, dtype=torch.float64)
    expected, slopes = [], torch.zeros(2, 3, 7, dtype=torch.float64)
    for b in range(2):
        for t in range(3):
            seen = torch.cat([cls[b, t][None], patches[b, t]])
            units = (seen - seen.mean(1, keepdim=True)) / (
                seen.var(1, unbiased=False, keepdim=True) + 1e-5
            ).sqrt()
            x = (units * norm.weight + norm.bias) @ first.T
            h = x * (1 + torch.erf(x / 2**0.5)) / 2
            scores = []
            for p in range(1, 8):
                y = layers.out_conv[0].weight @ torch.cat([h[p], h[0]])
                y = y * (1 + torch.erf(y / 2**0.5)) / 2
                scores.append(torch.tanh(layers.out_conv[2].weight[0] @ y).item())
            rows = [torch.zeros(16).double() for _ in range(2)]
            for s in range(20):
                draw = noise[b * 3 + t, s]
                noisy = [score + 0.3 * float(draw[p]) for p, score in enumerate(scores)]
                best = sorted(sorted(range(7), key=lambda p: -noisy[p])[:2])
                for k, p in enumerate(best):
                    rows[k] = rows[k] + patches[b, t, p] / 20
                    pull = float(weight[b, 3 * t + 1 + k] @ patches[b, t, p].detach())
                    slopes[b, t, p] += pull * float(draw[p]) / 0.3 / 20
            expected.append(torch.stack([cls[b, t], *rows]))
    torch.testing.assert_close(found.flatten(0, 1), torch.cat(expected))
    scores = layers(cls.flatten(0, 1), patches.flatten(0, 1))
    scores.backward(slopes.flatten(0, 1))
    through = [parameter.grad.clone() for parameter in layers.parameters()]
    selector.zero_grad()
    (found * weight).sum().backward()
    for parameter, value in zip(layers.parameters(), through, strict=True):
        torch.testing.assert_close(parameter.grad, value, rtol=1e-5, atol=1e-7)  # float32 noise


def test_evaluation_is_the_same_whatever_the_batch():
    torch.manual_seed(0)
    selector = TokenSelector(16).eval()
    cls, patches = tokens(B=4)
    whole = selector(cls, patches)
    torch.manual_seed(1)
    assert torch.equal(selector(cls, patches), whole)
    for b in range(4):
        torch.testing.assert_close(selector(cls[b : b + 1], patches[b : b + 1])[0], whole[b])
    other = TokenSelector(16, seed=1).eval()
    other.load_state_dict(selector.state_dict())
    assert not torch.equal(other(cls, patches), whole)
    assert torch.equal(whole.reshape(4, 3, 4, 16)[:, :, 0], cls)
    flat = cls.flatten(0, 1), patches.flatten(0, 1)
    assert selector._scores(*flat).dtype == torch.float64
    assert selector.train()._scores(*flat).dtype == torch.float32


def test_training_draws_from_the_global_generator():
    selector = TokenSelector(16).train()
    cls, patches = tokens()
    torch.manual_seed(5)
    one, two = selector(cls, patches), selector(cls, patches)
    torch.manual_seed(5)
    assert torch.equal(selector(cls, patches), one)
    assert not torch.equal(one, two)


def test_hard_selection_takes_the_best_in_order_of_place():
    torch.manual_seed(0)
    selector = TokenSelector(16, hard=True).eval()
    cls, patches = tokens()
    scores = selector.score_predictor(cls.flatten(0, 1), patches.flatten(0, 1)).reshape(2, 3, 7)
    found = selector(cls, patches).reshape(2, 3, 4, 16)
    for b in range(2):
        for t in range(3):
            best = sorted(sorted(range(7), key=lambda p: -scores[b, t, p].item())[:3])
            assert torch.equal(found[b, t], torch.cat([cls[b, t][None], patches[b, t][best]]))
    same = patches[:, :, :1].expand(-1, -1, 7, -1) + 0.0 * patches
    assert torch.equal(selector(cls, same).reshape(2, 3, 4, 16)[:, :, 1:], same[:, :, :3])
    assert not torch.equal(selector.train()(cls, patches).reshape(2, 3, 4, 16), found)


def test_selector_sizes_and_refusals():
    assert sum(p.numel() for p in TokenSelector(512).parameters()) == 263_424
    cls, patches = tokens(P=2)
    with pytest.raises(IncompatibleError, match="cannot select 3 of the 2 patches"):
        TokenSelector(16)(cls, patches)
    torch.testing.assert_close(
        TokenSelector(16, top=2)(cls, patches).reshape(2, 3, 3, 16)[:, :, 1:], patches
    )
    for options in ({"top": 0}, {"samples": 0}, {"sigma": 0.0}, {"sigma": float("nan")}):
        with pytest.raises(UsageError, match="top and samples of at least 1 and sigma above 0"):
            TokenSelector(16, **options)


def head_of(golden):
    """The head with the authors' weights; they stored none of the selector with these scores."""
    selector = TokenSelector(golden["sent"].shape[1]).state_dict()
    own = {f"visual_token_selector.{name}": value for name, value in selector.items()}
    head = TS2Net.from_official(
        {**golden.state(), **own}, heads=golden.meta["heads"], frames=6, compat_tile_mask=True
    )
    return head.to(golden.dtype).eval()


def logits_of(head, golden):
    text = head.prepare_text(golden.text())
    frames = head.frames_of(golden.leaves["tokens"], golden["video_mask"].bool())
    return head.fuse(head.similarities(text, _units(frames)), golden.scale())


@pytest.mark.parametrize("case", HEAD_CASES)
def test_the_head_equals_its_authors(shared, case):
    golden = Golden(shared, f"ts2net_sim_{case}")
    head = head_of(golden)
    logits = logits_of(head, golden)
    golden.close(logits, "sim")
    B = min(logits.shape)
    loss = info_nce(logits[:B, :B])
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("tokens", "sent"))

    video = golden.video()
    frames = _units(Frames(video.frames, video.mask))
    sims = head.similarities(head.prepare_text(golden.text()), frames)
    golden.close(head.fuse(sims, golden.scale()), "sim_frames_only")

    single = Golden(shared, f"ts2net_sim_{case}", torch.float32)
    single.near(logits_of(head_of(single), single))


def test_the_right_mask_is_another_one_only_where_frames_are_padded(shared):
    for case, same in (("fullmask_iid", True), ("padmask_iid", False)):
        golden = Golden(shared, f"ts2net_sim_{case}")
        head = head_of(golden)
        published = logits_of(head, golden)
        head.compat_tile_mask = False
        assert torch.equal(logits_of(head, golden), published) == same


@pytest.mark.parametrize("tile", [False, True])
def test_the_head_equals_a_loop(tile):
    torch.manual_seed(0)
    T, D, top = 3, 16, 2
    head = TS2Net(width=D, frames=T, layers=1, heads=2, top=top, compat_tile_mask=tile).double()
    cls, patches = (part.double() for part in tokens(B=2, T=T, D=D))
    counts, sentences = (3, 2), torch.randn(4, D).double()
    mask = torch.arange(T) < torch.tensor(counts)[:, None]
    video = VideoFeatures(cls, mask, patches)
    text = TextFeatures(sentences, sentences[:, None], torch.ones(4, 1).bool())
    with torch.no_grad():
        found = head.eval()(text, video, torch.tensor(20.0).double())
        weights = head.frame_weights(text, video)
    for v, count in enumerate(counts):
        chosen = head.visual_token_selector(cls[v : v + 1], patches[v : v + 1])
        keys = [j % T < count if tile else j // (1 + top) < count for j in range(T * (1 + top))]
        after = head.temporal_step(chosen, torch.tensor([keys]))[0].detach()
        for t in range(4):
            cosines = {}
            for j in range(T):
                if keys[j * (1 + top)]:
                    frame = after[j * (1 + top)]
                    cosines[j] = frame @ sentences[t] / frame.norm() / sentences[t].norm()
            length = sum(x**2 for x in cosines.values()) ** 0.5
            exps = {j: torch.exp(4 * x / length) for j, x in cosines.items()}
            shares = {j: e / sum(exps.values()) for j, e in exps.items()}
            score = 20 * sum(share * cosines[j] for j, share in shares.items())
            torch.testing.assert_close(found[t, v], score)
            expected = torch.tensor([shares.get(j, 0.0) for j in range(T)]).double()
            torch.testing.assert_close(weights.sentence[t, v], expected)
    assert weights.words is None


def test_scaling_changes_no_similarity_of_frames():
    torch.manual_seed(0)
    video = Frames(torch.randn(3, 5, 16).double(), torch.arange(5) < torch.tensor([[5], [2], [1]]))
    text, head = Vectors(unit(torch.randn(4, 16).double())), TS2Net(width=16)
    scaled = _units(video._replace(frames=7.0 * video.frames))
    torch.testing.assert_close(
        head.similarities(text, scaled), head.similarities(text, _units(video))
    )


def test_parameters_are_as_many_as_published():
    head = TS2Net()
    parts = dict.fromkeys(("temporal", "selector"), 0)
    for name, parameter in head.named_parameters():
        parts["selector" if "selector" in name else "temporal"] += parameter.numel()
    assert parts == {"temporal": 12_648_960, "selector": 263_424}
    assert head.visual_token_selector.samples == 500


def test_what_ts2net_cannot_take_is_refused():
    TS2Net(width=16, frames=19)
    with pytest.raises(UsageError, match=r"at most 77 positions, got 80 \(20 frames of 4\)"):
        TS2Net(width=16, frames=20)
    TS2Net(width=16, frames=25, top=2)
    head, (cls, patches) = TS2Net(width=16, layers=1), tokens()
    with pytest.raises(IncompatibleError, match="extract with patches"):
        head.prepare_video(VideoFeatures(cls, torch.ones(2, 3).bool(), None))
    empty = torch.tensor([[True] * 3, [False] * 3])
    with pytest.raises(TtvrError, match="video 1 of the batch has no real frame"):
        head.prepare_video(VideoFeatures(cls, empty, patches))
    state = {**head.state_dict(), "prompt_encoder.weight": torch.ones(2)}
    assert TS2Net.from_official(state).width == 16
