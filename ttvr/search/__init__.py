"""Sentences -> ranked videos of a feature folder."""

from ttvr.search._gallery import open_model
from ttvr.search._hits import Hit, Hits, rank, search
from ttvr.search._texts import encode_texts, report_unknown, unknown_words

__all__ = [
    "Hit",
    "Hits",
    "encode_texts",
    "open_model",
    "rank",
    "report_unknown",
    "search",
    "unknown_words",
]
