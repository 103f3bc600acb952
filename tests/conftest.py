"""What all tests share: where the shared material lies, and one torch thread."""

from __future__ import annotations

import gc
import logging
import signal
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish():
    """Thousands of tests are there to stay: collecting garbage need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests measure results, not speed; one thread keeps parallel runs from fighting."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """What a shell starts in the background ignores SIGINT, as does a command that was stopped."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared():
    """The folder of golden numbers, clips and annotations; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository")
    return SHARED


@pytest.fixture(autouse=True)
def own_logging():
    """A command that runs in this process sets how much is said: no test inherits that."""
    logging.getLogger("ttvr").setLevel(logging.NOTSET)
