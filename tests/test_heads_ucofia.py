"""UCoFiA against its authors' numbers, its equations as loops, and each choice of patches."""

from __future__ import annotations

import pytest
import torch
from golden_heads import EXACT, Golden

from ttvr.bench import _direct_fine
from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads import _fine_grained
from ttvr.heads.ucofia import PATCHES, UCoFiA
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

FILES = [
    *(f"meanP_{init}_{case}" for init in ("identity", "rand") for case in ("corr", "iid")),
    "seqTransf_rand_corr",
]
D, T, L, P = 12, 4, 5, 3
SIZES = {"width": D, "frames": T, "words": L}
SCALE = torch.tensor(20.0, dtype=torch.float64)


class Selected(UCoFiA):
    """Takes class tokens and patches as they were selected, [Nv, N, D]."""

    def visual_tokens(self, video):
        return video.patches


def features(texts=4, videos=3, patches=P, *, full=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, D, generator=generator, dtype=torch.float64)

    lengths = torch.full((texts,), L) if full else torch.tensor([5, 2, 4, 3])[:texts]
    counts = torch.full((videos,), T) if full else torch.tensor([4, 1, 3])[:videos]
    return (
        TextFeatures(draw(texts), draw(texts, L), torch.arange(L) < lengths[:, None]),
        VideoFeatures(draw(videos, T), torch.arange(T) < counts[:, None], draw(videos, T, patches)),
    )


def make(**options):
    """A head whose matrices are no longer the identity, in float64."""
    torch.manual_seed(0)
    head = UCoFiA(**SIZES, **{"temporal": "none", "patches": "given", **options}).eval()
    with torch.no_grad():
        for matrix in head.parameters():
            matrix.add_(0.2 * torch.randn_like(matrix))
    return head.double()


def sims_of(head, text, video):
    return head.similarities(head.prepare_text(text), head.prepare_video(video))


@pytest.mark.parametrize("compat", ["train", "eval"])
@pytest.mark.parametrize("file", FILES)
def test_it_equals_its_authors(shared, file, compat):
    file = f"ucofia_{compat}fwd_{file}"
    golden = Golden(shared, file)
    head = golden.head(Selected, compat=compat)
    assert (head.patches, head.tokens_per_frame) == ("given", 4)
    assert head.temporal == ("seq_transf" if "seqTransf" in file else "none")
    text, video = golden.text(), golden.video(golden.leaves["patches"])
    scale = golden.scale()
    sims = sims_of(head, text, video)
    logits = head.fuse(sims, scale)
    golden.close(logits, "sim")
    if compat == "eval":
        golden.close(scale * sims[0], "sim_video_sentence")
        golden.close(scale * sims[1], "sim_sentence_frame")
        golden.close(sims[2], "sim_patch_word")
    B = min(logits.shape)
    loss = info_nce(logits[:B, :B])
    golden.close(loss, "loss")
    loss.backward()
    golden.gradients_are_close(head, ("frames", "sent", "words", "patches"))
    with torch.no_grad():
        golden.close(head(text, video, scale), "sim")
        if compat == "train":
            golden.close(_direct_fine.ucofia(head, text, video, scale), "sim")

    single = Golden(shared, file, torch.float32)
    head, video = single.head(Selected, compat=compat), single.video(single.leaves["patches"])
    single.near(head(single.text(), video, single.scale()))


def attend(x, matrix, real):
    """Over a list of similarities, of which those at the indices `real` count."""
    exps = {i: torch.exp(100 * (x[i] - max(x[k] for k in real))) for i in real}
    total = sum(exps.values())
    mixed = {k: sum(exps[i] / total * matrix[i, k] for i in real) for k in real}
    exps = {k: torch.exp(100 * (mixed[k] - max(mixed.values()))) for k in real}
    return sum(x[k] * exps[k] / sum(exps.values()) for k in real)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("patches", ["given", "frames"])
