"""tightTransf against its authors' numbers and its equations."""

from __future__ import annotations

import pytest
import torch
from golden_heads import Golden

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads import tight_transf
from ttvr.heads.tight_transf import TightTransf
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score import similarity_matrix

CASES = ("corr", "iid")
SCALE = torch.tensor(20.0)


def features(texts, videos, width, frames, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sentence = torch.randn(texts, width, generator=generator, dtype=dtype)
    text = TextFeatures(sentence, sentence[:, None], torch.ones(texts, 1, dtype=torch.bool))
    x = torch.randn(videos, frames, width, generator=generator, dtype=dtype)
    counts = 1 + torch.arange(videos) % frames
    return text, VideoFeatures(x, torch.arange(frames) < counts[:, None], None)


def perturbed(**options):
    """A head whose weights are far from their small beginnings."""
    torch.manual_seed(0)
    head = TightTransf(**options).double().eval()
    for parameter in head.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return head


@pytest.mark.parametrize("case", CASES)
def test_it_equals_its_authors(shared, case):
    file = f"clip4clip_tightTransf_{case}"
    golden = Golden(shared, file)
    head = golden.head(TightTransf)
    logits = head(golden.text(), golden.video(), SCALE)
    golden.close(logits, "sim")
    B = min(logits.shape)
    loss = info_nce(logits[:B, :B])
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("frames", "sent"))
    assert sum(key.startswith("grad/") for key in golden.exact) == len(list(head.parameters()))

    single = Golden(shared, file, torch.float32)
    single.near(single.head(TightTransf)(single.text(), single.video(), SCALE))


