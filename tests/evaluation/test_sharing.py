"""What a process shares of its embeddings is no larger than they are, and comes together in order."""

import pickle

import numpy as np
import torch

from aga_model.evaluation import retrieval


def test_a_share_is_as_large_as_its_rows(monkeypatch):
    """A tensor's rows, pickled one by one, would each carry the whole tensor: quadratic in the size of the split."""
    evaluator = object.__new__(retrieval.RetrievalEvaluator)
    evaluator.batch_size = 50
    rows = torch.randn(700, 64)
    sizes = []

    def gather(share):
        sizes.append(len(pickle.dumps(share)))
        return share

    monkeypatch.setattr(retrieval, "gather_object", gather)
    got = evaluator._encode_share(lambda model, indices: rows[indices], None, 700, "rows")
    assert torch.equal(got, rows)
    assert sizes[0] < 1.1 * rows.numel() * 4


def test_shares_of_several_processes_come_together_in_order(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    shares = [(list(range(rank, 7, 3)), rows[rank::3]) for rank in range(3)]
    evaluator = object.__new__(retrieval.RetrievalEvaluator)
    evaluator.batch_size = 2
    monkeypatch.setattr(retrieval, "gather_object", lambda share: shares)
    got = evaluator._encode_share(lambda model, indices: torch.from_numpy(rows[indices]), None, 7, "rows")
    assert np.array_equal(got.numpy(), rows)
