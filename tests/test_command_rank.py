"""ttvr-rank: where queries come from, what goes to stdout, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from feature_folder import NAMES, write_features, write_home

import ttvr
from ttvr.commands import rank as command
from ttvr.commands.rank import Query, read_queries
from ttvr.errors import TtvrError

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("rank")
    write_home(home)
    return home


@pytest.fixture
def feats(home, monkeypatch):
    monkeypatch.chdir(home)
    return "feats"


def run(*argv):
    """Exit code, whether it was returned or raised by the parser."""
    try:
        return command.main([str(one) for one in argv])
    except SystemExit as stop:
        return stop.code


def process(*argv, stdin=b"", **options):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "bin" / "ttvr-rank"), *map(str, argv)],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_tsv(feats, capsys):
    assert run("--query", "a dog", "--query", "a cat", feats, "-k", "7", "--device", "cpu") == 0
    out = capsys.readouterr().out
    lines = [line.split("\t") for line in out.removesuffix("\n").split("\n")]
    expected = ttvr.rank(["a dog", "a cat"], feats, 7)
    assert len(lines) == 14
    hits = [(hits.query, hit) for hits in expected for hit in hits.hits]
    for cells, (query, hit) in zip(lines, hits, strict=True):
        escaped = [text.replace("\t", "\\t") for text in (hit.id, hit.path)]
        assert cells == [
            str(query),
            str(hit.rank),
            f"{hit.score:.4f}",
            escaped[0],
            f"{hit.time:.2f}",
            escaped[1],
        ]


def test_json_is_as_the_contract_says(feats, capsys):
    assert run("--query", "a caf\u00e9, with a dog", feats, "-k", "2", "--json") == 0
    out = capsys.readouterr().out
    (hits,) = ttvr.rank(["a caf\u00e9, with a dog"], feats, 2)
    found = json.loads(out)
    assert out.startswith('{"query":0,"text":"a caf\u00e9, with a dog","hits":[{"rank":1,"id":')
    assert out.count("\n") == 1
    assert list(found["hits"][0]) == ["rank", "id", "path", "score", "time"]
    for shown, hit in zip(found["hits"], hits.hits, strict=True):
        assert shown == {**hit._asdict(), "score": round(hit.score, 6)}


def test_names_of_queries(feats, tmp_path, capsys):
    (tmp_path / "q.tsv").write_text("q7\ta dog\nplain\n", encoding="utf-8")
    assert run(tmp_path / "q.tsv", feats, "--json", "-k", "1") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["query"], first["id"], first["text"]) == (0, "q7", "a dog")
    assert (second["query"], second["text"]) == (1, "plain")
    assert "id" not in second
    assert run(tmp_path / "q.tsv", feats, "-k", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["q7", "1"]


def test_bare_paths(feats, capsys):
    assert run("--query", "a dog", feats, "--ids") == 0
    lines = capsys.readouterr().out
    assert run("--query", "a dog", feats, "--ids", "-0") == 0
    nulls = capsys.readouterr().out
    assert nulls.count("\0") == len(NAMES)
    assert nulls.replace("\0", "\n") == lines
    assert set(nulls.split("\0")[:-1]) == {f"/clips/{path}" for path in NAMES.values()}


def test_header_only_on_a_terminal(feats, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run("--query", "a dog", feats, "-k", "1") == 0
    assert capsys.readouterr().out.startswith("query\trank\tscore\tid\ttime\tpath\n0\t1\t")
    assert run("--query", "a dog", feats, "-k", "1", "--json") == 0
    assert capsys.readouterr().out.startswith("{")


def test_query_files(tmp_path):
    path = tmp_path / "q.txt"
    path.write_bytes(
        b"\xef\xbb\xbfa dog, a cat, a house\r\n\r\n  \nid 1\t with a tab\tinside \r\n"
        b"\tno id\nl\xe2\x80\xa8s\nlast"
    )
    assert read_queries(str(path)) == [
        Query(None, "a dog, a cat, a house"),
        Query("id 1", "with a tab\tinside"),
        Query(None, "no id"),
        Query(None, "l\u2028s"),
        Query(None, "last"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\nbroken \xff\n", r"q.txt:2: not UTF-8; convert it \(iconv -f LATIN1 -t UTF-8\)"),
        ("dog".encode("utf-16"), "q.txt:1: not UTF-8; convert it .iconv -f UTF-16 -t UTF-8"),
        (b"fine\nq1\t \n", "q.txt:2: no text after the id 'q1'"),
        (b"\n \n", "no queries"),
        (b"", "no queries"),
    ],
)
def test_query_files_that_are_wrong(tmp_path, content, message):
    path = tmp_path / "q.txt"
    path.write_bytes(content)
    with pytest.raises(TtvrError, match=message):
        read_queries(str(path))


def test_stdin(feats, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\na cat")))
    assert run("-", feats, "-k", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["feats"], "expected QUERIES and the feature folder"),
        (["--query", "a", "q.txt", "feats"], "QUERIES or --query, not both"),
        (["--query", "a", "q.txt", "r.txt", "feats"], "only the feature folder"),
        (["--query", " ", "feats"], "query 0 is blank"),
        (["feats", "q.txt"], "the file of queries comes first"),
        (["--query", "a", "feats", "-0"], "-0 goes with --ids"),
        (["--query", "a", "feats", "--ids", "--json"], "not allowed with"),
        (["--query", "a", "feats", "-k", "0"], "not a whole number of 1 or more"),
        (["--query", "a", "feats", "--devic", "cpu"], "unrecognized arguments"),
        (["--query", "a", "feats", "--device", "tpu"], "no device 'tpu'"),
    ],
)
def test_wrong_use_is_exit_2(feats, capsys, argv, message):
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_exit_codes(feats, capsys, tmp_path):
    assert run(tmp_path / "none.txt", feats) == 1
    assert "none.txt" in capsys.readouterr().err
    for sentence in ("a dog", "a/dog " * 900):
        assert run(sentence, feats) == 1
        assert f"; to rank one sentence: --query '{sentence}'\n" in capsys.readouterr().err
    assert run("--query", "a", tmp_path) == 1
    assert "make one: ttvr-extract PATH... -o feats/" in capsys.readouterr().err
    assert run("--query", "a", feats, "-w", "other.pt") == 4
    assert "other.pt" in capsys.readouterr().err
    assert run("--query", "a", feats, "-w", "ViT-H/99") == 5
    assert "ViT-H/99" in capsys.readouterr().err
    assert run("--query", "a", feats, "--device", "cuda:99") == 5


def test_long_queries(feats, capsys):
    long = "very " * 90
    assert run("--query", long, feats, "-k", "1") == 0
    assert "1 of 1 queries have more than 77 tokens" in capsys.readouterr().err
    assert run("--query", long, feats, "--on-long", "error") == 2
    assert capsys.readouterr().out == ""


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom ttvr.commands.rank import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("--query", "examples:", "exit codes:", "default: 10"):
        assert word in done.stdout


def test_a_reader_that_leaves_early(feats, home):
    queries = "".join(f"query number {n}\n" for n in range(300))
    (home / "many.txt").write_text(queries)
    with subprocess.Popen(
        [sys.executable, str(REPOSITORY / "bin" / "ttvr-rank"), "many.txt", feats],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as child:
        assert child.stdout.readline().startswith(b"0\t1\t")
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == 0


def test_paths_that_are_not_utf8_come_back_as_they_are(home, tmp_path):
    model = ttvr.load(home / "clip.pt")
    write_features(tmp_path / "feats", model, names={"cafe": "cafe.mp4"})
    journal = tmp_path / "feats" / "items.jsonl"
    journal.write_text(journal.read_text().replace("cafe.mp4", "caf\\udce9.mp4"))
    done = process("--query", "a", tmp_path / "feats", "--ids")
    assert done.stdout == b"/clips/caf\xe9.mp4\n", done.stderr
    done = process("-", tmp_path / "feats", "--json", stdin=b"a\n")
    path = json.loads(done.stdout.decode("utf-8"))["hits"][0]["path"]
    assert os.fsencode(path) == b"/clips/caf\xe9.mp4"
