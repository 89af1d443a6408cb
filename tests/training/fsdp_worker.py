"""
train_hf.py for FSDP on CPUs, under `accelerate launch --config_file configs/accelerate/fsdp.yaml`.

Accelerate shares a model out over GPUs only; told that these processes have some, it does the same over gloo.
"""

import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from aga_model.training.run import main

_init = PartialState.__init__


def _pretend(self, *args, **kwargs):
    _init(self, *args, **kwargs)
    if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


PartialState.__init__ = _pretend

if __name__ == "__main__":
    sys.exit(main())
