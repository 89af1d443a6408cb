"""A loss and a family are each added in one new file and two lines elsewhere, and travel with a saved model."""

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aga_model"

LOSS = '''
"""Cosine distance of each image from its own caption."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .pair_batch import LossInputs


def cosine_loss(given: LossInputs, objective: Any) -> Tensor:
    """The mean of 1 - cos over the global batch, a scalar."""
    return (1 - F.cosine_similarity(given.images, given.texts)).mean()
'''
LOSS_LINES = {
    "losses.py": {
        "from .distributed import global_mean\n": "from .cosine_loss import cosine_loss\n",
        "LOSSES: dict[str, Loss] = {\n": '    "cosine": Loss(cosine_loss),\n',
    }
}

FAMILY = '''
"""Towers that are random projections and are never trained: a baseline that learns in the layers above alone."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPPreTrainedModel

from .configuration_sections import AgaFusionConfig, AgaTextConfig, AgaVisionConfig
from .family_record import Family
from .fusion import AgaFusionEncoder, AgaMLMHead
from .towers import AgaVisionEmbeddings, OwnStartMixin, end_positions


class RandomTextModel(OwnStartMixin, PreTrainedModel):
    """The state of a token is the mean of random vectors up to it."""

    config_class = AgaTextConfig
    causal = True

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.words.requires_grad_(False)
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def pooled_positions(self, input_ids):
        return end_positions(input_ids, self.config)

    def forward(self, input_ids, attention_mask=None, return_dict=True):
        states = self.words(input_ids).cumsum(dim=1)
        lengths = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        return BaseModelOutputWithPooling(last_hidden_state=states / lengths[:, None])


class RandomVisionModel(OwnStartMixin, CLIPPreTrainedModel):
    """The state of a patch is a random projection of it; the class token's is the mean of all."""

    config_class = AgaVisionConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = AgaVisionEmbeddings(config)
        self.embeddings.requires_grad_(False)
        self.post_layernorm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, pixel_values, kept_patches=None, return_dict=True):
        states = self.embeddings(pixel_values, kept_patches=kept_patches)
        states = torch.cat([states.mean(dim=1, keepdim=True), states[:, 1:]], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.post_layernorm(states[:, 0]))


RANDOM = Family(
    name="random",
    title="random towers",
    text_config=AgaTextConfig,
    vision_config=AgaVisionConfig,
    fusion_config=AgaFusionConfig,
    text_model=RandomTextModel,
    vision_model=RandomVisionModel,
    fusion_encoder=AgaFusionEncoder,
    mlm_head=AgaMLMHead,
    projection_bias=True,
    fuses_projected_states=True,
    text_inputs=("input_ids",),
)
'''
FAMILY_LINES = {
    "families.py": {
        "from .fusion import AgaBertFusionEncoder": "from .random_family import RANDOM\n",
        "        BERT,\n": "        RANDOM,\n",
    }
}

COMMON = """
import sys
sys.path.insert(0, {tests!r})
import torch
from conftest import CAPTIONS, tiny_sections
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

def batch_of(processor):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(4, 3, 32, 16, generator=generator)
    return dict(processor(text=CAPTIONS[:4], return_tensors="pt"), pixel_values=pixels)
"""
MAKE = """
from pathlib import Path
import aga_model
from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.data.tokenizer import train_tokenizer
assert aga_model.__file__.startswith({place!r}), aga_model.__file__

tokenizer = train_tokenizer(CAPTIONS, vocab_size=700)
torch.manual_seed(0)

def make(losses, family="clip", **objective):
    sections = tiny_sections(len(tokenizer), loss_weights=losses, **objective)
    config = AgaConfig(family=family, **sections)
    return AgaForPreTraining(config), AgaProcessor.for_config(config, tokenizer)
"""
# What a machine without the package makes of the folder.
REMOTE = """
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import importlib.util
assert importlib.util.find_spec("aga_model") is None
processor = AutoProcessor.from_pretrained("model", trust_remote_code=True)
batch = batch_of(processor)
"""

