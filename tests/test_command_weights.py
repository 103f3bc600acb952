"""ttvr-weights: streams, exit codes, and what each verb does."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import clip_files
import pytest
import torch

from ttvr.clip import catalog, weights
from ttvr.clip.catalog import Entry
from ttvr.commands.weights import main

ROOT = Path(__file__).parents[1]
VERBS = ("list", "fetch", "verify", "convert", "where", "random")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A home and a working folder of its own, and a package without weights."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TTVR_WEIGHTS", raising=False)
    monkeypatch.delenv("TTVR_OFFLINE", raising=False)
    monkeypatch.setattr(catalog, "_PACKAGE", tmp_path / "package" / "ttvr")
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys):
    """Run the command: exit code, stdout, stderr."""

    def call(*argv):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return clip_files.archive(tmp_path_factory.mktemp("weights") / "model.pt")


def public(monkeypatch, content):
    """A public checkpoint of this content in place of OpenAI's."""
    entry = Entry("ViT-B/32", "ViT-B-32.pt", 1, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(catalog, "ENTRIES", (catalog.ENTRIES[0], entry))
    return entry


def test_list(run, place, archive):
    (place / "weights").mkdir()
    (place / "weights" / "ViT-B-16.pt").write_bytes(bytes(1_500_000))
    code, out, err = run("list")
    assert code == 0
    assert err.startswith(f"ttvr-weights: looked in {place / 'weights'}, ")
    rows = [line.split("\t") for line in out.splitlines()]
    names = ["default", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
    assert [row[0] for row in rows] == names
    assert rows[0] == ["default", "ttvr-tiny.npz", "about 3 MB", "fc8124449713", "-"]
    assert rows[1] == ["ViT-B/32", "ViT-B-32.pt", "about 354 MB", "40d365715913", "-"]
    found = str(place / "weights" / "ViT-B-16.pt")
    assert rows[2] == ["ViT-B/16", "ViT-B-16.pt", "1.5 MB", "5806e77cd80f", found]
    code, out, _ = run("list", "--json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == names
    assert rows[2]["path"] == found
    assert len(rows[3]["sha256"]) == 64
    assert rows[3]["path"] is None


def test_list_shows_that_a_default_is_random(run, place, monkeypatch):
    run("random", "-o", "random.pt")
    monkeypatch.setenv("TTVR_WEIGHTS", "random.pt")
    code, out, _ = run("list")
    assert code == 0
    assert out.splitlines()[0].endswith(f"{place / 'random.pt'} random (meaningless)")
    assert json.loads(run("list", "--json")[1])[0]["note"] == "random (meaningless)"


def test_where(run, place, archive, monkeypatch):
    code, out, err = run("where")
    assert (code, out) == (5, "")
    assert err.startswith("ttvr-weights: no weights 'default': looked for ttvr-tiny.npz in ")
    assert err.count("\n") == 1
    monkeypatch.setenv("TTVR_WEIGHTS", str(archive))
    assert run("where") == (0, f"{archive}\n", "")
    assert run("where", archive) == (0, f"{archive}\n", "")
    monkeypatch.setenv("TTVR_WEIGHTS", "nowhere")
    for verb in ("where", "list"):
        code, out, err = run(verb)
        assert (code, out) == (5, "")
        assert "$TTVR_WEIGHTS is nowhere, which does not exist" in err


def test_fetch(run, place, archive, monkeypatch, tmp_path):
    entry = public(monkeypatch, archive.read_bytes())
    url = archive.as_uri()
    cached = tmp_path / "home" / ".cache" / "ttvr" / "ViT-B-32.pt"
    code, out, err = run("fetch", "ViT-B/32", "--url", url, "--progress", "json")
    assert (code, out) == (0, f"{cached}\n")
    assert json.loads(err.splitlines()[-1])["what"] == "MB"
    assert run("where", "ViT-B/32")[1] == out
    assert run("fetch", "ViT-B/32", "-q") == (0, out, "")
    code, out, err = run("fetch", "ViT-B/32", "--url", url, "-o", "here", "-q")
    assert (code, out, err) == (0, "here/ViT-B-32.pt\n", "")
    assert hashlib.sha256(Path("here/ViT-B-32.pt").read_bytes()).hexdigest() == entry.sha256


def test_fetch_of_wrong_bytes_offline_and_of_no_name(run, archive, monkeypatch):
    public(monkeypatch, b"something else")
    code, out, err = run("fetch", "ViT-B/32", "--url", archive.as_uri(), "--progress", "never")
    assert (code, out) == (1, "")
    assert "for inspection" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("TTVR_OFFLINE", "1")
    code, out, err = run("fetch", "ViT-B/32", "-q")
    assert (code, out) == (5, "")
    for part in ("TTVR_OFFLINE", "about 1 MB", "sha256", "curl --create-dirs -C - -o ", "https://"):
        assert part in err
    for name in ("default", "ViT-B/64"):
        code, out, err = run("fetch", name)
        assert (code, out) == (2, "")
        assert f"nothing to fetch under the name '{name}'; there are: ViT-B/32" in err
    assert run("fetch", "ViT-B/32", "--url", "ftp://x/y")[0] == 2


def test_verify(run, place, archive, monkeypatch):
    code, out, err = run("verify", archive)
    assert (code, err) == (0, "")
    facts = dict(line.split("\t") for line in out.splitlines())
    assert facts["arch"] == "ViT-w64-p8-l2"
    assert facts["format"] == "TorchScript archive"
    assert facts["activation"] == "quick_gelu"
    assert facts["known"] == "-"
    assert facts["fingerprint"] == weights.fingerprint(clip_files.state())
    assert facts["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    code, out, _ = run("verify", archive, "--json")
    assert json.loads(out)["bytes"] == archive.stat().st_size
    public(monkeypatch, archive.read_bytes())
    (place / "ViT-B-32.pt").write_bytes(archive.read_bytes())
    code, out, _ = run("verify", "ViT-B-32.pt", "--json")
    assert (code, json.loads(out)["known"]) == (0, "ViT-B/32")


def test_verify_finds_what_is_wrong(run, place, archive, monkeypatch):
    damaged = bytearray(archive.read_bytes())
    damaged[3000] ^= 1
    public(monkeypatch, archive.read_bytes())
    (place / "ViT-B-32.pt").write_bytes(damaged)
    code, out, err = run("verify", "ViT-B-32.pt")
    assert (code, out) == (1, "")
    assert "damaged, or another file of that name" in err
    (place / "half.pt").write_bytes(damaged[:5000])
    code, out, err = run("verify", "half.pt")
    assert (code, out) == (1, "")
    assert "truncated or damaged" in err
    assert run("verify", "none.pt")[0] == 5


def test_verify_checks_each_record_of_an_archive(run, place, archive):
    content = bytearray(archive.read_bytes())
    state = clip_files.state()
    needle = state["visual.proj"].half().numpy().tobytes()
    content[content.index(needle) + 10] ^= 1
    (place / "bit.pt").write_bytes(content)
    code, out, err = run("verify", "bit.pt")
    assert (code, out) == (1, "")
    assert "checksum" in err


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors", ".npz"])
def test_convert(suffix, run, place, archive):
    out_file = place / f"clip{suffix}"
    code, out, err = run("convert", archive, "-o", out_file, "--dtype", "float16")
    assert (code, out, err) == (0, f"{out_file}\n", "")
    checkpoint = weights.read(out_file)
    assert weights.fingerprint(checkpoint.clip) == weights.fingerprint(clip_files.state())
    assert checkpoint.activation == "quick_gelu"
    before = out_file.stat().st_mtime_ns
    code, out, err = run("convert", archive, "-o", out_file)
    assert (code, out) == (2, "")
    assert "pass --overwrite" in err
    assert out_file.stat().st_mtime_ns == before
    assert run("convert", archive, "-o", out_file, "--overwrite")[0] == 0
    assert out_file.stat().st_mtime_ns != before


def test_the_largest_seed(run, place):
    assert run("random", "--seed", "9223372036854775807", "-o", "r.pt")[0] == 0


def test_convert_keeps_the_note_or_takes_another(run, place):
    weights.save(clip_files.state(), place / "a.npz", note="of a")
    assert run("convert", "a.npz", "-o", "b.npz")[0] == 0
    assert run("convert", "a.npz", "-o", "c.npz", "--note", "of c")[0] == 0
    assert [weights.read(name).note for name in ("b.npz", "c.npz")] == ["of a", "of c"]


def test_convert_of_a_run_says_what_is_left_out(run, place):
    clip = clip_files.state()
    made = {"format": "ttvr-run/1", "clip": clip, "head": {"w": torch.ones(2)}, "recipe": {}}
    torch.save({**made, "activation": "gelu"}, place / "best.pt")
    code, _, err = run("convert", "best.pt", "-o", "clip.pt")
    assert (code, err) == (0, "ttvr-weights: only the CLIP was written, not the head of the run\n")
    assert weights.read("clip.pt").activation == "gelu"


def test_random(run, place):
    code, out, err = run("random", "--seed", "3", "-o", "random.pt")
    assert (code, out) == (0, "random.pt\n")
    assert "meaningless" in err
    assert err.count("\n") == 1
    before = (place / "random.pt").stat().st_mtime_ns
    code, out, err = run("random", "-q", "--seed", "3", "-o", "random.pt")
    assert (code, out, err) == (0, "random.pt\n", "")
    assert (place / "random.pt").stat().st_mtime_ns == before
    code, out, err = run("random", "--seed", "4", "-o", "random.pt")
    assert (code, out) == (2, "")
    assert "random.pt exists and holds something else" in err
    code, out, err = run("random", "-o", "nowhere/random.pt")
    assert (code, out) == (2, "")
    assert "no folder nowhere" in err
    code, out, err = run("verify", "random.pt")
    assert f"{place / 'random.pt'}" in out
    assert "random (meaningless)" in out
    assert run("convert", "random.pt", "-o", "r.npz")[0] == 0
    assert weights.read("r.npz").note == "random (meaningless)"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "required: VERB"),
        (["burn"], "invalid choice: 'burn'"),
        (["fetsh"], "did you mean fetch"),
        (["convert", "a.pt"], "required: -o/--out"),
        (["convert", "a.pt", "-o", "b.onnx"], "b.onnx: the suffix must be one of .pt, .bin"),
        (["convert", "a.pt", "-o", "b.pt", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["random", "-o", "r.npz"], "name it .pt"),
        (
            ["random", "-o", "r.pt", "--size", "huge"],
            "no size 'huge'; there are: tiny, ttvr-tiny, ViT-B/32",
        ),
        *((["random", "-o", "r.pt", "--seed", n], "of 0 to 922337") for n in ("9" * 20, "-1", "x")),
        (["random", "-o", "r.pt", "--seed", "9223372036854775808"], "of 0 to 9223372036854775807"),
        (["list", "--js"], "unrecognized arguments: --js"),
    ],
)
def test_wrong_use_is_exit_2_and_one_line(argv, text, run, place):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb, run):
    code, out, err = run(*[verb][: bool(verb)], "--help")
    assert (code, err) == (0, "")
    assert "exit codes: 0 all done" in out
    assert f"ttvr-weights {verb}".strip() in out.split("example")[1]
    for other in VERBS:
        assert verb or other in out


def test_verbose_shows_where_an_error_came_from(run):
    for argv in (["where", "-v"], ["-v", "where"]):
        code, _, err = run(*argv)
        assert code == 5
        assert "Traceback" in err


@pytest.mark.parametrize(
    "argv", [["list"], ["where", "none.pt"], ["fetch", "x"], ["random", "--help"], ["burn"]]
)
def test_neither_torch_nor_numpy_is_loaded(argv, place):
    code = (
        "import sys; from ttvr.commands.weights import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, *argv]
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
