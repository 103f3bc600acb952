"""The annotations that were published, and MSR-VTT from them to metrics on six of its clips."""

from __future__ import annotations

import csv
import functools
import gzip
import json

import pytest
import torch
import toy_datasets
from tiny import tiny_state

from ttvr import datasets
from ttvr.commands.eval import main as evaluate
from ttvr.commands.extract import main as extract
from ttvr.datasets import _files, coverage
from ttvr.datasets._annotated import Annotated
from ttvr.errors import TtvrError
from ttvr.store import Features

CLIPS = ("video7010", "video7011", "video7012", "video7013", "video7014", "video7500")
DATA = "MSRVTT_data.rebuilt.json.gz"
SIZES = {
    "msrvtt:9k/train": (9_000, 180_000, "ok"),
    "msrvtt:9k/test": (1_000, 1_000, "ok"),
    "msrvtt:7k/train": (7_010, 140_200, "ok"),
    "msrvtt:7k/test": (1_000, 1_000, "ok"),
    "msrvtt:full/train": (6_513, 130_260, "ok"),
    "msrvtt:full/val": (497, 9_940, "ok"),
    "msrvtt:full/test": (2_990, 59_800, "ok"),
    "msvd/train": (1_200, 48_774, "ok"),
    "msvd/val": (100, 4_290, "ok"),
    "msvd/test": (670, 27_763, "ok"),
    "lsmdc/test": (1_000, 1_000, "ok"),
    "activitynet/train": (10_009, 10_009, "ok"),
    "activitynet/val1": (4_917, 4_917, "ok"),
    "didemo/val": (1_065, 1_065, "unchecked"),
    "didemo/test": (1_004, 1_004, "unchecked"),
}
"""Videos, captions, and whether there is a published number to compare with."""
LACKS = {
    "lsmdc/train": "LSMDC16_annos_training.csv",
    "lsmdc/val": "LSMDC16_annos_val.csv",
    "didemo/train": "train_data.json",
}
"""What the authors give on request alone."""


@pytest.fixture(scope="module")
def annotations(shared):
    folder = shared / "annotations"
    if not folder.is_dir():
        pytest.skip("no ../shared/annotations beside the repository")
    return folder


@pytest.fixture(scope="module")
def load(annotations):
    """A split by its whole name; large files are read once."""
    read = _files.read_json
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "read_json", functools.cache(read))

        @functools.cache
        def loaded(name):
            dataset, _, split = name.partition("/")
            stem = dataset.partition(":")[0]
            return datasets.load(dataset).load(annotations / stem, split)

        yield loaded


@pytest.mark.parametrize("name", SIZES)
def test_published_splits(load, name):
    made = load(name)
    assert made.name == name
    assert (len(made.clips), len(made.captions), made.counts) == SIZES[name]
    assert len({clip.id for clip in made.clips}) == len(made.clips)
    assert set(made.owner) == set(range(len(made.clips)))
    assert list(made.owner) == sorted(made.owner)


@pytest.mark.parametrize("name", LACKS)
def test_what_is_not_there_is_named(load, name):
    with pytest.raises(TtvrError, match=LACKS[name]):
        load(name)


def test_msrvtt_is_split_as_published(load):
    ids = {name: {clip.id for clip in load(name).clips} for name in SIZES if "msrvtt" in name}
    assert ids["msrvtt:7k/train"] == ids["msrvtt:full/train"] | ids["msrvtt:full/val"]
    assert ids["msrvtt:9k/train"] > ids["msrvtt:7k/train"]
    assert ids["msrvtt:9k/train"].isdisjoint(ids["msrvtt:9k/test"])
    assert ids["msrvtt:9k/train"] | ids["msrvtt:9k/test"] == set().union(*ids.values())
    test = load("msrvtt:9k/test")
    assert test.clips[0].id == "video9770"
    assert test.captions[0] == "a person is connecting something to system"
    assert len(set(test.captions)) == 995


def test_lsmdc_has_the_published_sentences(load):
    made = load("lsmdc/test")
    assert made.clips[0].id == "3086_UGLY_TRUTH_00.23.23.000-00.23.28.886"
    assert made.captions[0] == "SOMEONE stands below, hands on her hips."
    assert len(set(made.captions)) == 995


def test_paragraphs_are_of_whole_videos(load):
    made = load("activitynet/val1")
    assert made.clips[0].id == "v_uqiMw7tQ1Cc"
    assert (made.clips[0].start, made.clips[0].end) == (0.0, 56.0)
    assert made.captions[0].startswith("A weight lifting tutorial is given. The coach helps")


def test_didemo_says_what_others_made_of_it(load, annotations):
    """Another project's paragraphs: those of a video under one suffix are the same as ours."""
    for split in ("val", "test"):
        ours = dict(
            zip(
                (clip.id for clip in load(f"didemo/{split}").clips),
                load(f"didemo/{split}").captions,
                strict=True,
            )
        )
        path = annotations / "didemo" / f"didemo_{split}_label.csv"
        theirs = {
            video.rpartition("/")[2].rpartition(".")[0]: " ".join(text.split())
            for video, text in _files.table(path, "video_path", "text")
        }
        assert set(theirs) <= set(ours)
        differ = [video for video, text in theirs.items() if ours[video] != text]
        assert len(differ) == {"val": 29, "test": 33}[split]
        assert all(set(theirs[one].split()) <= set(ours[one].split()) for one in differ)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_state(vocabulary=49408), path)
    return path


