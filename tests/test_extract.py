"""Inputs, and extraction with a tiny model: the same features whatever the way to them."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import EMBED, tiny_state

from ttvr import extract, frames, retriever, video
from ttvr.clip import tokenizer
from ttvr.errors import IncompatibleError, TtvrError, UsageError, VideoError
from ttvr.extract import Encoder, Options, TextOptions, find_inputs
from ttvr.extract import _decode as decoding
from ttvr.heads._layers import unit
from ttvr.heads.meanp import MeanP
from ttvr.store import Features

T = 4
OPTIONS = Options(frames=T, sampler="segment", fps=None, shard_rows=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_state(vocabulary=49408), path)
    return retriever.load(path, activation="quick_gelu")


def draw(path, *, seed, count=8, size=(48, 64)):
    """A video of a moving bar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.random.default_rng(seed).integers(30, 220, 3)
    pixels = np.full((count, *size, 3), shades, np.uint8)
    for number in range(count):
        pixels[number, :, number * 4 : number * 4 + 12] = 255 - shades
    video.write(path, pixels, fps=8)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Nine inputs: six videos (one of two frames), a GIF, an image folder, one that fails."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(5):
        draw(folder / f"{number}.mp4", seed=number)
    draw(folder / "deep" / "er" / "short.mp4", seed=9, count=2)
    images = [Image.new("RGB", (40, 40), (shade, 90, 200 - shade)) for shade in range(0, 200, 30)]
    images[0].save(folder / "deep" / "moving.gif", save_all=True, append_images=images[1:])
    (folder / "stills").mkdir()
    for number, image in enumerate(images[:3]):
        image.save(folder / "stills" / f"{number}.png")
    (folder / "2b.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("passed over")
    (folder / ".hidden.mp4").write_bytes(b"")
    (folder / "._0.mp4").write_bytes(b"")
    return folder


IDS = ["0", "1", "2", "2b", "3", "4", "deep/er/short", "deep/moving", "stills"]


def run(folder, inputs, model, *, options=OPTIONS, **rest):
    return extract.run(
        inputs, folder, retriever=model, options=options, provenance={"argv": "test"}, **rest
    )


def content(folder):
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    meta = json.loads(found.pop("meta.json"))
    meta.pop("provenance")
    return found | {"meta": meta}


@pytest.fixture(scope="module")
def whole(clips, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "feats"
    run(folder, find_inputs([clips]).items, model)
    return folder


def ids(inputs):
    return [item.clip.id for item in inputs.items]


def test_a_folder_is_searched_in_order(clips):
    found = find_inputs([clips])
    assert ids(found) == IDS
    assert found.skipped == 1
    assert [item.source.path for item in found.items][-3:] == [
        "deep/er/short.mp4",
        "deep/moving.gif",
        "stills",
    ]
    for clip, source in found.items:
        assert source.root == str(clips)
        if clip.path.is_file():
            assert (source.size, source.mtime_ns) == (
                clip.path.stat().st_size,
                clip.path.stat().st_mtime_ns,
            )
    assert found.items[-1].source.size == sum(p.stat().st_size for p in clips.glob("stills/*"))


def test_files_and_roots(clips, monkeypatch):
    found = find_inputs([clips / "1.mp4", clips / "deep", clips / "stills", clips / "notes.txt"])
    assert ids(found) == ["1", "er/short", "moving", "stills", "notes"]
    assert [item.source.root for item in found.items] == [
        *[str(clips), str(clips / "deep"), str(clips / "deep")],
        *[str(clips), str(clips)],
    ]
    assert ids(find_inputs([clips / ".hidden.mp4"])) == [".hidden"]
    monkeypatch.chdir(clips / "deep")
    assert ids(find_inputs(["er/short.mp4", "../0.mp4"])) == ["short", "0"]
    assert ids(find_inputs(["."])) == ["er/short", "moving"]
    assert ids(find_inputs([".."])) == IDS
    assert ids(find_inputs(["er/short.mp4", "../0.mp4"], root="..")) == ["deep/er/short", "0"]
    with pytest.raises(UsageError, match="not below --root"):
        find_inputs(["../0.mp4"], root=".")


def test_what_is_not_there(clips, tmp_path):
    with pytest.raises(UsageError, match=r"gone\.mp4: no such file"):
        find_inputs([clips, tmp_path / "gone.mp4"])
    listed = find_inputs([], listed=[tmp_path / "gone.mp4"])
    assert listed.items[0].source.size is None
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match=r"no videos found \(1 other"):
        find_inputs([tmp_path])
    with pytest.raises(UsageError, match="no videos found"):
        find_inputs([])


def test_duplicates_name_both(tmp_path):
    for name in ("a/x.mp4", "b/x.mp4", "a/x.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for paths, mend in (([tmp_path / "b", tmp_path / "a"], "give"), ([tmp_path / "a"], "rename")):
        with pytest.raises(UsageError, match=rf"'x': \S+x\.\S+ and \S+x\.\S+; {mend}"):
            find_inputs(paths)
    (tmp_path / "a" / "x.webm").unlink()
    assert ids(find_inputs([tmp_path])) == ["a/x", "b/x"]


def test_what_is_named_twice_is_taken_once(clips):
    several = [clips / "3.mp4", clips, clips / "0.mp4", clips / "stills"]
    found = find_inputs(several, listed=[clips / "3.mp4"])
    assert ids(found) == ["3", *(name for name in IDS if name != "3")]
    assert found.items[0] == find_inputs([clips / "3.mp4"]).items[0]


def test_an_image_folder_is_known_by_the_images_it_shows(tmp_path):
    stills = tmp_path / "stills"
    stills.mkdir()
    for number, name in enumerate(("0.png", "1.png", "2.jpg")):
        (stills / name).write_bytes(bytes(3))
        os.utime(stills / name, ns=(5, 5 + number))

    def known():
        (item,) = find_inputs([stills]).items
        return item.source

    before = known()
    assert (before.size, before.mtime_ns) == (9, 7)
    for hidden in (".hidden.png", "._0.png", "notes.txt"):
        (stills / hidden).write_bytes(b"no image")
    assert known() == before
    (stills / "0.png").rename(stills / "x")
    (stills / "1.png").rename(stills / "0.png")
    (stills / "x").rename(stills / "1.png")
    swapped = known()
    assert (swapped.size, swapped.mtime_ns) == (9, 7)
    assert swapped != before
    (stills / "2.jpg").rename(stills / "3.jpg")
    assert known() not in (before, swapped)


def test_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.mp4").touch()
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "named.mp4").symlink_to(tmp_path / "real" / "x.mp4")
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "nowhere")
    assert ids(find_inputs([tmp_path])) == ["broken", "link/x", "named", "real/x"]
    assert ids(find_inputs([tmp_path / "named.mp4"])) == ["named"]


