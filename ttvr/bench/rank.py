"""Time and memory of exact top-k over a gallery on disk, beside numpy in blocks and faiss in RAM.

Each contender is a process of its own with one thread. It starts with a run of each number of
queries that warms the page cache and during which its memory is watched; then they take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib import util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.bench._table import Table, alternate, median
from ttvr.errors import TtvrError, UsageError
from ttvr.files import written

if TYPE_CHECKING:
    import numpy as np

OURS, NUMPY, FAISS = "ttvr top_k", "numpy, blocks of 32k", "faiss IndexFlatIP, float32 in RAM"
TARGET = (
    "target: 1 query within twice faiss's time in a quarter of its memory, 8 queries twice as "
    "fast, 64 queries four times; below 200 MiB"
)
_NUMPY_ROWS = 32_768
_WRITTEN_ROWS = 50_000
_WATCH_EVERY = 0.002  # seconds
_AGREEMENT = 1e-5  # float32 sums of different order, unit vectors

Search = Callable[["np.ndarray"], "np.ndarray"]


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument("--rows", type=int, default=1_000_000, help="vectors in the gallery")
    group.add_argument("--dim", type=int, default=512, help="width of a vector")
    group.add_argument(
        "--queries", type=int, nargs="+", default=[1, 8, 64], metavar="N", help="at once"
    )
    group.add_argument("-k", "--top", type=int, default=10, help="hits per query")
    group.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    group.add_argument(
        "--keep", metavar="FILE", help="keep the gallery here (.npy), and use it if it is there"
    )


def run(args: argparse.Namespace) -> Table:
    """Ours, numpy, and faiss where it is installed, on the same random unit vectors."""
    if min(args.rows, args.dim, args.top, args.rounds, *args.queries) < 1:
        raise UsageError("--rows, --dim, --queries, --top and --rounds are at least 1")
    names = [OURS, NUMPY, *([FAISS] if util.find_spec("faiss") else [])]
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_gallery(args.rows, args.dim, args.keep))
        workers = {name: stack.enter_context(_worker(name, path, args)) for name in names}
        memory = {name: _receive(name, worker) for name, worker in workers.items()}
        seconds = {}
        for count in args.queries:
            _compare({name: _ask(name, worker, count) for name, worker in workers.items()})
            contenders = {
                name: partial(_ask, name, worker, count) for name, worker in workers.items()
            }
            taken = alternate(contenders, rounds=args.rounds)
            seconds |= {(name, count): median(runs) for name, runs in taken.items()}
    return _table(args, names, seconds, memory)


def _table(
    args: argparse.Namespace,
    names: list[str],
    seconds: dict[tuple[str, int], float],
    memory: dict[str, float | None],
) -> Table:
    rows: list[tuple[Any, ...]] = []
    columns: tuple[str, ...] = ("search", "queries", "ms", "queries/s", "x numpy", "x faiss")
    for count in args.queries:
        for name in names:
            own = seconds[name, count]
            ratios = [
                seconds[other, count] / own if other in names else "-" for other in (NUMPY, FAISS)
            ]
            rows.append((name, count, 1000 * own, count / own, *ratios))
    notes = [TARGET]
    if None in memory.values():
        notes.append("memory is not measured: this system has no RssAnon in /proc/self/status")
    else:
        notes.append("memory: peak of anonymous pages, without those of the imports")
        columns = (*columns, "MiB")
        rows = [(*row, memory[row[0]]) for row in rows]
    if FAISS not in names:
        notes.append("faiss is not installed (pip install faiss-cpu), so it is not compared")
    return Table(
        title=f"top-{args.top} of {args.rows} x {args.dim} float16 on disk, one thread",
        columns=columns,
        rows=rows,
        notes=notes,
    )


@contextlib.contextmanager
def _gallery(rows: int, dim: int, keep: str | None) -> Iterator[str]:
    """A file of random unit vectors, [rows, dim] float16."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(keep or Path(folder, "gallery.npy"))
        if not path.exists():
            with written(path) as made:
                values = np.lib.format.open_memmap(made, "w+", np.float16, (rows, dim))
                chance = np.random.default_rng(0)
                for start in range(0, rows, _WRITTEN_ROWS):
                    block = values[start : start + _WRITTEN_ROWS]
                    block[:] = _unit_rows(chance, *block.shape)
                values.flush()
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.shape != (rows, dim) or found.dtype != np.float16:
            raise UsageError(
                f"{path} holds {found.dtype} {list(found.shape)}, asked for float16 [{rows}, {dim}]"
            )
        yield str(path)


