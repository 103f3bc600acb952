"""What cannot be decoded: each failure has its code, nothing hangs, no other file is read."""

from __future__ import annotations

import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from video_files import chosen, coded, everything, make, spread

from ttvr import video
from ttvr.errors import RequirementError, VideoError
from ttvr.video import _ffmpeg


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with `plain.mp4` (tables first) and `tail.mp4` (tables last), 300 frames each."""
    folder = tmp_path_factory.mktemp("failures")
    video.write(folder / "plain.mp4", coded(range(300)), fps=25)
    make(folder / "tail.mp4", "-i", str(folder / "plain.mp4"), "-c", "copy")
    return folder


def code_of(path, **options):
    with pytest.raises(VideoError) as caught:
        video.read_frames(path, everything, **options)
    assert "\n" not in caught.value.detail
    assert caught.value.detail
    return caught.value.code


def cut(path, name, part):
    data = path.read_bytes()
    target = path.with_name(name)
    target.write_bytes(data[: int(len(data) * part)])
    return target


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


# --- damaged files


def test_cut_with_tables_first_is_partial(clips):
    path = cut(clips / "plain.mp4", "cut.mp4", 0.6)
    picks, times, result = chosen(path, lambda n: [0, n - 1])
    assert result.status.state == "partial"
    assert result.status.expected_s == 12.0
    assert result.status.decoded_s < 10.5
    assert picks[1] == round(times[1] * 25)
    few = video.read_frames(path, lambda n: [0])
    assert few.status == result.status  # however few frames are wanted


def test_cut_by_less_than_a_second_is_told_by_the_decoder(clips):
    data = (clips / "plain.mp4").read_bytes()
    path = clips / "nearly.mp4"
    path.write_bytes(data[:-10])
    status = video.read_frames(path, lambda n: [0]).status
    assert status.decoder_errors > 0 or status.state == "ok"
    assert status.decoded_s >= 11.0


def test_cut_before_the_tables_is_invalid(clips):
    assert code_of(cut(clips / "tail.mp4", "tail_cut.mp4", 0.6)) == "invalid_data"


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi"])
def test_cut_of_other_containers_is_partial(clips, suffix):
    codec = {"mkv": "copy", "webm": "libvpx", "avi": "mpeg4"}[suffix]
    try:
        whole = make(clips / f"w.{suffix}", "-i", str(clips / "plain.mp4"), "-c:v", codec)
    except subprocess.CalledProcessError:
        pytest.skip(f"this ffmpeg has no {codec}")
    assert video.read_frames(whole, lambda n: [0]).status.state == "ok"
    status = video.read_frames(cut(whole, f"c.{suffix}", 0.5), lambda n: [0]).status
    assert status.state == "partial"
    assert status.expected_s == pytest.approx(12.0, abs=0.1)


def test_nothing_of_a_video(clips):
    path = clips / "empty.mp4"
    path.touch()
    assert code_of(path) == "empty"
    assert code_of(clips / "absent.mp4") == "invalid_data"
    for name, content in (("text.mp4", b"hello\n" * 100), ("zeros.mp4", bytes(5000))):
        (clips / name).write_bytes(content)
        assert code_of(clips / name) == "invalid_data"
    assert code_of(cut(clips / "plain.mp4", "head.mp4", 0.01)) == "invalid_data"


def test_random_damage_never_escapes(clips):
    """Flipped bytes give frames or a VideoError, never another exception."""
    data = (clips / "plain.mp4").read_bytes()
    generator = np.random.default_rng(0)
    path = clips / "damaged.mp4"
    for _ in range(25):
        broken = bytearray(data)
        for at in generator.integers(0, 6000, 12):  # the tables lie there
            broken[at] = generator.integers(0, 256)
        path.write_bytes(broken)
        try:
            result = video.read_frames(path, spread(3), size=32)
        except VideoError:
            continue
        assert result.pixels.shape[1:] == (32, 32, 3)
        assert 1 <= len(result.times) <= 3


def test_audio_only(clips):
    path = make(clips / "audio.mp4", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac")
    assert code_of(path) == "no_video_stream"
    with pytest.raises(VideoError, match="no_video_stream"):
        video.probe(path)


def test_cover_art_is_no_video(clips):
    make(clips / "cover.png", "-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1")
    path = make(
        clips / "album.m4a",
        *(
            "-f",
            "lavfi",
            "-i",
            "sine=d=1",
            "-i",
            str(clips / "cover.png"),
            "-map",
            "0",
            "-map",
            "1",
        ),
        *("-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic"),
    )
    assert code_of(path) == "no_video_stream"


# --- names and kinds of files


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a:b.mp4", "%d.mp4", "http:x.mp4", "a'b [c],;d.mp4", "é\n.mp4"]
)
def test_names_are_only_names(clips, monkeypatch, name):
    (clips / name).write_bytes((clips / "plain.mp4").read_bytes())
    monkeypatch.chdir(clips)
    assert chosen(Path(name), lambda n: [5])[0] == [5]


def test_a_wrong_suffix_does_not_matter(clips):
    for name in ("plain.avi", "plain.txt", "plain"):
        (clips / name).write_bytes((clips / "plain.mp4").read_bytes())
        assert chosen(clips / name, lambda n: [n - 1])[0] == [299]


def test_fifo_and_device_fail_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    before = time.monotonic()
    assert code_of(tmp_path / "pipe.mp4") == "invalid_data"
    assert code_of("/dev/zero") == "invalid_data"
    assert time.monotonic() - before < 1


def test_playlists_are_not_followed(clips):
    """A playlist under a video's name reads no other file, and asks no server."""
    asked = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(1000))

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.mp4"
        other = clips / "plain.mp4"
        hls = "#EXTM3U\n#EXT-X-TARGETDURATION:12\n#EXTINF:12,\n{}\n#EXT-X-ENDLIST\n"
        dash = (
            '<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{}</BaseURL>'
        )
        scripts = {
            "hls": hls,
            "concat": "ffconcat version 1.0\nfile '{}'\n",
            "dash": dash + "</Representation></AdaptationSet></Period></MPD>",
            "text": "{}\n",
        }
        for name, text in scripts.items():
            for target in (str(other), f"file:{other}", url):
                for suffix in (".mp4", ".m3u8", ".ffconcat"):
                    path = clips / f"{name}{suffix}"
                    path.write_text(text.format(target))
                    assert code_of(path) == "invalid_data"
        server.shutdown()
    assert asked == []


# --- the process


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
        assert code_of(clips / "tail_cut.mp4", timeout=5) == "invalid_data"
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
