"""Text in pictures: which font can draw it, how wide it is, where it breaks.

Pillow's built-in font draws ASCII and little more. Text that needs more is set in a common font
of the system, if there is one; else letters lose their accents, and what is still lacking is
drawn as a box.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

from PIL import ImageDraw, ImageFont

_FACES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "msyh.ttc",
    "PingFang.ttc",
)
"""Files of fonts with many characters, as Linux, macOS and Windows have them."""
_NO_CHARACTER = "\uffff"
_ELLIPSIS = "\u2026"


class Text(NamedTuple):
    """One line of characters, and the file of the font that draws it; None is Pillow's own."""

    words: str
    face: str | None = None

    def width(self, size: int) -> float:
        """Pixels at a font size in pixels."""
        return _font(self.face, size).getlength(self.words)

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        at: tuple[float, float],
        size: int,
        *,
        fill: str,
        anchor: str = "la",
    ) -> None:
        """Draw at a point; `anchor` is Pillow's: which point of the text that is."""
        draw.text(at, self.words, fill=fill, font=_font(self.face, size), anchor=anchor)


def typeset(text: str) -> Text:
    """A text as one line that can be drawn: no control characters, in the font that has most."""
    whole = text.encode("utf-8", "replace").decode("utf-8")  # halves of surrogate pairs
    words = " ".join("".join(c if c.isprintable() else " " for c in whole).split())
    face = None
    if _count_lacking(words, None):
        face = min((None, *_installed()), key=lambda face: _count_lacking(words, face))
    return Text("".join(_plain(c) if _lacks(c, face) else c for c in words), face)


def wrap(text: Text, size: int, width: int, *, lines: int) -> list[Text]:
    """At most so many lines, none wider than `width` pixels; the last may end in an ellipsis."""
    wrapped: list[Text] = []
    words = text.words.split(" ")
    while words and len(wrapped) < lines - 1:
        line = text._replace(words=words[0])
        if line.width(size) > width:
            break
        count = 1
        while count < len(words):
            longer = text._replace(words=" ".join(words[: count + 1]))
            if longer.width(size) > width:
                break
            line, count = longer, count + 1
        wrapped.append(line)
        words = words[count:]
    if words:
        rest = text._replace(words=" ".join(words))
        wrapped.append(shorten(rest, size, width, keep_end=False))
    return wrapped


def shorten(text: Text, size: int, width: int, *, keep_end: bool = True) -> Text:
    """The text, with an ellipsis where it is wider than `width` pixels.

    Args:
        text: one line.
        size: of the font, pixels.
        width: pixels there are.
        keep_end: cut out of the middle: ids are paths, and paths differ at their ends.
    """
    if text.width(size) <= width:
        return text
    least, most = 0, len(text.words)  # characters that fit beside the ellipsis
    while least < most:
        kept = (least + most + 1) // 2
        if _cut(text, kept, keep_end).width(size) <= width:
            least = kept
        else:
            most = kept - 1
    return _cut(text, least, keep_end)


def _cut(text: Text, kept: int, keep_end: bool) -> Text:
    end = kept * 2 // 3 if keep_end else 0
    before, after = text.words[: kept - end], text.words[len(text.words) - end :]
    return text._replace(words=before.rstrip() + _ELLIPSIS + after.lstrip())


@lru_cache(maxsize=64)
def _font(face: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if face is None else ImageFont.truetype(face, size)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    found = []
    for face in _FACES:
        try:
            _font(face, 16)
        except OSError:
            continue
        found.append(face)
    return tuple(found)


def _count_lacking(text: str, face: str | None) -> int:
    return sum(_lacks(c, face) for c in text)


@lru_cache(maxsize=4096)
def _lacks(character: str, face: str | None) -> bool:
    """Whether a font draws what it draws for a character that does not exist."""
    font = _font(face, 16)
    return bytes(font.getmask(character)) == bytes(font.getmask(_NO_CHARACTER))


def _plain(character: str) -> str:
    """A letter without its accents, a dash as a hyphen; itself where there is no such thing."""
    if unicodedata.category(character) == "Pd":
        return "-"
    parts = unicodedata.normalize("NFKD", character)
    return "".join(c for c in parts if not unicodedata.combining(c)) or character
