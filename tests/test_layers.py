"""The house: what may import what, what the core may depend on, and that names agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ttvr"

LAYERS = (
    ("records", "errors", "files", "wording"),
    (
        *("plugins", "losses", "devices", "clip", "cluster", "video", "frames", "store", "metrics"),
        *("normalize", "distributed", "optim", "recipes", "systems", "synthetic"),
    ),
    ("reducers", "heads", "datasets"),
    ("retriever", "loader", "score"),
    ("extract", "search", "evaluate", "show"),
    ("train",),
    ("bench",),
    ("commands",),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
CORE = {"torch", "numpy", "PIL", "ftfy", "regex"}
OWNED = {
    "ffmpeg": {"video"},
    "imageio_ffmpeg": {"video"},
    "safetensors": {"clip"},
    "faiss": {"bench"},
    "av": {"bench"},
}
DYNAMIC = {"plugins", "commands", "__init__", "__main__"}
READ_RECIPES = {"recipes", "retriever", "train", "bench", "commands"}
FAMILIES = ("cluster", "reducers", "heads", "datasets")
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    """The row's word for a file: its folder below the package, or its stem."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path):
    """Every name a file imports, wherever the statement stands: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    own = part(path)
    for name in imports(path):
        root, _, rest = name.partition(".")
        if root == "ttvr":
            other = rest.split(".")[0]
            if other not in ("__version__", own):
                assert LEVEL[other] < LEVEL[own], f"{own} imports {other}"
        elif root not in sys.stdlib_module_names:
            assert root in CORE or own in OWNED.get(root, ()), f"{own} imports {root}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_files_stay_in_their_folder(path):
    """`_base.py` is a family's contract, which those who hold its plug-ins may name."""
    for name in imports(path):
        pieces = name.split(".")
        contract = len(pieces) > 2 and pieces[1] in FAMILIES and pieces[2] == "_base"
        if pieces[0] == "ttvr" and pieces[1] != part(path) and not contract:
            private = [piece for piece in pieces[2:] if piece.startswith("_")]
            assert not private, f"{path}: {name} is private"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_can_be_seen(path):
    if part(path) not in DYNAMIC:
        assert not re.search(r"\bimport_module\b|\b__import__\b", path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_recipe_is_read_where_models_are_made(path):
    if part(path) not in READ_RECIPES:
        assert not re.search(r"\brecipe\.\w|\bttvr\.recipes\b", path.read_text())


def test_every_part_has_a_layer():
    assert {part(path) for path in FILES} <= set(LEVEL)


def test_importing_the_package_is_cheap():
    code = "import ttvr, sys; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_launchers_are_the_commands():
    launchers = {path.name.removeprefix("ttvr-") for path in (ROOT / "bin").iterdir()}
    commands = {path.stem for path in (PACKAGE / "commands").glob("[!_]*.py")}
    assert launchers == commands
    for path in (ROOT / "bin").iterdir():
        verb = path.name.removeprefix("ttvr-")
        assert f"from ttvr.commands.{verb} import main" in path.read_text()
        assert 'if __name__ == "__main__":' in path.read_text()
        assert path.stat().st_mode & 0o111, f"{path} is not executable"


def test_every_recipe_field_is_read():
    from ttvr.recipes import Recipe

    code = "\n".join(path.read_text() for path in FILES if part(path) != "recipes")
    for field in Recipe.__dataclass_fields__:
        assert re.search(rf"\b(recipe|Recipe)(\(\))?\.{field}\b", code), field


def test_files_are_of_a_size_to_be_read():
    for path in FILES:
        lines = path.read_text().count("\n")
        assert lines <= 300, f"{path.relative_to(ROOT)} has {lines} lines"


def test_functions_are_of_a_size_to_be_read():
    """Fifty lines of code; what is said about them is not counted."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                start = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
                length = node.end_lineno - start + 1
                assert length <= 50, f"{path.name}:{node.name} has {length} lines"
