"""Scores of texts against videos: exact streaming top-k, and whole matrices in blocks."""

from ttvr.score._matrix import similarity_matrix
from ttvr.score._top_k import top_k

__all__ = ["similarity_matrix", "top_k"]
