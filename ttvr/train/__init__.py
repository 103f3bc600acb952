"""Training: a recipe and a dataset -> a folder with the log, the best model, and all to resume."""

from ttvr.train._folder import BEST, RESULTS, check_usable
from ttvr.train._loop import rehearse, train
from ttvr.train._setup import AnyData, Data, Options, check_rows, sha256
from ttvr.train._state import Outcome, selection
from ttvr.train._stored import SETTINGS, Stored, StoredData
from ttvr.train._validate import validate

__all__ = [
    "BEST",
    "RESULTS",
    "SETTINGS",
    "AnyData",
    "Data",
    "Options",
    "Outcome",
    "Stored",
    "StoredData",
    "check_rows",
    "check_usable",
    "rehearse",
    "selection",
    "sha256",
    "train",
    "validate",
]
