"""The model of ttvr-extract, and what its folders say of how they were made."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from ttvr import __version__
from ttvr.commands._threads import spare_threads

if TYPE_CHECKING:
    from ttvr.retriever import Retriever


def load_model(args: argparse.Namespace) -> Retriever:
    """The model that the flags name."""
    from ttvr import retriever

    made = retriever.load(
        args.weights,
        args.head,
        args.reduce or (),
        activation=args.activation,
        device=args.device,
        frames=args.frames,
        is_for_texts=args.text is not None,
    )
    spare_threads(made)
    return made


def provenance(retriever: Retriever) -> dict[str, Any]:
    """Who makes a folder, how and when."""
    import torch

    return {
        "ttvr": __version__,
        "torch": torch.__version__,
        "device": str(retriever.device),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "argv": shlex.join(sys.argv),
        **({"training": retriever.trained} if retriever.trained else {}),
    }