def test_names(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "é") / "日本 語.tar.mp4").parent.mkdir()
    (tmp_path / unicodedata.normalize("NFD", "é") / "日本 語.tar.mp4").touch()
    assert ids(find_inputs([tmp_path])) == [unicodedata.normalize("NFC", "é/日本 語.tar")]
    odd = {tmp_path / "two\nlines.mp4": "line break", tmp_path / os.fsdecode(b"\xff.mp4"): "UTF-8"}
    for path, reason in odd.items():
        path.touch()
        with pytest.raises(UsageError, match=f"cannot be an id .*{reason}"):
            find_inputs([path])
        with pytest.raises(UsageError, match=r"no videos found .* 1 with names"):
            find_inputs([], listed=[path])
    for listed in ((), odd):
        found = find_inputs([tmp_path], listed=listed)
        assert ids(found) == [unicodedata.normalize("NFC", "é/日本 語.tar")]
        assert {path for path, _ in found.unnamed} == set(odd)
    root = tmp_path / os.fsdecode(b"\xff")
    root.mkdir()
    (root / "x.mp4").touch()
    with pytest.raises(UsageError, match="root that is not UTF-8"):
        find_inputs([root])
    assert len(find_inputs([tmp_path]).unnamed) == 3


def test_rows_are_what_a_plain_loop_gives(clips, model, whole):
    features = Features.open(whole)
    assert features.ids == [name for name in IDS if name != "2b"]
    for row, item in enumerate(features.items):
        found = video.read_frames(item["file"], lambda n: frames.uniform_indices(n, T), size=32)
        real = len(found.times)
        pixels = torch.zeros(1, T, 3, 32, 32)
        pixels[0, :real] = frames.normalize(found.pixels)
        mask = torch.arange(T)[None] < real
        with torch.inference_mode():
            made = model.encode_video(pixels, mask)
            vector = model.head.vector_video(made)[0].numpy().astype("f2")
        np.testing.assert_array_equal(features.video[row], vector)
        np.testing.assert_array_equal(features.mask[row], mask[0].numpy())
        np.testing.assert_array_equal(
            features.frames[row][:real], made.frames[0, :real].numpy().astype("f2")
        )
        assert not features.frames[row][real:].any()
        np.testing.assert_array_equal(features.times[row][:real], found.times)
        assert np.isnan(features.times[row][real:]).all()
        assert item["frames"] == real
        assert item["status"] == "ok"
        assert item["rotation"] == 0
    assert features.mask[features.ids.index("deep/er/short")].tolist() == [True, True, False, False]
    pad = model.pad_frame().numpy().astype("f2")
    np.testing.assert_array_equal(features.pad, pad)