LOSS_MADE = """
model, processor = make({{"cosine": 0.5, "itc": 1.0}})
batch = batch_of(processor)
output = model.eval()(**batch)
cosines = (output.image_embeds * output.text_embeds).sum(dim=1)
torch.testing.assert_close(output.cosine_loss, 1 - cosines.mean())
torch.testing.assert_close(output.loss, 0.5 * output.cosine_loss + output.itc_loss)
assert output.sdm_loss is None and make({{"itc": 1.0}})[0](**batch).cosine_loss is None
output.loss.backward()
from aga_model.training.trainer import COMPONENTS
assert "cosine_loss" in COMPONENTS  # a training logs it
for part in (model, processor):
    part.save_pretrained("model")
torch.save(output.cosine_loss.detach(), "expected.pt")
"""
LOSS_LOADED = """
model = AutoModelForPreTraining.from_pretrained("model", trust_remote_code=True).eval()
torch.testing.assert_close(model(**batch).cosine_loss.detach(), torch.load("expected.pt"), atol=1e-6, rtol=0)
"""

FAMILY_MADE = """
model, processor = make({{"itc": 1.0, "itm": 1.0, "mlm": 1.0}}, family="random", mask_strategy="random")
batch = batch_of(processor)
towers = [value.clone() for value in model.aga.text_model.parameters()]
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
losses = []
for _ in range(30):
    optimizer.zero_grad()
    loss = model.train()(**batch).loss
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
assert losses[-1] < 0.7 * losses[0], losses
assert all(torch.equal(old, new) for old, new in zip(towers, model.aga.text_model.parameters()))
for part in (model.eval(), processor):
    part.save_pretrained("model")

from aga_model import AgaForImageTextRetrieval
matcher = AgaForImageTextRetrieval.from_pretrained("model").eval()
pairs = {{**batch, "attention_mask": batch["attention_mask"]}}
wanted = matcher.score(**pairs)
from aga_model.search import PersonEncoder, Reranker
reranker = Reranker.from_encoder(PersonEncoder.from_pretrained("model", device="cpu"))
found = reranker.score(CAPTIONS[:4], batch["pixel_values"].__getitem__, torch.arange(4)[:, None].numpy())
torch.testing.assert_close(torch.from_numpy(found)[:, 0], wanted, atol=2e-2, rtol=2e-2)
from aga_model.conversion.onnx_export import export_onnx
export_onnx(matcher.aga, processor, "onnx", "no hash")  # checks the embeddings against PyTorch's
torch.save(wanted, "expected.pt")
"""
FAMILY_LOADED = """
from transformers.dynamic_module_utils import get_class_from_dynamic_module
assert AutoModel.from_pretrained("model", trust_remote_code=True).config.family == "random"
matcher_class = get_class_from_dynamic_module("retrieval_aga.AgaForImageTextRetrieval", "model")
scores = matcher_class.from_pretrained("model", trust_remote_code=True).eval().score(**batch)
torch.testing.assert_close(scores, torch.load("expected.pt"), atol=1e-5, rtol=1e-5)
"""


def _extend(place, name, source, lines):
    """A copy of the package with a new file and, behind given lines of others, a new line each."""
    shutil.copytree(PACKAGE, place / "aga_model", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "aga_model" / name).write_text(source.lstrip())
    changed = 0
    for file, additions in lines.items():
        before = (PACKAGE / file).read_text().splitlines(keepends=True)
        after = []
        for line in before:
            after.append(line)
            after += [new for where, new in additions.items() if line.startswith(where)]
        (place / "aga_model" / file).write_text("".join(after))
        changed += sum(line.startswith(("+ ", "- ")) for line in difflib.ndiff(before, after))
    assert changed == 2
    return place


def _run(place, *programs, path=""):
    code = "\n".join(programs).format(tests=str(Path(__file__).parent), place=str(place))
    environment = os.environ | {"PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub")}
    run = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def test_a_loss(tmp_path):
    place = _extend(tmp_path, "cosine_loss.py", LOSS, LOSS_LINES)
    _run(place, COMMON, MAKE, LOSS_MADE, path=place)
    shutil.rmtree(place / "aga_model")
    _run(place, COMMON, REMOTE, LOSS_LOADED)


@pytest.mark.nightly
def test_a_family(tmp_path):
    place = _extend(tmp_path, "random_family.py", FAMILY, FAMILY_LINES)
    _run(place, COMMON, MAKE, FAMILY_MADE, path=place)
    shutil.rmtree(place / "aga_model")
    _run(place, COMMON, REMOTE, FAMILY_LOADED)
