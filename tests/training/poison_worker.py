"""train_hf.py whose second process reads an image without numbers in its third batch, and that ends in order."""

import gc
import sys

from accelerate import PartialState
from test_finite import Poisoned
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from aga_model.training import run

_collator = run.pair_collator


def _pair_collator(prepared):
    collator = _collator(prepared)
    return Poisoned(collator, 3) if PartialState().process_index == 1 else collator


run.pair_collator = _pair_collator

if __name__ == "__main__":
    status = run.main()
    assert not dist.is_initialized() and not any(type(left) is DistributedDataParallel for left in gc.get_objects())
    sys.exit(status)