def test_meta(model, whole):
    meta = Features.open(whole).meta
    assert meta["model"] == model.identity()
    assert meta["counts"] == {"ok": 8, "partial": 0, "failed": 1}
    assert (meta["count"], meta["dim"], meta["frames"], meta["dtype"]) == (8, EMBED, T, "<f2")
    assert meta["provenance"] == {"argv": "test", "precision": "fp32"}
    assert {"hash", "sampler", "fps", "frames", "resize", "crop", "mean", "std"} <= set(
        meta["preprocess"]
    )


def test_failures_are_listed_and_have_no_row(clips, model, tmp_path):
    inputs = find_inputs([clips / "0.mp4", clips / "2b.mp4"], listed=[tmp_path / "gone.mp4"])
    summary = run(tmp_path / "feats", inputs.items, model)
    assert [(problem.path, problem.status) for problem in summary.problems] == [
        (str(clips / "2b.mp4"), "failed"),
        (str(tmp_path / "gone.mp4"), "failed"),
    ]
    assert "No such file" in summary.problems[1].reason
    assert Features.open(tmp_path / "feats").ids == ["0"]


@pytest.mark.parametrize("change", [{"jobs": 4}, {"batch_size": 3}, {"shard_rows": 3, "jobs": 2}])
def test_jobs_and_batches_change_nothing(clips, model, whole, tmp_path, change):
    run(tmp_path / "feats", find_inputs([clips]).items, model, options=OPTIONS._replace(**change))
    assert content(tmp_path / "feats") == content(whole)


def test_the_order_of_inputs_changes_no_row(clips, model, whole, tmp_path):
    run(tmp_path / "feats", find_inputs([clips]).items[::-1], model)
    there, here = Features.open(whole), Features.open(tmp_path / "feats")
    assert here.ids == there.ids[::-1]
    np.testing.assert_array_equal(here.video[::-1], there.video[:])
    np.testing.assert_array_equal(here.frames[::-1], there.frames[:])


def test_full_passes_of_one_shape(clips, model):
    """As on a GPU: a video's row does not depend on its neighbors or on its place."""
    encoder = Encoder(model, OPTIONS)
    assert encoder.videos_per_pass == 1
    how = OPTIONS.decoding(32)
    inputs = [item for item in find_inputs([clips]).items if item.clip.id in ("0", "1", "3")]
    made = [decoding.decode(item.clip, how, threading.Event()) for item in inputs]
    alone = [encoder.rows([one], ["x"])[0] for one in made]
    encoder.videos_per_pass = 4
    for several in (made, made[:1], made[1:]):
        rows = encoder.rows(several, ["x"] * len(several))
        assert len(rows) == len(several)
        for row, one in zip(rows, several, strict=True):
            expected = alone[[one is other for other in made].index(True)]
            for name in expected:
                np.testing.assert_allclose(row[name], expected[name], atol=2e-3)  # half precision


