"""Which checkpoints have a name, what they are, and where they are looked for. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

from ttvr.errors import RequirementError, TtvrError

RANDOM = "random (meaningless)"
TOY = "toy (drawn shapes)"
"""What the embedded default says of itself."""
DEFAULT = "default"
LABEL_RECORD = "ttvr.json"
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LABEL_BYTES = 1 << 16
_NPZ_NOTE = "note.npy"
_HOST = "https://openaipublic.azureedge.net/clip/models"
_PACKAGE = Path(__file__).parents[1]


class Entry(NamedTuple):
    """A checkpoint with a name.

    Attributes:
        name: what `--weights` takes.
        file: its file name.
        megabytes: about how large it is, in 10^6 bytes; 0 where it is not known.
        sha256: of the file, as its publisher states it; empty where none is stated yet.
        aliases: further names.
        is_shipped: it comes with the package, and is nowhere to be fetched.
    """

    name: str
    file: str
    megabytes: int
    sha256: str = ""
    aliases: tuple[str, ...] = ()
    is_shipped: bool = False

    @property
    def url(self) -> str:
        """Where the publisher has it; empty for what comes with the package."""
        return "" if self.is_shipped else f"{_HOST}/{self.sha256}/{self.file}"


ENTRIES = (
    Entry(
        "ttvr-tiny",
        "ttvr-tiny.npz",
        3,
        "fc812444971335665f2ee41062a870b941c6bf200bcf7d5b642137257301198d",
        aliases=(DEFAULT,),
        is_shipped=True,
    ),
    Entry(
        "ViT-B/32",
        "ViT-B-32.pt",
        354,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    Entry(
        "ViT-B/16",
        "ViT-B-16.pt",
        351,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
    Entry(
        "ViT-L/14",
        "ViT-L-14.pt",
        933,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    Entry(
        "ViT-L/14@336px",
        "ViT-L-14-336px.pt",
        934,
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
)
_SUGGESTED = ENTRIES[1]


def find(name: str) -> Entry | None:
    """The entry of this name, alias or file name; None where there is none."""
    for entry in ENTRIES:
        if name in (entry.name, entry.file, *entry.aliases):
            return entry
    return None


def places() -> list[Path]:
    """Folders in which named checkpoints are looked for, in order; they need not exist.

    Raises:
        RequirementError: $TTVR_WEIGHTS names something that is not there.
    """
    installed = _PACKAGE / "_weights"
    found = [
        Path("weights"),
        installed if installed.is_dir() else _PACKAGE.parent / "weights",
        cache(),
        Path("~/.cache/clip").expanduser(),
    ]
    chosen = _chosen()
    if chosen is not None and chosen.is_dir():
        found.insert(0, chosen)
    return list(dict.fromkeys(place.absolute() for place in found))


def cache() -> Path:
    """Where `ttvr-weights fetch` puts what it downloads."""
    return Path("~/.cache/ttvr").expanduser()


def locate(path_or_name: str | Path) -> Path:
    """The absolute path of a checkpoint.

    Args:
        path_or_name: a path, or a name or file name of `ENTRIES`.

    Raises:
        RequirementError: not found; the message says where it was looked for and how to get it.
        TtvrError: the path is not a file.
    """
    text = str(path_or_name)
    entry, path = find(text), Path(text).expanduser()
    is_file_name = entry is None or text == entry.file
    if is_file_name and text and path.is_file():
        return path.absolute()
    if entry is None:
        raise _unusable(text, path)
    chosen = _chosen()
    if chosen is not None and chosen.is_file() and (text == DEFAULT or chosen.name == entry.file):
        return chosen.absolute()
    for place in places():
        if (place / entry.file).is_file():
            return place / entry.file
    raise RequirementError(_how_to_get(text, entry))


def here() -> dict[str, Path]:
    """The named checkpoints that are on this machine, by the name that `locate` takes."""
    found = {}
    for entry in ENTRIES:
        name = entry.aliases[0] if entry.aliases else entry.name
        with contextlib.suppress(RequirementError):
            found[name] = locate(name)
    return found


def label(path: Path) -> str:
    """What a checkpoint says of itself, without loading it: "random (meaningless)", or ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                is_known = record.compress_type in ZIP_METHODS
                if not is_known or record.file_size > _LABEL_BYTES:
                    continue
                if record.filename.endswith(f"extra/{LABEL_RECORD}"):
                    note = json.loads(archive.read(record))["note"]
                elif record.filename == _NPZ_NOTE:
                    note = _text_of_array(archive.read(record))
                else:
                    continue
                return note if isinstance(note, str) and note.isprintable() else ""
    # What is wrong with a damaged file is said by who loads it.
    except Exception:
        return ""
    return ""


def by_hand(entry: Entry, folder: Path) -> str:
    """What is needed to get a public file with other means: size, hash, address, a curl line."""
    return (
        f"{entry.name}: {entry.file}, about {entry.megabytes} MB, sha256 {entry.sha256}; "
        f"by hand: curl --create-dirs -C - -o {folder / entry.file} {entry.url}"
    )


def _text_of_array(content: bytes) -> str:
    """The one text of an .npy file: a header that ends with its only line break, then UTF-32."""
    return content.partition(b"\n")[2].decode("utf-32-le")


def _chosen() -> Path | None:
    value = os.environ.get("TTVR_WEIGHTS", "")
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.exists():
        raise RequirementError(
            f"$TTVR_WEIGHTS is {value}, which does not exist; correct or unset it"
        )
    return path


def _unusable(text: str, path: Path) -> TtvrError:
    if text and path.is_dir():
        return TtvrError(f"{text}: a folder, not a checkpoint; name the file in it")
    if text and path.exists():
        return TtvrError(f"{text}: not a regular file, so not a checkpoint")
    names = ", ".join([DEFAULT, *(entry.name for entry in ENTRIES)])
    return RequirementError(
        f"no weights {text!r}: there is no such file, and the names are {names}; "
        "`ttvr-weights list` shows what is here"
    )


def _how_to_get(text: str, entry: Entry) -> str:
    variable = os.environ.get("TTVR_WEIGHTS") or "not set"
    looked = ", ".join(str(place) for place in places())
    offered = _SUGGESTED if entry.is_shipped else entry
    fix = f"ttvr-weights fetch {offered.name}"
    if entry.is_shipped:
        fix = f"install ttvr again, it is part of it; or {fix} and pass --weights {offered.name}"
    return (
        f"no weights {text!r}: looked for {entry.file} in $TTVR_WEIGHTS ({variable}), {looked}. "
        f"Fix: {fix} ({by_hand(offered, cache())})"
    )
