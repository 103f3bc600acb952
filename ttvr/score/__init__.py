"""Scores of texts against videos: exact streaming top-k, and whole matrices in blocks."""

from ttvr.score._matrix import inner_products, similarity_matrix
from ttvr.score._top_k import top_k

__all__ = ["inner_products", "similarity_matrix", "top_k"]
