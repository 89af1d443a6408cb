"""Train an AGA model: `python train_hf.py RUN.yaml [--argument value ...]`, or under `accelerate launch`."""

import sys

try:
    from aga_model.training.run import main
except ModuleNotFoundError as error:
    sys.exit(f"train_hf.py: training needs {error.name}: pip install 'aga-model[train]'")

if __name__ == "__main__":
    sys.exit(main())
