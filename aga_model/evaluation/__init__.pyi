from .metrics import chance_rank1, query_values, ranking_metrics, retrieval_metrics
from .ranking import NotFiniteError, Ranking, rank_gallery, rank_matrix, rerank
from .records import (
    Record,
    caption_records,
    image_records,
    read_records,
    record_values,
    require_same_queries,
    write_records,
)
from .report import SearchSection, write_report
from .retrieval import RetrievalEvaluator, SplitEmbeddings
from .significance import CONFIDENCE, PERMUTATIONS, Difference, Interval, bootstrap_intervals, compare_queries
from .wrong_pairs import MOST_WRONG, find_wrong_pairs

__all__ = [
    "CONFIDENCE",
    "MOST_WRONG",
    "PERMUTATIONS",
    "Difference",
    "Interval",
    "NotFiniteError",
    "Ranking",
    "Record",
    "RetrievalEvaluator",
    "SearchSection",
    "SplitEmbeddings",
    "bootstrap_intervals",
    "caption_records",
    "chance_rank1",
    "compare_queries",
    "find_wrong_pairs",
    "image_records",
    "query_values",
    "rank_gallery",
    "rank_matrix",
    "ranking_metrics",
    "read_records",
    "record_values",
    "require_same_queries",
    "rerank",
    "retrieval_metrics",
    "write_records",
    "write_report",
]
