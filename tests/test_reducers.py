"""The contract of every reducer, and each against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_state

from ttvr import plugins
from ttvr.clip.model import build as build_clip
from ttvr.cluster.kmedoids import kmedoids
from ttvr.cluster.spectral import neighborhood, spectral
from ttvr.errors import TtvrError
from ttvr.reducers import build, parse
from ttvr.reducers.kmedoids import KMedoids
from ttvr.reducers.pooling import Pooling
from ttvr.reducers.sparse import Sparse
from ttvr.reducers.spectral import Spectral, default_neighbours

REDUCERS = plugins.names("reducers")
B, T, P, D, S, K = 3, 6, 9, 16, 2, 5
STAGE = {"width": D, "segments": S, "centers": K}


def make(name, **options):
    plugin = plugins.load("reducers", name)
    sizes = {"width": D}
    if plugin.is_staged:
        sizes.update(segments=S, centers=K if plugin.needs_centers else None)
    return plugin(**sizes, **options).eval()


def data(seed=0, lengths=(6, 4, 1), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, T, 1 + P, D, generator=generator, dtype=torch.float64)
    return tokens.to(dtype), torch.arange(T) < torch.tensor(lengths).unsqueeze(1)


@pytest.mark.parametrize("name", REDUCERS)
def test_shapes(name):
    reducer, (tokens, mask) = make(name), data()
    found = reducer(tokens, mask)
    frames, patches = reducer.shape_after(T, P)
    assert T % frames == 0
    assert found.tokens.shape == (B, frames, 1 + patches, D)
    assert found.mask.shape == (B, frames)
    assert found.mask.dtype == torch.bool
    assert torch.equal(found.mask, mask.unflatten(1, (frames, -1)).any(2))
    if found.clusters is not None:
        assert found.clusters.centers.shape == (B, S, K)
        assert found.clusters.assignment.shape == (B, S, T // S * P)
    assert set(reducer.sites) <= {"block", "attention", "mlp"}
    assert not list(reducer.parameters())


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("masked", [False, True])
def test_each_video_is_for_itself(name, masked):
    reducer, (tokens, mask) = make(name, mask=masked), data()
    whole = reducer(tokens, mask)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(reducer(tokens[order], mask[order]).tokens, whole.tokens[order])
    for b in range(B):
        alone = reducer(tokens[b : b + 1], mask[b : b + 1])
        assert torch.equal(alone.tokens[0], whole.tokens[b])
        assert torch.equal(alone.mask[0], whole.mask[b])


@pytest.mark.parametrize("name", REDUCERS)
def test_padding_changes_nothing(name):
    """With mask=True; and without it the same padding does, or the test would prove nothing."""
    tokens, mask = data()
    real = mask[:, :, None, None]
    loud = torch.where(real, tokens, torch.full_like(tokens, 1e6))
    for masked in (True, False):
        reducer = make(name, mask=masked)
        first, second = reducer(tokens, mask), reducer(loud, mask)
        kept = first.mask[:, :, None, None]
        same = torch.equal(
            torch.where(kept, first.tokens, 0.0), torch.where(kept, second.tokens, 0.0)
        )
        assert same == masked
    broken = torch.where(real, tokens, torch.full_like(tokens, torch.nan))
    found = make(name, mask=True)(broken, mask)
    assert found.tokens[found.mask].isfinite().all()


@pytest.mark.parametrize("name", REDUCERS)
def test_gradients_are_those_of_differences(name):
    reducer = make(name)
    tokens, mask = data(dtype=torch.float64)
    tokens = tokens[:1].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: reducer(x, mask[:1]).tokens, tokens, fast_mode=True, eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize("name", REDUCERS)
def test_narrow_tokens_stay_narrow(name):
    """Choosing is in float32 whatever the tokens are and wherever it is called."""
    reducer, (tokens, mask) = make(name), data(dtype=torch.bfloat16)
    expected = reducer(tokens.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = reducer(tokens, mask)
    assert found.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(found.tokens.float(), expected.tokens, atol=2e-2, rtol=1e-2)
    if found.clusters is not None:
        assert torch.equal(found.clusters.centers, expected.clusters.centers)


def test_means_are_of_full_precision_under_autocast():
    reducer, (tokens, mask) = make("kmedoids", aggregation="mean"), data()
    expected = reducer(tokens, mask).tokens
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reducer(tokens, mask).tokens, expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [("pooling", {}), ("pooling", {"mask": True}), ("kmedoids", {"aggregation": "mean"})],
    ids=str,
)
def test_sums_are_wider_than_tokens(name, options):
    """Three of the largest of float16 have a mean, though no sum."""
    tokens = torch.full((1, T, 1 + P, D), 60000.0, dtype=torch.float16)
    found = make(name, **options)(tokens, torch.ones(1, T, dtype=torch.bool)).tokens
    real = found[:, :, : 1 + (P if name == "pooling" else 1)]  # the other clusters have one token
    assert (real == 60000).all()


@pytest.mark.parametrize("name", REDUCERS)
def test_in_the_tower(name):
    clip = build_clip(tiny_state(layers=3))
    plugin = plugins.load("reducers", name)
    place = ("@1:2,10" if plugin.needs_centers else "@1:2") if plugin.is_staged else ""
    made = build(
        parse([f"{name}{place},mask=true"]), layers=3, width=64, patches=16, frames=[4]
    ).reducers
    torch.nn.ModuleList(made.values()).eval()
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(3, 4, 3, 32, 32, generator=generator)
    mask = torch.arange(4) < torch.tensor([[4], [3], [1]])
    with torch.inference_mode():
        found = clip.encode_video(frames, mask, made)
        other = torch.where(mask[:, :, None, None, None], frames, 3.0)
        padded = clip.encode_video(other, mask, made)
        plain = clip.encode_video(frames, mask)
    assert found.frames.shape[1] == 2 if plugin.is_staged else 4
    assert found.mask.any(dim=1).all()
    assert torch.equal(found.frames[found.mask], padded.frames[padded.mask])
    if not plugin.is_staged:
        assert not torch.allclose(found.frames[0], plain.frames[0])


@pytest.mark.parametrize("name", ["kmedoids", "pooling", "sparse", "spectral"])
@pytest.mark.parametrize("masked", [False, True])
def test_class_tokens_are_means_of_their_frames(name, masked):
    tokens, mask = data()
    found = make(name, mask=masked)(tokens, mask).tokens[:, :, 0]
    for b in range(B):
        for s in range(S):
            rows = range(s * 3, s * 3 + 3)
            if masked and mask[b, rows].any():
                rows = [t for t in rows if mask[b, t]]
            elif masked:
                continue
            expected = sum(tokens[b, t, 0] for t in rows) / len(rows)
            torch.testing.assert_close(found[b, s], expected)


@pytest.mark.parametrize("name", ["kmedoids", "spectral"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("aggregation", ["medoid", "mean"])
def test_what_is_kept_of_clusters(name, masked, aggregation):
    tokens, mask = data(seed=3)
    reducer = make(name, mask=masked, aggregation=aggregation)
    found = reducer(tokens, mask)
    checked = 0
    for b in range(B):
        for s in range(S):
            frames = [t for t in range(3 * s, 3 * s + 3) if mask[b, t] or not masked]
            # Padding is left out by giving the clustering less, and numbers its tokens alike.
            points = tokens[b, frames, 1:].reshape(-1, D)
            if not len(points):
                continue
            if name == "kmedoids":
                centers, assignment = kmedoids(points[None], K)
            else:
                edges = default_neighbours(3, P)
                centers, assignment = spectral(points[None], K, neighbours=edges)
            assert torch.equal(found.clusters.centers[b, s], centers[0])
            kept = points[centers[0]]
            if aggregation == "mean":
                kept = torch.stack([points[assignment[0] == k].mean(0) for k in range(K)])
            torch.testing.assert_close(found.tokens[b, s, 1:], kept)
            checked += 1
    assert checked == (5 if masked else 6)


@pytest.mark.parametrize("name", ["kmedoids", "sparse", "spectral"])
def test_surplus_is_hidden_from_attention(name):
    """A segment of one real frame, asked for more tokens than that has, is that frame alone."""
    clip = build_clip(tiny_state(layers=3))
    frames = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[True, False], [True, True]])

    def encode(text, frames, mask):
        stages = parse([text])
        made = build(stages, layers=3, width=64, patches=16, frames=[frames.shape[1]]).reducers
        torch.nn.ModuleList(made.values()).eval()
        with torch.inference_mode():
            return clip.encode_video(frames, mask, made).frames

    short = encode(f"{name}@1:1,20,mask=true", frames, mask)
    alone = encode(f"{name}@1:1,16", frames[:1, :1], mask[:1, :1])
    torch.testing.assert_close(short[:1], alone, atol=1e-5, rtol=1e-5)
    other = encode(f"{name}@1:1,20,mask=true", frames[1:], mask[1:])
    torch.testing.assert_close(short[1:], other, atol=1e-5, rtol=1e-5)
    learning = clip.encode_video(
        frames,
        mask,
        build(
            parse([f"{name}@1:1,20,mask=true"]), layers=3, width=64, patches=16, frames=[2]
        ).reducers,
    ).frames
    if name != "sparse":  # it draws while it learns
        torch.testing.assert_close(learning, short, atol=1e-5, rtol=1e-5)


def test_surplus_repeats_the_last_center():
    tokens, mask = data()
    reducer = KMedoids(width=D, segments=S, centers=P + 4, mask=True)
    found = reducer(tokens, mask)
    first = found.clusters.centers[2, 0]
    assert first.tolist() == [*range(P), *[P - 1] * 4]
    assert found.real[2, 0].tolist() == [True] * (1 + P) + [False] * 4
    assert found.real[0].all()
    assert found.real[found.mask][:, 0].all()
    one = KMedoids(width=D, segments=S, centers=P + 1, mask=True)(tokens, mask).real
    assert one[2, 0].tolist() == [True] * (1 + P) + [False]
    # Where a frame has them all, there is nothing to hide, and attention needs no mask.
    assert KMedoids(width=D, segments=S, centers=P, mask=True)(tokens, mask).real is None
    assert KMedoids(width=D, segments=S, centers=P + 4)(tokens, mask).real is None


def test_cluster_embedding():
    clip = build_clip(tiny_state())
    positions = clip.visual.positional_embedding
    reducer = KMedoids(width=64, segments=1, centers=18, cluster_embedding=True)
    reducer.init_from_clip(clip)
    assert torch.equal(reducer.cluster_embedding[:16], positions[1:])
    assert not reducer.cluster_embedding[16:].any()
    tokens, mask = torch.randn(2, 2, 17, 64), torch.ones(2, 2, dtype=torch.bool)
    found = reducer(tokens, mask)
    plain = KMedoids(width=64, segments=1, centers=18)(tokens, mask)
    torch.testing.assert_close(
        found.tokens[:, :, 1:], plain.tokens[:, :, 1:] + reducer.cluster_embedding
    )
    assert torch.equal(found.tokens[:, :, 0], plain.tokens[:, :, 0])
    found.tokens.sum().backward()
    assert torch.equal(reducer.cluster_embedding.grad, torch.full((18, 64), 2.0))


OPTIONS = {
    "metric": {"metric": "cosine"},
    "p": {"p": 1.0},
    "rule": {"rule": "nearest_mean"},
    "iterations": {"iterations": 1},
    "pre_norm": {"pre_norm": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_of_kmedoids_reach_it(options):
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(4, 3, 37, 3, generator=generator)
    mask = torch.ones(4, 3, dtype=torch.bool)
    found = KMedoids(width=3, segments=1, centers=6, **options)(tokens, mask).clusters
    points = tokens[:, :, 1:].flatten(1, 2)
    expected = kmedoids(points, 6, **options)
    assert torch.equal(found.centers[:, 0], expected.centers)
    assert not torch.equal(expected.centers, kmedoids(points, 6).centers)


SPECTRAL = {
    "default": ({}, {"neighbours": 15}),
    "neighbours": ({"neighbours": 4}, {"neighbours": 4}),
    "sigma": ({"sigma": 8.0}, {"neighbours": 15, "sigma": 8.0}),
    "graph": ({"graph": "dense"}, {"graph": "dense"}),
    "metric": ({"metric": "cosine"}, {"neighbours": 15, "metric": "cosine"}),
    "p": ({"p": 1.0}, {"neighbours": 15, "p": 1.0}),
    "rule": ({"rule": "nearest_mean"}, {"neighbours": 15, "rule": "nearest_mean"}),
    "spatial_temporal": ({"spatial_temporal": True}, {"neighbours": 15, "graph_mask": (3, 36)}),
}


@pytest.mark.parametrize(("options", "expected"), SPECTRAL.values(), ids=SPECTRAL)
def test_options_of_spectral_reach_it(options, expected):
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randn(2, 3, 37, 4, generator=generator) * 2
    mask = torch.ones(2, 3, dtype=torch.bool)
    found = Spectral(width=4, segments=1, centers=20, **options)(tokens, mask).clusters
    points = tokens[:, :, 1:].flatten(1, 2)
    if "graph_mask" in expected:
        expected = {**expected, "graph_mask": neighborhood(*expected["graph_mask"])}
    assert torch.equal(found.centers[:, 0], spectral(points, 20, **expected).centers)
    if options:
        assert not torch.equal(found.centers[:, 0], spectral(points, 20, neighbours=15).centers)


def test_default_neighbours():
    """CenterCLIP, section 3.3.2 and the authors' code: 5 per frame, 5 more on a fine grid."""
    assert [default_neighbours(3, 49), default_neighbours(1, 99)] == [15, 5]
    assert [default_neighbours(3, 196), default_neighbours(4, 100)] == [20, 25]


