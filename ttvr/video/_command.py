"""The command lines given to ffmpeg: built by ffmpeg-python, run by `_process`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import ffmpeg

from ttvr.video import _ffmpeg, _log

# Demuxers of single files. Playlists, scripts and image patterns would open other files.
FORMATS = (
    "mov,mp4,matroska,webm,avi,flv,live_flv,mpeg,mpegts,mpegvideo,asf,ogg,rm,nut,mxf,dv,wtv,swf,"
    "h261,h263,h264,hevc,vvc,m4v,vc1,obu,av1,ivf,mjpeg,yuv4mpegpipe,nsv,roq,bink,smk,amv,gxf"
)
SCALING = "bicubic+accurate_rnd+full_chroma_int"
TERM_LIMIT = 2000  # terms of a filter expression that fit into a command line
FIRST_VIDEO = "V:0"  # the first video stream that is no attached picture

Options = dict[str, str | int | None]

# `level+info` is what `_log` reads; `copyts` keeps the file's own timestamps.
_QUIET: Options = {"nostdin": None, "hide_banner": None, "nostats": None, "loglevel": "level+info"}
# What the file says of itself would be written in the midst of the lines for `_log`.
_BARE: Options = {"map_metadata": -1, "map_chapters": -1}
_SAFE: Options = {"protocol_whitelist": "file,pipe", "format_whitelist": FORMATS}


def decode(
    path: Path | None, *, stream: str, expression: str | None, size: int | None
) -> list[str]:
    """Frames as PPM images, each with its own size, to stdout; a line per frame to stderr.

    Of a file every decoded frame has a line, of a thin copy every frame that is passed on.

    Args:
        path: the file, or None for a thin MP4 that is fed through stdin.
        stream: which stream of it.
        expression: which frames to pass on, as `any_of` writes it; None for all.
        size: short side to scale to and square to crop, None for the stored size.
    """
    # One thread: as many videos as there are cores are decoded at once, and threads cost extra.
    source = _input(path, copyts=None, threads=1, filter_threads=1)[stream]
    steps = [f"{_log.note()}=checksum=0"]
    if expression is not None:
        steps.append(f"select='{expression}'")
    steps = [*(steps if path is not None else reversed(steps)), _conversion(size)]
    output: Options = {"vf": ",".join(steps), "vcodec": "ppm", "f": "image2pipe"}
    options = output | _BARE | _ffmpeg.passthrough()
    return _compiled(ffmpeg.output(source, "pipe:1", **options))


def list_packets(path: Path) -> list[str]:
    """A line per packet of the first video stream to stdout; nothing is decoded."""
    source = _input(path, copyts=None)[FIRST_VIDEO]
    return _compiled(ffmpeg.output(source, "pipe:1", c="copy", copyinkf=None, f="framecrc"))


def show_header(path: Path) -> list[str]:
    """Header facts to stderr: with no frame asked for, the command ends after them."""
    source = _input(path)[FIRST_VIDEO]
    return _compiled(ffmpeg.output(source, "pipe:1", c="copy", f="null", t=0))


def encode(path: Path, *, width: int, height: int, fps: Fraction, codec: str) -> list[str]:
    """Raw RGB frames from stdin to an MP4 file, its tables before its data."""
    raw: Options = {"f": "rawvideo", "pix_fmt": "rgb24", "s": f"{width}x{height}", "r": str(fps)}
    source = ffmpeg.input("pipe:0", **_QUIET, **raw)
    output: Options = {"vcodec": codec, "pix_fmt": "yuv420p", "movflags": "+faststart", "f": "mp4"}
    return _compiled(ffmpeg.output(source, location(path), y=None, **output))


def recode(
    source: Path, target: Path, *, stream: str, fps: Fraction, size: int, container: str
) -> list[str]:
    """A video to a smaller one without sound; a line per decoded frame to stderr.

    The encoder and its rate are those that ffmpeg has for the container, as published. Frame k is
    the one shown at k / fps seconds from the first frame, as `Choice` has it.

    Args:
        source: the file.
        target: the file to write.
        stream: which stream of the source.
        fps: frames per second.
        size: short side, even.
        container: ffmpeg's name of the muxer.
    """
    # One thread each, as for decoding. Filters that are set up anew would count from 0 again.
    entry = _input(source, copyts=None, threads=1, filter_threads=1, reinit_filter=0)[stream]
    steps = [f"{_log.note()}=checksum=0", "setpts=PTS-STARTPTS", f"fps={fps}:round=up"]
    # The long side is cut to an even number: yuv420p has a color for each 2 x 2 pixels.
    width = f"if(lte(iw,ih),{size},trunc({size}*iw/ih/2)*2)"
    height = f"if(lte(iw,ih),trunc({size}*ih/iw/2)*2,{size})"
    steps += [f"scale=w='{width}':h='{height}':flags={SCALING}", "format=yuv420p"]
    # A frame that cannot be decoded is counted by `_log`, and is no failure of the whole.
    output: Options = {"vf": ",".join(steps), "threads": 1, "max_error_rate": 1, "f": container}
    if container in ("mp4", "mov"):
        output["movflags"] = "+faststart"
    return _compiled(ffmpeg.output(entry, location(target), y=None, **output, **_BARE))


def location(path: Path) -> str:
    """The file as ffmpeg is told it: no name is taken for an option, a protocol or a pattern."""
    return f"file:{path.absolute()}"


def any_of(name: str, values: list[int]) -> str | None:
    """A filter expression that holds for these ascending values of a variable; None if too long.

    Runs become ranges, and the ranges a search tree: a frame costs log2 of their number.
    """
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    if not runs:
        return "0"
    return _tree(name, runs) if len(runs) <= TERM_LIMIT else None


def _tree(name: str, runs: list[list[int]]) -> str:
    if len(runs) == 1:
        return f"between({name},{runs[0][0]},{runs[0][1]})"
    middle = len(runs) // 2
    less, more = _tree(name, runs[:middle]), _tree(name, runs[middle:])
    return f"if(lt({name},{runs[middle][0]}),{less},{more})"


def _conversion(size: int | None) -> str:
    """Filters that make RGB of a frame, scaled and cropped where a size is given.

    The short side becomes `size`, the long one is cut to a whole number, and the crop starts at
    half the difference, halves to even: as torchvision does for CLIP.
    """
    if size is None:
        return f"scale=flags={SCALING},format=rgb24"
    width = f"if(lte(iw,ih),{size},trunc({size}*iw/ih))"
    height = f"if(lte(iw,ih),trunc({size}*ih/iw),{size})"
    left, top = (
        f"floor(({side}-{size})/2)+mod({side}-{size},2)*mod(floor(({side}-{size})/2),2)"
        for side in ("iw", "ih")
    )
    scale = f"scale=w='{width}':h='{height}':flags={SCALING}"
    return f"{scale},format=rgb24,crop={size}:{size}:'{left}':'{top}'"


def _input(path: Path | None, **options: str | int | None) -> ffmpeg.nodes.FilterableStream:
    if path is None:
        return ffmpeg.input("pipe:0", f="mov", **_QUIET, **_SAFE, **options)
    return ffmpeg.input(location(path), **_QUIET, **_SAFE, **options)


def _compiled(output: ffmpeg.nodes.OutputStream) -> list[str]:
    return ffmpeg.compile(output, cmd=str(_ffmpeg.find_ffmpeg()))
