"""Downloads a public checkpoint: hashed while it streams, resumed, retried, renamed when right."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ttvr import __version__
from ttvr.clip._part import claimed
from ttvr.clip.catalog import Entry, by_hand
from ttvr.errors import RequirementError, TtvrError, UsageError

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 18
_TRIES = 5
_STALL = 30.0
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_ENDLESS = 2
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

Report = Callable[[int, int | None], None]


class _Cut(Exception):
    """The transfer ended early; trying again may help."""

    def __init__(self, what: str) -> None:
        # A server's own words may have line breaks.
        super().__init__(" ".join(what.split()))


class _Source(NamedTuple):
    """An open transfer: bytes from `start`, of `total` in all where the server says so."""

    stream: BinaryIO | http.client.HTTPResponse
    start: int
    total: int | None


def fetch(
    entry: Entry,
    folder: str | Path,
    *,
    url: str | None = None,
    report: Report | None = None,
    tries: int = _TRIES,
    stall: float = _STALL,
    pause: float = _PAUSE,
) -> Path:
    """The file of an entry in a folder, downloaded where it is not there yet.

    What has arrived is kept in `<file>.part`, which a later call continues. A complete file
    with a wrong hash is kept there too, for inspection, beside `<file>.part.bad` which says so;
    a later call starts anew. Of two calls at a time the second ends with an error.

    Args:
        entry: what to get; it has a hash.
        folder: made if it is not there.
        url: a mirror, or a `file://` address; by default the publisher's.
        report: called with (bytes so far, bytes in all or None).
        tries: attempts in a row that may bring next to nothing.
        stall: seconds without a byte after which an attempt is given up.
        pause: seconds before the second attempt; doubled before each further one.

    Raises:
        RequirementError: the network is forbidden or does not deliver.
        TtvrError: a file with another hash, at the source or already in place; a full disk;
            another process downloads it.
    """
    url = url or entry.url
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise UsageError(f"{url}: must start with https://, http:// or file://")
    folder = Path(folder).expanduser()
    target = folder / entry.file
    if target.exists():
        return _already(entry, target)
    if scheme != "file" and os.environ.get("TTVR_OFFLINE", "") not in ("", "0"):
        raise RequirementError(
            f"TTVR_OFFLINE is set, so nothing was downloaded; {by_hand(entry, folder)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with claimed(part) as file:
        # Whoever had the part until now may have finished it.
        if target.exists():
            return _already(entry, target)
        transfer = _Transfer(entry, part, file, url, stall=stall, report=report)
        transfer.resume()
        transfer.run(tries, pause)
        part.replace(target)
    return target


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return _hash(file).hexdigest()


def _hash(file: BinaryIO) -> hashlib._Hash:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest


def _already(entry: Entry, target: Path) -> Path:
    found = hash_of(target)
    if found != entry.sha256:
        raise TtvrError(
            f"{target}: exists with sha256 {found}, {entry.name} has {entry.sha256}; "
            "it was left as it is: move it away and fetch again"
        )
    return target


class _Transfer:
    """One file on its way: the part that is here, its hash, and where more comes from."""

    def __init__(
        self,
        entry: Entry,
        part: Path,
        file: BinaryIO,
        url: str,
        *,
        stall: float,
        report: Report | None,
    ) -> None:
        self._entry, self._url, self._stall, self._report = entry, url, stall, report
        self._part, self._file = part, file
        self._bad = part.with_name(f"{part.name}.bad")
        self._have, self._digest = 0, hashlib.sha256()

    def resume(self) -> None:
        """Take up the part that an earlier call left, unless that was found to be wrong."""
        if self._bad.exists():
            _LOG.info("%s had a wrong hash: starting anew", self._part)
            self._start_anew()
            self._bad.unlink()
        self._look()
        if self._have:
            _LOG.info("going on at %d bytes of %s", self._have, self._part)

    def run(self, tries: int, pause: float) -> None:
        """Get bytes until the hash is right; give up after `tries` attempts without progress."""
        failed = 0
        while not self._is_right():
            before = self._have
            try:
                self._attempt()
            except _Cut as cut:
                if self._is_right():
                    break
                failed = 0 if self._have >= before + _CHUNK else failed + 1
                if failed >= tries:
                    raise self._undelivered(f"gave up after {tries} attempts: {cut}") from cut
                wait = min(pause * 2**failed, _LONGEST_PAUSE)
                _LOG.info("%s; trying again in %.3g s", cut, wait)
                time.sleep(wait)
            else:
                break
        # What lies on the disk need not be what arrived.
        self._look()
        if not self._is_right():
            raise self._wrong()

    def _look(self) -> None:
        self._file.seek(0)
        self._digest = _hash(self._file)
        self._have = self._file.tell()

    def _is_right(self) -> bool:
        return self._have > 0 and self._digest.hexdigest() == self._entry.sha256

    def _attempt(self) -> None:
        """One connection, up to the end that the server announced."""
        source = self._open()
        with closing(source.stream) as stream:
            if source.start != self._have:
                self._start_anew()
            self._check_room(source)
            self._file.seek(self._have)
            while chunk := self._next(stream):
                self._keep(self._file, chunk, source.total)
            os.fsync(self._file.fileno())
        if source.total is not None and self._have < source.total:
            raise _Cut(f"{self._url}: cut off after {self._have} of {source.total} bytes")

    def _next(self, stream: BinaryIO | http.client.HTTPResponse) -> bytes:
        try:
            return stream.read1(_CHUNK)
        except TimeoutError as error:
            raise _Cut(f"{self._url}: no byte for {self._stall:g} s at {self._have}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"{self._url}: {error or type(error).__name__} at {self._have}") from error

    def _keep(self, file: BinaryIO, chunk: bytes, total: int | None) -> None:
        left = memoryview(chunk)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._full(f"the disk is full after {self._have} bytes") from error
        self._digest.update(chunk)
        self._have += len(chunk)
        if self._have > _ENDLESS * self._entry.megabytes * 10**6:
            raise self._wrong()
        if self._report is not None:
            self._report(self._have, total)

    def _check_room(self, source: _Source) -> None:
        free = shutil.disk_usage(self._part.parent).free
        if source.total is not None and source.total - self._have > free:
            missing = source.total - self._have
            raise self._full(f"{missing / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB are free")

    def _open(self) -> _Source:
        """Connect, asking for what is missing."""
        if self._url.startswith("file:"):
            return self._open_file()
        headers = {"User-Agent": f"ttvr/{__version__}"}
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
        request = urllib.request.Request(self._url, headers=headers)
        try:
            reply = urllib.request.urlopen(request, timeout=self._stall)
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Cut(f"{self._url}: {reason or type(error).__name__}") from error
        start = 0
        if reply.status == http.HTTPStatus.PARTIAL_CONTENT:
            said = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range", ""))
            start = int(said[1]) if said else -1
            if start != self._have:
                reply.close()
                self._start_anew()
                raise _Cut(f"{self._url}: the server sent another range than was asked for")
        length = reply.headers.get("Content-Length", "")
        return _Source(reply, start, start + int(length) if length.isdecimal() else None)

    def _refused(self, error: urllib.error.HTTPError) -> _Source:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._have:
            # The part is as long as the file, or longer, and its hash is wrong.
            self._start_anew()
            raise _Cut(f"{self._url}: the part was no beginning of this file")
        if error.code in _TEMPORARY:
            raise _Cut(f"{self._url}: HTTP {error.code} {error.reason}")
        raise self._undelivered(f"{self._url}: HTTP {error.code} {error.reason}")

    def _open_file(self) -> _Source:
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(self._url).path))
        stream = path.open("rb")
        size = path.stat().st_size
        start = self._have if self._have < size else 0
        stream.seek(start)
        return _Source(stream, start, size)

    def _start_anew(self) -> None:
        self._file.truncate(0)
        self._have, self._digest = 0, hashlib.sha256()

    def _wrong(self) -> TtvrError:
        found = self._digest.hexdigest()
        self._bad.write_text(f"{found} is not {self._entry.sha256}: {self._url}\n")
        return TtvrError(
            f"{self._url}: {self._have} bytes with sha256 {found}, {self._entry.name} has "
            f"{self._entry.sha256} (about {self._entry.megabytes} MB); kept as {self._part} for "
            "inspection, a further fetch starts anew; try another --url"
        )

    def _full(self, what: str) -> TtvrError:
        return TtvrError(
            f"{self._part.parent}: {what}; {self._part.name} was kept: make room and fetch again"
        )

    def _undelivered(self, what: str) -> RequirementError:
        kept = f"; {self._have} bytes kept in {self._part}" if self._have else ""
        what = " ".join(what.split())
        return RequirementError(f"{what}{kept}; {by_hand(self._entry, self._part.parent)}")