@pytest.mark.parametrize("name", ["kmedoids", "sparse", "spectral"])
def test_as_few_and_as_many_tokens_as_can_be(name):
    tokens, mask = data()
    points = tokens[:, :, 1:].unflatten(1, (S, -1)).flatten(2, 3)  # [B, S, N, D]
    N = points.shape[2]
    plugin = plugins.load("reducers", name)
    everything = plugin(width=D, segments=S, centers=N).eval()(tokens, mask)
    assert torch.equal(everything.tokens[:, :, 1:], points)
    (one,) = plugin(width=D, segments=S, centers=1).eval()(tokens, mask).tokens[:, :, 1:].unbind(2)
    assert (one.unsqueeze(2) == points).all(-1).any(-1).all()


def test_a_broken_token_is_an_error():
    tokens, mask = data()
    tokens[1, 0, 3, 0] = torch.nan
    with pytest.raises(TtvrError, match="sample 2"):
        make("kmedoids")(tokens, mask)


@pytest.mark.parametrize("masked", [False, True])
def test_pooling_against_a_loop(masked):
    tokens, mask = data()
    found = Pooling(width=D, segments=3, mask=masked)(tokens, mask)
    for b in range(B):
        for s in range(3):
            frames = [t for t in (2 * s, 2 * s + 1) if mask[b, t] or not masked]
            if frames:
                torch.testing.assert_close(found.tokens[b, s], tokens[b, frames].mean(0))
    assert found.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]


