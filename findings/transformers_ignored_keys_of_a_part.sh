#!/usr/bin/env bash
# What one model ignores when it is loaded is ignored by every model that contains it, for names anywhere.
#
# A class says by `_keys_to_ignore_on_load_unexpected` which weights of a checkpoint it has no place for on purpose: a bare
# encoder, say, the head of its pre-training. One would expect that this is said of this class alone. But `post_init`
# adds the patterns of each part to those of the whole, without the part's prefix. So a model that contains such an
# encoder, beside a head of its own that is a layer shorter than the checkpoint's, drops the layer's weights without the
# warning that it gives otherwise, and computes with fewer layers than were trained.
#
# Prints what a model says of the left-out layer with such a part and with one that ignores nothing; ends with 1 if that
# changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cat > "$place/main.py" <<'PYTHON'
import sys
import tempfile

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Config(PreTrainedConfig):
    model_type = "example"
    layers: int = 2


class Encoder(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(4, 4)
        self.post_init()


class BareEncoder(Encoder):
    """The same, which may be loaded from a checkpoint that has heads."""

    _keys_to_ignore_on_load_unexpected = [r"heads\."]


def whole(part):
    class Whole(PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.encoder = part(config)
            self.heads = nn.ModuleList(nn.Linear(4, 4) for _ in range(config.layers))
            self.post_init()

    return Whole


print("transformers", transformers.__version__, "torch", torch.__version__)
told = {}
for part in (Encoder, BareEncoder):
    with tempfile.TemporaryDirectory() as folder:
        whole(part)(Config(layers=3)).save_pretrained(folder)
        model, report = whole(part).from_pretrained(folder, config=Config(layers=2), output_loading_info=True)
    told[part.__name__] = sorted(report["unexpected_keys"])
    own = vars(type(model)).get("_keys_to_ignore_on_load_unexpected")
    ignored = model._keys_to_ignore_on_load_unexpected
    print(f"with {part.__name__}: the class itself ignores {own}, the model {ignored}; told of as left out: "
          f"{told[part.__name__]}")  # fmt: skip
sys.exit(0 if told == {"Encoder": ["heads.2.bias", "heads.2.weight"], "BareEncoder": []} else 1)
PYTHON
"$place/venv/bin/python" "$place/main.py"