def drained():
    """As if each file descriptor were taken."""
    raise OSError(errno.EMFILE, "Too many open files")


def no_program():
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/opt/ffmpeg")


def no_process():
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def hidden_in_a_verdict():
    try:
        drained()
    except OSError as error:
        raise VideoError("invalid_data", error.strerror) from None


@pytest.mark.parametrize("fail", [drained, no_program, no_process, hidden_in_a_verdict])
def test_a_machine_in_trouble_gives_no_video_a_bad_name(
    clips, model, whole, tmp_path, monkeypatch, fail
):
    real, calls = video.read_frames, []

    def read_frames(path, choose, **options):
        calls.append(path)
        if len(calls) == 3:
            fail()
        return real(path, choose, **options)

    inputs, folder = find_inputs([clips]).items, tmp_path / "feats"
    monkeypatch.setattr(video, "read_frames", read_frames)
    with pytest.raises(TtvrError, match=r"cannot decode \S+2\.mp4 now .* no fault of it"):
        run(folder, inputs, model)
    assert (folder / "items.jsonl").read_text().count("\n") <= 2
    run(folder, inputs, model)
    assert content(folder) == content(whole)


@pytest.mark.parametrize("name", [None, "1.mp4"])
def test_a_video_that_cannot_be_read_fails(clips, model, tmp_path, monkeypatch, name):
    def read_frames(path, choose, **options):
        raise OSError(errno.EIO, "Input/output error", *([str(clips / name)] if name else []))

    monkeypatch.setattr(video, "read_frames", read_frames)
    summary = run(tmp_path / "feats", find_inputs([clips / "1.mp4"]).items, model)
    assert [problem.reason for problem in summary.problems] == ["invalid_data: Input/output error"]


class Counted:
    """Counts what is decoded."""

    def __init__(self, monkeypatch):
        self.ids = []
        real = decoding.decode

        def decode(clip, how, stop):
            self.ids.append(clip.id)
            return real(clip, how, stop)

        monkeypatch.setattr(decoding, "decode", decode)


def test_running_again(clips, model, whole, tmp_path, monkeypatch):
    folder, inputs = tmp_path / "feats", find_inputs([clips]).items
    run(folder, inputs[2:6], model)
    counted = Counted(monkeypatch)
    steps = []
    summary = run(folder, inputs, model, on_step=lambda *step: steps.append(step))
    assert steps == [("failed" if n == 3 else "ok", 2 <= n < 6) for n in range(9)]
    assert (summary.kept, [problem.kept for problem in summary.problems]) == (4, [True])
    assert counted.ids == ["0", "1", "deep/er/short", "deep/moving", "stills"]
    assert content(folder) == content(whole)
    counted.ids.clear()
    steps.clear()
    assert run(folder, inputs, model, on_step=lambda *step: steps.append(step)).kept == 9
    assert counted.ids == []
    assert sorted(steps) == [("failed", True), *[("ok", True)] * 8]
    summary = run(folder, inputs, model, retry_failed=True)
    assert (summary.kept, [problem.kept for problem in summary.problems]) == (8, [False])
    assert counted.ids == ["2b"]
    assert content(folder) == content(whole)


def test_a_changed_file_is_done_again(model, tmp_path, monkeypatch):
    for number in range(3):
        draw(tmp_path / "clips" / f"{number}.mp4", seed=number)
    folder = tmp_path / "feats"
    run(folder, find_inputs([tmp_path / "clips"]).items, model)
    before = Features.open(folder).video[:]
    draw(tmp_path / "clips" / "1.mp4", seed=77)
    os.utime(tmp_path / "clips" / "1.mp4", ns=(5, 5))
    counted = Counted(monkeypatch)
    run(folder, find_inputs([tmp_path / "clips"]).items, model)
    assert counted.ids == ["1"]
    after = Features.open(folder).video[:]
    assert (before != after).any(axis=1).tolist() == [False, True, False]


