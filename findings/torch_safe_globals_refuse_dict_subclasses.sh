#!/usr/bin/env bash
# A checkpoint with an EasyDict beside its weights cannot be read with `weights_only`, even when EasyDict is allowed.
#
# Codes of this field (TBPS-CLIP's training, others with configurations as EasyDict) save `{"model": state, "config": EasyDict}`.
# `torch.load(weights_only=True)` refuses such a file and advises `add_safe_globals([EasyDict])`. One would expect that a class
# that is allowed can be read, as any class with plain attributes can. But the reader puts entries only into objects whose type is
# exactly `dict`, `OrderedDict` or `Counter`: an allowed subclass of `dict` with entries is refused still, with another message, and
# an empty one is read. What is left is to read the weights by other means, or the whole file with `weights_only=False`.
#
# Prints versions and what each attempt says; ends with 1 if the file is read, or if attributes or an empty one are not.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 easydict==1.13 numpy
cd "$place"
cat > read.py <<'PYTHON'
from argparse import Namespace
from importlib.metadata import version

import torch
from easydict import EasyDict

print("torch", version("torch"), "easydict", version("easydict"))


def attempt(named: str, config, allowed: list) -> bool:
    torch.save({"model": {"weight": torch.ones(2)}, "config": config}, "checkpoint.pth")
    try:
        with torch.serialization.safe_globals(allowed):
            torch.load("checkpoint.pth", weights_only=True)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "EasyDict" in line]
        print(f"{named}: refused: {lines[0].strip() if lines else error}")
        return False
    print(f"{named}: read")
    return True


entries = attempt("EasyDict with entries, allowed", EasyDict({"lr": 0.001}), [EasyDict])
attempt("EasyDict with entries, not allowed", EasyDict({"lr": 0.001}), [])
empty = attempt("EasyDict without entries, allowed", EasyDict(), [EasyDict])
attributes = attempt("Namespace with attributes, allowed", Namespace(lr=0.001), [Namespace])
raise SystemExit(0 if attributes and empty and not entries else 1)
PYTHON
"$place/venv/bin/python" read.py
