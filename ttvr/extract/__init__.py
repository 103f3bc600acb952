"""Inputs -> decode pool -> encoder -> feature folder, resumable; and texts -> text folder."""

from ttvr.extract._encode import Encoder
from ttvr.extract._import import run_import
from ttvr.extract._inputs import Input, Inputs, dataset_inputs, find_inputs
from ttvr.extract._options import DTYPES, Options, shared_without_weights
from ttvr.extract._run import Problem, Summary, run
from ttvr.extract._texts import TextOptions, run_texts

__all__ = [
    "DTYPES",
    "Encoder",
    "Input",
    "Inputs",
    "Options",
    "Problem",
    "Summary",
    "TextOptions",
    "dataset_inputs",
    "find_inputs",
    "run",
    "run_import",
    "run_texts",
    "shared_without_weights",
]
