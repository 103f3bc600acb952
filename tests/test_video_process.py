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
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listed.returncode == 0 and not listed.stdout.startswith("Z")


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
    pretend("yes '[error] something is wrong' | head -c 2000000 >&2\n")
    assert code_of(clips / "plain.mp4", timeout=30) == "invalid_data"
    pretend("yes | tr -d '\\n' | head -c 2000000 >&2\n")
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
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(grown * unit / 1e6)\n"
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


@pytest.fixture
def two_binaries(monkeypatch, tmp_path):
    """Two executables, of PATH and of imageio-ffmpeg, with these versions and start-up times."""

    def use(on_path, carried):
        monkeypatch.delenv("TTVR_FFMPEG", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        script(tmp_path / "ffmpeg", "exit 1\n")
        answers = {str(tmp_path / "ffmpeg"): on_path, "carried": carried}
        monkeypatch.setattr(_ffmpeg, "_carried", lambda: "carried")
        monkeypatch.setattr(_ffmpeg, "_start", answers.__getitem__)
        _ffmpeg._find.cache_clear()

    yield use
    _ffmpeg._find.cache_clear()


def test_the_carried_one_is_taken_only_if_it_starts_much_faster(two_binaries):
    """A run that is resumed must not change its decoder because a start took a bit longer."""
    for seconds, name in ((0.5, "ffmpeg"), (0.09, "ffmpeg"), (0.06, "ffmpeg"), (0.04, "carried")):
        two_binaries(("7.1", 0.1), ("9.0", seconds))
        assert video.find_ffmpeg().name == name
    two_binaries(None, ("9.0", 9.9))
    assert video.ffmpeg_version() == "9.0"


def test_what_is_too_old_is_passed_over_and_named(two_binaries, monkeypatch, tmp_path):
    two_binaries(("4.4.2-0ubuntu0.22", 0.1), ("5.0", 0.4))
    assert video.find_ffmpeg().name == "carried"
    two_binaries(("5.1", 0.4), ("4.2.2-static", 0.1))
    assert video.find_ffmpeg().name == "ffmpeg"
    for other in (None, ("4.2.2-static", 0.1)):
        two_binaries(("4.4.2-0ubuntu0.22", 0.1), other)
        with pytest.raises(RequirementError, match=r"/ffmpeg is ffmpeg 4\.4\.2.* 5\.0 or later is"):
            video.find_ffmpeg()
    monkeypatch.setenv("TTVR_FFMPEG", str(tmp_path / "ffmpeg"))
    with pytest.raises(RequirementError, match=r"is ffmpeg 4\.4\.2"):
        video.find_ffmpeg()


@pytest.mark.parametrize(
    ("version", "option"),
    [
        ("5.0.3", "vsync"),
        ("5.1.9-0+deb12u1", "fps_mode"),
        ("n9.0.2-17-g2a571b6068", "fps_mode"),
        ("N-113007-g8d24a28d06", "fps_mode"),
    ],
)
def test_the_option_that_keeps_every_frame_is_that_of_the_version(monkeypatch, version, option):
    monkeypatch.setattr(_ffmpeg, "ffmpeg_version", lambda: version)
    assert _ffmpeg.passthrough() == {option: "passthrough"}
