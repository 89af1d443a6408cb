"""The search by an approximate index against brute force, with a table whose index errs as much as is told."""

import numpy as np
import pyarrow as pa
import pytest
from store_worker import unit

from aga_model.gallery.lance.nearest import most_candidates, nearest

DIM, ROWS = 16, 6000


class Query:
    """What a search of LanceDB is, as far as it is used."""

    def __init__(self, table, answer):
        self.table, self.answer = table, answer
        self.most, self.passing, self.prefilter, self.probes = ROWS, None, False, (20, 20)

    def distance_type(self, kind):
        assert kind == "dot"
        return self

    def limit(self, most):
        self.most = most
        return self

    def minimum_nprobes(self, number):
        self.probes = (number, self.probes[1])
        return self

    def maximum_nprobes(self, number):
        self.probes = (self.probes[0], number or 10**9)
        return self

    def where(self, condition, prefilter):
        self.passing, self.prefilter = self.table.conditions[condition], prefilter
        return self

    def select(self, columns):
        return self

    def with_row_id(self, *with_it):
        return self

    def to_arrow(self):
        return self.answer(self)


class Table:
    """
    Rows whose index estimates their scores with normal errors. Each stands in a partition; as many partitions as a
    search asks for at least are searched, the nearest first, and more until there are enough rows.
    """

    def __init__(self, embeddings, error, seed=0):
        rng = np.random.default_rng(seed)
        self.embeddings, self.conditions, self.read = embeddings, {}, 0
        self.errors = rng.normal(scale=error, size=len(embeddings))
        self.numbers = rng.permutation(10 * len(embeddings))[: len(embeddings)]  # which LanceDB gives the rows
        self.partitions = np.argsort(np.argsort(-embeddings[:, 0])) // 100

    def search(self, query, vector_column_name):
        return Query(self, lambda asked: self._estimated(query, asked))

    def _estimated(self, query, asked):
        estimates = self.embeddings @ query + self.errors
        passing = np.ones(len(estimates), bool) if asked.passing is None else asked.passing
        found = []
        for searched, partition in enumerate(range(self.partitions.max() + 1)):
            if searched >= asked.probes[1] or (searched >= asked.probes[0] and len(found) >= asked.most):
                break
            here = np.flatnonzero((self.partitions == partition) & (passing if asked.prefilter else True))
            found += here.tolist()
        best = sorted(found, key=lambda row: -estimates[row])[: asked.most]
        best = [row for row in best if passing[row]]
        return pa.table({"_distance": 1 - estimates[best].astype(np.float32), "_rowid": self.numbers[best]})

    def take_row_ids(self, numbers):
        self.read += len(numbers)
        rows = np.flatnonzero(np.isin(self.numbers, numbers))  # in the table's order, not in that of the numbers
        values = pa.FixedSizeListArray.from_arrays(pa.array(self.embeddings[rows].ravel()), DIM)
        return Query(self, lambda asked: pa.table({"embedding": values, "_rowid": self.numbers[rows]}))


def best(table, query, top_k, passing=None):
    """Numbers and exact scores of the best rows, by brute force."""
    scores = table.embeddings.astype(float) @ query.astype(float)
    rows = np.arange(len(scores)) if passing is None else np.flatnonzero(passing)
    ranked = rows[np.argsort(-scores[rows], kind="stable")][:top_k]
    return {int(table.numbers[row]): scores[row] for row in ranked}


def assert_best(found, wanted):
    """Those that are wanted, with their exact scores, and no others but such as score the same as the last."""
    assert {number: found[number] for number in wanted} == pytest.approx(wanted, abs=1e-9)
    assert all(score > min(wanted.values()) - 3e-5 for score in found.values())


@pytest.mark.parametrize("error", [0.0, 0.02, 0.08])
@pytest.mark.parametrize("top_k", [1, 10, 150])
def test_the_best_rows_are_found_however_far_the_index_errs(error, top_k):
    table = Table(unit(ROWS, dim=DIM), error)
    query = np.eye(1, DIM, dtype=np.float32)[0]
    assert_best(nearest(table, query, top_k, None), best(table, query, top_k))
    if error == 0.0:  # an exact index needs no second look
        assert table.read <= max(250, top_k)


@pytest.mark.parametrize("share", [0.5, 0.02, 0.001])
def test_a_filter_is_applied_before_the_best_are_taken(share):
    """Rows that pass lie far from the query: behind the candidates of a search without the filter."""
    table = Table(unit(ROWS, dim=DIM), 0.02)
    query = np.eye(1, DIM, dtype=np.float32)[0]
    passing = table.embeddings[:, 0] < np.quantile(table.embeddings[:, 0], share)
    table.conditions["camera = 'night'"] = passing
    assert_best(nearest(table, query, 10, "camera = 'night'"), best(table, query, 10, passing))
    table.conditions["false"] = np.zeros(ROWS, bool)
    assert nearest(table, query, 10, "false") == {}


def test_all_rows_that_tie_with_the_last_are_given():
    """Which of them are listed is told by their ids, which the index does not know."""
    embeddings = unit(ROWS, dim=DIM)
    embeddings[::500] = np.eye(1, DIM, dtype=np.float32)[0]
    table = Table(embeddings, 0.02)
    found = nearest(table, embeddings[0], 5, None)
    assert found == {int(number): 1.0 for number in table.numbers[::500]}


def test_how_many_rows_may_be_looked_at():
    assert [most_candidates(top_k) for top_k in (1, 100, 101, 1000)] == [2000, 2000, 2020, 20_000]
