"""Downloads from a loopback server that cuts, stalls, lies and serves wrong bytes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections import namedtuple

import pytest
from lying_server import CONTENT, ENTRY, Server

from ttvr.clip import fetch as module
from ttvr.clip.fetch import fetch
from ttvr.errors import RequirementError, TtvrError, UsageError


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "TTVR_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.release.set()
    made.shutdown()
    made.server_close()


def get(server, folder, *script, **options):
    if script:
        server.script = list(script)
    options = {"url": server.url, "pause": 0.001, "stall": 5.0, **options}
    return fetch(ENTRY, folder, **options)


def is_done(folder):
    return [p.name for p in folder.iterdir()] == ["toy.pt"] and (
        folder / "toy.pt"
    ).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["good"], [None]),
        (["cut", "good"], [None, "bytes=300000-"]),
        (["cut"], [None, "bytes=300000-", "bytes=600000-"]),
        (["cut", "cut_at_once", "cut_at_once", "good"], [None, *["bytes=300000-"] * 3]),
        (["error_503", "error_503", "good"], [None] * 3),
        (["cut", "ignores_range"], [None, "bytes=300000-"]),
        (["cut", "other_range", "good"], [None, "bytes=300000-", None]),
        (["no_length"], [None]),
        (["says_more"], [None]),
        (["cut", "says_more"], [None, "bytes=300000-"]),
        (["chunked"], [None, *(f"bytes={n}00000-" for n in (2, 4, 6))]),
        (["no_http", "good"], [None] * 2),
        (["moved", "good"], [None] * 2),
        (["cut", "moved", "good"], [None, "bytes=300000-", "bytes=300000-"]),
    ],
)
def test_arrives(script, ranges, server, tmp_path):
    path = get(server, tmp_path, *script)
    assert path == tmp_path / "toy.pt"
    assert is_done(tmp_path)
    assert server.requests == ranges


def test_stall_is_given_up_and_resumed(server, tmp_path):
    get(server, tmp_path, "stall", "silent", "good", stall=0.2)
    assert is_done(tmp_path)
    assert server.requests == [None, "bytes=100000-", "bytes=100000-"]


def test_progress_tells_bytes_and_total(server, tmp_path):
    told = []
    get(server, tmp_path, "cut", "good", report=lambda *now: told.append(now))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [have for have, _ in told] == sorted(have for have, _ in told)
    assert {total for _, total in told} == {len(CONTENT)}


def test_a_later_call_resumes(server, tmp_path):
    with pytest.raises(RequirementError, match=r"300000 bytes kept in .*toy.pt.part"):
        get(server, tmp_path, "cut", "cut_at_once", tries=2)
    assert (tmp_path / "toy.pt.part").read_bytes() == CONTENT[:300_000]
    get(server, tmp_path, "good")
    assert server.requests[-1] == "bytes=300000-"
    assert is_done(tmp_path)


def test_a_complete_part_needs_no_request(server, tmp_path):
    (tmp_path / "toy.pt.part").write_bytes(CONTENT)
    get(server, tmp_path)
    assert is_done(tmp_path)
    assert server.requests == []


def test_of_two_at_a_time_the_second_ends_and_the_first_arrives(server, tmp_path):
    folders = []
    script = ("stall", "good")
    first = threading.Thread(target=lambda: folders.append(get(server, tmp_path, *script)))
    first.start()
    deadline = time.monotonic() + 10
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(TtvrError, match=r"toy.pt.part: another process is downloading"):
        get(server, tmp_path)
    server.release.set()
    first.join()
    assert folders == [tmp_path / "toy.pt"]
    assert is_done(tmp_path)
    assert server.requests == [None, "bytes=100000-"]


def test_a_file_that_another_process_finished_meanwhile_is_taken(server, tmp_path, monkeypatch):
    real = module.claimed

    def late(part):
        (tmp_path / "toy.pt").write_bytes(CONTENT)
        return real(part)

    monkeypatch.setattr(module, "claimed", late)
    assert get(server, tmp_path) == tmp_path / "toy.pt"
    assert is_done(tmp_path)
    assert server.requests == []


def test_a_part_that_was_renamed_or_removed_is_not_locked(server, tmp_path, monkeypatch):
    part, real, calls = tmp_path / "toy.pt.part", fcntl.flock, []

    def late(file, how):
        real(file, how)
        calls.append(how)
        if len(calls) == 1:
            part.rename(tmp_path / "renamed")
        elif len(calls) == 2:
            part.unlink()
            part.write_bytes(CONTENT[:10])

    monkeypatch.setattr(fcntl, "flock", late)
    get(server, tmp_path)
    assert server.requests == ["bytes=10-"]
    assert (tmp_path / "renamed").read_bytes() == b""
    assert (tmp_path / "toy.pt").read_bytes() == CONTENT


def test_what_is_renamed_is_what_was_hashed(server, tmp_path):
    def spoil(have, _total):
        with (tmp_path / "toy.pt.part").open("r+b") as file:
            file.write(bytes(100))

    with pytest.raises(TtvrError, match=r"kept as .* for inspection"):
        get(server, tmp_path, report=spoil)
    assert not (tmp_path / "toy.pt").exists()
    get(server, tmp_path)
    assert is_done(tmp_path)


@pytest.mark.parametrize("extra", [0, 1000])
def test_a_part_of_something_else_is_started_anew(extra, server, tmp_path):
    (tmp_path / "toy.pt.part").write_bytes(bytes(len(CONTENT) + extra))
    get(server, tmp_path)
    assert is_done(tmp_path)
    assert server.requests == [f"bytes={len(CONTENT) + extra}-", None]


@pytest.mark.parametrize(
    ("behavior", "size"), [("wrong_bytes", 700_000), ("page", 26), ("says_less", 650_000)]
)
def test_wrong_bytes_are_kept_said_and_never_continued(behavior, size, server, tmp_path):
    with pytest.raises(TtvrError) as caught:
        get(server, tmp_path, behavior)
    text = str(caught.value)
    for part in (f"{size} bytes with sha256", ENTRY.sha256, "toy.pt.part for inspection", "anew"):
        assert part in text
    assert "\n" not in text
    assert (tmp_path / "toy.pt.part").stat().st_size == size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.pt.part", "toy.pt.part.bad"]
    get(server, tmp_path, "good")
    assert server.requests == [None, None]
    assert is_done(tmp_path)


@pytest.mark.parametrize(
    ("behavior", "match", "requests"),
    [
        ("error_404", "HTTP 404 Not Found", 1),
        ("error_503", "gave up after 3 attempts: .*HTTP 503", 3),
        ("cut_at_once", "gave up after 3 attempts: .*cut off after 0 of 700000", 3),
        ("drops", "gave up after 3 attempts: .*cut off after 12 of 1008", 3),
        ("no_http", "gave up after 3 attempts", 3),
        ("loop", "HTTP 302", None),
        ("cuts_and_ignores_range", "gave up after 3 attempts", 4),
    ],
)
def test_gives_up_and_says_how_to_do_it_by_hand(behavior, match, requests, server, tmp_path):
    with pytest.raises(RequirementError, match=match) as caught:
        get(server, tmp_path, behavior, tries=3)
    text = str(caught.value)
    assert f"about 1 MB, sha256 {ENTRY.sha256}" in text
    assert f"-C - -o {tmp_path / 'toy.pt'} " in text
    assert "\n" not in text
    assert requests in (None, len(server.requests))
    kept = [path.stat().st_size for path in tmp_path.iterdir()]
    assert all(kept), "an empty part stays"
    assert not (tmp_path / "toy.pt").exists()


def test_nobody_listens(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(RequirementError, match=r"gave up after 2 attempts.*refused"):
        fetch(ENTRY, tmp_path, url=url, tries=2, pause=0.001)


def test_pauses_double_up_to_a_limit(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(RequirementError):
        get(server, tmp_path, "error_503", tries=9, pause=1.0)
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_an_endless_answer_is_not_written_out(server, tmp_path):
    with pytest.raises(TtvrError, match=r"kept as .* for inspection"):
        get(server, tmp_path, "endless")
    assert 2_000_000 < (tmp_path / "toy.pt.part").stat().st_size < 2_300_000


def test_what_is_there_is_kept(server, tmp_path):
    (tmp_path / "toy.pt").write_bytes(CONTENT)
    assert get(server, tmp_path) == tmp_path / "toy.pt"
    (tmp_path / "toy.pt").write_bytes(b"mine")
    with pytest.raises(TtvrError, match="left as it is"):
        get(server, tmp_path)
    assert (tmp_path / "toy.pt").read_bytes() == b"mine"
    assert server.requests == []


def test_offline(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TTVR_OFFLINE", "1")
    with pytest.raises(RequirementError, match=r"TTVR_OFFLINE is set.*curl"):
        get(server, tmp_path / "new")
    assert server.requests == []
    assert not (tmp_path / "new").exists()
    source = tmp_path / "source.pt"
    source.write_bytes(CONTENT)
    fetch(ENTRY, tmp_path / "new", url=source.as_uri())
    assert is_done(tmp_path / "new")


def test_file_address(tmp_path):
    source = tmp_path / "a b.pt"
    source.write_bytes(CONTENT)
    folder = tmp_path / "to"
    folder.mkdir()
    (folder / "toy.pt.part").write_bytes(CONTENT[:1000])
    fetch(ENTRY, folder, url=source.as_uri())
    assert is_done(folder)
    source.write_bytes(CONTENT[:-1])
    (folder / "toy.pt").unlink()
    with pytest.raises(TtvrError, match="699999 bytes with sha256"):
        fetch(ENTRY, folder, url=source.as_uri())
    with pytest.raises(FileNotFoundError):
        fetch(ENTRY, folder, url=(tmp_path / "none").as_uri())


@pytest.mark.parametrize("url", ["ftp://host/toy.pt", "toy.pt", "javascript:1", "data:,x"])
def test_other_addresses(url, tmp_path):
    with pytest.raises(UsageError, match="must start with https"):
        fetch(ENTRY, tmp_path, url=url)


Disk = namedtuple("Disk", "total used free")


def test_no_room_is_said_before_anything_is_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**6, 10**6, 100))
    with pytest.raises(TtvrError, match="1 MB are to come, 0 MB are free"):
        get(server, tmp_path)


def test_disk_full_on_the_way(server, tmp_path):
    real, limit = module._Transfer._keep, 400_000

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, view):
            room = limit - self.file.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(view[:room])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module._Transfer, "_keep", lambda self, file, *rest: real(self, Full(file), *rest)
        )
        with pytest.raises(
            TtvrError, match=r"the disk is full after .* bytes; toy.pt.part was kept"
        ):
            get(server, tmp_path)
    assert (tmp_path / "toy.pt.part").read_bytes() == CONTENT[:limit]
    get(server, tmp_path)
    assert is_done(tmp_path)
    assert server.requests == [None, f"bytes={limit}-"]
