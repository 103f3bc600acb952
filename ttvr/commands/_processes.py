"""A command that is one of several processes: which device is its own, and which of them speaks."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence

from ttvr.commands import _options
from ttvr.commands._run import FAILED, INTERRUPTED
from ttvr.errors import RequirementError, TtvrError, UsageError


def add(group: argparse._ArgumentGroup) -> None:
    """Add `--gpus`."""
    group.add_argument(
        "--gpus",
        type=_options.positive,
        metavar="N",
        help="processes that train together, one per GPU, or with --device cpu on the CPU; each "
        "takes its part of every batch; default 1, or as torchrun started them",
    )


def launch(
    main: Callable[[Sequence[str]], int], argv: Sequence[str], args: argparse.Namespace
) -> int:
    """Call a command again, in as many processes as `--gpus` says; the exit code of them all.

    Raises:
        UsageError: `--device` is one of them all.
        RequirementError: this machine has fewer GPUs.
        TtvrError: a process was killed.
    """
    import torch

    from ttvr import distributed

    if args.device not in ("auto", "cuda", "cpu"):
        raise UsageError(
            f"--gpus {args.gpus} goes with --device auto, cuda or cpu, not with {args.device}: "
            "each process takes a GPU of its own"
        )
    found = torch.cuda.device_count()
    if args.device != "cpu" and found < args.gpus:
        raise RequirementError(
            f"--gpus {args.gpus}: this machine has {found} CUDA devices; pass a number that it "
            "has, or --device cpu for processes that share the CPU"
        )
    return distributed.launch(main, list(argv), processes=args.gpus)


def join(args: argparse.Namespace, work: Callable[[], int]) -> int:
    """Do a command's work as one of several processes, which `args.device` becomes the device of.

    One alone says why they end: the first that fails. One alone shows progress, and logs.

    Raises:
        UsageError: `--gpus` is not the number of processes here, or `--device` is one of them all.
    """
    import torch

    from ttvr import distributed
    from ttvr.devices import resolve_device

    number, count = distributed.local()
    if args.gpus not in (None, count):
        raise UsageError(
            f"--gpus {args.gpus}: RANK is set, so the number of processes here is the launcher's, "
            f"{count}; drop --gpus, or unset RANK"
        )
    device = resolve_device(args.device)
    if device.type == "cuda" and device.index is None:
        device = resolve_device(f"cuda:{number}")
    elif device.type != "cpu" and count > 1:
        raise UsageError(
            f"--device {args.device}: {count} processes cannot share it; drop --device"
        )
    if distributed.is_launched() and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    args.device = device
    with distributed.joined(device) as is_first:
        if not distributed.leads():
            args.progress = "never"
            logging.getLogger("ttvr").setLevel(logging.ERROR)
        try:
            return work()
        except KeyboardInterrupt:
            if distributed.leads() and not distributed.is_launched():
                raise
            return INTERRUPTED
        except distributed.ByAnother:
            return FAILED
        except (TtvrError, OSError) as error:
            if is_first():
                raise
            return getattr(error, "exit_code", FAILED)
