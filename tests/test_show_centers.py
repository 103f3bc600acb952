"""ttvr-show --centers: the right patches are kept, and drawn where they are."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_state

from ttvr import frames as framing
from ttvr import reducers, retriever
from ttvr.cluster import Clusters
from ttvr.cluster.kmedoids import kmedoids
from ttvr.commands import show as command
from ttvr.errors import UsageError
from ttvr.show import Map, Segmentation, _figure, _map, centers, figure

T, GRID, SIZE = 6, 4, 32
P = GRID * GRID


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_state(image=SIZE, patch=SIZE // GRID, layers=3), path)
    return path


@pytest.fixture(scope="module")
def model(weights):
    return loader(weights)(["none"])


def loader(weights):
    return lambda texts: retriever.load(weights, "meanp", texts, activation="quick_gelu", frames=T)


def pixels(frames=T, seed=0):
    shape = (frames, SIZE, SIZE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plan(model, *texts):
    def refused(texts):
        raise AssertionError(f"{texts} need no weights")

    return centers.plan(model.clip, texts, frames=T, load=refused)


def random_clusters(rng, S, N, K, *, hidden=0.0):
    """Valid clusters of S problems; some points are in none."""
    chosen = np.sort(np.stack([rng.permutation(N)[:K] for _ in range(S)]), axis=1)
    assignment = rng.integers(0, K, (S, N))
    assignment[rng.random((S, N)) < hidden] = -1
    for s in range(S):
        assignment[s, chosen[s]] = range(K)
    return Clusters(torch.from_numpy(chosen), torch.from_numpy(assignment))


@pytest.mark.parametrize("seed", range(20))
def test_tokens_are_followed_back_one_by_one(seed):
    rng = np.random.default_rng(seed)
    shapes = [(6, 10, 4), (3, 8, 5), (1, 15, 3)][: 1 + seed % 3]
    stages = [random_clusters(rng, *shape, hidden=0.2) for shape in shapes]
    origin, token = centers.follow(stages, 60)
    groups = {patch: {patch} for patch in range(60)}  # token -> the patches it stands for
    names = {patch: patch for patch in range(60)}  # token -> the patch it is
    for (S, N, K), (chosen, assignment) in zip(shapes, stages, strict=True):
        merged, renamed = {s * K + k: set() for s in range(S) for k in range(K)}, {}
        for s in range(S):
            for n in range(N):
                if assignment[s, n] >= 0:
                    merged[s * K + int(assignment[s, n])] |= groups[s * N + n]
            for k in range(K):
                renamed[s * K + k] = names[s * N + int(chosen[s, k])]
        groups, names = merged, renamed
    assert origin.tolist() == [names[t] for t in sorted(names)]
    owner = {patch: t for t, patches in groups.items() for patch in patches}
    assert token.tolist() == [owner.get(patch, -1) for patch in range(60)]


@pytest.mark.parametrize(("N", "D"), [(30, 5), (5, 30), (2, 3), (40, 2)])
def test_the_plane_is_that_of_most_variance(N, D):
    points = torch.randn(N, D, generator=torch.Generator().manual_seed(N)) * torch.arange(1, D + 1)
    places, share = centers.plane(points)
    x = points.double() - points.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    best = x @ vectors[:, -2:].flip(1)
    torch.testing.assert_close(places.abs(), best.abs(), atol=1e-7, rtol=1e-6)
    assert share == pytest.approx(float(values[-2:].sum() / values.sum()))
    again, _ = centers.plane(points + 7)
    torch.testing.assert_close(again, places, atol=1e-4, rtol=1e-4)  # float32 rounds points + 7


@pytest.mark.parametrize("points", [torch.ones(1, 4), torch.ones(5, 4), torch.ones(3, 1)])
def test_a_plane_of_points_that_do_not_vary(points):
    places, share = centers.plane(points)
    assert places.tolist() == [[0.0, 0.0]] * len(points)
    assert share == 1.0


def test_the_line_of_one_dimension():
    places, share = centers.plane(torch.tensor([[1.0], [3.0]]))
    assert places.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert share == pytest.approx(1.0)


@torch.no_grad()
def stream(model, frames, blocks):
    """Patch tokens [T, P, D] after some blocks."""
    visual = model.clip.visual
    x = visual._embed(framing.normalize(frames))
    for block in visual.transformer.resblocks[:blocks]:
        x = block(x)
    return x[:, 1:]


def test_what_is_collected_is_what_clustering_finds(model):
    frames = pixels()
    made = plan(model, "kmedoids@2:3,5")
    found = centers.collect(model.clip, made, frames, frames=T, maps=True)
    points = stream(model, frames, 2).reshape(3, 2 * P, -1)
    chosen, assignment = kmedoids(points, 5)
    assert found.plan == "kmedoids@2:3,5"
    expected = chosen + torch.arange(3)[:, None] * 2 * P
    assert found.origin.tolist() == expected.tolist()
    assert found.token.shape == (T, P)
    owner = (assignment + torch.arange(3)[:, None] * 5).view(T, P)
    assert found.token.tolist() == owner.tolist()
    assert found.kept().sum() == 15
    for s, drawn in enumerate(found.maps):
        assert np.flatnonzero(drawn.is_center).tolist() == chosen[s].tolist()
        assert drawn.cluster.tolist() == assignment[s].tolist()
        # Close but for rounding: the tower may compute in another order than this test.
        places, share = centers.plane(points[s])
        np.testing.assert_allclose(drawn.places, places, atol=1e-3)
        assert drawn.share == pytest.approx(share, abs=1e-4)


def test_two_stages_lead_back_to_patches(model):
    made = plan(model, "kmedoids@1:6,9", "spectral@2:2,4")
    found = centers.collect(model.clip, made, pixels(), frames=T, maps=True)
    assert found.plan == "kmedoids@1:6,9 + spectral@2:2,4"
    assert found.origin.shape == (2, 4)
    assert len(found.maps) == 2
    assert {len(drawn.places) for drawn in found.maps} == {27}
    flat = found.token.ravel()
    assert flat[found.origin].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (flat // 4 == np.arange(T * P) // (T * P // 2)).all()


def test_what_does_not_cluster_may_stand_beside(model):
    made = plan(model, "temporal_shift@0", "kmedoids@1:2,4")
    centers.require_clusters(made.stages.values())
    assert centers.collect(model.clip, made, pixels(), frames=T).origin.shape == (2, 4)


def test_padding_has_clusters_unless_it_is_masked(model):
    few = pixels(4)
    seen = centers.collect(model.clip, plan(model, "kmedoids@1:2,8"), few, frames=T)
    assert (seen.token >= 0).all()
    repeated = few[np.arange(T).clip(max=3)]  # as extract has a short clip
    whole = centers.collect(model.clip, plan(model, "kmedoids@1:2,8"), repeated, frames=T)
    assert (whole.origin == seen.origin).all()
    masked = plan(model, "kmedoids@1:2,20,mask=true")
    hidden = centers.collect(model.clip, masked, few, frames=T, maps=True)
    assert (hidden.token[:4] >= 0).all()
    assert (hidden.token[4:] == -1).all()
    assert not hidden.kept()[4:].any()
    assert [len(np.unique(row)) for row in hidden.origin] == [20, 16]
    assert [len(drawn.places) for drawn in hidden.maps] == [48, 16]


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_stays(model, monkeypatch, fails):
    made = plan(model, "kmedoids@1:2,4")
    if fails:
        monkeypatch.setattr(made.reducers[1], "cluster", None)
        with pytest.raises(TypeError):
            centers.collect(model.clip, made, pixels(), frames=T)
    else:
        centers.collect(model.clip, made, pixels(), frames=T)
    assert not made.reducers[1]._forward_hooks


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["pooling@1:2"], "pooling@1:2"),
        (["sparse@1:2,4"], "sparse@1:2,4"),
        (["token_shift"], "token_shift"),
        (["kmedoids@1:2,4", "pooling@2:1"], "pooling@2:1"),
        (["none"], "without a reducer"),
    ],
)
def test_plans_without_clusters_are_refused(texts, named):
    with pytest.raises(UsageError, match=f"^{named} .*reducers that have: kmedoids, spectral"):
        centers.require_clusters(reducers.parse(texts))


@pytest.mark.parametrize("frames", [1, 2, 5, 7, 8, 9, 12, 60])
def test_the_usual_plans_fit(model, frames):
    plans = centers.usual_plans(model.clip, frames)
    for texts in plans:
        centers.plan(model.clip, texts, frames=frames, load=None)
    if frames == 12:
        assert plans == [["kmedoids@1:6,16"], ["kmedoids@1:4,16"], ["kmedoids@1:3,16"]]


def test_what_reducers_have_learned_is_loaded(weights, tmp_path):
    load = loader(weights)
    texts = ["kmedoids@1:2,4,cluster_embedding=true"]
    trained = load(texts)
    trained.plan.reducers[1].cluster_embedding.data.fill_(3.0)
    trained.save(tmp_path / "run.pt")
    made = centers.plan(trained.clip, texts, frames=T, load=loader(tmp_path / "run.pt"))
    assert (made.reducers[1].cluster_embedding == 3.0).all()


def segmentation(kept, *, segments=2, maps=()):
    """Of T frames: `kept` patches of each segment, each in the cluster of its number modulo K."""
    N = T // segments * P
    origin = np.arange(segments)[:, None] * N + np.array(kept)
    number = np.arange(T * P)
    token = number // N * len(kept) + number % N % len(kept)
    return Segmentation("plan", origin, token.reshape(T, P), maps)


def by_patch(frames=T):
    """Frames [t, SIZE, SIZE, 3] of which every patch has a color of its own."""
    step = SIZE // GRID
    patches = np.arange(frames * P).reshape(frames, GRID, GRID, 1) * np.array([2, 1, 0])
    patches = (patches + np.array([0, 20, 200])).astype(np.uint8)
    return patches.repeat(step, 1).repeat(step, 2)


@pytest.mark.parametrize("width", [120, 300, 1000, 1600])
def test_kept_patches_are_shown_and_others_dimmed(width):
    frames, row = by_patch(), segmentation([0, 5, 17])
    image = figure(frames, np.arange(T), [row, row], title="v", width=width)
    layout = _figure._layout(width, T, GRID)
    assert image.width == width
    assert layout.cell >= _figure.LEAST_CELL
    tops = [_figure.MARGIN + layout.height(T, 0) * n + _figure.LABEL for n in range(3)]
    for number, top in enumerate(tops):
        for t in range(T):
            left, upper = _figure._place(layout, t, top + (_figure.PAD if number else 0))
            assert left + layout.side <= width - _figure.MARGIN
            for patch in range(P):
                y, x = (place * layout.cell + layout.cell // 2 for place in divmod(patch, GRID))
                color = tuple(frames[t, SIZE // GRID * (patch // GRID), 8 * (patch % GRID)])
                shown = image.getpixel((left + x, upper + y)) == color
                assert shown == (number == 0 or bool(row.kept()[t, patch]))
    assert image.height > upper + layout.side


def test_patches_have_the_color_of_their_cluster():
    layout = _figure._layout(1000, T, GRID)
    frame = Image.new("RGB", (layout.side, layout.side), "#ffffff")
    kept, tokens = np.zeros(P, bool), np.arange(P) % 3
    kept[[1, 7]], tokens[4] = True, -1
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    picture = _figure._chosen(frame, kept, tokens, colors, layout)
    plain = _figure._chosen(frame, kept, tokens, [], layout)
    veiled = np.unique(np.asarray(plain)[layout.cell :, : layout.cell].reshape(-1, 3), axis=0)
    assert len(veiled) == 1
    for patch in range(P):
        top, left = (place * layout.cell for place in divmod(patch, GRID))
        if kept[patch]:
            assert picture.getpixel((left, top)) == plain.getpixel((left, top)) == (26, 26, 26)
            assert picture.getpixel((left + 1, top + 1)) == colors[tokens[patch]]
            continue
        seen = np.array(picture.getpixel((left, top)), int)
        if patch == 4:
            assert seen.tolist() == veiled[0].tolist()
        else:
            assert (seen - veiled[0]).argmax() == tokens[patch]


def test_padding_is_said_and_maps_make_room():
    points = Map(np.array([[0.0, 0], [4, 3], [9, 0]]), np.array([0, 0, 1]), np.ones(3, bool), 0.5)
    plain, mapped = segmentation([0, 1]), segmentation([0, 1], maps=(points, points))
    padded = figure(by_patch(4), np.arange(4), [plain], title="v", width=500)
    layout = _figure._layout(500, T, GRID)
    left, top = _figure._place(layout, 5, _figure.MARGIN + _figure.LABEL)
    assert padded.getpixel((left + 5, top + 5)) == _figure._PADDING
    taller = figure(by_patch(4), np.arange(4), [mapped], title="v", width=500)
    assert taller.height > padded.height + _figure.LEAST_MAP // 2


def test_a_segment_goes_on_in_the_next_line():
    for across in (1, 2, 4, 5, 12):
        pieces = list(_figure._pieces(12, 3, across))
        assert [t for _, start, stop in pieces for t in range(start, stop)] == list(range(12))
        for segment, start, stop in pieces:
            assert start // 4 == (stop - 1) // 4 == segment
            assert start // across == (stop - 1) // across


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 100}, "--width of 112"),
        ({"width": 99_999}, "at most 16383"),
        ({"width": 200, "tallest": 300}, "at most 300 go"),
    ],
)
def test_pictures_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        figure(by_patch(), np.arange(T), [segmentation([0])], title="v", **options)


def test_a_map_has_its_centers_in_their_colors():
    places = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [3.0, 4.0]])
    points = Map(places, np.array([0, 1, 2, 0]), np.array([True, True, True, False]), 0.25)
    image = _map.draw_map(points, 300, 200, name="segment 1")
    assert image.size == (300, 200 + _map.CAPTION)
    spots = _map._fitted(places, 300, 200)
    offset = (spots - spots[0]) / (spots[1] - spots[0])[0]
    np.testing.assert_allclose(offset, places / 10 * (1, -1), atol=1e-12)  # one scale, up is up
    real = _map._fitted(places, 300 * _map._FINER, 200 * _map._FINER) / _map._FINER
    for (x, y), cluster in zip(real, points.cluster.tolist(), strict=True):
        assert image.getpixel((int(x), int(y))) == _map.color(cluster)
    alone = points._replace(places=np.zeros((4, 2)))
    assert _map.draw_map(alone, 300, 200, name="x").getpixel((150, 100)) != (255, 255, 255)


def test_clusters_have_colors_of_their_own():
    assert len({_map.color(n) for n in range(200)}) == 200


def test_pictures_need_no_torch():
    code = "import ttvr.show, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a folder of images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video").mkdir()
    for number, frame in enumerate(pixels()):
        Image.fromarray(frame).save(tmp_path / "video" / f"{number}.png")
    return tmp_path


def run(*argv):
    try:
        return command.main([str(one) for one in argv])
    except SystemExit as stop:
        return stop.code


def test_the_default_weights_show_several_segmentations(work, capsys):
    assert run("--centers", "video", "-o", "c.png", "-q") == 0
    assert capsys.readouterr().out == "c.png\n"
    assert run("--centers", "video", "-o", "c.png", "--overwrite", "--json", "-q") == 0
    facts = json.loads(capsys.readouterr().out)
    with Image.open("c.png") as image:
        assert [facts["width"], facts["height"]] == list(image.size)
    assert [row["segments"] for row in facts["rows"]] == [6, 4, 3]
    assert (facts["video"], facts["status"], facts["frames"]) == ("video", "ok", 6)


def test_a_row_per_plan_in_the_order_given(work, weights, capsys):
    plans = ["spectral@1:2,5,p=1e+0", "kmedoids@0:3,4+kmedoids@1:1,7", "kmedoids@1:2,5"]
    flags = [part for text in plans for part in ("--reduce", text)]
    argv = ["--centers", "video", "-o", "c.png", "-w", weights, "--frames", T, "--map", "--json"]
    assert run(*argv, *flags) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["reduce"] for row in rows] == [
        "spectral@1:2,5,p=1.0",
        "kmedoids@0:3,4 + kmedoids@1:1,7",
        "kmedoids@1:2,5",
    ]
    assert [(row["segments"], row["kept"], row["tokens"]) for row in rows] == [
        (2, 10, 96),
        (1, 7, 96),
        (2, 10, 96),
    ]


def test_weights_that_were_trained_with_a_plan_show_it(work, weights, capsys):
    loader(weights)(["kmedoids@1:2,4"]).save("run.pt")
    argv = ["--centers", "video", "-o", "c.png", "-w", "run.pt", "--json", "--overwrite"]
    assert run(*argv) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["reduce"] for row in facts["rows"]] == ["kmedoids@1:2,4"]
    argv[1] = "gone"  # told before it is looked for
    assert run(*argv, "--frames", "5") == 4
    assert "5 frames do not divide into 2" in capsys.readouterr().err
    argv[1] = "video"
    loader(weights)(["pooling@1:2"]).save("run.pt")
    assert run(*argv) == 2
    assert "pooling@1:2 has no clusters to show" in capsys.readouterr().err
    assert run(*argv, "--reduce", "kmedoids@1:1,3") == 0


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["-o", "c.png"], 2, "either HITS"),
        (["hits", "--centers", "video", "-o", "c.png"], 2, "either HITS"),
        (["hits", "-o", "c.png", "--map"], 2, "--map: only with --centers"),
        (["hits", "-o", "c.png", "--frames", "3"], 2, "--frames: only with --centers"),
        (["--centers", "video", "-o", "c.png", "-k", "3"], 2, "--top: only without --centers"),
        (["--centers", "video"], 2, "-o is missing"),
        (["--centers", "video", "-o", "c.txt"], 2, "expected one of .png"),
        (["--centers", "gone.mp4", "-o", "c.png"], 1, "gone.mp4: invalid_data: no such file"),
        (["--centers", "gone", "-o", "c.png", "--reduce", "sparse@1:2,3"], 2, "kmedoids, spectral"),
        (["--centers", "gone", "-o", "c.png", "--reduce", "kmedoid@1:2,3"], 2, "no reducer"),
        (["--centers", "gone", "-o", "c.png", "--reduce", "kmedoids@1:5,3"], 2, "12 frames do not"),
        (["--centers", "gone", "-o", "c.png", "--reduce", "kmedoids@1:6,33"], 2, "of the 32 tok"),
        (["--centers", "video", "-o", "c.png", "--width", "60"], 2, "take a --width of"),
    ],
)
def test_wrong_use(work, capsys, argv, code, message):
    assert run(*argv) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in work.iterdir()] == ["video"]


def test_a_video_that_ends_early_is_shown_and_exit_is_3(work, monkeypatch, capsys):
    whole = centers.read

    def early(*args, **options):
        found = whole(*args, **options)
        return found._replace(status=found.status._replace(state="partial"))

    monkeypatch.setattr(centers, "read", early)
    assert run("--centers", "video", "-o", "c.png", "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "partial"
    assert "video: partial" in captured.err
    assert (work / "c.png").exists()
