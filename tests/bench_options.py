"""The options of a benchmark, as ttvr-bench reads them."""

from __future__ import annotations

import argparse


def options(part, *argv):
    parser = argparse.ArgumentParser()
    part.add_arguments(parser.add_argument_group())
    return parser.parse_args([str(one) for one in argv])
