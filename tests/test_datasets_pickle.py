"""Captions in pickles: what MSVD's authors published loads, and nothing else is ever run."""

from __future__ import annotations

import collections
import functools
import os
import pickle
import subprocess
import sys

import pytest
import toy_datasets

from ttvr import datasets
from ttvr.datasets.msvd import Msvd
from ttvr.errors import IncompatibleError

CAPTIONS = {"alpha": [["a", "dog", "runs"], ["a", "brown", "dog"]], "beta": [["café"]]}
WORDS = {video: tuple(" ".join(words) for words in said) for video, said in CAPTIONS.items()}


def load(content, folder):
    (folder / "raw-captions.pkl").write_bytes(content)
    toy_datasets.put(folder / "val_list.txt", "alpha\nbeta\n")
    found = datasets.load("msvd").load(folder, "val")
    return {
        clip.id: tuple(c for c, at in zip(found.captions, found.owner, strict=True) if at == row)
        for row, clip in enumerate(found.clips)
    }


@pytest.fixture(autouse=True)
def any_counts(monkeypatch):
    monkeypatch.setattr(Msvd, "counts", {})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, "defaultdict", tuple])
def test_captions_of_every_protocol(protocol, kind, tmp_path):
    if kind == "defaultdict":
        captions = collections.defaultdict(list, CAPTIONS)
    elif kind is tuple:
        captions = {video: tuple(map(tuple, said)) for video, said in CAPTIONS.items()}
    else:
        captions = kind(CAPTIONS)
    assert load(pickle.dumps(captions, protocol), tmp_path) == WORDS


def test_captions_of_python_2(tmp_path):
    """As its cPickle wrote byte strings: protocols 0 and 2."""
    text = (
        b"(dp1\nS'alpha'\np2\n(lp3\n(lp4\nS'a'\naS'dog'\naasS'beta'\n(lp5\n(lp6\nVcaf\\u00e9\naas."
    )
    assert load(text, tmp_path) == {"alpha": ("a dog",), "beta": ("café",)}
    binary = (
        b"\x80\x02}q\x01(U\x05alpha](](U\x01aU\x03doge](U\x05caf\xc3\xa9ee"
        b"U\x04beta](](X\x03\x00\x00\x00teaeeu."
    )
    assert load(binary, tmp_path) == {"alpha": ("a dog", "café"), "beta": ("tea",)}
    with pytest.raises(IncompatibleError, match=r"damaged pickle .*utf-8"):
        load(binary.replace(b"\xc3\xa9", b"\xe9."), tmp_path)


def test_the_pickle_comes_first(tmp_path):
    toy_datasets.write("msvd", tmp_path)
    assert load(pickle.dumps(CAPTIONS), tmp_path) == WORDS


def test_texts_as_bytes(tmp_path):
    captions = {b"alpha": [[b"a", b"dog"]], "beta": ["caf\u00e9".encode()]}
    assert load(pickle.dumps(captions), tmp_path) == {"alpha": ("a dog",), "beta": ("café",)}
    assert load(pickle.dumps(captions, 2), tmp_path)["beta"] == ("café",)
    for wrong, message in (
        ({b"alpha": [[b"\xe9"]]}, "not UTF-8"),
        ({b"alpha": [["x"]], "alpha": [["y"]]}, "alpha is there twice"),
    ):
        with pytest.raises(IncompatibleError, match=message):
            load(pickle.dumps(wrong), tmp_path)


@pytest.mark.parametrize("name", ["AllVideoDescriptions.txt", "raw-captions.txt"])
def test_captions_as_text(name, tmp_path):
    text = "# of the authors\n\nalpha a dog  runs\r\nalpha\ta brown dog\nbeta café\n"
    toy_datasets.put(tmp_path / name, text)
    toy_datasets.put(tmp_path / "test_list.txt", "alpha\nbeta\n")
    found = datasets.load("msvd").load(tmp_path, "test")
    assert found.captions == ("a dog runs", "a brown dog", "café")
    toy_datasets.put(tmp_path / name, "alpha\n")
    with pytest.raises(IncompatibleError, match="line 1 has no sentence"):
        datasets.load("msvd").load(tmp_path, "test")


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