def norm(x, layer):
    x = x - x.mean()
    return x / (x.pow(2).mean() + 1e-12).sqrt() * layer.weight + layer.bias


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.no_grad()
def test_it_equals_a_loop(layers):
    D, H, T = 8, 2, 4
    head = perturbed(width=D, frames=T, heads=H, layers=layers, positions=6)
    text, video = features(3, 4, D, T)
    found = head(text, video, SCALE)
    positions = head.cross["embeddings"]["position_embeddings"].weight
    for t in range(3):
        for v in range(4):
            real = [True, *video.mask[v].tolist()]
            rows = [text.sentence[t], *video.frames[v]]
            rows = [row + positions[i] for i, row in enumerate(rows)]
            for block in head.cross["transformer"].resblocks:
                attn, new = block.attn, []
                qkv = [attn.in_proj_weight @ norm(r, block.ln_1) + attn.in_proj_bias for r in rows]
                for i in range(T + 1):
                    out = torch.zeros(D).double()
                    for h in range(H):
                        q, k, w = (
                            [x[part * D + h * D // H : part * D + (h + 1) * D // H] for x in qkv]
                            for part in range(3)
                        )
                        keys = [j for j in range(T + 1) if real[j]]
                        exps = [torch.exp(q[i] @ k[j] / (D / H) ** 0.5) for j in keys]
                        out[h * D // H : (h + 1) * D // H] = sum(
                            e / sum(exps) * w[j] for e, j in zip(exps, keys, strict=True)
                        )
                    new.append(rows[i] + attn.out_proj.weight @ out + attn.out_proj.bias)
                rows = [
                    x + block.mlp.c_proj(quick_gelu(block.mlp.c_fc(norm(x, block.ln_2))))
                    for x in new
                ]
            pooler = head.cross["pooler"]
            pooled = quick_gelu(pooler["dense"](norm(rows[0], pooler["ln_pool"])))
            score = pooled @ head.similarity_dense.weight[0] + head.similarity_dense.bias[0]
            torch.testing.assert_close(found[t, v], score)


def test_the_scale_does_not_enter_and_nothing_is_normalized():
    head = perturbed(width=16, frames=4, layers=2)
    text, video = features(3, 2, 16, 4)
    logits = head(text, video, SCALE)
    assert torch.equal(logits, head(text, video, 7 * SCALE))
    longer = head(text._replace(sentence=2 * text.sentence), video, SCALE)
    assert (longer - logits).abs().max() > 1e-3
    assert not TightTransf.gather
    assert not TightTransf.offline


@torch.no_grad()
def test_any_number_of_pairs_at_once_gives_the_same(monkeypatch):
    head = perturbed(width=16, frames=4, layers=2)
    text, video = features(5, 3, 16, 4)
    whole = head(text, video, SCALE)
    seen = []
    score = head._score

    def noted(text, video, t, v):
        seen.append(len(t))
        return score(text, video, t, v)

    monkeypatch.setattr(head, "_score", noted)
    monkeypatch.setattr(tight_transf, "_HELD", 9 * 16 * 5 * 4)  # four pairs
    torch.testing.assert_close(head(text, video, SCALE), whole)
    assert seen == [4, 4, 4, 3]
    seen.clear()
    similarity_matrix(head.float(), text, video, memory=2 * 4 * 3 * head.pair_floats())
    assert max(seen) <= 3
    assert sum(seen) == 15


@torch.no_grad()
def test_frames_of_padding_change_nothing():
    head = perturbed(width=16, frames=8, layers=2)
    text, video = features(3, 4, 16, 4)
    more = torch.full((4, 4, 16), torch.nan).double()
    longer = VideoFeatures(
        torch.cat([video.frames, more], dim=1),
        torch.cat([video.mask, torch.zeros(4, 4, dtype=torch.bool)], dim=1),
        None,
    )
    torch.testing.assert_close(head(text, longer, SCALE), head(text, video, SCALE))


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_is_on_the_sequence_alone_and_of_each_pair(monkeypatch, layers):
    head = perturbed(width=16, frames=4, layers=layers).train()
    text, video = features(4, 4, 16, 4)
    dropped = []

    def drop(x, p):
        dropped.append((tuple(x.shape), p))
        return x

    monkeypatch.setattr(tight_transf.F, "dropout", drop)
    trained = head(text, video, SCALE)
    assert dropped == [((16, 5, 16), 0.1)]
    torch.testing.assert_close(trained, head.eval()(text, video, SCALE))
    monkeypatch.undo()
    torch.manual_seed(0)
    same = TextFeatures(*(x[:1].expand(4, *x.shape[1:]) for x in text))
    rows = head.train()(same, video, SCALE)
    assert (rows[0] - rows[1]).abs().max() > 1e-3


def test_it_learns_what_matches():
    torch.manual_seed(0)
    head = TightTransf(width=16, frames=4, layers=2).eval()
    text, video = features(6, 6, 16, 4, dtype=torch.float32)
    video = video._replace(frames=video.frames + 2 * text.sentence[:, None])
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        losses.append(head.losses(text, video, SCALE)["nce"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0].item() == pytest.approx(torch.tensor(6.0).log().item(), abs=0.1)
    assert losses[-1] < losses[0] / 2


def test_parameters_are_as_many_as_published():
    assert sum(parameter.numel() for parameter in TightTransf().parameters()) == 12_913_153


def test_it_starts_from_the_text_tower(caplog):
    from ttvr.clip import weights
    from ttvr.clip.model import build

    clip = build(weights.random_state(weights.SIZES["ttvr-tiny"], seed=0))
    head = TightTransf(width=clip.width, layers=4)
    with caplog.at_level("INFO"):
        head.init_from_clip(clip)
    assert caplog.messages == ["TightTransf: 3 blocks start as CLIP's text blocks, 1 as new"]
    table = head.cross["embeddings"]["position_embeddings"].weight
    assert torch.equal(table, clip.positional_embedding)
    first = head.cross["transformer"].resblocks[0].state_dict()
    for name, tensor in clip.transformer.resblocks[0].state_dict().items():
        assert torch.equal(first[name], tensor)
    assert head.cross["pooler"]["dense"].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.similarity_dense.bias.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"at most 77 positions, got 78 \(.* 77 frames\)"):
        TightTransf(frames=77)
    with pytest.raises(UsageError, match="width 512 does not divide into 3 heads"):
        TightTransf(heads=3)
    head = TightTransf(width=16, layers=2)
    state = head.state_dict()
    del state["cross.pooler.dense.bias"]
    with pytest.raises(IncompatibleError, match=r"missing cross\.pooler\.dense\.bias"):
        TightTransf.from_official(state)
    with pytest.raises(IncompatibleError, match=r"missing cross\.embeddings"):
        TightTransf.from_official({})
    empty = torch.tensor([[True] * 3, [False] * 3])
    with pytest.raises(TtvrError, match="video 1 of the batch has no real frame"):
        head.prepare_video(VideoFeatures(torch.randn(2, 3, 16), empty, None))
    long = VideoFeatures(torch.randn(2, 77, 16), torch.ones(2, 77, dtype=torch.bool), None)
    with pytest.raises(UsageError, match="TightTransf has 77 positions, got a sequence of 78"):
        head.prepare_video(long)
