"""Scores of texts against videos: exact streaming top-k, and whole matrices in blocks."""

from ttvr.score._blocks import MEMORY, at_once, read
from ttvr.score._matrix import (
    inner_products,
    similarity_matrix,
    streamed_matrix,
    text_vectors,
    video_vectors,
)
from ttvr.score._pairs import top_pairs
from ttvr.score._top_k import top_k

__all__ = [
    "MEMORY",
    "at_once",
    "inner_products",
    "read",
    "similarity_matrix",
    "streamed_matrix",
    "text_vectors",
    "top_k",
    "top_pairs",
    "video_vectors",
]