def _unit_rows(chance: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    import numpy as np

    values = chance.standard_normal((rows, dim), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@contextlib.contextmanager
def _worker(name: str, path: str, args: argparse.Namespace) -> Iterator[Connection]:
    """A process that searches; it first sends the memory it took, then answers numbers."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(name, path, args.top, args.queries, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def _ask(name: str, worker: Connection, count: int) -> Any:
    with contextlib.suppress(BrokenPipeError):  # that it died is told where the answer lacks
        worker.send(count)
    return _receive(name, worker)


def _receive(name: str, worker: Connection) -> Any:
    try:
        return worker.recv()
    except (EOFError, ConnectionError) as error:
        raise TtvrError(f"the process of {name} died; its last words are above") from error


def _compare(scores: dict[str, np.ndarray]) -> None:
    """Refuse to time contenders that find other things."""
    for name, found in scores.items():
        difference = float(abs(found - scores[OURS]).max())
        if not difference <= _AGREEMENT:  # NaN is no agreement
            raise TtvrError(f"{name} and {OURS} differ by {difference:.2g} in a score")


def _serve(name: str, path: str, top: int, counts: list[int], pipe: Connection) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # read when numpy is imported
    import numpy as np

    queries = _unit_rows(
        np.random.default_rng(1), max(counts), np.load(path, mmap_mode="r").shape[1]
    )
    prepare = {OURS: _ours, NUMPY: _numpy, FAISS: _faiss}[name]()
    with _Watch() as watch:
        search = prepare(path, top)
        for count in counts:
            search(queries[:count])
    pipe.send(watch.extra)
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(search(queries[: pipe.recv()]))


class _Watch(threading.Thread):
    """Watches how much anonymous memory the process takes beyond what it had."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._before = self._most = _anonymous_mib()

    def run(self) -> None:
        """Look until it is over."""
        while self._most is not None and not self._over.wait(_WATCH_EVERY):
            self._most = max(self._most, _anonymous_mib())

    def __enter__(self) -> _Watch:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()

    @property
    def extra(self) -> float | None:
        """MiB; None where the system does not tell."""
        return None if self._most is None else self._most - self._before


def _anonymous_mib() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
    return int(found[0]) / 1024 if found else None


def _ours() -> Callable[[str, int], Search]:
    import numpy as np
    import torch

    from ttvr.score import top_k

    torch.set_num_threads(1)

    def prepare(path: str, top: int) -> Search:
        gallery = np.load(path, mmap_mode="r")
        return lambda queries: top_k(torch.from_numpy(queries), gallery, top)[0].numpy()

    return prepare


def _numpy() -> Callable[[str, int], Search]:
    """What one writes first: convert a block, multiply, keep the best of it and of those before."""
    import numpy as np

    def prepare(path: str, top: int) -> Search:
        gallery = np.load(path, mmap_mode="r")

        def search(queries: np.ndarray) -> np.ndarray:
            best = np.empty((len(queries), 0), np.float32)
            for start in range(0, len(gallery), _NUMPY_ROWS):
                block = gallery[start : start + _NUMPY_ROWS].astype(np.float32)
                best = np.concatenate([best, queries @ block.T], axis=1)
                kept = min(top, best.shape[1])
                best = np.partition(best, best.shape[1] - kept, axis=1)[:, -kept:]
            return -np.sort(-best, axis=1)

        return search

    return prepare


def _faiss() -> Callable[[str, int], Search]:
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(1)

    def prepare(path: str, top: int) -> Search:
        gallery = np.load(path, mmap_mode="r")
        index = faiss.IndexFlatIP(gallery.shape[1])
        for start in range(0, len(gallery), _NUMPY_ROWS):
            index.add(gallery[start : start + _NUMPY_ROWS].astype(np.float32))
        return lambda queries: index.search(queries, min(top, index.ntotal))[0]

    return prepare


PLUGIN = run
