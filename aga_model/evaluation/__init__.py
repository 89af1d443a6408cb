"""Evaluation of text-based person search: encode, rank, measure, and say how sure the figures are."""

from .metrics import query_values, ranking_metrics, retrieval_metrics
from .ranking import Ranking, rank_gallery, rank_matrix, rerank
from .significance import Difference, Interval, bootstrap_intervals, compare_queries

__all__ = [
    "Difference",
    "Interval",
    "Ranking",
    "bootstrap_intervals",
    "compare_queries",
    "query_values",
    "rank_gallery",
    "rank_matrix",
    "ranking_metrics",
    "rerank",
    "retrieval_metrics",
]
