"""What the user can mend. Each kind carries the exit code a command ends with."""


class TtvrError(Exception):
    """Something the user can mend: says what was found, what was expected, and what to do."""

    exit_code = 1


class UsageError(TtvrError):
    """The command was called in a way that cannot work; nothing was done."""

    exit_code = 2


class IncompatibleError(TtvrError):
    """Features, weights and settings do not belong together."""

    exit_code = 4


class RequirementError(TtvrError):
    """Something needed is missing on this machine: ffmpeg, weights, CUDA, an optional package."""

    exit_code = 5


def not_utf8(where: str, content: bytes) -> TtvrError:
    """The error for a text file in another encoding.

    Args:
        where: its name, and the line.
        content: of the whole file.
    """
    # Any bytes are Latin-1; only UTF-16 tells what it is, by its byte order mark.
    is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "UTF-16" if is_wide else "LATIN1"
    return TtvrError(f"{where}: not UTF-8; convert it (iconv -f {encoding} -t UTF-8)")


class VideoError(TtvrError):
    """A video that yields no usable frame.

    Args:
        code: timeout, no_video_stream, unsupported_codec, invalid_data, empty, short or crashed:
            the `error` of a failed item in `items.jsonl`.
        detail: one line, the decoder's own words where there are any.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Rebuild from both parts, so that the error crosses process boundaries."""
        return type(self), (self.code, self.detail)
