"""Train an AGA model: `python train_hf.py RUN.yaml [--argument value ...]`, or under `accelerate launch`."""

import sys

from aga_model.training.run import main

if __name__ == "__main__":
    sys.exit(main())
