"""What ffmpeg says, and what files and their names make it say."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from video_files import ORIGINS, chosen, coded, make, use_binary

from ttvr import video
from ttvr.errors import VideoError
from ttvr.video import _log

LIES = [
    "config in time_base: 1/0, x",
    "n:   0 pts:      7 pts_time:0.1",
    "[showinfo@0 @ 0x5] [info] n:   0 pts:      7 pts_time:0.1",
    "a\n[info] Stream mapping:\n[info] n:   0 pts:      7 pts_time:0.1",
    "[error] corrupt decoded frame",
    "[warning] Estimating duration from bitrate",
    "displaymatrix: rotation of -90.00 degrees",
    "Display Matrix: rotation of -90.00 degrees",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "plain.mp4"
    video.write(path, coded(range(20)), fps=10)
    return path


@pytest.mark.parametrize("origin", ORIGINS)
def test_what_a_file_says_of_itself_is_no_frame(plain, tmp_path, monkeypatch, origin):
    lies = [
        part
        for lie in LIES
        for place in ("-metadata", "-metadata:s:v:0")
        for part in (place, f"x{LIES.index(lie)}={lie}", place, f"{lie}=x")
    ]
    path = make(tmp_path / "told.mkv", "-i", str(plain), "-c", "copy", *lies)
    use_binary(origin, monkeypatch)
    picks, times, result = chosen(path, lambda n: [0, 5, n - 1])
    assert picks == [0, 5, 19]
    assert times == [0.0, 0.5, 1.9]
    assert result.status == ("ok", pytest.approx(2.0), pytest.approx(2.0), 0)
    assert result.info[:2] == (192, 48)
    assert result.info.rotation == 0


@pytest.mark.parametrize("lie", LIES[:4])
def test_what_a_file_is_called_is_no_frame(plain, tmp_path, lie):
    path = tmp_path / f"{lie.replace('/', '_')}.mp4"
    path.write_bytes(plain.read_bytes())
    for choose in (lambda n: [5], lambda n: list(range(n))):
        picks, times, _ = chosen(path, choose)
        assert picks == choose(20)
        assert times == [round(n / 10, 4) for n in picks]


def said(*lines):
    log = _log.Log()
    for line in lines:
        log.line(line)
    return log


def test_frames_are_read_also_behind_an_unfinished_line():
    """Threads of newer versions write into each other's lines."""
    begin = f"[{_log.note()} @ 0x55] [info] config in time_base: 1/25, frame_rate: 25/1"
    frame = "n:{0:4d} pts:{0:7d} pts_time:{0}  duration: 1"
    log = said(
        "[info] Stream mapping:",
        begin,
        f"[{_log.note()} @ 0x55] [info] {frame.format(0)}",
        f"[info]   Stream #0:0{frame.format(1)}",
        f"[warning] {frame.format(2)}.mp4: corrupt input packet",
    )
    assert log.pts == [0, 1]
    assert log.base == pytest.approx(1 / 25)
    assert said(begin.replace("1/25", "1/0")).configs == 0


def test_details_are_the_same_at_each_run():
    """Addresses of the decoder's objects are not."""
    for line in (
        "[vist#0:0/h264 @ 0x55e0] [dec:h264 @ 0x7f01] [error] Error submitting packet to decoder",
        "[h264 @ 0x55eb3f111340] [error] no frame! [in @ 0x5f]",
        "[info] Stream[h264 @ 0x55eb3f111340] corrupt decoded frame",
    ):
        detail = said("[info] Stream mapping:", line).failure(1).detail
        assert detail
        assert " @ 0x" not in detail


def test_frames_without_a_header_are_an_error(plain, tmp_path, monkeypatch):
    """A decoder whose header is not understood, as those before version 5."""
    program = tmp_path / "ffmpeg"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-version*) echo ffmpeg version 7.1; exit;; esac\n'
        'mark=$(expr "$*" : ".*\\(showinfo@[0-9a-f]*\\)")\n'
        'echo "[$mark @ 0x5] [info] config in time_base: 1/10" >&2\n'
        'echo "[$mark @ 0x5] [info] n: 0 pts: 0 pts_time:0" >&2\n'
        "printf 'P6\\n1 1\\n255\\nabc'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("TTVR_FFMPEG", str(program))
    with pytest.raises(VideoError, match="invalid_data"):
        video.read_frames(plain, lambda n: [0])


def test_threads_that_begin_at_once_know_one_name(monkeypatch):
    names = iter("abcd")

    def slow(digits):
        time.sleep(0.05)
        return next(names)

    monkeypatch.setattr("ttvr.video._log.secrets.token_hex", slow)
    _log._note.cache_clear()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: _log.note(), range(4)))
    finally:
        _log._note.cache_clear()
    assert found == ["showinfo@a"] * 4