def hostile(path):
    """Pickles by name, each with what the refusal says."""
    touch = f"touch {path}"
    deep = b"(" * 3 + b")\x85" * 200_000
    return {
        "a shell": (pickle.dumps(Runs(os.system, touch)), "posix.system|nt.system"),
        "in a caption": (pickle.dumps({"alpha": [[Runs(os.system, touch)]]}), "system"),
        "old protocol": (pickle.dumps(Runs(os.system, touch), 0), "system"),
        "a process": (pickle.dumps(Runs(subprocess.call, ["touch", path])), "subprocess.call"),
        "eval": (pickle.dumps(Runs(eval, f"open({path!r}, 'w')")), r"builtins.eval"),
        "getattr": (pickle.dumps(Runs(getattr, [], "append")), "builtins.getattr"),
        "partial": (pickle.dumps(functools.partial(os.system, touch)), "functools.partial"),
        "an object": (pickle.dumps(RuntimeError("x")), "RuntimeError"),
        "an instance": (b"(S'" + touch.encode() + b"'\nios\nsystem\n.", "instruction 0x69"),
        "of dots": (b"\x80\x04\x8c\x08builtins\x8c\x0cstr.__init__\x93.", "str.__init__"),
        "numbers": (pickle.dumps({"alpha": [[3]]}), "the instruction"),
        "a set": (pickle.dumps({"alpha"}), "the instruction"),
        "deep keys": (b"}" + deep + b"Ns.", "a key that is no text"),
        "deep keys of marks": (b"(" + deep + b"Nd.", "a key that is no text|damaged"),
        "deep keys in order": (
            b"ccollections\nOrderedDict\n((l(" + deep + b"Nltaltt" + b"R.",
            "damaged|a key that is no text|no list",
        ),
        "many bytes": (b"\x96" + (1 << 40).to_bytes(8, "little") + b".", "instruction 0x96"),
        "a large memo": (b"\x80\x02]r\xff\xff\xff\xff" + b"h\x01.", "damaged"),
        "an extension": (b"\x82\x01.", "instruction 0x82"),
        "from elsewhere": (b"Pname\n.", "instruction 0x50"),
        "a codec": (
            b"c_codecs\nencode\n(Vtext\nVbz2\ntR.",
            "the encoding 'bz2'",
        ),
        "nothing": (b"", "damaged"),
        "torn": (pickle.dumps(CAPTIONS)[:-20], "damaged"),
        "no dictionary": (pickle.dumps(["x"]), "expected a dictionary"),
    }


@pytest.mark.parametrize("name", hostile(""))
def test_nothing_is_run(name, tmp_path):
    witness = tmp_path / "witness"
    content, message = hostile(str(witness))[name]
    with pytest.raises(IncompatibleError, match=message) as caught:
        load(content, tmp_path)
    assert "\n" not in str(caught.value)
    assert "raw-captions.pkl" in str(caught.value)
    assert not witness.exists()


def test_a_text_that_is_named_a_million_times(tmp_path, monkeypatch):
    monkeypatch.setattr("ttvr.datasets.msvd._MOST", 1 << 12)
    once = ["word" * 20] * 20
    for captions in ({"alpha": [once] * 20}, {"alpha": [once * 20]}):
        with pytest.raises(IncompatibleError, match="more than 4096 letters"):
            load(pickle.dumps(captions), tmp_path)


def test_no_module_is_imported():
    code = (
        "import sys; from ttvr.datasets import _unpickle; from ttvr.errors import TtvrError\n"
        "try: _unpickle.loads(b'cthis\\ns\\n.', 'x')\n"
        "except TtvrError as error: assert 'this.s' in str(error)\n"
        "assert 'this' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
