"""Encoders and head as one model: built to be trained, loaded to be used."""

from ttvr.retriever._folder import has_own_vectors, stored_texts, stored_videos
from ttvr.retriever._identity import require_same
from ttvr.retriever._load import SCRATCH, build, load, load_for
from ttvr.retriever._model import Retriever
from ttvr.retriever._official import Official, from_official
from ttvr.retriever._reduction import plan

__all__ = [
    "SCRATCH",
    "Official",
    "Retriever",
    "build",
    "from_official",
    "has_own_vectors",
    "load",
    "load_for",
    "plan",
    "require_same",
    "stored_texts",
    "stored_videos",
]
