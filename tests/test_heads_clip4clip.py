"""CLIP4Clip's calculators against their authors' numbers, and the temporal step they share."""

from __future__ import annotations

import pytest
import torch
from golden_heads import EXACT, Golden

from ttvr import plugins
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads._temporal import TemporalHead
from ttvr.heads.seq_lstm import SeqLSTM
from ttvr.heads.seq_transf import SeqTransf
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

CASES = ("corr", "iid")
OFFICIAL = {"meanp": "meanP", "seq_lstm": "seqLSTM", "seq_transf": "seqTransf"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", OFFICIAL)
def test_loose_heads_equal_their_authors(shared, name, case):
    file = f"clip4clip_{OFFICIAL[name]}_{case}"
    golden, plugin = Golden(shared, file), plugins.load("heads", name)
    head = golden.head(plugin)
    logits = head(golden.text(), golden.video(), golden.scale())
    golden.close(logits, "sim")
    B = min(logits.shape)
    loss = info_nce(logits[:B, :B])
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("frames", "sent"))

    single = Golden(shared, file, torch.float32)
    single.near(single.head(plugin)(single.text(), single.video(), single.scale()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["seq_lstm", "seq_transf"])
def test_the_temporal_step_equals_its_authors(shared, name, case):
    golden = Golden(shared, f"temporal_{OFFICIAL[name]}_{case}")
    head = golden.head(plugins.load("heads", name))
    out = head.temporal_frames(golden.video())
    golden.close(out, "out")
    (out * golden["loss_weight"]).sum().backward()
    golden.gradients_are_close(head, ("frames",))

    single = Golden(shared, f"temporal_{OFFICIAL[name]}_{case}", torch.float32)
    head = single.head(plugins.load("heads", name))
    single.near(head.temporal_frames(single.video()), "out", "f32_max_abs_err")


def test_rows_beyond_the_longest_video_do_not_depend_on_it(shared):
    golden = Golden(shared, "temporal_seqTransf_shortbatch")
    golden.close(golden.head(SeqTransf).temporal_frames(golden.video()), "out")
    golden = Golden(shared, "temporal_seqLSTM_shortbatch")
    out, video = golden.head(SeqLSTM).temporal_frames(golden.video()), golden.video()
    longest = int(video.mask.sum(1).max())
    assert longest < video.mask.shape[1]
    torch.testing.assert_close(out[:, :longest], golden["out"][:, :longest], **EXACT)
    # The authors' code gives twice the input there, or once, as the batch has it.
    torch.testing.assert_close(2 * out[:, longest:], golden["out"][:, longest:], **EXACT)


def test_the_lstm_equals_a_loop():
    torch.manual_seed(0)
    head, D = SeqLSTM(width=6).double(), 6
    x = torch.randn(2, 5, D, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    out, lstm = head.temporal_step(x, mask), head.lstm_visual
    for b in range(2):
        h, c = torch.zeros(D).double(), torch.zeros(D).double()
        for t in range(int(mask[b].sum())):
            gates = lstm.weight_ih_l0 @ x[b, t] + lstm.bias_ih_l0
            gates = gates + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
            i, f, g, o = gates.split(D)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            torch.testing.assert_close(out[b, t], x[b, t] + h)


def test_the_transformer_equals_a_loop():
    torch.manual_seed(0)
    D, H = 8, 2
    head = SeqTransf(width=D, layers=2, heads=H).double()
    x = torch.randn(1, 4, D, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    y = x[0] + head.frame_position_embeddings.weight[:4]
    for block in head.transformerClip.resblocks:
        n = torch.nn.functional.layer_norm(y, (D,), block.ln_1.weight, block.ln_1.bias, 1e-12)
        q, k, v = (n @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(D, dim=1)
        new = torch.zeros_like(y)
        for h in range(H):
            part = slice(h * D // H, (h + 1) * D // H)
            for i in range(4):
                scores = torch.stack([q[i, part] @ k[j, part] for j in range(3)])
                weights = (scores / (D / H) ** 0.5).softmax(0)
                new[i, part] = sum(w * v[j, part] for j, w in enumerate(weights))
        y = y + block.attn.out_proj(new)
        n = torch.nn.functional.layer_norm(y, (D,), block.ln_2.weight, block.ln_2.bias, 1e-12)
        u = block.mlp.c_fc(n)
        y = y + block.mlp.c_proj(u * torch.sigmoid(1.702 * u))
    torch.testing.assert_close(head.temporal_step(x, mask)[0], y + x[0])


@pytest.mark.parametrize(
    ("name", "parameters"), [("meanp", 0), ("seq_lstm", 2_101_248), ("seq_transf", 12_648_960)]
)
def test_parameters_are_as_many_as_published(name, parameters):
    head = plugins.load("heads", name)()
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters


@pytest.mark.parametrize("name", ["meanp", "seq_lstm", "seq_transf"])
def test_the_length_of_features_matters_to_a_temporal_step_alone(name):
    torch.manual_seed(0)
    head = plugins.load("heads", name)(width=64).double().eval()
    for parameter in head.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    words, mask = torch.randn(3, 2, 64).double(), torch.ones(3, 2, dtype=torch.bool)
    text, video = TextFeatures(words[:, 1], words, mask), VideoFeatures(words.flip(0), mask, None)
    louder = (
        text._replace(sentence=7 * text.sentence),
        video._replace(frames=7 * video.frames),
    )
    scale = torch.tensor(1.0)
    moved = (head(*louder, scale) - head(text, video, scale)).abs().max()
    assert (moved < 1e-12) if name == "meanp" else (moved > 1e-2)


@pytest.mark.parametrize(
    "name", ["drl", "seq_transf", "tc_mgc", "tight_transf", "ts2net", "ucofia", "xclip"]
)
def test_new_weights_are_drawn_as_published(name):
    torch.manual_seed(0)
    head = plugins.load("heads", name)(width=64)
    drawn, biases = [], []
    for part in head.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
            drawn.append(part.weight.flatten())
            biases += [] if getattr(part, "bias", None) is None else [part.bias]
    drawn = torch.cat(drawn)
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
    assert drawn.abs().max() < 0.12  # six deviations: nothing else is among them
    assert not any(bias.any() for bias in biases)
    matrices = [p for n, p in head.named_parameters() if "mat_weight" in n or "logit_weight" in n]
    assert all(torch.equal(p, torch.eye(len(p))) for p in matrices)
    assert bool(matrices) == (name in ("tc_mgc", "ucofia", "xclip"))


def test_the_transformer_starts_from_the_text_tower(caplog):
    from ttvr.clip import weights
    from ttvr.clip.model import build

    state = weights.random_state(weights.SIZES["ttvr-tiny"], seed=0)
    clip = build(state)
    width = clip.width
    head = SeqTransf(width=width, layers=4)
    with caplog.at_level("INFO"):
        head.init_from_clip(clip)
    assert caplog.messages == ["SeqTransf: 3 blocks start as CLIP's text blocks, 1 as new"]
    assert torch.equal(head.frame_position_embeddings.weight, clip.positional_embedding)
    for ours, theirs in zip(
        head.transformerClip.resblocks, clip.transformer.resblocks, strict=False
    ):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor)
    last = head.transformerClip.resblocks[3]
    assert last.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not last.mlp.c_fc.bias.any()
    other = SeqTransf(width=2 * width)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    other.init_from_clip(clip)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="at most 77 positions, got 78"):
        SeqTransf(frames=78)
    with pytest.raises(UsageError, match="width 512 does not divide into 3 heads"):
        SeqTransf(heads=3)
    with pytest.raises(UsageError, match="temporal is one of"):
        TemporalHead(temporal="mean")
    head = SeqTransf(width=16, layers=2)
    state = head.state_dict()
    with pytest.raises(IncompatibleError, match="unknown stray"):
        SeqTransf.from_official({**state, "stray": torch.ones(1)})
    torn = {name: tensor for name, tensor in state.items() if "1.ln_2" not in name}
    with pytest.raises(IncompatibleError, match=r"missing .*resblocks.1.ln_2.bias"):
        SeqTransf.from_official(torn)
    state["transformerClip.resblocks.0.ln_1.weight"] = torch.ones(7)
    with pytest.raises(IncompatibleError, match=r"ln_1.weight \[7\], expected \[16\]"):
        SeqTransf.from_official(state)
    empty = torch.tensor([[True] * 3, [False] * 3])
    with pytest.raises(TtvrError, match="video 1 of the batch has no real frame"):
        head.prepare_video(VideoFeatures(torch.randn(2, 3, 16), empty, None))
    long = VideoFeatures(torch.randn(2, 78, 16), torch.ones(2, 78, dtype=torch.bool), None)
    with pytest.raises(UsageError, match="SeqTransf has 77 positions, got a sequence of 78"):
        head.prepare_video(long)


@pytest.mark.parametrize(
    ("name", "most"),
    [("meanp", None), ("seq_lstm", None), ("seq_transf", 77), ("tight_transf", 76), ("ts2net", 19)],
)
def test_heads_tell_how_many_frames_they_have_positions_for(name, most):
    assert plugins.load("heads", name)(width=16).most_frames == most


@pytest.mark.parametrize("name", ["drl", "seq_lstm", "tc_mgc", "ucofia", "xclip"])
def test_positions_beside_an_lstm_are_of_no_use(name):
    plugin = plugins.load("heads", name)
    options = {} if name == "seq_lstm" else {"temporal": "seq_lstm"}
    state = plugin(width=16, **options).state_dict()
    table = {"frame_position_embeddings.weight": torch.ones(77, 16)}
    again = plugin.from_official({**state, **table})
    assert (again.temporal, again.width) == ("seq_lstm", 16)
    assert again.state_dict().keys() == state.keys()
