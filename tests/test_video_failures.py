"""What cannot be decoded: each failure has its code, nothing hangs, no other file is read."""

from __future__ import annotations

import os
import socketserver
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import chosen, coded, everything, make, spread

from ttvr import video
from ttvr.errors import VideoError


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


def test_cut_recording_without_a_duration_is_partial(clips):
    """As browsers record: only the reader's own words tell that something is missing."""
    whole = make(clips / "live.mkv", "-i", str(clips / "plain.mp4"), "-c", "copy", "-live", "1")
    found = video.read_frames(whole, lambda n: [0]).status
    assert (found.state, found.expected_s) == ("ok", None)
    found = video.read_frames(cut(whole, "live_cut.mkv", 0.5), lambda n: [0]).status
    assert (found.state, found.expected_s) == ("partial", None)


def test_an_image_is_no_video(clips):
    Image.new("RGB", (64, 64)).save(clips / "photo.jpg")
    with pytest.raises(VideoError, match="of no video format that is read"):
        video.read_frames(clips / "photo.jpg", lambda n: [0])


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
