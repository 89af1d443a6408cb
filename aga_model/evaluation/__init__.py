"""Evaluation of text-based person search: encode, rank, measure."""

from .metrics import retrieval_metrics

__all__ = ["retrieval_metrics"]
