"""ttvr-bench load: every source with every number of threads, and the same frames of each."""

from __future__ import annotations

import numpy as np
import pytest
from bench_options import options

from ttvr import datasets, video
from ttvr.bench import load
from ttvr.errors import UsageError


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    video.write(path, np.random.default_rng(0).integers(0, 255, (6, 32, 48, 3), np.uint8), fps=6)
    return path


def test_every_source(clip, monkeypatch):
    decoded, cached = [], datasets.cached
    monkeypatch.setattr(
        datasets,
        "cached",
        lambda read, folder: cached(lambda *a, **k: decoded.append(a) or read(*a, **k), folder),
    )
    few = ("--size", 16, "--frames", 2, "--reads", 3, "--rounds", 1)
    table = load.run(options(load, clip, "--copies", clip.parent, *few))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["source"], row["jobs"]) for row in rows] == [
        (source, jobs) for source in (load.FILES, load.COPIES, load.CACHE) for jobs in (1, 2)
    ]
    assert len(decoded) == 1  # before anything is timed
    for row in rows:
        assert row["videos/s"] > 0
        assert row["of them here"] <= row["CPU ms/video"]
        assert row["cores for 400 videos/s"] == pytest.approx(0.4 * row["CPU ms/video"])
    assert rows[0]["of 1 job(s)"] == 1
    assert rows[0]["CPU ms/video"] > rows[0]["of them here"]
    assert rows[4]["CPU ms/video"] == rows[4]["of them here"]


def test_what_cannot_be_measured(clip):
    for wrong in ("--jobs", "--frames", "--size", "--reads", "--rounds"):
        with pytest.raises(UsageError, match="at least 1"):
            load.run(options(load, clip, wrong, 0))
