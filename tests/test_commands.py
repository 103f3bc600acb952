"""How commands start and end: help, wrong use, errors, streams, interruption, progress."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ttvr import plugins
from ttvr.commands import _options, _run
from ttvr.commands._progress import Progress
from ttvr.errors import IncompatibleError, RequirementError, TtvrError, UsageError, VideoError

ROOT = Path(__file__).parents[1]
COMMANDS = plugins.names("commands")


def call(*arguments, **options):
    command = [sys.executable, "-m", "ttvr", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_needs_no_torch_and_shows_what_users_need(verb):
    code = (
        f"import sys; from ttvr.commands.{verb} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: ttvr-{verb}" in done.stdout
    examples = done.stdout.partition("examples:")[2]
    assert f"  ttvr-{verb} " in examples or f"  ttvr-{verb}\n" in examples
    assert "130 interrupted" in done.stdout


@pytest.mark.parametrize("verb", COMMANDS)
def test_wrong_use_is_one_line_and_code_2(verb):
    done = call(verb, "--no-such-flag")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(rf"ttvr-{verb}[^\n]*: .*\(see ttvr-{verb}[^\n]* --help\)\n", done.stderr)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_flag_has_help(verb):
    from importlib import import_module

    made = import_module(f"ttvr.commands.{verb}")._parser
    parser = made(None) if verb == "bench" else made()
    assert not parser.allow_abbrev
    for action in parser._actions:
        assert action.help, f"{verb}: {action.dest} has no help"


def test_the_dispatcher():
    assert call("--version").stdout.startswith("ttvr ")
    listing = call("--help").stdout
    assert all(verb in listing for verb in COMMANDS)
    for wrong in ([], ["rnak"]):
        done = call(*wrong)
        assert done.returncode == 2
        assert "rank" in done.stderr
        assert done.stdout == ""


def test_launchers_run_from_a_checkout(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "bin" / "ttvr-rank", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("ttvr ")


def run(work, *arguments):
    parser = _run.parser("try", summary="s", examples=["ttvr-try"])
    return _run.execute(parser, work, list(arguments))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TtvrError("a"), 1),
        (UsageError("a"), 2),
        (IncompatibleError("a"), 4),
        (RequirementError("a"), 5),
        (FileNotFoundError(2, "No such file or directory", "x.mp4"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_one_line_and_a_code(error, code, capsys):
    def work(args):
        raise error

    before = signal.getsignal(signal.SIGINT)
    try:
        assert run(work) == code
    finally:
        signal.signal(signal.SIGINT, before)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ttvr-try: ")
    assert captured.err.count("\n") == 1
    if isinstance(error, OSError):
        assert "x.mp4" in captured.err


def test_a_programmers_slip_is_not_hidden():
    def work(args):
        raise ValueError("slip")

    with pytest.raises(ValueError, match="slip"):
        run(work)


def test_a_missing_package_is_one_line(capsys):
    def work(args):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL.Image")

    assert run(work) == 5
    assert capsys.readouterr().err == (
        "ttvr-try: the package pillow is not installed. Fix: pip install pillow\n"
    )

    def slip(args):
        raise ModuleNotFoundError("No module named 'ttvr.nothing'", name="ttvr.nothing")

    with pytest.raises(ModuleNotFoundError):
        run(slip)


def test_verbose_shows_the_traceback(capsys):
    def work(args):
        raise TtvrError("deep\nwithin")

    assert run(work, "-v") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("ttvr-try: deep within\n")


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys\nfrom ttvr.commands import _run\n"
        "def work(args):\n"
        "    for n in range(100000): print(n)\n"
        "    return 0\n"
        "sys.exit(_run.execute(_run.parser('try', summary='s', examples=['x']), work, []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed):
    line = f'"{sys.executable}" -m ttvr weights list {closed}'
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_progress_that_nobody_reads_does_not_stop_the_work():
    code = (
        "import sys, time\nfrom ttvr.commands import _run\n"
        "from ttvr.commands._progress import Progress\n"
        "def work(args):\n"
        "    with Progress('videos', total=40, mode='always') as progress:\n"
        "        for n in range(40): time.sleep(0.01); progress._last = 0; progress.step()\n"
        "    print('all of it')\n"
        "    return 3\n"
        "sys.exit(_run.execute(_run.parser('try', summary='s', examples=['x']), work, []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stderr.read(1)
    process.stderr.close()
    assert process.stdout.read() == b"all of it\n"
    assert process.wait(timeout=20) == 3


def test_options_may_stand_between_arguments(tmp_path):
    done = call("rank", tmp_path / "queries.txt", "-k", "3", tmp_path / "feats")
    assert done.returncode == 1
    assert "queries.txt" in done.stderr
    assert "unrecognized" not in done.stderr


def test_what_stands_after_two_hyphens_is_no_option():
    made = _run.parser("x", summary="x", examples=["ttvr-x"])
    made.add_argument("paths", nargs="+")
    made.add_argument("-o")
    assert _run._parse(made, ["-o", "out", "--", "-dash.mp4", "b"]).paths == ["-dash.mp4", "b"]
    assert _run._parse(made, ["a", "-o", "out", "b"]).paths == ["a", "b"]


def test_paths_that_are_no_utf8_go_out_as_they_came_in(tmp_path):
    path = os.fsencode(tmp_path) + b"/x\xff.pt"
    Path(os.fsdecode(path)).write_bytes(b"weights")
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "ttvr", "weights", "where", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=strict)
    assert done.stdout == path + b"\n", done.stderr


def test_only_what_resumes_promises_to(capsys):
    def work(args):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        for resumes in (False, True):
            made = _run.parser("try", summary="s", examples=["ttvr-try"], resumes=resumes)
            assert _run.execute(made, work, []) == 130
            assert ("command run again goes on from here" in capsys.readouterr().err) is resumes
        made.add_argument("--overwrite", action="store_true")
        assert _run.execute(made, work, ["--overwrite"]) == 130
        told = "interrupted; the same command without --overwrite goes on from here\n"
        assert capsys.readouterr().err == f"ttvr-try: {told}"
    finally:
        signal.signal(signal.SIGINT, before)


def test_video_errors_cross_process_boundaries():
    import pickle

    again = pickle.loads(pickle.dumps(VideoError("timeout", "60 s")))
    assert (again.code, again.detail) == ("timeout", "60 s")


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", ""])
def test_whole_numbers_are_checked(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError):
        _options.positive(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "inf", "nan"])
def test_seconds_are_checked(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError):
        _options.seconds(text)
    assert _options.seconds("1.5") == 1.5


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_moves_on_a_terminal_alone(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream, moving in ((Terminal(), True), (io.StringIO(), False)):
        with Progress("videos", total=3, stream=stream) as progress:
            progress.step(skipped=1)
            progress.step()
            progress.step(failed=True)
        text = stream.getvalue()
        assert ("\r" in text) is moving
        assert "3/3 videos" in text
        assert "1 failed" in text


def test_progress_can_be_silent_or_json():
    stream = Terminal()
    for options in ({"mode": "never"}, {"quiet": True, "mode": "always"}):
        with Progress("videos", total=1, stream=stream, **options) as progress:
            progress.step()
    assert stream.getvalue() == ""
    with Progress("videos", total=2, mode="json", stream=stream) as progress:
        progress.step()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[-1]["done"] == 1
    assert lines[-1]["final"] is True


def test_doctor_reports_and_says_what_mends(tmp_path):
    quiet = {**os.environ, "TTVR_WEIGHTS": str(tmp_path), "HOME": str(tmp_path)}
    done = call("doctor", "--json", env=quiet)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings["torch"]["state"] == "ok"
    for finding in findings.values():
        assert bool(finding["fix"]) == (finding["state"] in ("missing", "absent")) or (
            finding["name"] == "cuda"
        )
    missing = [name for name, finding in findings.items() if finding["state"] == "missing"]
    assert done.returncode == (5 if missing else 0)
    text = call("doctor", env=quiet)
    assert "ttvr" in text.stdout
    assert text.returncode == done.returncode


def test_doctor_without_ffmpeg(tmp_path):
    environment = {**os.environ, "TTVR_FFMPEG": str(tmp_path / "none")}
    done = call("doctor", env=environment)
    assert done.returncode == 5
    assert re.search(r"missing +ffmpeg", done.stdout)


def test_bench_startup_runs():
    done = call("bench", "--json", "startup", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert {"rank --help", "import torch"} <= {row["process"] for row in table["rows"]}
