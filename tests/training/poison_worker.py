"""train_hf.py whose second process reads an image without numbers in its third batch."""

import sys

from accelerate import PartialState
from test_finite import Poisoned

from aga_model.training import run

_collator = run.pair_collator


def _pair_collator(prepared):
    collator = _collator(prepared)
    return Poisoned(collator, 3) if PartialState().process_index == 1 else collator


run.pair_collator = _pair_collator

if __name__ == "__main__":
    sys.exit(run.main())