@pytest.fixture(scope="module")
def root(annotations, shared, tmp_path_factory):
    """The published annotations of MSR-VTT beside six of its videos; nothing is copied."""
    made = tmp_path_factory.mktemp("msrvtt")
    for path in (annotations / "msrvtt").iterdir():
        (made / path.name).symlink_to(path)
    videos = made / "videos" / "TestVideo"
    videos.mkdir(parents=True)
    for clip in CLIPS:
        source = shared / "videos" / f"msrvtt_{clip}.mp4"
        if not source.exists():
            pytest.skip(f"no {source.name} in ../shared/videos")
        (videos / f"{clip}.mp4").symlink_to(source)
    return made


@pytest.fixture(scope="module")
def cut(root, annotations, tmp_path_factory):
    """The same, all annotations cut to the six videos."""
    made = tmp_path_factory.mktemp("cut")
    (made / "videos").symlink_to(root / "videos")
    with gzip.open(annotations / "msrvtt" / DATA, "rt", encoding="utf-8") as file:
        data = json.load(file)
    for name in ("videos", "sentences"):
        data[name] = [item for item in data[name] if item["video_id"] in CLIPS]
    toy_datasets.put(made / "MSRVTT_data.json", data)
    for name in ("MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"):
        with (annotations / "msrvtt" / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with (made / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if row["video_id"] in CLIPS)
    return made


@pytest.fixture
def call(weights, capsys):
    def run(command, *arguments):
        model = ("-w", weights, "--activation", "quick_gelu") if command is extract else ()
        code = command([*map(str, (*arguments, *model))])
        return code, *capsys.readouterr()

    return run


def test_wrong_counts_are_refused(cut):
    for name, message in (
        ("msrvtt:9k", "5 videos, published are 9000"),
        ("msrvtt:full", "0 videos, published are 6513"),
    ):
        with pytest.raises(TtvrError, match=message):
            datasets.load(name).load(cut, "train")


def test_msrvtt_from_annotations_to_metrics(call, cut, tmp_path, monkeypatch):
    monkeypatch.setattr(Annotated, "_count", lambda *_: "unchecked")
    made = coverage(datasets.load("msrvtt:full").load(cut, "test"))
    assert [clip.id for clip in made.split.clips] == list(CLIPS)
    assert (len(made.split.captions), made.missing) == (120, {})
    feats, texts = tmp_path / "feats", tmp_path / "texts"
    data = ("--data", "msrvtt:full", "--root", cut)
    code, out, err = call(extract, *data, "-o", feats, "--frames", 4)
    assert (code, out) == (0, f"{feats}\n"), err
    found = Features.open(feats)
    assert found.ids == list(CLIPS)
    assert found.meta["data"] == {"dataset": "msrvtt:full", "split": "test"}
    assert call(extract, "--text", *data, "-o", texts)[0] == 0
    assert len(Features.open(texts).gt) == 120
    code, out, _ = call(evaluate, feats, *data, "--text-features", texts, "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["t2v"]["queries"], facts["v2t"]["queries"]) == (120, 6)
    assert facts["protocol"]["split"] == "msrvtt:full/test"
    assert facts["protocol"]["coverage"] == {"found": 6, "expected": 6}
    learned = coverage(datasets.load("msrvtt").load(cut, "train"))
    assert [clip.id for clip in learned.split.clips] == list(CLIPS[:5])
    assert (len(learned.split.captions), learned.missing) == (100, {})


def test_less_than_all_videos_are_refused(call, root, tmp_path):
    """1k-A, of which one video is there."""
    feats, data = tmp_path / "feats", ("--data", "msrvtt", "--root", root)
    code, out, err = call(extract, *data, "-o", feats, "--frames", 4)
    assert (code, out) == (1, "")
    says, refusal = err.splitlines()
    assert says == "msrvtt means msrvtt:9k"
    assert "999 of 1000 videos of msrvtt:9k/test are not there below" in refusal
    assert "video9770, video9771," in refusal
    assert "--missing skip" in refusal
    assert not feats.exists()
    code, out, err = call(extract, *data, "-o", feats, "--frames", 4, "--missing", "skip", "--json")
    assert code == 3
    assert json.loads(out)["count"] == 1
    assert len(json.loads(out)["missing"]) == 999
    assert "video9770: missing: no such video\n" in err
    assert Features.open(feats).ids == ["video7500"]
    code, out, err = call(evaluate, feats, *data)
    assert (code, out) == (1, "")
    assert "999 of 1000 videos of msrvtt:9k/test have no features" in err
    code, out, _ = call(evaluate, feats, *data, "--missing", "miss", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["protocol"]["coverage"] == {"found": 1, "expected": 1000}
    assert facts["t2v"]["R@1"] == pytest.approx(0.1)
