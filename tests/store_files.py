"""Inputs, what a made-up model makes of them, and feature folders filled with it."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest

from ttvr.store import Outcome, Settings, Source, TextWriter, Writer

T, D, SHARD = 3, 8, 4
ARRAYS = ("video", "frames", "mask", "times")


def settings(**changes):
    made = Settings(
        arrays=ARRAYS,
        dtype="<f2",
        shard_rows=SHARD,
        model={"fingerprint": "sha256:aa", "space": "11", "source": "a.pt"},
        preprocess={"hash": "hh", "frames": T},
        provenance={"precision": "fp32", "created": "now"},
    )
    return made._replace(**changes)


def source(name, *, size=10, mtime=1, root="/videos"):
    return Source(name, root, f"{name}.mp4", size, mtime)


def sources(count):
    return [source(f"v{number:02d}") for number in range(count)]


def outcome(item):
    """What a deterministic model makes of an input; every fifth one fails."""
    digest = hashlib.sha256(repr(item).encode()).digest()
    if item.id[1:].isdecimal() and int(item.id[1:]) % 5 == 3:
        return Outcome({"status": "failed", "error": "empty", "detail": "no frame"}, None)
    rng = np.random.default_rng(digest[0])
    vector = rng.standard_normal(D)
    real = np.arange(T) <= digest[1] % T
    frames = np.where(real[:, None], rng.standard_normal((T, D)), 0)
    row = {
        "video": (vector / np.linalg.norm(vector)).astype("<f2"),
        "frames": frames.astype("<f2"),
        "mask": real,
        "times": np.where(real, np.arange(T), np.nan).astype("<f4"),
    }
    return Outcome({"status": "ok", "duration": 1.5, "frames": int(real.sum())}, row)


def writer(folder, items, *, made=None, **options):
    pad = np.arange(D, dtype="f4")
    return Writer(folder, items, settings=made or settings(), pad=pad, **options)


def fill(folder, items, *, stop=None, **options):
    """Run as extraction does; returns the inputs that had to be computed."""
    computed = []
    with writer(folder, items, **options) as open_folder:
        for item in items[open_folder.done :]:
            if stop is not None and len(computed) == stop:
                return computed
            result = open_folder.kept(item)
            if result is None:
                computed.append(item.id)
                result = outcome(item)
            open_folder.add(result)
        open_folder.finish()
    return computed


def content(folder):
    """All bytes of a folder, but for who made it and when."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    meta = json.loads(found.pop("meta.json"))
    meta.pop("provenance")
    return found | {"meta": meta}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What is synced survives power cuts, which no test here makes; syncing takes most time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "feats"
    fill(folder, sources(11))
    return folder


def changed(items):
    return [items[0], source("v01", mtime=2), *items[2:6], source("v05b"), *items[7:], source("z")]


TEXTS = [f"a caption of {n} words" for n in range(10)]


def text_row(text):
    rng = np.random.default_rng(len(text) * 7 + ord(text[13]))
    vector = rng.standard_normal(D)
    real = np.arange(5) < 2 + ord(text[13]) % 3
    words = np.where(real[:, None], rng.standard_normal((5, D)), 0)
    return {
        "text": (vector / np.linalg.norm(vector)).astype("<f2"),
        "words": words.astype("<f2"),
        "mask": real,
    }


PAIRS = ((0, "v00"), (1, "v00"))


def text_writer(folder, texts, *, pairs=PAIRS, **options):
    return TextWriter(
        folder,
        texts,
        model={"fingerprint": "sha256:aa"},
        words=5,
        facts={"on_long": "truncate"},
        provenance={"precision": "fp32"},
        pairs=pairs,
        dtype="<f2",
        shard_rows=SHARD,
        **options,
    )


def fill_texts(folder, texts, *, stop=None, **options):
    written = 0
    with text_writer(folder, texts, **options) as open_folder:
        for text in texts[open_folder.done :]:
            if written == stop:
                return written
            open_folder.add(text_row(text))
            written += 1
        open_folder.finish()
    return written
