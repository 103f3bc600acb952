"""The 73 real clips, with every ffmpeg that is here, against what another decoder found in them."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from video_files import ORIGINS, everything, spread, use_binary

from ttvr import video
from ttvr.errors import VideoError
from ttvr.video import _decode, _isobmff
from ttvr.video._choice import Choice
from ttvr.video._process import Deadline

FAILED = {
    "media3_mp4_sample_audio_only.mp4": "no_video_stream",
    "media3_ogg_bear_vorbis.ogg": "no_video_stream",
    "media3_dash_webvtt-in-mp4_sample.text.mp4": "no_video_stream",
    "media3_vp9_invalid-bitstream.webm": "invalid_data",
    "moviepy_result.webm": "empty",
}
VVC = "media3_mp4_sample_vvc.mp4"
CORRUPTED = "decord_corrupted.mp4"
# An AVI has no display times. The other decoder took them from the packets, and they run backwards;
# here frame i of n is shown at i / 30.
NO_TIMES = "mmaction_S001_rgb.avi"
# Its edit list starts 4 ms before the first frame shown; the other decoder takes that for 0.
SHIFTED = "cve_vid1.mp4"


@pytest.fixture(params=ORIGINS)
def binary(request, monkeypatch):
    return use_binary(request.param, monkeypatch)


@pytest.fixture(scope="session")
def found(shared):
    """What another decoder (PyAV) found, by file name."""
    clips = json.loads((shared / "videos" / "probe.json").read_text())
    return {clip["file"]: clip["probe"] for clip in clips}


def has_decoder(binary, name):
    command = [binary, "-hide_banner", "-decoders"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f" {name} " in listed


def two_at_once(work, items):
    """Results of a function for each item, in order; the decoders are processes of their own."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


def outcome(path):
    try:
        return video.read_frames(path, everything, size=8)
    except VideoError as error:
        return error.code


def test_every_clip(shared, found, binary):
    """State, number of frames, first and last time, size and rotation of each clip."""
    outcomes = two_at_once(outcome, [shared / "videos" / name for name in found])
    results = dict(zip(found, outcomes, strict=True))
    failed = {name: code for name, code in results.items() if isinstance(code, str)}
    is_vvc_known = has_decoder(binary, "vvc")
    assert failed == FAILED | ({} if is_vvc_known else {VVC: "unsupported_codec"})
    states = {name: got.status.state for name, got in results.items() if name not in failed}
    assert {name for name, state in states.items() if state == "partial"} == {CORRUPTED}
    assert sum(state == "ok" for state in states.values()) == 66 + is_vvc_known
    assert results[CORRUPTED].status.decoder_errors > 0
    wrong = {
        name: reasons
        for name in states
        if name != CORRUPTED and (reasons := differences(name, results[name], found[name]))
    }
    assert not wrong


def differences(name, got, expected):
    """What differs from the other decoder: (what, here, there) each."""
    rotation = -expected["rotation"] % 360
    size = (expected["w"], expected["h"])[:: -1 if rotation % 180 else 1]
    first = {NO_TIMES: 2 / 30, SHIFTED: 0.0041}.get(name, expected["first_pts_s"])
    last = {NO_TIMES: 102 / 30}.get(name, expected["last_pts_s"] - expected["first_pts_s"])
    pairs = {
        "frames": (len(got.times), expected["decoded_frames"]),
        "rotation": (got.info.rotation, rotation),
        "size": ((got.info.width, got.info.height), size),
        "first": (got.info.start, pytest.approx(first, abs=2e-3)),
        "last": (float(got.times[-1]), pytest.approx(last, abs=2e-3)),
        "zero": (float(got.times[0]), 0.0),
        "order": (bool((np.diff(got.times) > 0).all()), True),
    }
    return [(what, *pair) for what, pair in pairs.items() if pair[0] != pair[1]]


def test_probe_agrees_with_reading(shared, found):
    infos = two_at_once(probed, [shared / "videos" / name for name in found])
    for name, info in zip(found, infos, strict=True):
        if name in FAILED and name != "media3_vp9_invalid-bitstream.webm":
            assert info == FAILED[name], name
        elif name not in FAILED:
            expected = found[name]
            turned = expected["rotation"] % 180
            assert info[:2] == (expected["w"], expected["h"])[:: -1 if turned else 1], name
            assert info.rotation == -expected["rotation"] % 360, name


def probed(path):
    try:
        return video.probe(path)
    except VideoError as error:
        return error.code


@pytest.mark.parametrize(
    "name",
    [
        "decord_video_270.mov",
        "media3_mp4_internal_emulator_transformer_output_180_rotated.mp4",
        "decord_video_0.mov",
    ],
)
def test_upright(shared, found, binary, name):
    """The stored first frame, turned by numpy, is the frame that is returned."""
    path = shared / "videos" / name
    stored = subprocess.run(
        [
            *(
                binary,
                "-nostdin",
                "-v",
                "error",
                "-noautorotate",
                "-i",
                str(path),
                "-frames:v",
                "1",
            ),
            *("-vf", "scale=flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24"),
            *("-f", "rawvideo", "-"),
        ],
        capture_output=True,
        check=True,
    ).stdout
    frame = np.frombuffer(stored, np.uint8).reshape(found[name]["h"], found[name]["w"], 3)
    turns = found[name]["rotation"] // 90  # counterclockwise, as numpy turns
    got = video.read_frames(path, lambda n: [0]).pixels[0]
    # Chroma is interpolated after the turn here and before it there.
    assert np.abs(got.astype(int) - np.rot90(frame, turns)).mean() < 1.0


def test_thin_copies_equal_one_pass(shared, found):
    """Where a thin copy is used, pixels and times are those of decoding everything."""
    names = sorted(set(found) - set(FAILED) - {VVC})
    pairs = two_at_once(both_ways, [shared / "videos" / name for name in names])
    used = [(name, pair) for name, pair in zip(names, pairs, strict=True) if pair is not None]
    for name, (thin, whole) in used:
        assert np.array_equal(thin.images, whole.images), name
        assert thin.times.tolist() == whole.times.tolist(), name
        assert thin.everything.tolist() == whole.everything.tolist(), name
    assert len(used) > 25


def both_ways(path):
    """Twelve frames by a thin copy and by one pass, or None where there is no thin copy."""
    track = _isobmff.read(path)
    if track is None:
        return None
    settings = {"size": 64, "deadline": Deadline.after(60)}
    choice = Choice(spread(12), fps=None, start=0.0, end=None)
    thin = _decode.thin_copy(path, track, choice, **settings)
    if thin is None:
        return None
    stream = str(track.stream)
    return thin, _decode.one_pass(path, choice, track.times(), stream=stream, **settings)
