"""Tables of MP4 files that lie: nothing escapes, nothing large is made, no frame is invented."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from video_files import chosen, coded, everything, make, spread

from ttvr import video
from ttvr.video import _boxes, _decode, _fragments, _isobmff, _thin
from ttvr.video._choice import Choice
from ttvr.video._process import Deadline

MUTATIONS = 800
MEMORY = 8 << 20  # bytes; the tables of 300 frames are a few thousand
NUMBERS = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """`plain.mp4` with tables for all of its 300 frames, and fragmented forms of it."""
    folder = tmp_path_factory.mktemp("tables")
    plain = folder / "plain.mp4"
    video.write(plain, coded(range(300)), fps=25)
    for name, flags in {
        "first": "frag_keyframe",
        "bare": "frag_keyframe+empty_moov+default_base_moof",
        "indexed": "dash+global_sidx",
    }.items():
        fragments = ("-g", "50", "-sc_threshold", "0", "-movflags", flags)
        make(folder / f"{name}.mp4", "-i", str(plain), *fragments)
    return folder


def patched(clips, kind, at, value, layout=">I"):
    """A copy of `plain.mp4` with a number changed in the body of the first box of a kind."""
    data = bytearray((clips / "plain.mp4").read_bytes())
    struct.pack_into(layout, data, data.index(kind) + 4 + at, value)
    path = clips / "patched.mp4"
    path.write_bytes(data)
    return path


def thin_copy(path):
    """The bytes of a thin copy, None where there is none."""
    track = _isobmff.read(path)
    if track is None or not track.is_simple:
        return None
    wanted = track.shown()[spread(3)(len(track.times()))]
    samples = _thin.select(path, track, wanted)
    pieces = None if samples is None else _thin.pieces(path, track, samples)
    return None if pieces is None else b"".join(pieces)


def test_damaged_tables_never_escape(clips):
    data = (clips / "plain.mp4").read_bytes()
    assert thin_copy(clips / "plain.mp4") is not None
    begin = data.index(b"moov")
    end = begin + int.from_bytes(data[begin - 4 : begin], "big")
    generator = np.random.default_rng(0)
    path, copies = clips / "damaged.mp4", 0
    tracemalloc.start()
    for _ in range(MUTATIONS):
        broken = bytearray(data)
        for at in generator.integers(begin, end, generator.integers(1, 4)):
            if generator.random() < 0.5:
                broken[at] = generator.integers(0, 256)
            else:
                struct.pack_into(">I", broken, at, generator.choice(NUMBERS))
        path.write_bytes(broken)
        copies += thin_copy(path) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert copies > MUTATIONS / 10  # much damage goes as far as the thin copy


def test_no_decoder_configuration_is_no_thin_copy(clips):
    path = patched(clips, b"avcC", -4, b"free", "4s")
    assert _isobmff.read(path) is not None
    assert thin_copy(path) is None


def test_a_box_that_leaves_its_parent_is_no_thin_copy(clips):
    assert thin_copy(patched(clips, b"avcC", -8, 0x7FFFFFFF)) is None


def test_damage_that_shows_only_when_the_headers_are_copied(clips):
    """The second of two equal boxes is not read, only copied: it must not escape either."""
    track = _isobmff.read(clips / "plain.mp4")
    ftyp, mvhd, trak = track.head
    second = struct.pack(">I4sI4s", 16, b"mdia", 0x7FFFFFFF, b"minf")
    trak = struct.pack(">I", len(trak) + len(second)) + trak[4:] + second
    broken = track._replace(head=(ftyp, mvhd, trak))
    assert _thin.pieces(clips / "plain.mp4", broken, np.arange(9)) is None


def test_clocks_and_edits_out_of_range(clips):
    path = patched(clips, b"mvhd", 12, 0)  # no ticks per second, and an edit list in them
    assert b"elst" in path.read_bytes()
    assert _isobmff.read(path) is None
    assert chosen(path, lambda n: [5])[0] == [5]
    path = patched(clips, b"mdhd", 12, 0)
    assert _isobmff.read(path) is None or not _isobmff.read(path).is_simple
    far = patched(clips, b"elst", 0, 1 << 24)  # version 1: 64 bits, of which these are the first
    assert _isobmff.read(far) is None


def test_more_samples_in_a_chunk_than_exist(clips):
    whole = _isobmff.read(clips / "plain.mp4")
    tracemalloc.start()
    track = _isobmff.read(patched(clips, b"stsc", 12, 0xFFFFFFFF))
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()
    assert track is None or len(track.offsets) == len(whole.offsets)
    assert _isobmff.read(patched(clips, b"stsz", 4, 1)) is not None  # one byte each, of 300
    assert _isobmff.read(patched(clips, b"stsz", 8, 0x7FFFFFFF)) is None


def test_sample_places_are_those_of_a_loop(clips):
    """Chunks of several lengths: the place of each sample, one after the other."""
    sizes = np.array([5, 7, 1, 2, 9, 4, 3], np.int64)
    stsc = struct.pack(">II4sIIIIIIII", 0, 0, b"stsc", 0, 2, 1, 2, 1, 3, 1, 1)[4:]
    stco = struct.pack(">I4sIIIIII", 0, b"stco", 0, 4, 100, 200, 300, 400)
    expected = [100, 105, 200, 201, 300, 400]
    tables = {b"stsc": stsc, b"stco": stco}
    assert _isobmff._offsets(tables, sizes[:6]).tolist() == expected
    with pytest.raises(ValueError, match="fewer samples"):
        _isobmff._offsets(tables, sizes)


# --- fragments


def test_tables_of_the_first_fragment_alone_are_not_used(clips):
    path = clips / "first.mp4"
    track = _isobmff.read(path)
    assert len(track.sizes) < 300
    choice = Choice(everything, fps=None, start=5.0, end=None)
    settings = {"size": None, "deadline": Deadline.after(60)}
    assert _decode.thin_copy(path, track, choice, **settings) is None
    assert chosen(path, everything, start=5.0)[0] == list(range(125, 300))
    assert chosen(path, lambda n: [0, 270])[0] == [0, 270]


def places(path):
    with path.open("rb") as file:
        return list(_boxes.places(file, path.stat().st_size))


def cut(path, at):
    target = path.with_name("cut.mp4")
    target.write_bytes(path.read_bytes()[:at])
    return video.read_frames(target, lambda n: [0, n - 1]).status


@pytest.mark.parametrize("name", ["first", "bare"])
def test_a_fragment_without_all_its_data_is_partial(clips, name):
    path = clips / f"{name}.mp4"
    assert video.read_frames(path, lambda n: [0]).status == ("ok", 12.0, pytest.approx(12.0), 0)
    heads = [place for place in places(path) if place.kind == b"moof"]
    for after in (0, heads[3].size // 2):  # cut behind the moof, and in its mdat
        status = cut(path, heads[3].at + heads[3].size + after)
        assert status.state == "partial"
        assert status.decoded_s < 9


def test_more_boxes_than_are_looked_at_do_not_seem_cut(clips, monkeypatch):
    path = clips / "bare.mp4"
    at = next(i for i, place in enumerate(places(path)) if place.kind == b"moof")
    for module in (_boxes, _fragments):
        monkeypatch.setattr(module, "TOP_LIMIT", at + 1)
    assert _fragments.read(path) == _fragments.Fragments(0.0, False)


def test_a_fragment_boundary_is_told_by_the_promised_length(clips):
    path = clips / "indexed.mp4"
    assert _fragments.read(path) == _fragments.Fragments(pytest.approx(12.0), False)
    assert video.read_frames(path, lambda n: [0]).status.state == "ok"
    ends = [place.at + place.size for place in places(path) if place.kind == b"mdat"]
    status = cut(path, ends[2])
    assert status.state == "partial"
    assert status.expected_s == pytest.approx(12.0, abs=0.1)
    path = with_extent(clips, 12.0)
    assert _fragments.read(path) == _fragments.Fragments(12.0, False)
    ends = [place.at + place.size for place in places(path) if place.kind == b"mdat"]
    status = cut(path, ends[2])
    assert (status.state, status.expected_s) == ("partial", 12.0)


def with_extent(clips, seconds):
    """The fragmented file with an `mehd` box in its head."""
    data = bytearray((clips / "bare.mp4").read_bytes())
    scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    box = struct.pack(">I4sII", 16, b"mehd", 0, int(seconds * scale))
    for kind in (b"moov", b"mvex"):
        at = data.index(kind) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(box))
    at = data.index(b"mvex") + 4
    path = clips / "extent.mp4"
    path.write_bytes(data[:at] + box + data[at:])
    return path


def test_damaged_fragments_never_escape(clips):
    generator = np.random.default_rng(1)
    for name in ("indexed", "bare"):
        data = (clips / f"{name}.mp4").read_bytes()
        path = clips / "damaged.mp4"
        for _ in range(100):
            broken = bytearray(data)
            for at in generator.integers(0, 2500, 6):
                broken[at] = generator.integers(0, 256)
            path.write_bytes(broken)
            found = _fragments.read(path)
            assert found is None or found.seconds >= 0
