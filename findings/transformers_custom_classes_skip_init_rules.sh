#!/usr/bin/env bash
# Rules of `_init_weights` for modules without parameters of their own are passed over, for every class that is not
# transformers' own.
#
# Models of transformers initialise by rules such as "of an attention, the query's weights get this standard deviation"
# (CLIP, SigLIP): `_init_weights` is called with the attention, which holds no parameter itself, and writes to its
# layers. One would expect that a class of one's own that inherits from such a model, or a new PreTrainedModel with
# such rules, begins with the same weights. It does not: for code outside the package `transformers` a module of which
# all own parameters are initialised counts as done, and "all of none" is true. So a subclass of CLIPVisionModel, with
# nothing changed, begins with other standard deviations than CLIPVisionModel: the rules for its attentions and MLPs
# are never asked. No warning tells.
#
# Prints the version and the standard deviation of a few weights of CLIPVisionModel and of an empty subclass; ends with 1
# if they agree.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 pillow==12.3.0
cat > "$place/main.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import CLIPVisionConfig, CLIPVisionModel


class Own(CLIPVisionModel):
    pass


config = CLIPVisionConfig(hidden_size=256, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=4)
found = {}
for kind in (CLIPVisionModel, Own):
    torch.manual_seed(0)
    weights = kind(config).state_dict()
    found[kind] = {
        name.rpartition("layers.0.")[2]: weights[name].std().item()
        for name in weights
        if "layers.0." in name and name.endswith(("q_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight"))
    }
print("transformers", transformers.__version__)
print(f"{'':28}{'CLIPVisionModel':>17}{'empty subclass':>17}")
for name, value in found[CLIPVisionModel].items():
    print(f"{name:28}{value:17.4f}{found[Own][name]:17.4f}")
differ = [name for name, value in found[CLIPVisionModel].items() if abs(found[Own][name] / value - 1) > 0.1]
sys.exit(0 if differ else 1)
PYTHON
"$place/venv/bin/python" "$place/main.py"