def test_it_equals_a_loop(patches, mask):
    head, (text, video) = make(patches=patches, mask=mask), features()
    sims, logits = sims_of(head, text, video), head(text, video, SCALE)
    each = 1 + P if patches == "given" else 1
    for t in range(4):
        for v in range(3):
            count = int(video.mask[v].sum())
            real_words = range(int(text.mask[t].sum())) if mask else range(L)
            real_frames = range(count) if mask else range(T)
            real_tokens = range(each * count) if mask else range(each * T)
            frames = [f / f.norm() for f in video.frames[v]]
            words = [w / w.norm() for w in text.words[t]]
            tokens = []
            for j in range(T):
                tokens += [video.frames[v, j], *video.patches[v, j]][:each]
            sentence = text.sentence[t] / text.sentence[t].norm()
            vector = sum(frames[j] for j in range(count))
            vector = vector / vector.norm() @ head.global_mat_weight_1
            A = [
                [w @ head.local_mat_weight @ (p @ head.local_mat_weight1) for p in tokens]
                for w in words
            ]
            per_token = [
                attend([A[i][k] for i in range(L)], head.word_mat_weight, real_words)
                for k in range(each * T)
            ]
            per_word = [attend(A[i], head.pixel_mat_weight, real_tokens) for i in range(L)]
            video_sentence = sentence @ head.global_mat_weight @ vector
            sentence_frame = attend(
                [sentence @ f for f in frames], head.frame_logit_weight, real_frames
            )
            patch_word = attend(per_token, head.pixel_mat_weight2, real_tokens) / 2
            patch_word = patch_word + attend(per_word, head.word_mat_weight2, real_words) / 2
            expected = torch.stack([video_sentence, sentence_frame, patch_word])
            torch.testing.assert_close(sims[:, t, v], expected)
            fused = (SCALE * (video_sentence + sentence_frame) + patch_word) / 3
            torch.testing.assert_close(logits[t, v], fused)


def test_selected_patches_are_those_given():
    head, (text, video) = make(patches="select", hard=True), features(patches=7)
    selected = head.visual_token_selector(video.frames, video.patches)
    picked = selected.view(3, T, 1 + P, D)
    assert torch.equal(picked[:, :, 0], video.frames)
    state = {name: tensor for name, tensor in head.state_dict().items() if "selector" not in name}
    given = UCoFiA.from_official(state, temporal="none").double()
    assert (given.patches, given.needs_patches) == ("given", True)
    expected = given(text, video._replace(patches=picked[:, :, 1:]), SCALE)
    torch.testing.assert_close(head(text, video, SCALE), expected, **EXACT)


def test_selection_options_reach_the_selector():
    options = {"top": 2, "samples": 7, "sigma": 0.1, "seed": 5, "hard": True}
    selector = make(patches="select", **options).visual_token_selector
    assert {name: getattr(selector, name) for name in options} == options
    text, video = features(patches=7)
    noisy = [make(patches="select", samples=7, sigma=0.5, seed=s) for s in (0, 0, 1)]
    a, b, c = (head(text, video, SCALE) for head in noisy)
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


@pytest.mark.parametrize("patches", PATCHES)
def test_each_choice_of_patches_makes_a_head(patches):
    head, (text, video) = make(patches=patches), features()
    assert head.needs_words == (patches != "none")
    assert head.needs_patches == (patches in ("select", "given"))
    if not head.needs_patches:
        video = video._replace(patches=None)
    sims = sims_of(head, text, video)
    assert len(sims) == (2 if patches == "none" else 3)
    head.fuse(sims, SCALE).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    again = UCoFiA.from_official(head.state_dict(), words=L).double().eval()
    assert (again.patches, again.tokens_per_frame) == (patches, head.tokens_per_frame)
    torch.testing.assert_close(again(text, video, SCALE), head(text, video, SCALE))
    shown = head.frame_weights(text, video)
    torch.testing.assert_close(shown.sentence.sum(-1), torch.ones(4, 3).double())
    frames = video.frames / video.frames.norm(dim=-1, keepdim=True)
    cosines = torch.einsum("td,vnd->tvn", head.prepare_text(text).sentence, frames)
    torch.testing.assert_close((shown.sentence * cosines).sum(-1), sims[1])
    if patches == "none":
        assert shown.words is None
    else:
        torch.testing.assert_close(shown.words.sum(-1), torch.ones(4, 3, L).double())


def test_without_patches_the_score_is_the_mean_of_two():
    text, video = features()
    whole = make(patches="select")
    coarse = UCoFiA.from_official(whole.state_dict(), patches="none", words=L).double()
    sims = sims_of(whole, text, video)
    torch.testing.assert_close(coarse(text, video, SCALE), SCALE * sims[:2].mean(0))
    with pytest.raises(IncompatibleError, match=r"pixel_mat_weight \[16, 16\], expected \[4, 4\]"):
        UCoFiA.from_official(whole.state_dict(), patches="frames")


