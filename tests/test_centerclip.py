"""Token reduction against the numbers of CenterCLIP's and TS2-Net's authors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ttvr.clip.model import build as build_clip
from ttvr.heads.meanp import MeanP
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.reducers import build, parse
from ttvr.reducers._base import merged_mask
from ttvr.reducers.sparse import middles

VISUAL = {
    "visual_w64h1_l4_t6_b2s3k10": ["kmedoids@2:3,10"],
    "visual_w64h1_l4_t8_two_stage": ["kmedoids@1:4,12", "kmedoids@3:2,9"],
    "visual_w64h2_l4_t6_b2s2k12": ["kmedoids@2:2,12"],
}
BASELINES = {
    "pooling@6:4": "pooling",
    "sparse@6:4,10": "sparse_eval",
    "token_shift": "token_shift",
    "temporal_shift": "temporal_shift",
    "kmedoids@6:4,10": "kmedoids_canon",
    "kmedoids@6:4,10,aggregation=mean": "kmedoids_canon_mean_aggregation",
    "kmedoids@6:4,10,cluster_embedding=true": "kmedoids_canon_with_cluster_embed",
}


@pytest.fixture(scope="module")
def golden(shared):
    def read(name, family="centerclip"):
        with np.load(shared / "golden" / family / f"{name}.npz", allow_pickle=False) as file:
            content = {key: file[key] for key in file.files}
        return {
            key: torch.from_numpy(value) if value.dtype.kind in "fi" else value
            for key, value in content.items()
        }

    return read


def videos(columns, count):
    """[1+P, B*T, D], as the authors have it, to [B, T, 1+P, D]."""
    return columns.transpose(0, 1).unflatten(0, (count, -1))


def reducers(texts, *, layers, width, patches, frames):
    stages = parse(texts)
    made = build(stages, layers=layers, width=width, patches=patches, frames=[frames]).reducers
    for reducer in made.values():
        reducer.eval()
    return made


@pytest.mark.parametrize("text", BASELINES)
def test_one_reduction(text, golden):
    data = golden("baselines_b2_t12_p16_d32_s4_k10")
    reducer = next(
        iter(reducers([text], layers=12, width=32, patches=16, frames=12).values())
    ).requires_grad_(False)
    if "cluster_embedding" in text:
        reducer.cluster_embedding.copy_(data["cluster_embed"])
    found = reducer(videos(data["x"], 2), torch.ones(2, 12, dtype=torch.bool))
    expected = videos(data[BASELINES[text]], 2)
    torch.testing.assert_close(found.tokens, expected, atol=1e-6, rtol=0)
    assert found.mask.shape == expected.shape[:2]
    if found.clusters is not None:
        assert torch.equal(found.clusters.centers, data["kmedoids_canon_ids"].long())
        assert torch.equal(found.clusters.assignment, data["kmedoids_canon_assign"].long())


def test_sparse_indices(golden):
    data = golden("baselines_b2_t12_p16_d32_s4_k10")
    tried = 0
    for name, indices in data.items():
        if name.startswith("sparse_idx"):
            K, N = (int(part[1:]) for part in name.split("_")[2:])
            if K <= N:  # beyond it the published code goes out of range
                assert torch.equal(middles(torch.tensor([N]), K)[0], indices.long()), name
                tried += 1
    assert tried == 9


@pytest.mark.parametrize("tokens", [29, 50])
def test_patch_shift(tokens, golden):
    data = golden(f"ts2net_tokenshift_L{tokens}", "heads")
    x = videos(data["x"], 2)
    (reducer, _) = reducers(
        ["patch_shift"], layers=12, width=32, patches=tokens - 1, frames=6
    ).values()
    found = reducer(x, torch.ones(2, 6, dtype=torch.bool))
    assert torch.equal(found.tokens, videos(data["shifted"], 2))


@pytest.fixture(scope="module")
def visual(golden):
    """A golden file, the model it describes, and its reducers."""

    def read(name):
        data = golden(name)
        data["cfg"] = json.loads(str(data["cfg"]))
        state = {key[3:]: value for key, value in data.items() if key.startswith("sd/")}
        clip = build_clip(state, heads=data["cfg"]["heads"], text_heads=1)
        sizes = {"layers": 4, "width": 64, "patches": 16, "frames": data["cfg"]["T"]}
        return data, clip, reducers(VISUAL[name], **sizes)

    return read


def all_real(data):
    return torch.ones(2, data["cfg"]["T"], dtype=torch.bool)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VISUAL)
def test_tower(name, visual):
    data, clip, made = visual(name)
    calls = []
    hooks = [
        reducer.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
        for reducer in made.values()
    ]
    with torch.inference_mode():
        found = clip.encode_video(data["frames"], all_real(data), made, patches=True)
        for hook in hooks:
            hook.remove()
        lean = clip.encode_video(data["frames"], all_real(data), made)
        plain = clip.encode_video(data["frames"], all_real(data))
    close(plain.frames, data["feat_nocluster"])
    close(calls[0][0], data["tokens_before_cluster"])
    assert len(calls) == len(made)
    for stage, (_, reduced) in enumerate(calls):
        assert torch.equal(reduced.clusters.centers, data[f"medoids_canon_stage{stage}"].long())
    close(found.frames, data["feat_cluster_canon"])
    close(lean.frames, data["feat_cluster_canon"])
    hidden = torch.cat([found.frames.unsqueeze(2), found.patches], dim=2)
    close(hidden, data["hidden_cluster_canon"])
    close(MeanP().vector_video(found), data["video_cluster_canon"])
    close(MeanP().vector_video(plain), data["video_nocluster"])


def test_gradients(visual):
    data, clip, made = visual("visual_w64h1_l4_t6_b2s3k10")
    vectors = MeanP().vector_video(clip.encode_video(data["frames"], all_real(data), made))
    (data["grad_probe"] * vectors).sum().backward()
    close(clip.visual.conv1.weight.grad, data["grad_conv1"])
    close(clip.visual.proj.grad, data["grad_proj"])


def test_logits(visual):
    name = "visual_w64h1_l4_t6_b2s3k10"
    data, clip, _ = visual(name)
    (text,) = VISUAL[name]
    sizes = {"layers": 4, "width": 64, "patches": 16, "frames": 6}
    with torch.inference_mode():
        words = clip.encode_text(data["text_ids"].long())
        close(words.sentence, data["text_feat"])
        for rule, is_published in (("last", True), ("any", False)):
            made = reducers([f"{text},segment_mask={rule}"], **sizes)
            found = clip.encode_video(data["frames"], data["video_mask"].bool(), made)
            assert torch.equal(found.mask, data["video_mask_after"].bool()) == is_published
            logits = MeanP()(words, found, clip.logit_scale.exp())
            assert torch.allclose(logits, data["logits_canon"], atol=1e-4) == is_published


@pytest.mark.parametrize(("T", "S"), [(12, 4), (12, 3), (12, 6), (60, 15)])
def test_masks_and_scores(T, S, golden):
    """The published rule, and where it leaves a video without a segment, any frame counts."""
    data = golden("mask_head_loss")
    mask = torch.arange(T) < torch.arange(T + 1).unsqueeze(1)
    published, found = data[f"mask_T{T}_S{S}"] == 1, merged_mask(mask, S, "last")
    is_left = published.any(dim=1)
    assert torch.equal(found[is_left], published[is_left])
    assert (~is_left).sum() == T // S
    assert torch.equal(found[~is_left], merged_mask(mask, S, "any")[~is_left])

    prefix = f"head_T{T}_S{S}"
    lengths = data[f"{prefix}_lengths"]
    mask = merged_mask(torch.arange(T) < lengths.unsqueeze(1), S, "last")
    sentence = data[f"{prefix}_text"][:, 0]
    text = TextFeatures(sentence, sentence.unsqueeze(1), torch.ones(7, 1, dtype=torch.bool))
    video = VideoFeatures(data[f"{prefix}_visual"], mask, None)
    logits = MeanP()(text, video, data["logit_scale"].exp())
    expected = data[f"{prefix}_logits"]
    has_number = ~expected.isnan()
    assert torch.equal((~has_number).any(dim=0), torch.arange(7) == 6)
    torch.testing.assert_close(logits[has_number], expected[has_number], atol=1e-5, rtol=1e-5)
    assert logits.isfinite().all()
    loss = info_nce(logits[:4, :4])
    torch.testing.assert_close(loss, data[f"{prefix}_loss_first4"][2], atol=1e-5, rtol=1e-5)


def test_segment_masks_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        S, d = (int(n) for n in torch.randint(1, 5, (2,), generator=generator))
        mask = torch.rand(3, S * d, generator=generator) < 0.4
        for b in range(3):
            parts = [mask[b, s * d : (s + 1) * d].tolist() for s in range(S)]
            has_any, last = [any(part) for part in parts], [part[-1] for part in parts]
            assert merged_mask(mask, S, "any")[b].tolist() == has_any
            assert merged_mask(mask, S, "last")[b].tolist() == (last if any(last) else has_any)
