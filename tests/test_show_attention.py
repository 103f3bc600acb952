"""ttvr-show --attention: the weights of the head are shown, each where its frame is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import write_start

from ttvr import frames as framing
from ttvr import retriever
from ttvr.clip import tokenizer
from ttvr.commands import show as command
from ttvr.errors import TtvrError, UsageError
from ttvr.heads._base import FrameWeights
from ttvr.recipes import Recipe
from ttvr.show import Attention, _attention, attention, attention_figure, centers
from ttvr.show._sheet import MARGIN

T, WORDS, SIZE = 6, 9, 16
QUERY = "a Skateboarding dog, red"
TOKENS = ("[start]", "a", "skateboarding", "dog", ",", "red", "[end]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run_of(folder):
    """A file of weights with a head of some options, made once."""
    start = write_start(folder)

    def make(head="drl", reduce=(), **options):
        key = "-".join([head, *reduce, *(f"{k}={v}" for k, v in options.items())])
        path = folder / f"{key.replace(':', '_')}.pt"
        if not path.exists():
            torch.manual_seed(0)
            recipe = Recipe(
                head=head,
                head_options=tuple(options.items()),
                reduce=reduce,
                weights=str(start),
                frames=T,
                words=WORDS,
            )
            model = retriever.build(recipe, activation="quick_gelu")
            for parameter in model.head.parameters():
                parameter.data.add_(0.3 * torch.randn_like(parameter))
            model.save(path)
        return path

    return make


@pytest.fixture(scope="module")
def drl(run_of):
    return run_of(temporal="none", wti_arch=1)


def pixels(frames=T, seed=0):
    shape = (frames, SIZE, SIZE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@torch.no_grad()
def test_what_is_collected_is_the_heads(drl):
    model, few = retriever.load(drl), pixels(4)
    found = attention.collect(model, QUERY, few, frames=T)
    text = model.encode_text(tokenizer.tokenize([QUERY], WORDS))
    mask = torch.arange(T)[None] < 4
    frames = torch.zeros(1, T, 3, SIZE, SIZE)
    frames[0, :4] = framing.normalize(few)
    expected = model.head.frame_weights(text, model.encode_video(frames, mask))
    np.testing.assert_allclose(found.sentence, expected.sentence[0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.words, expected.words[0, 0, : len(TOKENS)], rtol=1e-5)
    assert found.tokens == TOKENS
    assert found.what == expected.what
    assert found.sentence[:4].sum() == pytest.approx(1)
    assert not found.sentence[4:].any()


def test_tokens_are_spelt(drl):
    model = retriever.load(drl)
    found = attention.collect(model, "antidisestablishmentarianism", pixels(), frames=T)
    pieces = [f"{piece}\u2026" for piece in ("anti", "dise", "stab", "lish", "ment")]
    assert found.tokens == ("[start]", *pieces, "arianism", "[end]")
    long = attention.collect(model, "red " * 20, pixels(), frames=T)
    assert long.tokens == ("[start]", *["red"] * (WORDS - 2), "[end]")
    assert long.words.shape == (WORDS, T)


def test_heads_without_weights_are_refused(run_of, monkeypatch, drl):
    for name in ("meanp", "tight_transf"):
        options = {"layers": 1} if name == "tight_transf" else {}
        model = retriever.load(run_of(name, **options))
        with pytest.raises(UsageError, match=f"the head {name} has no weights of frames"):
            attention.require_weights(model.head)
    model = retriever.load(drl)
    attention.require_weights(model.head)
    broken = FrameWeights(torch.full((1, 1, T), torch.nan), None, "none")
    monkeypatch.setattr(model.head, "frame_weights", lambda text, video: broken)
    with pytest.raises(TtvrError, match="the head drl gives weights that are no finite numbers"):
        attention.collect(model, QUERY, pixels(), frames=T)


def plain(frames=T):
    """Frames of one color each."""
    made = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
    made[..., 0] = 10 + 20 * np.arange(frames)[:, None, None]
    return made


def draw(found, *, frames=None, **options):
    frames = plain() if frames is None else frames
    return attention_figure(
        frames, np.arange(len(frames)), found, frames=T, title="q", about="v", **options
    )


def attention_of(sentence, words=None):
    tokens = tuple(f"w{n}" for n in range(0 if words is None else len(words)))
    return Attention(np.array(sentence), None if words is None else np.array(words), tokens, "what")


def cell(image, layout, frame, row):
    """The color of a cell, near its left edge, where no number stands."""
    left, top = layout.place(frame)
    gap = _attention.PAD if row else 0
    rows = top + layout.side + _attention.SMALL + 2 * _attention.PAD + row * _attention.ROW + gap
    return image.getpixel((left + 3, rows + _attention.ROW // 2))


@pytest.mark.parametrize("width", [260, 400, 1600])
def test_cells_are_as_dark_as_their_numbers(width):
    rng = np.random.default_rng(0)
    found = attention_of(rng.random(T), rng.normal(size=(3, T)))
    image = draw(found, width=width)
    layout = _attention._layout(width, T, ["sentence", *found.tokens])
    assert image.width == width
    assert layout.across == {260: 2, 400: 3, 1600: 6}[width]
    assert layout.side >= _attention.LEAST_FRAME
    for t in range(T):
        left, top = layout.place(t)
        assert left + layout.side <= width - MARGIN
        assert image.getpixel((left + 2, top + 2)) == (10 + 20 * t, 0, 0)
        assert image.getpixel((left + layout.side - 2, top + layout.side - 2))[0] == 10 + 20 * t
    for first, values in ((0, found.sentence[None]), (1, found.words)):
        least = min(0, values.min())
        for row, numbers in enumerate(values):
            for t, number in enumerate(numbers):
                part = (number - least) / (values.max() - least)
                expected = [255 + part * (full - 255) for full in (8, 69, 148)]
                assert cell(image, layout, t, first + row) == pytest.approx(expected, abs=1)


def test_numbers_are_written_short():
    assert [_attention._written(x) for x in (-0.0001, 0.12345, -0.5)] == [
        "0.000",
        "0.123",
        "-0.500",
    ]


def test_equal_weights_are_equally_dark_and_zeros_are_white():
    layout = _attention._layout(1600, T, ["sentence"])
    image = draw(attention_of([0.25] * T))
    assert {cell(image, layout, t, 0) for t in range(T)} == {(8, 69, 148)}
    image = draw(attention_of([0.0] * T))
    assert {cell(image, layout, t, 0) for t in range(T)} == {(255, 255, 255)}


def test_a_segment_is_as_wide_as_its_frames():
    image, layout = draw(attention_of([1.0, 0.5])), _attention._layout(1600, T, ["sentence"])
    colors = [cell(image, layout, t, 0) for t in range(T)]
    assert colors[:3] == [(8, 69, 148)] * 3
    assert colors[3:] == [colors[3]] * 3 != colors[:3]
    left, _ = layout.place(1)
    _, top = layout.place(0)
    row = top + layout.side + _attention.SMALL + 2 * _attention.PAD + _attention.ROW // 2
    assert image.getpixel((left - 2, row)) == (8, 69, 148)  # no gap between its frames


def test_padding_is_grey_and_said():
    found = attention_of([1.0] * 4 + [0.0] * 2)
    image, layout = draw(found, frames=plain(4)), _attention._layout(1600, T, ["sentence"])
    left, top = layout.place(5)
    assert image.getpixel((left + 5, top + 5)) == (140, 140, 140)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 100}, "take a --width of"),
        ({"width": 99_999}, "at most 16383"),
        ({"width": 300, "tallest": 300}, "at most 300 go; take a greater --width"),
    ],
)
def test_pictures_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        draw(attention_of([1.0] * T), **options)


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


def test_a_picture_is_written(work, drl, capsys):
    argv = ["--attention", "video", "--query", QUERY, "-w", drl, "-o", "a.png"]
    assert run(*argv) == 0
    assert capsys.readouterr().out == "a.png\n"
    assert run(*argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(*argv, "--overwrite", "--json", "--width", 900) == 0
    facts = json.loads(capsys.readouterr().out)
    with Image.open("a.png") as image:
        assert [facts["width"], facts["height"]] == list(image.size)
    assert [facts[key] for key in ("video", "status", "frames", "query", "head")] == [
        *("video", "ok", T, QUERY, "drl")
    ]
    assert tuple(facts["tokens"]) == TOKENS
    expected = attention.collect(retriever.load(drl), QUERY, pixels(), frames=T)
    np.testing.assert_allclose(facts["sentence"], expected.sentence)
    np.testing.assert_allclose(facts["words"], expected.words)


def test_segments_and_heads_without_words(work, run_of, capsys):
    reduced = run_of(reduce=("kmedoids@1:2,4",), interaction="ti", temporal="none")
    argv = ["--attention", "video", "--query", QUERY, "-o", "a.png", "--json", "--overwrite", "-w"]
    assert run(*argv, reduced) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sentence"] == [0.5, 0.5]
    assert np.shape(facts["words"]) == (len(TOKENS), 2)
    assert run(*argv, run_of(interaction="dp", temporal="none")) == 0
    assert json.loads(capsys.readouterr().out)["words"] is None


def test_a_long_query_is_cut_and_said(work, drl, capsys):
    argv = ["--attention", "video", "--query", "red " * 20, "-w", drl, "-o", "a.png", "--json"]
    assert run(*argv) == 0
    captured = capsys.readouterr()
    assert f"1 of 1 queries have more than {WORDS} tokens" in captured.err
    assert len(json.loads(captured.out)["tokens"]) == WORDS


ASKED = ["--attention", "video", "--query", "red", "-o", "a.png"]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--attention", "video", "-o", "a.png"], 2, "--query is missing"),
        (["--attention", "video", "--query", " ", "-o", "a.png"], 2, "--query is missing"),
        ([*ASKED, "--query", "blue"], 2, "--query is given twice"),
        ([*ASKED[:4]], 2, "-o is missing"),
        ([*ASKED, "--centers", "video"], 2, "either HITS"),
        (["hits", *ASKED], 2, "either HITS"),
        ([*ASKED, "--map"], 2, "--map: only with --centers"),
        ([*ASKED, "-k", "3"], 2, "--top: only without --attention"),
        (["--centers", "video", "--query", "red", "-o", "a.png"], 2, "--query: only with --att"),
        (["hits", "-o", "a.png", "--head", "drl"], 2, "--head: only with --attention"),
        (["hits", "-o", "a.png", "-w", "x"], 2, "only with --centers or --attention"),
        (["--attention", "gone", *ASKED[2:]], 2, "the head meanp has no weights of frames"),
        ([*ASKED, "--head", "drl"], 4, "has no weights for the head drl"),
        ([*ASKED, "--head", "dlr"], 2, "did you mean drl"),
        (["--attention", "gone", *ASKED[2:], "-w", "DRL"], 1, "gone: invalid_data: no such file"),
        ([*ASKED, "-w", "DRL", "--width", "90"], 2, "take a --width of"),
    ],
)
def test_wrong_use(work, capsys, drl, argv, code, message):
    argv = [drl if one == "DRL" else one for one in argv]
    assert run(*argv) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in work.iterdir()] == ["video"]


def test_a_video_that_ends_early_is_shown_and_exit_is_3(work, monkeypatch, capsys, drl):
    whole = centers.read

    def early(*args, **options):
        found = whole(*args, **options)
        return found._replace(status=found.status._replace(state="partial"))

    monkeypatch.setattr(centers, "read", early)
    assert run(*ASKED, "-w", drl, "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "partial"
    assert "video: partial" in captured.err
    assert (work / "a.png").exists()