def test_what_is_stored(clips, model, tmp_path):
    inputs = find_inputs([clips / "0.mp4", clips / "deep" / "er"]).items
    options = OPTIONS._replace(keep_frames=False, patches=True, dtype="float32")
    run(tmp_path / "feats", inputs, model, options=options)
    features = Features.open(tmp_path / "feats")
    assert features.frames is None
    assert features.patches.shape == (2, T, 16, EMBED)
    assert features.video.dtype == features.patches.dtype == np.float32
    assert not features.patches[1][2:].any()
    row_bytes = Encoder(model, options).row_bytes()
    assert row_bytes == EMBED * 4 + T * 16 * EMBED * 4 + T + T * 4
    with pytest.raises(IncompatibleError, match="dtype is '<f4', now '<f2'; arrays is"):
        run(tmp_path / "feats", inputs, model)


class OfPatches(MeanP):
    """One vector per video, of its patches, those of padded frames too."""

    needs_patches = True

    def vector_video(self, video):
        return unit(video.patches.mean(dim=(1, 2)))


def test_a_vector_of_patches_needs_none_stored(clips, model, tmp_path):
    facts = {"recipe": model.recipe, "source": model.source, "activation": model.activation}
    model = retriever.Retriever(model.clip, OfPatches(width=EMBED), **facts)
    inputs = find_inputs([clips / "0.mp4", clips / "deep" / "er"]).items
    run(tmp_path / "feats", inputs, model)
    run(tmp_path / "patched", inputs, model, options=OPTIONS._replace(patches=True))
    features, patched = Features.open(tmp_path / "feats"), Features.open(tmp_path / "patched")
    assert features.patches is None
    np.testing.assert_array_equal(features.video[:], patched.video[:])
    padding = model.pad_patches()
    for row, (patches, real) in enumerate(zip(patched.patches[:], patched.mask[:], strict=True)):
        seen = torch.tensor(patches).float()
        seen[~torch.tensor(real)] = padding
        vector = unit(seen.mean(dim=(0, 1))).numpy()
        np.testing.assert_allclose(features.video[row], vector, atol=2e-3)
    assert patched.mask[1].tolist() == [True, True, False, False]


def test_other_preprocessing_is_refused(clips, model, whole):
    before = content(whole)
    for change, key in (
        ({"frames": 5}, "preprocess.frames is 4, now 5"),
        ({"sampler": "linspace"}, "preprocess.sampler"),
        ({"fps": 2.0}, "preprocess.fps is None, now 2.0"),
        ({"exact_resize": True}, "preprocess.resize"),
        ({"precision": "bf16"}, "provenance.precision"),
    ):
        with pytest.raises(IncompatibleError, match=key):
            run(whole, find_inputs([clips]).items, model, options=OPTIONS._replace(**change))
    assert content(whole) == before


def test_exact_resize_is_close(clips, model, whole, tmp_path):
    """The same frames, scaled by Pillow instead of ffmpeg."""
    run(
        tmp_path / "feats",
        find_inputs([clips]).items,
        model,
        options=OPTIONS._replace(exact_resize=True),
    )
    exact, plain = Features.open(tmp_path / "feats"), Features.open(whole)
    assert exact.ids == plain.ids
    cosines = (exact.video[:].astype("f4") * plain.video[:]).sum(axis=1)
    assert cosines.min() > 0.98


