"""A file is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import resource
import signal

import pytest
import torch

from ttvr.files import write, written


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written(path) as partial:
        partial.write_text("new")
        assert partial.suffix == ".txt"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with written(path) as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@contextlib.contextmanager
def small_files():
    """No file of this process may be larger than 10 kB, as on a disk that is nearly full.

    For the moment of writing alone: pytest's own log may be a larger file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("size", [4000, 1_000_000])
def test_a_full_disk_is_named_whoever_writes(tmp_path, size):
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    writers = (
        lambda file: torch.save({"x": torch.zeros(size)}, file),
        lambda file: file.write(b"x" * 4 * size),
    )
    for content in writers:
        with pytest.raises(OSError, match=r"a\.pt") as caught, small_files():
            write(path, content)
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_content_is_its_own(tmp_path):
    def fail(file):
        file.write(b"half")
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        write(tmp_path / "a.pt", fail)
    assert list(tmp_path.iterdir()) == []