@pytest.mark.parametrize("masked", [False, True])
def test_shifts_against_a_loop(masked):
    """Every token and channel: which frame it comes from."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        T, L, D = int(rng.integers(1, 6)), int(rng.integers(7, 30)), int(rng.integers(8, 20))
        tokens = torch.from_numpy(rng.normal(size=(2, T, L, D)))
        mask = torch.from_numpy(rng.random((2, T)) < 0.7)
        allowed = mask if masked else torch.ones_like(mask)

        def is_there(b, t, allowed=allowed, T=T):
            return 0 <= t < T and bool(allowed[b, t])

        fold, seventh = D // 8, L // 7
        patch = tokens.clone()
        channels = tokens.clone()
        for b, t, n in np.ndindex(2, T, L):
            if n >= 1 and (n - 1) % seventh == 0 and is_there(b, t - 1):
                patch[b, t, n] = tokens[b, t - 1, n]
            if n >= 4 and (n - 4) % seventh == 0 and is_there(b, t + 1):
                patch[b, t, n] = tokens[b, t + 1, n]
            for c in range(2 * fold):
                source = t + 1 if c < fold else t - 1
                channels[b, t, n, c] = tokens[b, source, n, c] if is_there(b, source) else 0.0
        first, rest = channels[:, :, :1], channels[:, :, 1:]
        expected = {
            "patch_shift": patch,
            "token_shift": torch.cat([first, tokens[:, :, 1:]], dim=2),
            "temporal_shift": torch.cat([tokens[:, :, :1], rest], dim=2),
        }
        for name, shifted in expected.items():
            found = plugins.load("reducers", name)(width=D, mask=masked)(tokens, mask)
            assert torch.equal(found.tokens, shifted), name
            assert torch.equal(found.mask, mask)


def kept_indices(reducer, n, videos=1):
    """[videos, S, K]: which tokens a sparse reducer keeps of segments of n."""
    S = reducer.segments
    tokens = torch.arange(float(1 + n)).view(1, 1, -1, 1).expand(videos, S, -1, 1) - 1
    found = reducer(tokens, torch.ones(videos, S, dtype=torch.bool)).tokens
    return found[:, :, 1:, 0].long()


@pytest.mark.parametrize(("n", "centers"), [(147, 49), (10, 7), (5, 5), (9, 1), (588, 160)])
def test_sparse_draws_one_token_of_each_part(n, centers):
    torch.manual_seed(0)
    even = Sparse(width=1, segments=2, centers=centers).train()
    seen = torch.cat([kept_indices(even, n, videos=4).flatten(0, 1) for _ in range(200)])
    for i in range(centers):
        part = set(range(i * n // centers, (i + 1) * n // centers))
        assert set(seen[:, i].tolist()) == part  # all of it is seen, and nothing else
    assert even.eval()(torch.zeros(1, 2, 1 + n, 1), torch.ones(1, 2, dtype=torch.bool))


def test_sparse_as_published():
    torch.manual_seed(0)
    published = Sparse(width=1, segments=2, centers=7, draw="published").train()
    seen = [kept_indices(published, 24, videos=3) for _ in range(100)]
    for indices in seen:
        assert (indices == indices[:1]).all()  # one draw for all videos
    drawn = torch.cat(seen).flatten(0, 1)
    for i in range(7):
        assert set(drawn[:, i].tolist()) == {3 * i, 3 * i + 1, 3 * i + 2}  # 21, 22, 23 never
    assert any((indices[0, 0] != indices[0, 1]).any() for indices in seen)


def test_sparse_goes_on_where_torch_does():
    """A training stores torch's state and continues from it."""
    sparse = Sparse(width=1, segments=2, centers=5).train()
    torch.manual_seed(3)
    kept_indices(sparse, 40)
    state = torch.get_rng_state()
    first, second = kept_indices(sparse, 40), kept_indices(sparse, 40)
    torch.set_rng_state(state)
    assert torch.equal(kept_indices(sparse, 40), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    sparse.eval()
    assert torch.equal(kept_indices(sparse, 40), kept_indices(sparse, 40))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("learns", [False, True])
def test_sparse_of_real_tokens_alone(learns):
    tokens, mask = data()
    sparse = Sparse(**STAGE, mask=True).train(learns)
    torch.manual_seed(0)
    kept = sparse(tokens, mask).tokens
    real = tokens[1, 3:4, 1:].flatten(0, 1)  # of the second segment of the second video
    distance = torch.cdist(kept[1, 1, 1:], real)
    chosen = distance.argmin(dim=1)
    assert distance.min(dim=1).values.max() < 1e-5
    assert (chosen.diff() > 0).all()