def test_a_model_that_gives_nan_names_the_video(clips, model, whole, tmp_path, monkeypatch):
    real, calls = model.encode_video, []

    def encode_video(pixels, mask, *, patches, padding):
        calls.append(1)
        made = real(pixels, mask, patches=patches, padding=padding)
        if len(calls) == 4:
            made.frames[0, 1, 2] = torch.nan
        if len(calls) == 6:
            raise RuntimeError("out of memory")
        return made

    monkeypatch.setattr(model, "encode_video", encode_video)
    inputs = find_inputs([clips]).items
    with pytest.raises(TtvrError, match=r"3\.mp4: the model gives NaN"):
        run(tmp_path / "feats", inputs, model)
    with pytest.raises(TtvrError, match=r"failed on \S+4\.mp4: out of memory"):
        run(tmp_path / "feats", inputs, model)
    run(tmp_path / "feats", inputs, model)
    assert content(tmp_path / "feats") == content(whole)


def test_an_interruption_ends_the_decoders(clips, model, whole, tmp_path, monkeypatch):
    stopped = []
    real = decoding.decode

    def decode(clip, how, stop):
        if clip.id == "3":
            stopped.append(stop.wait(30))
        return real(clip, how, stop)

    monkeypatch.setattr(decoding, "decode", decode)

    def on_step(status, kept):
        raise KeyboardInterrupt

    began = time.monotonic()
    inputs = find_inputs([clips]).items
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "feats", inputs, model, on_step=on_step, options=OPTIONS._replace(jobs=3))
    assert time.monotonic() - began < 10
    assert all(stopped)
    monkeypatch.setattr(decoding, "decode", real)
    run(tmp_path / "feats", inputs, model)
    assert content(tmp_path / "feats") == content(whole)


TEXTS = ["a bar moves", "a very long " + "sentence " * 90, "two words", "a bar moves", "日本"]


def encode(model, calls=None):
    def encoder(texts):
        if calls is not None:
            calls.append(list(texts))
        with torch.inference_mode():
            return model.encode_text(tokenizer.tokenize(texts, 20))

    return encoder


def write_texts(folder, model, texts, *, calls=None, on_long="truncate", shard_rows=2, **rest):
    return extract.run_texts(
        texts,
        folder,
        retriever=model,
        encode=encode(model, calls),
        options=TextOptions(20, on_long, "float32", shard_rows),
        provenance={},
        **rest,
    )


def test_texts(model, tmp_path):
    meta, long = write_texts(tmp_path / "t", model, TEXTS, pairs=[(0, "0"), (4, "deep/moving")])
    assert long == meta["texts"]["truncated"] == 1
    features = Features.open(tmp_path / "t")
    assert features.texts == TEXTS
    assert features.gt == [(0, "0"), (4, "deep/moving")]
    made = encode(model)(TEXTS)
    np.testing.assert_allclose(features.words[:], made.words.numpy(), atol=1e-6)
    np.testing.assert_array_equal(features.mask[:], made.mask.numpy())
    for row in range(len(TEXTS)):
        raw = features.words[row][features.mask[row].sum() - 1]
        np.testing.assert_allclose(raw, made.sentence[row].numpy(), atol=1e-6)
        np.testing.assert_allclose(features.text[row], raw / np.linalg.norm(raw), atol=1e-6)


def test_texts_go_on(model, tmp_path):
    write_texts(tmp_path / "whole", model, TEXTS)
    calls = []

    def on_step(count, skipped):
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_texts(tmp_path / "t", model, TEXTS, calls=calls, on_step=on_step)
    write_texts(tmp_path / "t", model, TEXTS, calls=calls)
    assert calls == [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]
    assert content(tmp_path / "t") == content(tmp_path / "whole")
    skipped = []
    write_texts(
        tmp_path / "t", model, TEXTS, calls=calls, on_step=lambda *counts: skipped.append(counts)
    )
    assert (len(calls), skipped) == (3, [(0, len(TEXTS))])


def test_texts_that_cannot_be(model, tmp_path):
    with pytest.raises(UsageError, match=f"1 of {len(TEXTS)} texts have more than 20 tokens"):
        write_texts(tmp_path / "t", model, TEXTS, on_long="error")
    with pytest.raises(UsageError, match="no texts"):
        write_texts(tmp_path / "t", model, [])
    assert not (tmp_path / "t").exists()
