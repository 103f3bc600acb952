"""Training: a recipe and a dataset -> a folder with the log, the best model, and all to resume."""

from ttvr.train._folder import BEST, check_usable
from ttvr.train._loop import rehearse, train
from ttvr.train._setup import Data, Options
from ttvr.train._state import Outcome, sha256
from ttvr.train._validate import validate

__all__ = [
    "BEST",
    "Data",
    "Options",
    "Outcome",
    "check_usable",
    "rehearse",
    "sha256",
    "train",
    "validate",
]
