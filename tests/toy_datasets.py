"""Annotations of three or so videos in the published form of each dataset that has files."""

from __future__ import annotations

import json

SAID = {"alpha": ("a dog  runs", "a brown dog"), "beta": ("rain",), "gamma": ("a  café ", "tea")}
"""What is said of each video; white space as annotators leave it."""
CLEAN = {video: tuple(" ".join(text.split()) for text in said) for video, said in SAID.items()}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")


def _msrvtt(root):
    sentences = [{"video_id": v, "caption": c} for v, said in SAID.items() for c in said]
    videos = [{"video_id": v, "split": "test"} for v in SAID]
    put(root / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    put(root / "MSRVTT_train.9k.csv", "video_id\n" + "\n".join(SAID) + "\n")
    rows = "".join(f"r{at},m{at},{v},{said[0]}\n" for at, (v, said) in enumerate(SAID.items()))
    put(root / "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\n" + rows)
    return {"train": CLEAN, "test": {video: said[:1] for video, said in CLEAN.items()}}


def _msvd(root):
    put(root / "captions_msvd.json", SAID)
    for split in ("train", "val", "test"):
        put(root / f"{split}_list.txt", "\n".join(SAID))
    return dict.fromkeys(("train", "val", "test"), CLEAN)


def _lsmdc(root):
    rows = [f"{v}\t0\t1\t0\t1\t{caption}\n" for v, said in SAID.items() for caption in said]
    for name in ("annos_training", "annos_val", "challenge_1000_publictect"):
        put(root / f"LSMDC16_{name}.csv", "".join(rows))
    return dict.fromkeys(("train", "val", "test"), CLEAN)


def _activitynet(root):
    facts = {f"v_{v}": {"duration": 2.5, "sentences": list(said)} for v, said in SAID.items()}
    put(root / "train.json", facts)
    put(root / "val_1.json", facts)
    joined = {f"v_{video}": (" ".join(said),) for video, said in CLEAN.items()}
    return {"train": joined, "val1": joined}


def _didemo(root):
    moments = [{"video": f"{v}.mov", "description": c} for v, said in SAID.items() for c in said]
    for split in ("train", "val", "test"):
        put(root / f"{split}_data.json", moments)
    joined = {video: (" ".join(said),) for video, said in CLEAN.items()}
    return dict.fromkeys(("train", "val", "test"), joined)


def _vatex(root):
    videos = [{"videoID": v, "enCap": list(said), "chCap": ["..."]} for v, said in SAID.items()]
    for name in ("training_v1.0", "validation_v1.0", "public_test_english_v1.1"):
        put(root / f"vatex_{name}.json", videos)
    return dict.fromkeys(("train", "val", "test"), CLEAN)


def _folder(root):
    put(
        root / "captions.tsv",
        "".join(
            f"{video}.mp4\t{caption}\t{split}\n"
            for split in ("train", "val", "test")
            for video, said in SAID.items()
            for caption in said
        ),
    )
    return dict.fromkeys(("train", "val", "test"), CLEAN)


_WRITERS = {
    "msrvtt": _msrvtt,
    "msvd": _msvd,
    "lsmdc": _lsmdc,
    "activitynet": _activitynet,
    "didemo": _didemo,
    "vatex": _vatex,
    "folder": _folder,
}


def write(name, root):
    """Write annotations to a folder that need not exist; {split: {id: captions}} as they load."""
    return _WRITERS[name](root)
