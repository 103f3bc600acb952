"""Reads the boxes of an MP4 or QuickTime file: the exact times and places of its frames.

ISO/IEC 14496-12. Header facts come from here without starting a process, and so do the tables
from which a thin copy is written (`_thin`).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ttvr.video._boxes import MALFORMED, boxes, children, header_scale, places

MOOV_LIMIT = 1 << 28  # bytes; an hour of video has about 2 MB of tables
SAMPLE_LIMIT = 1 << 22  # samples of a track; 38 hours of video have as many
TICK_LIMIT = 1 << 61  # beyond it sums of times leave int64
_TOP = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"moof"}


class Track(NamedTuple):
    """The first video track that holds frames; arrays are in decoding order, N samples.

    Attributes:
        stream: index of the track in the file: ffmpeg's stream number.
        codec: four characters of its sample entry.
        timescale: ticks per second.
        dts: [N] int64 decoding times in ticks.
        cts: [N] int64 display times in ticks, before the edit list.
        is_sync: [N] bool, frames where decoding can start.
        offsets: [N] int64 place in the file.
        sizes: [N] int64 bytes.
        is_shown: [N] bool, False for frames that the edit list cuts away.
        shift: ticks to add to `cts` for the time in the presentation.
        end: tick (of `cts`) where the presentation ends.
        is_simple: the tables describe the whole track: no fragments, no more than one cut.
        is_whole: every sample lies within the file.
        head: the boxes that a copy of this track needs: ftyp, mvhd, and the track itself.
    """

    stream: int
    codec: bytes
    timescale: int
    dts: np.ndarray
    cts: np.ndarray
    is_sync: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    is_shown: np.ndarray
    shift: int
    end: int
    is_simple: bool
    is_whole: bool
    head: tuple[bytes, bytes, bytes]

    def shown(self) -> np.ndarray:
        """Decoding-order indices [n] of the frames that are shown, in display order."""
        order = np.argsort(self.cts, kind="stable")
        return order[self.is_shown[order]]

    def times(self) -> np.ndarray:
        """Seconds [n] float64 of the shown frames from the first, in display order."""
        ticks = self.cts[self.shown()]
        return (ticks - ticks[0]) / self.timescale

    def seconds(self) -> float:
        """From the first shown frame to the end of the track."""
        return float(self.end - self.cts[self.is_shown].min()) / self.timescale


def read(path: Path) -> Track | None:
    """The video track of a file, or None if this is no such file or its tables make no sense."""
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except MALFORMED:
        return None


def _read(file: BinaryIO, length: int) -> Track | None:
    ftyp = b""
    for kind, at, size in places(file, length):
        if at == 0 and kind not in _TOP:
            return None
        if kind in (b"moov", b"ftyp") and size < MOOV_LIMIT:
            file.seek(at)
            data = file.read(min(size, length - at))
            if kind == b"moov":
                return _movie(data, ftyp, length)
            ftyp = data
    return None


def _movie(moov: bytes, ftyp: bytes, length: int) -> Track | None:
    parts = children(moov)
    scale = header_scale(parts[b"mvhd"])
    is_fragmented = b"mvex" in parts
    tracks = [whole for kind, whole in boxes(moov[8:]) if kind == b"trak"]
    for stream, trak in enumerate(tracks):
        track = _track(trak, stream=stream, scale=scale, length=length)
        if track is not None:
            return track._replace(
                is_simple=track.is_simple and not is_fragmented,
                head=(ftyp, parts[b"mvhd"], trak),
            )
    return None


def _track(trak: bytes, *, stream: int, scale: int, length: int) -> Track | None:
    parts = children(trak)
    media = children(parts[b"mdia"])
    if media[b"hdlr"][16:20] != b"vide":
        return None
    tables = children(children(media[b"minf"])[b"stbl"])
    sizes = _sizes(tables, length)
    if not len(sizes):
        return None
    N = len(sizes)
    timescale = header_scale(media[b"mdhd"])
    steps = _runs(tables[b"stts"], ">u4", N)
    dts = np.concatenate([[0], np.cumsum(steps)[:-1]])
    cts = dts + (_runs(tables[b"ctts"], ">i4", N) if b"ctts" in tables else 0)
    offsets = _offsets(tables, sizes)
    edits, is_simple = _edits(parts, scale, timescale)
    begin, end, shift = edits
    is_shown = (cts >= begin) & (cts < end)
    if not is_shown.any():
        return None
    last = int((cts + steps)[is_shown].max())
    entries = struct.unpack_from(">I", tables[b"stsd"], 12)[0]
    return Track(
        stream=stream,
        codec=tables[b"stsd"][20:24],
        timescale=timescale,
        dts=dts,
        cts=cts,
        is_sync=_sync(tables, N),
        offsets=offsets,
        sizes=sizes,
        is_shown=is_shown,
        shift=shift,
        end=min(last, end),
        is_simple=is_simple and entries == 1 and timescale > 0,
        is_whole=bool(offsets.min() >= 0 and (offsets + sizes).max() <= length),
        head=(b"", b"", b""),
    )


def _sizes(tables: dict[bytes, bytes], length: int) -> np.ndarray:
    box = tables[b"stsz"]
    same, count = struct.unpack_from(">II", box, 12)
    if count > SAMPLE_LIMIT:
        raise ValueError("more samples than a video has")
    if same:
        if same * count > length:
            raise ValueError("more samples than bytes")
        return np.full(count, same, np.int64)
    return np.frombuffer(box, ">u4", count, 20).astype(np.int64)


def _runs(box: bytes, kind: str, N: int) -> np.ndarray:
    """Values [N] int64 of a run-length table (stts, ctts)."""
    count = struct.unpack_from(">I", box, 12)[0]
    runs = np.frombuffer(box, np.dtype([("n", ">u4"), ("value", kind)]), count, 16)
    if runs["n"].astype(np.int64).sum() > 2 * N + 1024:
        raise ValueError("a run-length table describes more samples than there are")
    values = np.repeat(runs["value"].astype(np.int64), runs["n"])[:N]
    if len(values) < N:
        raise ValueError("a run-length table describes fewer samples than there are")
    return values


def _sync(tables: dict[bytes, bytes], N: int) -> np.ndarray:
    if b"stss" not in tables:
        return np.ones(N, bool)
    box = tables[b"stss"]
    numbers = np.frombuffer(box, ">u4", struct.unpack_from(">I", box, 12)[0], 16)
    is_sync = np.zeros(N, bool)
    is_sync[numbers[(numbers > 0) & (numbers <= N)].astype(np.int64) - 1] = True
    return is_sync


def _offsets(tables: dict[bytes, bytes], sizes: np.ndarray) -> np.ndarray:
    wide = b"co64" in tables
    box = tables[b"co64" if wide else b"stco"]
    chunks = struct.unpack_from(">I", box, 12)[0]
    starts = np.frombuffer(box, ">u8" if wide else ">u4", chunks, 16).astype(np.int64)
    table = tables[b"stsc"]
    rows = np.frombuffer(table, ">u4", 3 * struct.unpack_from(">I", table, 12)[0], 16)
    first, each = rows.reshape(-1, 3)[:, :2].astype(np.int64).T
    ends = np.cumsum(np.repeat(each, np.diff(np.append(first, chunks + 1))))
    if len(ends) != chunks or not chunks or ends[-1] < len(sizes):
        raise ValueError("fewer samples in chunks than have a size")
    # Not by repeating each chunk as often as it says: it can say four thousand million.
    chunk = np.searchsorted(ends, np.arange(len(sizes)), side="right")
    before = np.cumsum(sizes) - sizes
    leaders = np.flatnonzero(np.diff(chunk, prepend=-1))
    # Samples of a chunk lie one after another: place = chunk start + bytes since its first sample.
    return (
        starts[chunk] + before - np.repeat(before[leaders], np.diff(np.append(leaders, len(sizes))))
    )


def _edits(
    parts: dict[bytes, bytes], scale: int, timescale: int
) -> tuple[tuple[int, int, int], bool]:
    """First tick shown, tick after the last, shift to presentation time; and if that is all."""
    everything = (np.iinfo(np.int64).min, np.iinfo(np.int64).max, 0)
    if b"edts" not in parts or b"elst" not in (inner := children(parts[b"edts"])):
        return everything, True
    box = inner[b"elst"]
    count = struct.unpack_from(">I", box, 12)[0]
    entry = struct.Struct(">QqI" if box[8] == 1 else ">IiI")
    edits = [entry.unpack_from(box, 16 + i * entry.size) for i in range(min(count, 64))]
    delay = 0
    while edits and edits[0][1] == -1:
        delay += edits.pop(0)[0]
    if not edits:
        return everything, count == 0
    length, begin, rate = edits[0]
    if max(delay, length, abs(begin)) > TICK_LIMIT // max(timescale, 1):
        raise ValueError("an edit beyond all time")
    end = begin + round(length * timescale / scale) if length else everything[1]
    shift = round(delay * timescale / scale) - begin
    return (begin, end, shift), len(edits) == 1 and rate == 1 << 16
