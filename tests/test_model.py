"""CLIP's towers: a loop oracle, stored outputs of the published model, and what build refuses."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_state
from torch.nn import functional as F

from ttvr.clip.layers import Attention
from ttvr.clip.model import build
from ttvr.devices import autocast
from ttvr.errors import IncompatibleError

VISUAL = (
    "visual_w64h1_l4_t6_b2s3k10",
    "visual_w64h1_l4_t8_two_stage",
    "visual_w64h2_l4_t6_b2s2k12",
)


def attention_oracle(x, state, prefix, heads, *, causal):
    """One token and one head at a time."""
    D = x.shape[-1]
    width = D // heads
    qkv = x @ state[f"{prefix}.in_proj_weight"].T + state[f"{prefix}.in_proj_bias"]
    out = torch.zeros_like(x)
    for h in range(heads):
        q, k, v = (qkv[:, part * D + h * width :][:, :width] for part in range(3))
        for i in range(len(x)):
            seen = i + 1 if causal else len(x)
            weight = torch.softmax(k[:seen] @ q[i] / math.sqrt(width), dim=0)
            out[i, h * width : (h + 1) * width] = weight @ v[:seen]
    return out @ state[f"{prefix}.out_proj.weight"].T + state[f"{prefix}.out_proj.bias"]


def norm_oracle(x, state, prefix):
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / torch.sqrt(centered.pow(2).mean(-1, keepdim=True) + 1e-5)
    return scaled * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def transformer_oracle(
    frames, state, prefix, *, layers, heads, causal, activation, site=None, at=None
):
    """Of [T, N, D]; `shifted` is what a token reducer does at a site of the block of index `at`."""
    for n in range(layers):
        block = f"{prefix}.resblocks.{n}"
        moves = {site: shifted} if n == at else {}
        x = moves.get("block", unmoved)(frames)
        attended = moves.get("attention", unmoved)(norm_oracle(x, state, f"{block}.ln_1"))
        x = x + torch.stack(
            [
                attention_oracle(one, state, f"{block}.attn", heads, causal=causal)
                for one in attended
            ]
        )
        x = moves.get("mlp", unmoved)(x)
        h = norm_oracle(x, state, f"{block}.ln_2")
        h = h @ state[f"{block}.mlp.c_fc.weight"].T + state[f"{block}.mlp.c_fc.bias"]
        h = h / (1 + torch.exp(-1.702 * h)) if activation == "quick_gelu" else F.gelu(h)
        frames = x + h @ state[f"{block}.mlp.c_proj.weight"].T + state[f"{block}.mlp.c_proj.bias"]
    return frames


def shifted(x):
    """Frames, tokens and channels, each by another step: no layer of the tower commutes with it."""
    return x.roll((1, 2, 3), dims=(-3, -2, -1))


def unmoved(x):
    return x


def visual_oracle(frames, state, **options):
    """[T, 3, 32, 32] -> projected tokens [T, 17, 32]."""
    embedded = []
    for image in frames:
        patches = [
            (image[:, y : y + 8, x : x + 8] * state["visual.conv1.weight"]).sum((1, 2, 3))
            for y in range(0, 32, 8)
            for x in range(0, 32, 8)
        ]
        embedded.append(torch.stack([state["visual.class_embedding"], *patches]))
    x = torch.stack(embedded) + state["visual.positional_embedding"]
    x = norm_oracle(x, state, "visual.ln_pre")
    x = transformer_oracle(
        x, state, "visual.transformer", layers=2, heads=2, causal=False, **options
    )
    return norm_oracle(x, state, "visual.ln_post") @ state["visual.proj"]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_towers_equal_a_loop(activation):
    state = {name: t.double() for name, t in tiny_state(seed=3).items()}
    model = build(state, heads=2, text_heads=4, activation=activation)
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = visual_oracle(pixels, state, activation=activation)[1]
    video = model.encode_video(pixels[None], torch.ones(1, 3, dtype=torch.bool), patches=True)
    torch.testing.assert_close(video.frames[0, 1], expected[0])
    torch.testing.assert_close(video.patches[0, 1], expected[1:])
    torch.testing.assert_close(model.encode_image(pixels)[1], expected[0])

    ids = torch.tensor([[598, 5, 17, 3, 599, 0, 0], [598, 9, 599, 0, 0, 0, 0]])
    x = state["token_embedding.weight"][ids[0]] + state["positional_embedding"][:7]
    options = {"layers": 2, "heads": 4, "causal": True, "activation": activation}
    x = transformer_oracle(x[None], state, "transformer", **options)
    expected = norm_oracle(x[0], state, "ln_final") @ state["text_projection"]
    text = model.encode_text(ids)
    torch.testing.assert_close(text.words[0], expected)
    torch.testing.assert_close(text.sentence[0], expected[4])
    assert text.mask.tolist() == [[True] * 5 + [False] * 2, [True] * 3 + [False] * 4]


@pytest.mark.parametrize("name", VISUAL)
def test_published_outputs(shared, name):
    golden = np.load(shared / "golden" / "centerclip" / f"{name}.npz")
    cfg = json.loads(str(golden["cfg"]))
    state = {key[3:]: torch.from_numpy(golden[key]) for key in golden if key.startswith("sd/")}
    text = cfg["text"] or {"heads": None}
    model = build(state, heads=cfg["heads"], text_heads=text["heads"])
    frames = torch.from_numpy(golden["frames"])
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    with torch.inference_mode():
        for patches in (False, True):
            found = model.encode_video(frames, mask, patches=patches).frames
            np.testing.assert_allclose(found, golden["feat_nocluster"], atol=1e-5, rtol=0)
        if "text_ids" in golden:
            found = model.encode_text(torch.from_numpy(golden["text_ids"]).long()).sentence
            np.testing.assert_allclose(found, golden["text_feat"], atol=1e-5, rtol=0)


def test_trailing_padding_never_changes_a_sentence():
    model = build(tiny_state()).double()
    ids = torch.tensor([[598, 5, 17, 3, 599] + [0] * 72, [598, 9, 599] + [0] * 74])
    long, short = model.encode_text(ids), model.encode_text(ids[:, :5])
    torch.testing.assert_close(long.sentence, short.sentence, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(long.words[:, :5], short.words, atol=1e-12, rtol=1e-12)


def test_gradient_reaches_every_parameter():
    model = build(tiny_state()).train()
    ids = torch.tensor([[598, 5, 599]])
    video = model.encode_video(torch.randn(1, 2, 3, 32, 32), torch.ones(1, 2, dtype=torch.bool))
    loss = video.frames.square().sum() + model.encode_text(ids).sentence.square().sum()
    (loss * model.logit_scale.exp()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("length", [50, 300])  # by products, and by torch's fused attention
@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_near(length, causal):
    torch.manual_seed(0)
    attention = Attention(64, 2)
    for tensor in attention.parameters():
        torch.nn.init.normal_(tensor, std=0.1)
    x = torch.randn(2, length, 64)
    seen = None if causal else torch.rand(2, length) < 0.5
    with torch.inference_mode():
        wide = attention(x, causal=causal, seen=seen)
        with autocast(x.device, "bf16"):
            narrow = attention(x, causal=causal, seen=seen)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, atol=2e-2, rtol=2e-2)  # of 8 bits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_gives_the_same_gradients(precision):
    torch.manual_seed(0)
    frames, mask = torch.randn(2, 4, 3, 32, 32), torch.ones(2, 4, dtype=torch.bool)
    seen = []

    def halve(tokens, mask):
        seen.append(torch.rand(3))  # what a reducer draws, it draws again
        left = tokens.unflatten(1, (2, 2)).mean(2)[:, :, :5] * seen[-1].mean()
        return SimpleNamespace(tokens=left, mask=mask[:, ::2])

    halve.sites = ("block",)
    gradients = []
    for is_checkpointing in (False, True):
        visual = build(tiny_state(layers=3)).train().visual
        visual.checkpointing = is_checkpointing
        torch.manual_seed(1)
        with autocast(frames.device, precision):
            found = visual(frames, mask, {1: halve}).frames
        found.float().square().sum().backward()
        gradients.append([parameter.grad for parameter in visual.parameters()])
    assert [torch.equal(draw, seen[0]) for draw in seen] == [True] * 3  # the block ran again
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


class Recorder:
    """Notes the shapes it is called with and halves the frames at its block site."""

    def __init__(self, sites):
        self.sites, self.calls = sites, []

    def __call__(self, tokens, mask):
        self.calls.append((tuple(tokens.shape), tuple(mask.shape)))
        if self.sites != ("block",):
            return SimpleNamespace(tokens=tokens + 1, mask=mask)
        T = mask.shape[1] // 2
        kept = tokens.unflatten(1, (T, 2)).mean(2)[:, :, :5]
        return SimpleNamespace(tokens=kept, mask=mask.unflatten(1, (T, 2)).any(2))


def test_reducers_are_called_where_they_act():
    model = build(tiny_state())
    frames, mask = torch.randn(2, 4, 3, 32, 32), torch.ones(2, 4, dtype=torch.bool)
    halver, shifter = Recorder(("block",)), Recorder(("attention", "mlp"))
    with torch.inference_mode():
        video = model.encode_video(frames, mask, {0: shifter, 1: halver}, patches=True)
        plain = model.encode_video(frames, mask, {1: halver})
    assert halver.calls[0] == ((2, 4, 17, 64), (2, 4))
    assert shifter.calls == [((2, 4, 17, 64), (2, 4))] * 2
    assert video.frames.shape == plain.frames.shape == (2, 2, 32)
    assert video.mask.shape == (2, 2)
    assert video.patches.shape == (2, 2, 4, 32)
    assert not torch.allclose(video.frames, plain.frames)


def reducer(change, *sites):
    """Does the same to the tokens at each of its sites."""

    def call(tokens, mask):
        return SimpleNamespace(tokens=change(tokens), mask=mask)

    call.sites = sites
    return call


def test_a_reducer_that_changes_nothing_gives_the_plain_features():
    model = build(tiny_state())
    frames, mask = torch.randn(2, 3, 3, 32, 32), torch.tensor([[True] * 3, [True, True, False]])
    idle = reducer(unmoved, "block", "attention", "mlp")
    with torch.inference_mode():
        plain = model.encode_video(frames, mask, patches=True)
        found = model.encode_video(frames, mask, {0: idle, 1: idle}, patches=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
def test_a_reducer_acts_at_its_site_as_in_the_loop(site, at):
    state = {name: t.double() for name, t in tiny_state(seed=5).items()}
    model = build(state, heads=2)
    frames = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    expected = visual_oracle(frames, state, activation="quick_gelu", site=site, at=at)
    found = model.encode_video(frames[None], mask, {at: reducer(shifted, site)}, patches=True)
    torch.testing.assert_close(found.frames[0], expected[:, 0])
    torch.testing.assert_close(found.patches[0], expected[:, 1:])


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("queries", [None, 1])
def test_what_sees_nothing_gathers_nothing(learns, queries):
    """Not even NaN, which a softmax over nothing would be, nor in the gradient."""
    torch.manual_seed(0)
    attention = Attention(8, 2)
    for tensor in attention.parameters():
        torch.nn.init.normal_(tensor)
    x = torch.randn(2, 5, 8, requires_grad=learns)
    seen = torch.tensor([[False] * 5, [True, False, True, True, False]])
    with torch.set_grad_enabled(learns):
        found = attention(x, seen=seen, queries=queries)
        alone = attention(x[1:, [0, 2, 3]], queries=queries)
    expected = attention.out_proj.bias.expand_as(found[0])
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1, 0], alone[0, 0])
    if learns:
        found.sum().backward()
        assert x.grad.isfinite().all()
        assert not x.grad[0].any()


def test_one_tower_builds_that_tower():
    state = tiny_state()
    eyes = build({name: t for name, t in state.items() if name.startswith("visual.")})
    assert eyes.encode_image(torch.randn(1, 3, 32, 32)).shape == (1, 32)
    with pytest.raises(IncompatibleError, match="no text tower"):
        eyes.encode_text(torch.tensor([[1]]))
    voice = build({name: t for name, t in state.items() if not name.startswith("visual.")})
    assert voice.encode_text(torch.tensor([[598, 599]])).sentence.shape == (1, 32)
    with pytest.raises(IncompatibleError, match="no visual tower"):
        voice.encode_image(torch.randn(1, 3, 32, 32))


def test_the_model_owns_its_weights():
    state = tiny_state()
    before = state["visual.proj"].clone()
    with torch.no_grad():
        build(state).visual.proj.zero_()
    assert torch.equal(state["visual.proj"], before)


def test_a_gap_in_the_numbers_of_blocks_is_refused():
    state = {n.replace("s.1.", "s.999999999."): t for n, t in tiny_state().items()}
    with pytest.raises(IncompatibleError, match=r"missing 24 .*unknown 24"):
        build(state)


def test_the_model_has_the_dtype_that_all_tensors_fit_in():
    state = tiny_state()
    halves = {name: tensor.half() for name, tensor in state.items()}
    assert {p.dtype for p in build(halves).parameters()} == {torch.float16}
    first = next(iter(state))
    mixed = build({**state, first: halves[first]})
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert torch.equal(mixed.visual.proj, state["visual.proj"])


def test_what_does_not_fit_is_refused():
    state = tiny_state()
    for broken in (
        {name: t for name, t in state.items() if name != "ln_final.bias"},
        {**state, "extra": torch.zeros(1)},
        {**state, "ln_final.bias": torch.zeros(3)},
        {**state, "visual.conv1.weight": torch.zeros(2, 2)},
        {**state, "visual.proj": torch.tensor(1.0)},
        {**state, "logit_scale": torch.tensor(3)},
        {"a": torch.zeros(2)},
        {},
    ):
        with pytest.raises(IncompatibleError):
            build(broken)
    for heads in (7, 0, -2):
        with pytest.raises(IncompatibleError, match=f"into {heads} heads"):
            build(state, heads=heads)
        with pytest.raises(IncompatibleError, match=f"into {heads} heads"):
            build(state, text_heads=heads)
    with pytest.raises(ValueError, match="relu"):
        build(state, activation="relu")
    with pytest.raises(ValueError, match="78 tokens"):
        build(state).encode_text(torch.zeros(1, 78, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\[2, 3, 16, 16\]"):
        build(state).encode_image(torch.zeros(2, 3, 16, 16))


@pytest.mark.cuda
def test_cuda_equals_cpu():
    model, pixels = build(tiny_state()), torch.randn(2, 3, 32, 32)
    on_cpu = model.encode_image(pixels)
    on_gpu = model.cuda().encode_image(pixels.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=1e-4)
