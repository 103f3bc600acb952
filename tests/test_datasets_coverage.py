"""Which videos of a split there are: suffixes, folders, links, several of one name."""

from __future__ import annotations

import pytest
import toy_datasets
from PIL import Image

from ttvr import datasets, video
from ttvr.datasets import coverage
from ttvr.errors import TtvrError
from ttvr.records import Clip, Split


def split_of(root, *names, ids=()):
    clips = tuple(Clip(id, root / name) for id, name in zip(ids or names, names, strict=True))
    captions = tuple(f"{clip.id} {again}" for clip in clips for again in (1, 2))
    owner = tuple(row for row in range(len(clips)) for _ in (1, 2))
    return Split("some/test", clips, captions, owner, root=root)


def touch(root, *names):
    for name in names:
        toy_datasets.put(root / name, "x")


def found_in(split):
    """{id: path below the root}."""
    return {
        clip.id: clip.path.relative_to(split.root).as_posix()
        for clip in coverage(split).split.clips
    }


def test_what_is_there_and_what_is_not(tmp_path):
    touch(tmp_path, "a.mp4", "deep/er/c.WEBM", "b.txt", ".d.mp4", "._d.mp4", ".hidden/d.mp4")
    whole = split_of(tmp_path, "a", "b", "c", "d")
    made = coverage(whole)
    assert made.missing == {"b": "no such video", "d": "no such video"}
    assert made.expected == 4
    assert [clip.path for clip in made.split.clips] == [
        tmp_path / "a.mp4",
        tmp_path / "deep/er/c.WEBM",
    ]
    assert made.split.captions == ("a 1", "a 2", "c 1", "c 2")
    assert made.split.owner == (0, 0, 1, 1)
    assert made.split.name == whole.name
    with pytest.raises(
        TtvrError, match=r"2 of 4 videos of some/test are not there below .*: b, d\."
    ) as caught:
        datasets.require_all(made, hint="or do without")
    assert str(caught.value).endswith("lists all), or do without")
    touch(tmp_path, "b.mkv", "d.gif")
    assert len(datasets.require_all(coverage(whole)).clips) == 4


def test_only_the_folder_of_videos_is_searched_where_there_is_one(tmp_path):
    touch(tmp_path, "videos/all/a.mp4", "compressed/a.mp4", "b.mp4")
    assert found_in(split_of(tmp_path, "a", "b")) == {"a": "videos/all/a.mp4"}


@pytest.mark.parametrize("suffix", sorted(video.VIDEO_SUFFIXES))
def test_every_suffix_of_a_video(tmp_path, suffix):
    touch(tmp_path, f"a{suffix}")
    toy_datasets.put(tmp_path / f"b{suffix.upper()}", "x")
    assert set(found_in(split_of(tmp_path, "a", "b"))) == {"a", "b"}


def test_names_with_dots_keep_them(tmp_path):
    """LSMDC's end in milliseconds; DiDeMo's in a dot, or in two suffixes once they are encoded."""
    touch(tmp_path, "F/F_00.01.264.avi", "F/F_00.01.265.avi", "x.mov.mp4", "y..mp4", "z", "w.m4v")
    named = ("F_00.01.264", "F_00.01.265", "x.mov", "y.", "z.", "w.mov")
    assert found_in(split_of(tmp_path, *named)) == {
        "F_00.01.264": "F/F_00.01.264.avi",
        "F_00.01.265": "F/F_00.01.265.avi",
        "x.mov": "x.mov.mp4",
        "y.": "y..mp4",
        "z.": "z",
        "w.mov": "w.m4v",
    }


def test_a_file_may_be_named_as_the_id_is(tmp_path):
    touch(tmp_path, "v_a.mp4", "b.mp4")
    split = split_of(tmp_path, "a", "b", ids=("v_a", "v_b"))
    assert found_in(split) == {"v_a": "v_a.mp4", "v_b": "b.mp4"}


def test_of_several_files_the_one_that_is_named(tmp_path):
    touch(tmp_path, "a.mp4", "deep/a.mp4", "one/b.mp4", "two/b.mp4", "c.mov", "c.mp4")
    made = coverage(split_of(tmp_path, "a", "b", "c", "c.mov", "two/b", ids="abcde"))
    paths = {clip.id: clip.path.relative_to(tmp_path).as_posix() for clip in made.split.clips}
    assert paths == {"a": "a.mp4", "d": "c.mov", "e": "two/b.mp4"}
    assert made.missing == {
        "b": f"several files fit, {tmp_path}/one/b.mp4 and {tmp_path}/two/b.mp4: keep one",
        "c": f"several files fit, {tmp_path}/c.mov and {tmp_path}/c.mp4: keep one",
    }
    with pytest.raises(TtvrError, match=r"b \(several files fit, .*: keep one\)"):
        datasets.require_all(made)


def test_folders_are_part_of_a_name(tmp_path):
    touch(tmp_path, "videos/deep/film/a.mp4", "videos/other/a.mp4", "videos/xfilm/b.mp4")
    split = split_of(tmp_path, "film/a", "film/b", "videos/other/a")
    assert found_in(split) == {
        "film/a": "videos/deep/film/a.mp4",
        "videos/other/a": "videos/other/a.mp4",
    }


def test_folders_of_images_and_other_ways_to_write_a_name(tmp_path):
    (tmp_path / "cafe\u0301").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cafe\u0301" / "0.png")
    touch(tmp_path, "u\u0308ber.mp4")
    split = split_of(tmp_path, "caf\u00e9", "\u00fcber")
    assert set(found_in(split)) == {"caf\u00e9", "\u00fcber"}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "elsewhere/a.mp4")
    root = tmp_path / "root"
    (root / "videos").mkdir(parents=True)
    (root / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root / "videos")
    (root / "videos" / "b.mp4").symlink_to(tmp_path / "gone")
    assert found_in(split_of(root, "a", "b"))["a"] == "videos/linked/a.mp4"
    assert "b" in coverage(split_of(root, "a", "b")).missing


def test_paths_of_the_files_themselves(tmp_path):
    touch(tmp_path, "a.mp4")
    split = split_of(tmp_path, "a.mp4", "b.mp4")._replace(root=None)
    made = coverage(split)
    assert [clip.path for clip in made.split.clips] == [tmp_path / "a.mp4"]
    assert list(made.missing) == ["b.mp4"]
    with pytest.raises(TtvrError, match=r"1 of 2 videos of some/test are not there: b.mp4"):
        datasets.require_all(made)


def test_many_missing_videos_are_counted(tmp_path):
    made = coverage(split_of(tmp_path, *map(str, range(9))))
    with pytest.raises(TtvrError, match=r"9 of 9 .*: 0, 1, 2, 3, 4 and 4 more"):
        datasets.require_all(made)
