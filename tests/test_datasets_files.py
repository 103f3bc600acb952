"""Datasets of annotation files: one contract for all, and what is wrong with files is told."""

from __future__ import annotations

import json
import logging

import pytest
import toy_datasets

from ttvr import datasets, plugins
from ttvr.datasets._annotated import Annotated, Counts, Entry
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.evaluate import dataset_pairs

NAMES = [name for name in plugins.names("datasets") if plugins.load("datasets", name).needs_root]


@pytest.fixture(autouse=True)
def any_counts(monkeypatch):
    """Toys have other numbers than what was published."""
    monkeypatch.setattr(Annotated, "_count", lambda *_: "unchecked")


def captions_of(split):
    made = {clip.id: () for clip in split.clips}
    for caption, owner in zip(split.captions, split.owner, strict=True):
        made[split.clips[owner].id] += (caption,)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_annotations_in_the_published_form(name, tmp_path):
    expected = toy_datasets.write(name, tmp_path / "deep" / "annotations")
    made = datasets.load(name)
    assert set(expected) == set(made.splits)
    for split, said in expected.items():
        found = made.load(tmp_path, split)
        assert (found.name, found.root) == (f"{made.name}/{split}", tmp_path)
        assert captions_of(found) == said
        assert list(captions_of(found)) == list(said)
        assert all(clip.path.is_relative_to(tmp_path) for clip in found.clips)
        few = made.load(tmp_path, split, limit=2)
        assert (few.clips, few.captions) == (found.clips[:2], found.captions[: len(few.captions)])
        assert set(few.owner) == {0, 1}
        assert dataset_pairs(name, split, root=tmp_path).captions == found.captions
    (tmp_path / "videos").mkdir()
    for video in ("alpha.mov", "v_beta.webm"):
        (tmp_path / "videos" / video).touch()
    covered = datasets.coverage(made.load(tmp_path, made.splits[-1]))
    assert len(covered.split.clips) + len(covered.missing) == covered.expected == 3
    assert covered.split.clips[0].path.name == "alpha.mov"
    assert len(covered.missing) == (1 if name == "activitynet" else 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name, tmp_path):
    toy_datasets.write(name, tmp_path)
    made = datasets.load(name)
    for path in tmp_path.iterdir():
        path.rename(path.with_name(f".{path.name}"))  # hidden
    for split in made.splits:
        with pytest.raises(TtvrError, match=rf"{tmp_path}: no .*\.(json|csv|txt|tsv)") as caught:
            made.load(tmp_path, split)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such folder; --root"):
        made.load(tmp_path / "nowhere", made.splits[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["latin-1", "utf-16", "torn"])
def test_other_encodings_and_torn_files_are_told(name, kind, tmp_path):
    """One line that names the file; a byte order mark does not matter."""
    toy_datasets.write(name, tmp_path)
    made, split = datasets.load(name), datasets.load(name).splits[-1]
    expected = captions_of(made.load(tmp_path, split))
    texts = {path: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8-sig")
    assert captions_of(made.load(tmp_path, split)) == expected
    for path, text in texts.items():
        if kind == "torn":
            path.write_text("[{\n" + text[:-9], encoding="utf-8")
        else:
            path.write_bytes((text + "\u00e9").encode(kind))
    with pytest.raises(TtvrError, match=str(tmp_path)) as caught:
        made.load(tmp_path, split)
    assert "\n" not in str(caught.value)
    if kind != "torn":
        assert ("LATIN1" if kind == "latin-1" else "UTF-16") in str(caught.value)


def test_variants_are_named_and_said(caplog):
    with caplog.at_level(logging.INFO, logger="ttvr"):
        assert datasets.load("msrvtt").name == "msrvtt:9k"
    assert "msrvtt means msrvtt:9k" in caplog.text
    assert datasets.load("msrvtt:7k").splits == ("train", "test")
    assert datasets.load("msrvtt:full").splits == ("train", "val", "test")
    for wrong, message in (
        ("msrvtt:8k", "no variant '8k'; there are: 9k, 7k, full"),
        ("msvd:1k", "msvd has no variant '1k'; it has none"),
        ("msr", "there are: activitynet, didemo"),
    ):
        with pytest.raises(UsageError, match=message):
            datasets.load(wrong)


def test_counts_are_compared(tmp_path, monkeypatch, caplog):
    monkeypatch.undo()

    class Some(Annotated):
        splits = ("train", "val", "test")
        counts = {"train": Counts(2, 3), "val": Counts(2)}  # noqa: RUF012
        said = (("a", ("x", "y")), ("b", ("z",)))

        def entries(self, root, split):
            return [Entry(*pair) for pair in self.said]

    made = Some()
    assert [made.load(tmp_path, split).counts for split in ("train", "val")] == ["ok", "ok"]
    assert made.load(tmp_path, "train", limit=1).counts == "ok"
    with caplog.at_level(logging.INFO, logger="ttvr"):
        assert made.load(tmp_path, "test").counts == "unchecked"
    assert "2 videos, unchecked" in caplog.text
    made.said = (("a", ("x", "y")), ("b", ("z", "w")))
    with pytest.raises(IncompatibleError, match="4 captions, published are 3"):
        made.load(tmp_path, "train")
    made.said = made.said[:1]
    with pytest.raises(IncompatibleError, match="1 video, published are 2"):
        made.load(tmp_path, "val", limit=1)


FAULTS = {
    "twice": ([("a", ("x",)), ("a", ("y",))], "'?a'? is there twice"),
    "twice to Unicode": ([("\u00e9", ("x",)), ("e\u0301", ("y",))], "is there twice"),
    "no captions": ([("a", ())], "empty caption"),
    "blank caption": ([("a", ("x", " \n"))], "empty caption"),
    "no id": ([("", ("x",))], "id that is empty"),
    "line break": ([("a\nb", ("x",))], "control characters"),
    "half a character": ([("a", ("\ud83d",))], "half a character"),
    "half in an id": ([("\ud83d", ("x",))], "half a character"),
    "outside": ([("../a", ("x",))], "no path below"),
    "elsewhere": ([("a", ("x",), "/etc/a")], "no path below"),
}


@pytest.mark.parametrize(("said", "message"), FAULTS.values(), ids=FAULTS)
def test_videos_that_cannot_be(said, message, tmp_path):
    class Some(Annotated):
        splits = ("test",)

        def entries(self, root, split):
            return [Entry(*facts) for facts in said]

    with pytest.raises(IncompatibleError, match=message) as caught:
        Some().load(tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_two_files_of_one_name_are_not_chosen_from(tmp_path):
    for folder in ("one", "two"):
        toy_datasets.write("msrvtt", tmp_path / folder)
    with pytest.raises(UsageError, match=r"one/MSRVTT_JSF.* and .*two/.*: which is it"):
        datasets.load("msrvtt").load(tmp_path, "test")
    toy_datasets.write("msrvtt", tmp_path)  # higher, so it is this
    assert len(datasets.load("msrvtt").load(tmp_path, "test").clips) == 3


def _split_in_two(root, data):
    """The layout of the release: a file for train and validation, and one for the test split."""
    for name, parts in (("train_val", ("train", "validate")), ("test", ("test",))):
        videos = [video for video in data["videos"] if video["split"] in parts]
        ids = {video["video_id"] for video in videos}
        sentences = [one for one in data["sentences"] if one["video_id"] in ids]
        content = {"info": {"year": "2016"}, "videos": videos, "sentences": sentences}
        toy_datasets.put(root / f"{name}_videodatainfo.json", content)


def test_msrvtt_as_it_was_released(tmp_path):
    """In two files, or in that of 2017, it is what it is in one."""
    one, two, year = (tmp_path / name for name in ("one", "two", "2017"))
    for root in (one, two, year):
        toy_datasets.write("msrvtt", root)
    data = json.loads((one / "MSRVTT_data.json").read_text())
    for video, part in zip(data["videos"], ("train", "validate", "test"), strict=True):
        video["split"] = part
    toy_datasets.put(one / "MSRVTT_data.json", data)
    (two / "MSRVTT_data.json").unlink()
    _split_in_two(two, data)
    (year / "MSRVTT_data.json").rename(year / "videodatainfo_2017.json")
    toy_datasets.put(year / "videodatainfo_2017.json", data)
    for name in ("msrvtt:9k", "msrvtt:full"):
        dataset = datasets.load(name)
        for split in dataset.splits:
            facts = [dataset.load(root, split)[1:4] for root in (one, two, year)]
            said = [[[clip.id for clip in clips], *more] for clips, *more in facts]
            assert said[0] == said[1] == said[2]
    (two / "train_val_videodatainfo.json").unlink()
    assert len(datasets.load("msrvtt:full").load(two, "test").clips) == 1
    for name in ("msrvtt:9k", "msrvtt:full"):
        with pytest.raises(TtvrError, match=r"no .*train_val_videodatainfo\*\.json"):
            datasets.load(name).load(two, "train")


WRONG = {
    "msrvtt:9k": (
        ("train", "MSRVTT_train.9k.csv", "video_id\nalpha\nalpha\n", "alpha is there twice"),
        ("train", "MSRVTT_train.9k.csv", "video_id\ndelta\n", "no sentences of delta"),
        ("train", "MSRVTT_train.9k.csv", "video_id\n", "lists nothing"),
        ("train", "MSRVTT_data.json", {"videos": []}, "no list of 'sentences'"),
        ("train", "MSRVTT_data.json", {"sentences": [{"caption": "x"}]}, "without video_id"),
        ("test", "MSRVTT_JSFUSION_test.csv", "key,video_id\n", "no column sentence"),
        ("test", "MSRVTT_JSFUSION_test.csv", "video_id,sentence\na\n", "line 2 is short"),
    ),
    "msrvtt:full": (
        ("val", "MSRVTT_data.json", {"sentences": [], "videos": [{}]}, "without video_id or split"),
    ),
    "msvd": (
        ("val", "val_list.txt", "alpha\ndelta\n", "no captions of delta, which .*val_list"),
        ("val", "captions_msvd.json", '{"alpha": [], "alpha": []}', "alpha is there twice"),
        ("val", "captions_msvd.json", {"alpha": "x"}, "captions of alpha are no list"),
        ("val", "captions_msvd.json", {"alpha": [["a", 3]]}, "int where a text is due"),
        ("val", "captions_msvd.json", [], "one JSON object"),
    ),
    "lsmdc": (
        ("test", "LSMDC16_challenge_1000_publictect.csv", "a\tb\n", "line 1 has 2 columns, not 6"),
        ("val", "LSMDC16_annos_val.csv", "a\t0\t1\t0\t1\tx\n" * 2, "line 2 is there twice"),
    ),
    "activitynet": (
        ("val1", "val_1.json", {"v_a": {"duration": 3}}, "no list of sentences of v_a"),
        ("val1", "val_1.json", '{"v_a": {"sentences": ["x"], "duration": NaN}}', "no duration"),
        ("val1", "val_1.json", '{"v_a": {}, "v_a": {}}', "v_a is there twice"),
        ("val1", "val_1.json", "[" * 100_000, "damaged JSON"),
    ),
    "didemo": (
        ("val", "val_data.json", [{"video": "a.mov"}], "without video or description"),
        ("val", "val_list.txt", "alpha\ndelta.mov\n", "no descriptions of delta.mov"),
    ),
    "vatex": (
        ("val", "vatex_validation_v1.0.json", [{"videoID": "a"}], "without videoID or enCap"),
        ("test", "test_list.txt", "alpha\ndelta\n", "delta is not in .*validation"),
        (
            *("train", "vatex_training_v1.0.json"),
            *([{"videoID": "a", "enCap": ["x"]}] * 2, "a is there twice"),
        ),
    ),
    "folder": (
        ("test", "captions.tsv", "a\n", ":1: expected video<TAB>caption"),
        ("test", "captions.tsv", "a\tx\n\nb\ty\tdev\n", ":3: the split 'dev' is none of train"),
        ("test", "captions.tsv", "a\tx\ttrain\n", "nothing of the split test"),
        ("test", "captions.tsv", "a.mp4\tx\na.mov\ty\n", ":2: a was another video"),
        ("test", "captions.tsv", "a\t \n", "empty caption"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_annotations_that_are_wrong(name, tmp_path):
    for number, (split, file, content, message) in enumerate(WRONG[name]):
        root = tmp_path / str(number)
        toy_datasets.write(name.partition(":")[0], root)
        toy_datasets.put(root / file, content)
        with pytest.raises(IncompatibleError, match=message) as caught:
            datasets.load(name).load(root, split)
        assert "\n" not in str(caught.value)
        assert str(root) in str(caught.value)


def test_a_folder_of_ones_own_by_json_lines(tmp_path):
    lines = (
        '{"video": "a/b.mp4", "captions": ["one", "two"], "split": "train"}',
        '{"video": "c", "caption": "first half", "id": "c-1", "end": 2}',
        '{"video": "c", "caption": "second half", "id": "c-2", "start": 2}',
        '{"video": "c", "caption": "then", "id": "c-2", "start": 2}',
    )
    toy_datasets.put(tmp_path / "captions.jsonl", "\n".join(lines))
    made = datasets.load("folder")
    assert captions_of(made.load(tmp_path, "train")) == {"a/b": ("one", "two")}
    found = made.load(tmp_path, "test")
    assert captions_of(found) == {"c-1": ("first half",), "c-2": ("second half", "then")}
    assert [(clip.start, clip.end) for clip in found.clips] == [(0, 2), (2, None)]
    assert {clip.path for clip in found.clips} == {tmp_path / "c"}
    for wrong, message in (
        ("[]", "expected an object of video"),
        ('{"video": "a", "text": "x"}', "found .'text'"),
        ('{"video": "a"}', "either a caption or a list"),
        ('{"video": "a", "caption": "x", "captions": ["y"]}', "either a caption or a list"),
        ('{"caption": "x"}', "no video"),
        ('{"video": "a", "caption": "x", "start": 3, "end": 3}', "ends at 3 s"),
        ('{"video": "a", "caption": "x", "start": true}', "start is no number"),
        ('{"video": "a", "caption": "x", "id": 3}', "an id that is no text"),
        ('{"video": "../a", "caption": "x"}', "no path below"),
        ("{", "Expecting"),
        ('{"video": ' + "[" * 100_000, "too deep"),
    ):
        toy_datasets.put(tmp_path / "captions.jsonl", wrong)
        with pytest.raises(IncompatibleError, match=message):
            made.load(tmp_path, "test")


def test_didemo_names_by_list_and_by_suffix(tmp_path):
    """Of a name as published the descriptions under it; else of all suffixes."""
    moments = [("a.mov", "one"), ("a.mp4", "two"), ("a.mov", "three"), ("b.", "four")]
    content = [{"video": video, "description": said} for video, said in moments]
    toy_datasets.put(tmp_path / "test_data.json", content)
    made = datasets.load("didemo")
    found = made.load(tmp_path, "test")
    assert captions_of(found) == {"a": ("one three two",), "b": ("four",)}
    assert {(clip.start, clip.end) for clip in found.clips} == {(0.0, 31.0)}
    toy_datasets.put(tmp_path / "test_list.txt", "b\na.mov\n")
    assert captions_of(made.load(tmp_path, "test")) == {"b": ("four",), "a": ("one three",)}
    toy_datasets.put(tmp_path / "test_list.txt", "a\n")
    assert captions_of(made.load(tmp_path, "test")) == {"a": ("one three two",)}


def test_vatex_by_halves_of_the_validation_split(tmp_path):
    toy_datasets.write("vatex", tmp_path)
    toy_datasets.put(tmp_path / "vatex_public_test_english_v1.1.json", [])
    toy_datasets.put(tmp_path / "test_list.txt", "gamma\n")
    found = datasets.load("vatex").load(tmp_path, "test")
    assert captions_of(found) == {"gamma": toy_datasets.CLEAN["gamma"]}
