"""Cached frames are the frames: bit for bit, whoever shares them, whatever became of the files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_extract import draw

from ttvr import datasets
from ttvr.datasets._base import Dataset
from ttvr.errors import VideoError
from ttvr.records import Clip

READ = Dataset().read
SIZE = 16


@pytest.fixture
def clip(tmp_path):
    return Clip("a", draw(tmp_path / "a.mp4", seed=1, count=24))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "cache"
    made.mkdir()
    return made


def middle(n):
    return [n // 4, n // 2, n // 2, n - 1]


def counted(read):
    def count(*arguments, **options):
        count.calls += 1
        return read(*arguments, **options)

    count.calls = 0
    return count


@pytest.mark.parametrize(
    "name", ["msrvtt_video7011.mp4", "decord_corrupted.mp4", "mmaction_test.avi"]
)
@pytest.mark.parametrize("part", [(0.0, None), (1.3, 3.1)])
def test_frames_are_the_same_bits(shared, folder, name, part):
    clip = Clip("x", shared / "videos" / name, *part)
    read = datasets.cached(counted(READ), folder)
    for _ in range(2):
        found = read(clip, middle, size=SIZE)
        np.testing.assert_array_equal(found, READ(clip, middle, size=SIZE))
        assert type(found) is np.ndarray


def test_a_clip_is_decoded_once(clip, folder):
    spy = counted(READ)
    read = datasets.cached(spy, folder)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read(clip, middle, size=SIZE), range(8)))
    assert spy.calls == 1
    assert all((one == found[0]).all() for one in found)
    again = datasets.cached(spy, folder)  # as another process finds it
    again(clip, lambda n: range(n), size=SIZE)
    assert spy.calls == 1
    (path,) = folder.iterdir()
    frames = np.load(path, mmap_mode="r")
    assert (frames.shape, frames.dtype) == ((24, SIZE, SIZE, 3), np.uint8)


def test_processes_share_a_folder(clip, folder):
    code = (
        "import hashlib, sys\n"
        "from pathlib import Path\n"
        "from ttvr import datasets\n"
        "from ttvr.datasets._base import Dataset\n"
        "from ttvr.records import Clip\n"
        "read = datasets.cached(Dataset().read, Path(sys.argv[2]))\n"
        f"found = read(Clip('a', Path(sys.argv[1])), lambda n: [0, n - 1], size={SIZE})\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(clip.path), str(folder)]
    begun = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        for _ in range(2)
    ]
    said = {process.communicate(timeout=60)[0].strip() for process in begun}
    expected = READ(clip, lambda n: [0, n - 1], size=SIZE)
    assert said == {hashlib.sha256(expected.tobytes()).hexdigest()}
    assert len(list(folder.iterdir())) == 1


def test_another_video_part_or_size_is_another_file(clip, folder):
    spy = counted(READ)
    read = datasets.cached(spy, folder)
    read(clip, middle, size=SIZE)
    for number, other in enumerate((clip._replace(start=1.0), clip._replace(end=1.0)), start=2):
        np.testing.assert_array_equal(
            read(other, middle, size=SIZE), READ(other, middle, size=SIZE)
        )
        assert spy.calls == number
    assert read(clip, middle, size=8).shape == (3, 8, 8, 3)
    os.utime(clip.path, ns=(1, 1))
    read(clip, middle, size=SIZE)
    assert (spy.calls, len(list(folder.iterdir()))) == (5, 5)


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "pixel", "longer", "shape"])
def test_a_bad_file_is_made_anew(clip, folder, harm):
    spy = counted(READ)
    read = datasets.cached(spy, folder)
    expected = read(clip, middle, size=SIZE)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[128 + 12 * SIZE * SIZE * 3 + 5] ^= 1  # in frame 12, which is wanted
    path.write_bytes(
        {
            "cut": content[:-100],
            "empty": b"",
            "text": b"no array",
            "pixel": bytes(flipped),
            "longer": content + b"\0",
            "shape": content.replace(b"(24, 16,", b"(12, 32,"),
        }[harm]
    )
    for _ in range(2):
        np.testing.assert_array_equal(read(clip, middle, size=SIZE), expected)
    assert spy.calls == 2
    assert path.read_bytes() == content


def test_what_cannot_be_kept_is_read_as_ever(clip, folder):
    read = datasets.cached(READ, folder, most=23)
    expected = READ(clip, middle, size=SIZE)
    np.testing.assert_array_equal(read(clip, middle, size=SIZE), expected)

    def promising(clip, choose, *, size):
        choose(30)  # as headers say
        return READ(clip, choose, size=size)

    read = datasets.cached(promising, folder)
    np.testing.assert_array_equal(read(clip, middle, size=SIZE), expected)

    def picky(clip, choose, *, size):
        if len(choose(24)) == 24:
            raise VideoError("timeout", "too many")
        return READ(clip, choose, size=size)

    read = datasets.cached(picky, folder)
    np.testing.assert_array_equal(read(clip, middle, size=SIZE), expected)
    assert not list(folder.iterdir())
    with pytest.raises(VideoError, match="No such file"):
        read(Clip("b", Path(folder, "b.mp4")), middle, size=SIZE)


def test_how_many_frames_there_are(clip):
    part = clip._replace(start=1.0, end=2.0)
    assert datasets.frames_of([clip] * 40) == 960
    assert datasets.frames_of([clip, part]) == 32
