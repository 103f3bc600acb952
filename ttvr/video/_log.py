"""Reads what ffmpeg says on stderr: header facts, a line per decoded frame, what went wrong.

The lines come from `-loglevel level+info` and, per frame, from the filter `showinfo`; both are
the same since ffmpeg 5 but for the wording of the errors. What a file says of itself, its tags and
its name, is written there too, and could look like anything: lines count as those of `showinfo`
only from the first one that carries the name which this process gave to the filter, drawn by lot.
"""

from __future__ import annotations

import functools
import re
import secrets
import threading
from fractions import Fraction

from ttvr.errors import VideoError
from ttvr.video._types import VideoInfo

DETAIL_LIMIT = 300  # characters of the decoder's words that an error carries

_INPUT = re.compile(r"\[info\] Input #0, (\S+), from ")
_STREAM = re.compile(r"\[info\]   Stream #0:\d+\S*: (\w+): (.*)")
_DURATION = re.compile(
    r"\[info\]   Duration: (?:(\d+):(\d\d):(\d\d\.\d+)|N/A)(?:, start: (-?\d+\.\d+))?"
)
_SIZE = re.compile(r", (\d{1,6})x(\d{1,6})\b")
_FPS = re.compile(r", (\d+(?:\.\d+)?)(k?) fps\b")
_ROTATION = re.compile(r"\[info\] +(?:displaymatrix|Display Matrix): rotation of (-?\d+\.\d+)")
_BASE = re.compile(r"config in time_base: (\d+)/0*([1-9]\d*)")
_FRAME = re.compile(r"n: *\d+ pts: *(-?\d+|NOPTS) +pts_time:")
_TROUBLE = re.compile(r"\[(warning|error|fatal|panic)\] (.*)")

# One line of the command itself per lost packet or damaged frame; codecs add lines of their own.
_DAMAGE = (
    "Error while decoding stream",
    "Error submitting packet",
    "corrupt decoded frame",
    "File ended prematurely",  # Matroska and WebM, also where no duration tells
)
_NO_DECODER = (
    "not found for input stream",
    "no decoder found for",
    "doesn't support hardware accelerated",
)
_METADATA = "[info]     "  # a file can call itself anything
_INFO = "[info] "  # starts a line of the command itself
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+(?=\])")  # another one at each run
_REFUSED = "Format not on whitelist"  # and the whole list after it
_GUESSED = "Estimating duration from bitrate"
# What follows from an earlier line, and says less than it.
_CONSEQUENCE = ("Error opening output file", "Failed to set value", "Error parsing options")
_naming = threading.Lock()


def note() -> str:
    """The filter that writes a line per frame, under a name that no file can know."""
    with _naming:  # two threads that begin at once would draw two names, and know one
        return _note()


@functools.cache
def _note() -> str:
    return f"showinfo@{secrets.token_hex(8)}"


class Log:
    """What one run of ffmpeg has said.

    Attributes:
        pts: of every decoded frame in the order they came out, in units of `base`; None if it has
            no timestamp.
        base: seconds per unit of `pts`.
        configs: how often the filters were set up: more than once if the frame size changes.
        errors: lost packets and damaged frames that the decoder reported.
        info: header facts of the first video stream that is no attached picture; None before.
        container: ffmpeg's name of the demuxer, empty before.
    """

    def __init__(self) -> None:
        self.pts: list[int | None] = []
        self.base = Fraction(1)
        self.configs = 0
        self.errors = 0
        self.info: VideoInfo | None = None
        self.container = ""
        self._duration: float | None = None
        self._has_duration = True
        self._streams = 0
        self._start = 0.0
        self._is_decoding = False
        self._is_ours = False
        self._lines: list[str] = []

    def line(self, text: str) -> None:
        """Take one line."""
        self._is_decoding = self._is_decoding or note() in text
        # Threads write into each other's unfinished lines, and then leave out who and how bad: a
        # line of the filter may continue one about the output, of which no file has words.
        if self._is_decoding and (note() in text or text.startswith(_INFO)):
            self._frames(text)
        found = None if text.startswith(_METADATA) else _TROUBLE.search(text)
        if not self._is_decoding and found is None:
            self._header(text)
        elif any(words in text for words in _DAMAGE):
            self.errors += 1
            self._keep(text if found is None else found[2])
        elif found is not None:
            if found[1] != "warning":
                self._keep(found[2])
            elif found[2].startswith(_GUESSED):
                self._has_duration = False

    def _frames(self, text: str) -> None:
        self.pts += [None if tick == "NOPTS" else int(tick) for tick in _FRAME.findall(text)]
        if (found := _BASE.search(text)) is not None:
            self.configs += 1
            self.base = Fraction(int(found[1]), int(found[2]))

    def _keep(self, text: str) -> None:
        if len(self._lines) < 8 and not text.startswith(_CONSEQUENCE):
            self._lines.append(_ADDRESS.sub("", text.strip())[:DETAIL_LIMIT])

    def _header(self, text: str) -> None:
        if (found := _INPUT.match(text)) is not None:
            self.container = found[1].rstrip(",")
        elif (found := _DURATION.match(text)) is not None:
            if found[1] and self._has_duration:
                self._duration = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
            self._start = float(found[4] or 0.0)
        elif (found := _STREAM.match(text)) is not None:
            self._streams += 1
            is_video = found[1] == "Video" and not found[2].endswith("(attached pic)")
            self._is_ours = is_video and self.info is None
            if self._is_ours:
                self.info = self._stream(found[2])
        elif self._is_ours and (found := _ROTATION.match(text)) is not None:
            self._turn(float(found[1]))

    def _stream(self, text: str) -> VideoInfo:
        size = _SIZE.search(text)
        rate = _FPS.search(text)
        return VideoInfo(
            width=int(size[1]) if size else 0,
            height=int(size[2]) if size else 0,
            fps=float(rate[1]) * (1000 if rate[2] else 1) if rate else None,
            duration=self._duration,
            frames=None,
            codec=re.match(r"\w*", text)[0],
            rotation=0,
            start=self._start,
        )

    def _turn(self, counterclockwise: float) -> None:
        rotation = round(-counterclockwise / 90) * 90 % 360
        info = self.info._replace(rotation=rotation)
        if rotation % 180:
            info = info._replace(width=info.height, height=info.width)
        self.info = info

    def failure(self, status: int) -> VideoError:
        """Why a run gave no frame.

        Args:
            status: exit status of the process, negative if a signal ended it.
        """
        if status < 0:
            return VideoError("crashed", f"the decoder was ended by signal {-status}")
        said = " ".join(self._lines)
        detail = self._lines[0] if self._lines else "no frame could be decoded"
        if self._streams and self.info is None:
            return VideoError("no_video_stream", "the file has no video stream")
        if any(words in said for words in _NO_DECODER):
            return VideoError("unsupported_codec", f"this ffmpeg cannot decode it: {detail}")
        if detail.startswith(_REFUSED):
            return VideoError("invalid_data", "its content is of no video format that is read")
        return VideoError("invalid_data", detail)
