"""A thin copy of an MP4: only the samples that the chosen frames need, under the same headers.

Frames far apart need not cost the decoding of all between them. From the tables of `_isobmff`
follows which samples a frame depends on: all since its sync sample, but for pictures that no
other refers to (H.264: nal_ref_idc 0, H.265: sub-layer non-reference). Those samples, in decoding
order and with their own timestamps, are a valid shorter stream; ffmpeg reads it from a pipe.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ttvr.video._boxes import MALFORMED, boxes, children
from ttvr.video._isobmff import Track

# Codecs whose sync samples are exact entry points. MPEG-4 part 2 is not: its B-frames refer across.
CODECS = {b"avc1": "h264", b"avc3": "h264", b"hvc1": "hevc", b"hev1": "hevc"}
CODECS |= {b"vp09": "vp9", b"av01": "av1"}
WORTH = 0.9  # part of all samples above which a thin copy saves less than it costs
CHUNK = 1 << 18  # bytes read at once
NAL_LIMIT = 64  # units before the first slice of a picture
H264_SLICES, H264_IDR = (1, 5), 5
HEVC_SLICES, HEVC_SUBLAYER = 32, 15  # slice types are below 32; of those below 15, even: _N


def select(path: Path, track: Track, wanted: np.ndarray) -> np.ndarray | None:
    """Samples that decode to the wanted frames.

    Args:
        path: the file.
        track: its video track.
        wanted: [T] decoding-order indices of the frames.

    Returns:
        Ascending decoding-order indices of all samples needed, or None where a thin copy cannot be
        trusted to give the same frames, or would not be worth it.
    """
    try:
        return _select(path, track, wanted)
    except MALFORMED:
        return None


def _select(path: Path, track: Track, wanted: np.ndarray) -> np.ndarray | None:
    shown = track.shown()
    is_usable = track.is_simple and track.is_whole and track.codec in CODECS and track.is_sync[0]
    if not is_usable or (np.diff(track.cts[shown]) == 0).any() or (np.diff(track.dts) < 0).any():
        return None
    needed, leading = _spans(track, wanted)
    is_wanted = np.zeros(len(track.sizes), bool)
    is_wanted[wanted] = True
    with path.open("rb") as file:
        is_spare = _spare(file, track, np.flatnonzero(needed))
    if is_spare is None:
        return None
    keep = np.flatnonzero(needed & (is_wanted | ~(is_spare | leading)))
    return keep if len(keep) <= WORTH * len(track.sizes) else None


def _spans(track: Track, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples [N] bool from the sync sample of each wanted frame to it; and which may be left out.

    A frame shown before its sync sample (a leading picture) needs the group before that too, and
    other leading pictures; elsewhere leading pictures are left out: their references are missing.
    """
    N = len(track.sizes)
    syncs = np.flatnonzero(track.is_sync)
    group = np.searchsorted(syncs, np.arange(N), side="right") - 1
    leading = track.cts < track.cts[syncs[group]]
    last = np.full(len(syncs), -1)
    np.maximum.at(last, group[wanted], wanted)
    ends = np.append(syncs[1:], N) - 1
    for g in np.unique(group[wanted[leading[wanted]]]):
        leading[group == g] = False
        if g:
            last[g - 1] = ends[g - 1]
    return np.arange(N) <= last[group], leading


def _spare(file: BinaryIO, track: Track, samples: np.ndarray) -> np.ndarray | None:
    """Samples [N] bool that no other refers to, or None if the stream is not as it should be."""
    is_spare = np.zeros(len(track.sizes), bool)
    kind = CODECS[track.codec]
    if kind not in ("h264", "hevc"):
        return is_spare
    prefix = _prefix_size(track)
    layers = set()
    for at in samples.tolist():
        unit = _first_slice(file, track, at, kind=kind, prefix=prefix)
        if unit is None:
            return None
        number, is_spare[at], layer = unit
        layers.add(layer)
        if kind == "h264" and track.is_sync[at] and number != H264_IDR:
            return None
    # A higher temporal layer may refer to what its own layer does not.
    return is_spare if len(layers) < 2 else np.zeros_like(is_spare)


def _prefix_size(track: Track) -> int:
    """Bytes of the length before each NAL unit, from the decoder configuration.

    Raises:
        KeyError: there is none.
    """
    entry = _stbl(track.head[2])[b"stsd"][16:]
    parts = children(entry[78:])  # what comes before the boxes within a sample entry: 86 bytes
    config = parts[b"avcC"] if b"avcC" in parts else parts[b"hvcC"]
    return (config[12 if config[4:8] == b"avcC" else 29] & 3) + 1


