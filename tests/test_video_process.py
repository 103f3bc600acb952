"""The process that decodes: killed with its children, bounded in memory; and how it is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from video_files import coded, everything, make

from ttvr import video
from ttvr.errors import RequirementError, VideoError
from ttvr.video import _ffmpeg


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with `plain.mp4`, 300 frames, and `cut.mp4`, which lacks its tables."""
    folder = tmp_path_factory.mktemp("process")
    video.write(folder / "plain.mp4", coded(range(300)), fps=25)
    make(folder / "tail.mp4", "-i", str(folder / "plain.mp4"), "-c", "copy")
    data = (folder / "tail.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    return folder


def code_of(path, **options):
    with pytest.raises(VideoError) as caught:
        video.read_frames(path, everything, **options)
    assert "\n" not in caught.value.detail
    assert caught.value.detail
    return caught.value.code


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Use a shell script as ffmpeg; it answers -version as a real one does."""

    def use(text):
        head = 'case "$*" in *-version*) echo ffmpeg version 7.1; exit;; esac\n'
        monkeypatch.setenv("TTVR_FFMPEG", str(script(tmp_path / "ffmpeg", head + text)))

    return use


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def all_dead(found):
    """Whether they are gone within a second: a signal takes a moment to arrive."""
    for _ in range(50):
        if not any(alive(pid) for pid in found):
            return True
        time.sleep(0.02)
    return False


def pids(path, count):
    for _ in range(100):
        if path.exists() and len(found := path.read_text().split()) == count:
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError("the script did not start")


def test_a_hanging_decoder_is_killed_with_its_children(clips, tmp_path, pretend):
    pretend(f"sleep 100 & echo $$ $! > {tmp_path}/pids\nwait\n")
    before = time.monotonic()
    assert code_of(clips / "plain.mp4", timeout=0.5) == "timeout"
    assert time.monotonic() - before < 3
    assert all_dead(pids(tmp_path / "pids", 2))


def test_children_that_hold_the_pipes_are_killed(clips, tmp_path, pretend):
    pretend(f"sleep 100 & echo $! > {tmp_path}/pids\nexit 0\n")
    assert code_of(clips / "plain.mp4", timeout=0.5) == "timeout"
    assert all_dead(pids(tmp_path / "pids", 1))


def test_interrupt_kills_the_decoder(clips, tmp_path, pretend):
    pretend(f"sleep 100 & echo $$ $! > {tmp_path}/pids\nwait\n")
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        video.read_frames(clips / "plain.mp4", everything, timeout=30)
    assert all_dead(pids(tmp_path / "pids", 2))


def test_an_error_of_the_caller_kills_the_decoder(clips):
    def choose(n):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        video.read_frames(clips / "plain.mp4", choose)


def test_a_crashing_decoder(clips, pretend):
    pretend("kill -SEGV $$\n")
    assert code_of(clips / "plain.mp4") == "crashed"


def test_a_decoder_that_says_nothing(clips, pretend):
    pretend("exit 0\n")
    assert code_of(clips / "plain.mp4") == "invalid_data"


def test_a_flood_of_messages_neither_blocks_nor_fills_memory(clips, pretend):
    pretend("yes '[error] something is wrong' | head -c 8000000 >&2\n")
    assert code_of(clips / "plain.mp4", timeout=30) == "invalid_data"
    pretend("yes | tr -d '\\n' | head -c 8000000 >&2\n")
    assert code_of(clips / "plain.mp4", timeout=30) == "invalid_data"


def test_the_terminal_is_not_touched(clips, pretend, tmp_path):
    pretend(f"cat > {tmp_path}/stdin\nexit 1\n")
    reader, writer = os.pipe()
    os.write(writer, b"secret")
    saved = os.dup(0)
    os.dup2(reader, 0)
    try:
        assert code_of(clips / "cut.mp4", timeout=5) == "invalid_data"
    finally:
        os.dup2(saved, 0)
        for number in (reader, writer, saved):
            os.close(number)
    assert (tmp_path / "stdin").read_bytes() == b""


def test_memory_does_not_grow_with_the_video(tmp_path):
    """12 s of 640x480 are 276 MB as RGB; a process that reads them stays far below that."""
    path = make(
        tmp_path / "long.mkv",
        *("-f", "lavfi", "-i", "testsrc=s=640x480:d=12:r=25", "-c:v", "mpeg4", "-q:v", "9"),
    )
    program = (
        "import resource, sys\n"
        "from ttvr import video\n"
        "import ttvr.video._command as command\n"
        "command.TERM_LIMIT = 1\n"  # every frame comes through the pipe and is dropped here
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "frames = video.read_frames(sys.argv[1], lambda n: [0, n // 2, n - 1])\n"
        "assert len(frames.times) == 3\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert float(done.stdout) < 40


# --- finding ffmpeg


def test_no_ffmpeg_anywhere(monkeypatch):
    monkeypatch.delenv("TTVR_FFMPEG", raising=False)
    monkeypatch.setenv("PATH", "/nowhere-at-all")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(RequirementError) as caught:
        video.find_ffmpeg()
    assert caught.value.exit_code == 5
    assert str(caught.value) == (
        "cannot find ffmpeg (looked at $TTVR_FFMPEG, PATH, imageio-ffmpeg). "
        "Fix: apt install ffmpeg | brew install ffmpeg | pip install 'ttvr[ffmpeg]'"
    )


@pytest.mark.parametrize("text", [None, "exit 1\n", "echo something else\n"])
def test_an_unusable_variable_is_named(monkeypatch, tmp_path, text):
    path = tmp_path / "my-ffmpeg"
    if text is not None:
        script(path, text)
    monkeypatch.setenv("TTVR_FFMPEG", str(path))
    with pytest.raises(RequirementError, match=r"\$TTVR_FFMPEG is .*my-ffmpeg"):
        video.find_ffmpeg()


def test_the_one_that_starts_faster_is_taken(monkeypatch, tmp_path):
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    for folder, wait in ((slow, "sleep 0.3\n"), (fast, "")):
        folder.mkdir()
        script(folder / "ffmpeg", f"{wait}echo ffmpeg version 7.1\n")
    monkeypatch.delenv("TTVR_FFMPEG", raising=False)
    for carried, on_path in ((fast, slow), (slow, fast)):
        monkeypatch.setattr(_ffmpeg, "_carried", lambda folder=carried: str(folder / "ffmpeg"))
        monkeypatch.setenv("PATH", f"{on_path}:/usr/bin:/bin")
        _ffmpeg._find.cache_clear()
        assert video.find_ffmpeg() == fast / "ffmpeg"
    assert video.ffmpeg_version() == "7.1"
    _ffmpeg._find.cache_clear()


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("4.4.2", "vsync"),
        ("5.0.3", "vsync"),
        ("5.1.9-0+deb12u1", "fps_mode"),
        ("n9.0.2-17-g2a571b6068", "fps_mode"),
        ("N-113007-g8d24a28d06", "fps_mode"),
    ],
)
def test_the_option_that_keeps_every_frame_is_that_of_the_version(monkeypatch, version, option):
    monkeypatch.setattr(_ffmpeg, "ffmpeg_version", lambda: version)
    assert _ffmpeg.passthrough() == {option: "passthrough"}
