"""Contact sheets: the right frame in the right place, and text that always fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttvr import video
from ttvr.errors import UsageError, VideoError
from ttvr.show import Row, Shot, _sheet, _type, contact_sheet, frame_at

FPS = 4
COLORS = [(230, 40, 40), (40, 200, 40), (40, 40, 230), (230, 230, 40)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Four seconds, one color each."""
    path = tmp_path_factory.mktemp("show") / "colors.mp4"
    frames = np.repeat(np.array(COLORS, np.uint8), FPS, axis=0)[:, None, None]
    video.write(path, np.broadcast_to(frames, (16, 96, 64, 3)).copy(), fps=FPS)
    return str(path)


@pytest.fixture
def plain(monkeypatch):
    """Frames by path, without decoding: `missing` fails."""
    asked = []

    def frame(path, time):
        asked.append((path, time))
        if path == "missing":
            raise VideoError("invalid_data", "no such file")
        return Image.new("RGB", (320, 180), COLORS[len(asked) % 4])

    monkeypatch.setattr(_sheet, "frame_at", frame)
    return asked


def shots(count, path="a.mp4"):
    return tuple(Shot(n + 1, f"id {n}", path, 0.5 - n / 10, float(n)) for n in range(count))


def near(color, other):
    return max(abs(int(a) - int(b)) for a, b in zip(color, other, strict=True)) < 12


@pytest.mark.parametrize(
    ("time", "color"), [(0.0, 0), (0.75, 0), (1.0, 1), (2.25, 2), (3.75, 3), (None, 2)]
)
def test_the_frame_at_a_time(clip, time, color):
    frame = frame_at(clip, time)
    assert frame.size == (64, 96)
    assert near(frame.getpixel((30, 50)), COLORS[color])


def test_a_recorded_time_finds_its_frame_again(clip):
    frames = video.read_frames(clip, lambda n: list(range(n)))
    for time, pixels in zip(frames.times.tolist(), frames.pixels, strict=True):
        found = np.asarray(frame_at(clip, round(time, 3)))
        assert np.abs(found.astype(int) - pixels).max() <= 2


def test_a_time_rounded_up_still_finds_its_frame(tmp_path):
    path = tmp_path / "greys.mp4"
    greys = np.arange(8, dtype=np.uint8) * 30
    video.write(path, np.tile(greys[:, None, None, None], (1, 32, 32, 3)), fps=24)
    times = video.read_frames(path, lambda n: list(range(n))).times.tolist()
    assert any(round(time, 3) > time for time in times)
    for time, grey in zip(times, greys.tolist(), strict=True):
        assert near(frame_at(path, round(time, 3)).getpixel((16, 16)), [grey] * 3)


def test_no_frame(tmp_path, clip):
    with pytest.raises(VideoError, match="no such file"):
        frame_at(tmp_path / "none.mp4", 0.0)
    with pytest.raises(VideoError, match="short"):
        frame_at(clip, 60.0)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="invalid_data"):
        frame_at(tmp_path / "text.mp4", None)