def _first_slice(
    file: BinaryIO, track: Track, sample: int, *, kind: str, prefix: int
) -> tuple[int, bool, int] | None:
    """NAL type, whether nothing refers to it, and temporal layer of a sample's first slice."""
    at = int(track.offsets[sample])
    end = at + int(track.sizes[sample])
    for _ in range(NAL_LIMIT):
        file.seek(at)
        head = file.read(prefix + 2)
        at += prefix + int.from_bytes(head[:prefix], "big")
        if len(head) < prefix + 2 or at > end or head[prefix] & 0x80:
            return None
        if kind == "h264":
            number = head[prefix] & 31
            if number in H264_SLICES:
                return number, not head[prefix] & 0x60, 0
        else:
            number = head[prefix] >> 1 & 63
            if number < HEVC_SLICES:
                is_spare = number < HEVC_SUBLAYER and number % 2 == 0
                return number, is_spare, (head[prefix + 1] & 7) - 1
    return None


def offset(track: Track, samples: np.ndarray) -> int:
    """Ticks that the thin copy of these samples adds to the display time of each."""
    return _lead(track) - int(track.dts[samples[0]])


def _lead(track: Track) -> int:
    """Ticks that keep the difference of display and decoding time from being negative."""
    return -min(0, int((track.cts - track.dts).min()))


def pieces(path: Path, track: Track, samples: np.ndarray) -> Iterator[bytes] | None:
    """The thin copy, piece by piece, or None where the headers of the file make no sense.

    Args:
        path: the file.
        track: its video track.
        samples: ascending decoding-order indices of the samples it holds.
    """
    try:
        header = _header(track, samples)
    except MALFORMED:
        return None
    return _pieces(path, header, track.offsets[samples], track.sizes[samples])


def _pieces(path: Path, header: bytes, offsets: np.ndarray, sizes: np.ndarray) -> Iterator[bytes]:
    yield header
    # Neighbors in the file are read in one go.
    breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
    with path.open("rb") as file:
        for part in np.split(np.arange(len(sizes)), breaks):
            file.seek(int(offsets[part[0]]))
            left = int(sizes[part].sum())
            while left and (piece := file.read(min(left, CHUNK))):
                left -= len(piece)
                yield piece


def _header(track: Track, samples: np.ndarray) -> bytes:
    """All that comes before the sample data: ftyp, moov and the head of mdat."""
    ftyp, mvhd, trak = track.head
    dts, cts = track.dts[samples], track.cts[samples]
    delays = cts - dts + _lead(track)
    steps = np.append(np.diff(dts), 1)
    tables = [
        _stbl(trak)[b"stsd"],
        _table(b"stts", np.stack([np.ones_like(steps), steps], 1)),
        _table(b"ctts", np.stack([np.ones_like(delays), delays], 1)),
        _table(b"stss", np.flatnonzero(track.is_sync[samples]) + 1),
        _table(b"stsc", np.array([[1, len(samples), 1]])),
        _box(b"stsz", struct.pack(">III", 0, 0, len(samples)), _words(track.sizes[samples])),
    ]

    def moov(place: int) -> bytes:
        chunk = _box(b"co64", struct.pack(">IIQ", 0, 1, place))
        return _box(b"moov", mvhd, _rebuilt(trak, _box(b"stbl", *tables, chunk)))

    data = struct.pack(">I4sQ", 1, b"mdat", 16 + int(track.sizes[samples].sum()))
    place = len(ftyp) + len(moov(0)) + len(data)
    return ftyp + moov(place) + data


def _rebuilt(box: bytes, stbl: bytes) -> bytes:
    """A trak box with another sample table, without its edit list and its references to others."""
    parts = []
    for kind, whole in boxes(box[8:]):
        if kind in (b"mdia", b"minf"):
            parts.append(_rebuilt(whole, stbl))
        elif kind == b"stbl":
            parts.append(stbl)
        elif kind not in (b"edts", b"tref"):
            parts.append(whole)
    return _box(box[4:8], *parts)


def _stbl(trak: bytes) -> dict[bytes, bytes]:
    box = trak
    for kind in (b"mdia", b"minf", b"stbl"):
        box = children(box)[kind]
    return children(box)


def _table(kind: bytes, rows: np.ndarray) -> bytes:
    return _box(kind, struct.pack(">II", 0, len(rows)), _words(rows))


def _words(values: np.ndarray) -> bytes:
    return values.astype(">u4").tobytes()


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body