def test_masked_frames_hide_their_patches():
    head, (text, video) = make(mask=True), features()
    shown = head.frame_weights(text, video)
    assert not shown.sentence[:, ~video.mask].any()
    assert not shown.words.transpose(2, 3)[:, ~video.mask].any()
    hidden = video.patches.masked_fill(~video.mask[..., None, None], torch.nan)
    torch.testing.assert_close(
        head(text, video._replace(patches=hidden), SCALE), head(text, video, SCALE)
    )


def test_mask_changes_nothing_where_nothing_is_padded():
    text, video = features(full=True)
    torch.testing.assert_close(
        make(mask=True)(text, video, SCALE), make(mask=False)(text, video, SCALE)
    )
    padded = features()
    assert not torch.allclose(make(mask=True)(*padded, SCALE), make(mask=False)(*padded, SCALE))


def test_tiles_give_the_whole(monkeypatch):
    head, (text, video) = make(mask=True), features()
    with torch.inference_mode():
        whole = sims_of(head, text, video)
        monkeypatch.setattr(_fine_grained, "_TILE_CPU", 2 * L * (1 + P) * T)
        for texts in (1, 2):
            monkeypatch.setattr(_fine_grained, "_TEXTS", texts)
            torch.testing.assert_close(sims_of(head, text, video), whole)


def test_only_the_scale_of_patches_counts():
    head, (text, video) = make(), features()
    sims = sims_of(head, text, video)
    louder = (
        text._replace(sentence=3 * text.sentence, words=5 * text.words),
        video._replace(frames=7 * video.frames, patches=7 * video.patches),
    )
    changed = sims_of(head, *louder)
    torch.testing.assert_close(changed[:2], sims[:2])
    assert not torch.allclose(changed[2], sims[2])


def test_a_score_always_lies_among_its_similarities():
    head, (text, video) = make(), features()
    texts, videos = head.prepare_text(text), head.prepare_video(video)
    sims = head.similarities(texts, videos)
    for t in range(4):
        for v in range(3):
            every = [
                videos.for_sentence[v, 1:] @ texts.sentence[t],
                texts.words[t] @ videos.for_words[v].T,
            ]
            for found, among in zip(sims[1:, t, v], every, strict=True):
                assert among.min() - 1e-9 <= found <= among.max() + 1e-9


def test_parameters_are_as_many_as_published():
    head = UCoFiA()
    unused = 1024 + 144 + 144 + 1024
    parameters = sum(parameter.numel() for parameter in head.parameters())
    assert parameters == 1_057_712 - unused + 263_424 + 12_648_960
    for name in ("word_logit_weight", "frame_mat_weight2", "word_mat_weight_for_pixel"):
        assert UCoFiA.is_official_unused(name)
        assert name not in head.state_dict()


def test_the_selector_of_their_evaluation_is_refused(shared):
    """It has other shapes than they trained; their code goes on with random weights."""
    golden = Golden(shared, "ucofia_selector_eval_t2v")
    state = UCoFiA(width=32, frames=6, words=8, temporal="none").state_dict()
    other = {f"visual_token_selector.{name}": x for name, x in golden.state().items()}
    assert other.keys() < state.keys()
    with pytest.raises(IncompatibleError, match=r"in_conv\.0\.bias \[64\], expected \[32\]"):
        UCoFiA.from_official({**state, **other}, frames=6, words=8)


def test_what_does_not_fit_is_refused():
    for options, message in (
        ({"patches": "all"}, "patches is one of select, given, frames, none, got 'all'"),
        ({"compat": "paper"}, "compat is one of train, eval, got 'paper'"),
        ({"top": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=message):
            UCoFiA(**SIZES, **options)
    head, (text, video) = make(), features()
    with pytest.raises(UsageError, match="UCoFiA has matrices for 5 words, got 3"):
        head.prepare_text(text._replace(words=text.words[:, :3], mask=text.mask[:, :3]))
    with pytest.raises(UsageError, match="UCoFiA has matrices for 3 patches of a frame, got 2"):
        head.prepare_video(video._replace(patches=video.patches[:, :, :2]))
    with pytest.raises(IncompatibleError, match="takes patches, which these features lack"):
        head.prepare_video(video._replace(patches=None))