def test_frames_stand_where_their_hits_belong(clip):
    times = [0.0, 1.0, 2.0, 3.0]
    row = Row("0", "colors", tuple(Shot(n + 1, "x", clip, 0.1, t) for n, t in enumerate(times)))
    sheet = contact_sheet([row], width=900, columns=3)
    tile = (900 - 2 * _sheet.MARGIN - 2 * _sheet.GAP) // 3
    picture = round(tile * 9 / 16)
    pixels = np.asarray(sheet.image).astype(int)
    expected = dict(enumerate(COLORS))
    for number, color in expected.items():
        line, column = divmod(number, 3)
        left = _sheet.MARGIN + column * (tile + _sheet.GAP)
        wide = pixels[:, left + tile // 2]  # the middle of the tile's column
        matches = [y for y in range(len(wide)) if near(wide[y], color)]
        assert len(matches) == pytest.approx(picture, abs=2)
        below = [y for y in range(len(wide)) if near(wide[y], expected[column])]
        assert line == 0 or min(matches) > max(below)
    assert sheet.failures == {}


def test_a_video_that_fails_is_a_grey_tile_and_is_named(plain):
    rows = [Row("0", "a", (*shots(2), *shots(1, "missing"))), Row("1", "b", shots(2, "missing"))]
    steps = []
    sheet = contact_sheet(rows, on_step=steps.append)
    assert list(sheet.failures) == ["missing"]
    assert sheet.failures["missing"].code == "invalid_data"
    assert steps == [False, False, True, True, True]
    assert sum(path == "missing" for path, _ in plain) == 1
    colors = {color: count for count, color in sheet.image.getcolors(1 << 20)}
    grey = Image.new("RGB", (1, 1), _sheet._MISSING).getpixel((0, 0))
    assert colors[grey] > 3 * 200 * 100


def test_more_hits_than_columns_make_the_sheet_taller(plain):
    heights = [contact_sheet([Row("0", "a", shots(n))], columns=4).image.height for n in range(9)]
    assert heights[0] < heights[1] == heights[4] < heights[5] == heights[8]
    wide = contact_sheet([Row("0", "a", shots(4))], width=900, columns=4).image
    assert wide.width == 900


def test_sheets_that_cannot_be_drawn(plain):
    with pytest.raises(UsageError, match="at least 120"):
        contact_sheet([Row("0", "a", shots(1))], width=600, columns=5)
    with pytest.raises(UsageError, match="300 queries make a sheet of"):
        contact_sheet([Row("0", "a", shots(5))] * 300)
    with pytest.raises(UsageError, match="at most 16383 go"):
        contact_sheet([Row("0", "a", shots(1))], width=16_384)
    height = contact_sheet([Row("0", "a", ())] * 3).image.height
    assert contact_sheet([Row("0", "a", ())] * 3, tallest=height).image.height == height
    with pytest.raises(UsageError, match=f"a sheet of {height} pixels.*write a .png"):
        contact_sheet([Row("0", "a", ())] * 3, tallest=height - 1)
    assert plain == []


TEXTS = st.text(alphabet=st.characters(codec=None), max_size=80)


@settings(max_examples=40, deadline=None)
@given(text=TEXTS | st.text("aW i/", max_size=300), width=st.integers(40, 500))
def test_text_fits_whatever_it_is(text, width):
    line = _type.typeset(text)
    assert _type.shorten(line, 17, width).width(17) <= width
    lines = _type.wrap(line, 17, width, lines=3)
    assert 1 <= len(lines) <= 3
    assert all(one.width(17) <= width for one in lines)


def test_wrapping_keeps_every_word_while_there_is_room():
    text = _type.typeset("one two three four five six seven eight nine ten")
    lines = _type.wrap(text, 17, 150, lines=9)
    assert len(lines) > 2
    assert " ".join(line.words for line in lines) == text.words
    cut = _type.wrap(text, 17, 150, lines=2)
    assert [cut[0].words, cut[1].words[-1]] == [lines[0].words, "\u2026"]


def test_long_ids_keep_both_ends():
    found = _type.shorten(_type.typeset("videos/" + "x" * 200 + "/clip_17"), 17, 200)
    assert found.words.startswith("vid")
    assert found.words.endswith("clip_17")
    assert "\u2026" in found.words


def test_text_is_one_line_without_what_cannot_be_drawn():
    assert _type.typeset("a\tb\n\x00c \ud800").words == "a b c ?"


def test_without_a_system_font_letters_lose_their_accents(monkeypatch):
    monkeypatch.setattr(_type, "_installed", lambda: ())
    found = _type.typeset("\u00fcber caf\u00e9 \u2013 ok")
    assert found == _type.Text("uber cafe - ok", None)


def test_a_system_font_is_taken_only_where_it_is_needed():
    assert _type.typeset("plain").face is None
    if not _type._installed():
        pytest.skip("no font with many characters on this machine")
    found = _type.typeset("\u00fcber \u0441\u043e\u0431\u0430\u043a\u0430")
    assert found.face is not None
    assert found.words == "\u00fcber \u0441\u043e\u0431\u0430\u043a\u0430"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00.0"), (9.96, "0:10.0"), (59.97, "1:00.0"), (3725.5, "1:02:05.5")],
)
def test_times(seconds, shown):
    assert _sheet._clock(seconds) == shown
