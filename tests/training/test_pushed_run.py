"""A run that publishes its model: what lies on the Hub, and what a machine without this package makes of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hub_server import OWNER, READ_TOKEN, HubServer, connected
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from aga_model import AgaForImageTextRetrieval, AgaForPreTraining, AgaProcessor
from aga_model.cli.main import app
from aga_model.data import find_card, says_rendered
from aga_model.data.rendered import render_dataset
from aga_model.search import PersonEncoder
from aga_model.training import read_release
from aga_model.training.release.card import write_model_card
from aga_model.training.run import main

pytestmark = pytest.mark.timeout(180)  # a server, which may serve for ever

REPO = f"{OWNER}/tiny"
DOCUMENT = Path(__file__).parents[2] / "docs" / "release.md"
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
RUN = {
    "model_config": {
        "projection_dim": 32,
        "vision_config": {"image_size": [32, 16], "patch_size": 8, **TOWER},
        "text_config": TOWER,
        "cross_modal_config": {"num_hidden_layers": 1, "cross_attention_residual": True},
        "objective_config": {"loss_weights": {"itc": 1.0, "mlm": 1.0, "itm": 1.0}},
    },
    "vocab_size": 700,
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": "1e-3",
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 1,
    "save_steps": 1,
    "push_to_hub": True,
    "hub_model_id": REPO,
}
CAPTIONS = ["a man in a red jacket", "a woman with a blue bag"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pushed")
    render_dataset(folder / "data", 14, 0, val_identities=3, test_identities=3, height=64, width=32, processes=1)
    (folder / "run.yaml").write_text(yaml.safe_dump({**RUN, "data_root": str(folder / "data")}))
    return folder


@pytest.fixture(scope="module")
def hub(place):
    """A Hub with what one run pushed, and whose commits the tests of this file add to."""
    with HubServer() as server, connected(server):
        assert main([str(place / "run.yaml"), "--output_dir", str(place / "run")]) == 0
        yield server


@pytest.fixture(scope="module")
def first(hub):
    """The run's only commit; the tests below add others."""
    commits = [commit.message for commit in hub.repositories[REPO].history()]
    assert commits[-2:] == ["Upload model", "initial commit"] and "Upload model" not in commits[:-2]
    return hub.repositories[REPO].history()[-2]


def test_one_commit_holds_the_model_and_nothing_else(hub, place, first):
    assert hub.repositories[REPO].private
    local = {path.name: path.read_bytes() for path in (place / "run" / "model").iterdir()}
    assert set(first.files) == {".gitattributes", *local}
    assert {name for name, file in first.files.items() if file.lfs} == {"model.safetensors"}
    for name, data in local.items():
        assert name == "README.md" or first.files[name].content == data
    assert {Path(name).suffix for name in first.files} == {"", ".md", ".json", ".py", ".safetensors", ".txt"}
    assert (place / "run" / "checkpoint-2" / "optimizer.pt").is_file()


def test_the_card_says_what_the_run_was(place, first):
    card = ModelCard(first.files["README.md"].content.decode())
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert card.data.model_name == "tiny" and "\n# tiny\n" in card.text
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "feature-extraction")
    assert card.data.license == "apache-2.0" and "rendered-data" in card.data.tags
    reported = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in reported.items()} == {
        name: pytest.approx(metrics[name], abs=0.005) for name in ("rank1", "rank5", "rank10", "mAP", "mINP")
    }
    assert {(result.dataset_type, result.dataset_split) for result in reported.values()} == {
        ("rendered-persons", "test")
    }
    for name, label in (("rank1", "Rank-1"), ("mAP", "mAP")):
        low, high = metrics["intervals"][name]
        assert low <= metrics[name] <= high
        assert f"| {label} | {metrics[name]:.1f} | {low:.1f} to {high:.1f} |" in card.text
    for heading in ("How to use", "Intended use", "Prohibited use", "Consent and data licences"):
        assert f"\n## {heading}\n" in card.text
    assert "AdamW, learning rate 0.001" in card.text and str(place) not in str(card)


ISOLATED = """
import importlib.util, json, os, re, sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
assert importlib.util.find_spec("aga_model") is None, "the package must not be importable here"
import numpy as np, torch
from PIL import Image
from huggingface_hub import HfApi, hf_hub_download
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module
torch.set_num_threads(1)
repo, inputs, output, document = sys.argv[1:]
data = np.load(inputs)
crops = [Image.fromarray(pixels) for pixels in data["crops"]]
captions = data["captions"].tolist()
found = {}

def embed(name, model, processor):
    with torch.no_grad():
        for kind, values in (("text", {"text": captions}), ("image", {"images": crops})):
            features = getattr(model, f"get_{kind}_features")(**processor(**values, return_tensors="pt"))
            found[f"{name}_{kind}"] = features.pooler_output.numpy()

# The code of the card, as somebody who found the model would run it.
with open(hf_hub_download(repo, "README.md"), encoding="utf-8") as file:
    examples = re.findall("```python\\n(.*?)```", file.read(), re.DOTALL)
assert len(examples[0].splitlines()) == 5  # an import and four lines
exec("\\n".join(examples))
found["card_scores"], found["log_odds"] = scores.detach().numpy(), log_odds.numpy()

model = AutoModel.from_pretrained(repo, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
embed("first", model, processor)
full = AutoModelForPreTraining.from_pretrained(repo, trust_remote_code=True)
names = [type(value).__name__ for value in (model, processor, full, matcher)]

# The Python of docs/release.md, in order.
with open(document, encoding="utf-8") as file:
    blocks = re.findall("```python\\n(.*?)```", file.read(), re.DOTALL)
for block in blocks:
    exec(block.replace("user/name", repo))
found["document_log_odds"] = log_odds.numpy()

# Loaded, changed and pushed again, by transformers' own method.
with torch.no_grad():
    full.aga.text_projection.weight.mul_(2.0)
full.config.objective_config.mask_ratio = 0.25
first = HfApi().model_info(repo).sha
second = full.push_to_hub(repo, commit_message="Twice the text").oid
processor.push_to_hub(repo, commit_message="The same processor")
for name, revision in (("again", "main"), ("second", second), ("pinned", first)):
    options = {"trust_remote_code": True, "revision": revision}
    again = AutoModel.from_pretrained(repo, **options).eval()
    embed(name, again, AutoProcessor.from_pretrained(repo, **options))
    found[f"{name}_ratio"] = np.array(again.config.objective_config.mask_ratio)
np.savez(output, **found)
print(json.dumps([names, first, second]))
"""


@pytest.fixture(scope="module")
def isolated(hub, place, first):
    """What a process without the package does with the repository, and the model of the run here."""
    crops = np.random.default_rng(0).integers(0, 256, (2, 40, 20, 3), dtype=np.uint8)
    np.savez(place / "in.npz", crops=crops, captions=CAPTIONS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= hub.environment(place / "home") | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-I",
        "-c",
        ISOLATED,
        REPO,
        str(place / "in.npz"),
        str(place / "out.npz"),
        str(DOCUMENT),
    ]
    run = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1]), np.load(place / "out.npz"), crops


def test_every_class_loads_without_the_package_and_embeds_the_same(place, isolated, first):
    (names, loaded, _), found, crops = isolated
    assert names == ["AgaModel", "AgaProcessor", "AgaForPreTraining", "AgaForImageTextRetrieval"]
    assert loaded == first.sha
    folder = place / "run" / "model"
    model, processor = AgaForPreTraining.from_pretrained(folder).eval().aga, AgaProcessor.from_pretrained(folder)
    images, texts = (
        processor(**{key: value}, return_tensors="pt") for key, value in (("images", list(crops)), ("text", CAPTIONS))
    )
    with torch.no_grad():
        assert np.array_equal(found["first_text"], model.get_text_features(**texts).pooler_output.numpy())
        assert np.array_equal(found["first_image"], model.get_image_features(**images).pooler_output.numpy())


def test_the_examples_of_the_card_run(place, isolated):
    _, found, crops = isolated
    folder = place / "run" / "model"
    matcher, processor = AgaForImageTextRetrieval.from_pretrained(folder).eval(), AgaProcessor.from_pretrained(folder)
    sentence = "a man in a red jacket"
    expected = matcher.score(**processor(text=[sentence], images=[crops[0]], return_tensors="pt"))
    assert np.array_equal(found["log_odds"], expected.numpy())
    assert np.array_equal(found["document_log_odds"], expected.numpy())
    text, image = found["first_text"][:1], found["first_image"]
    cosine = (text @ image.T) / (np.linalg.norm(text) * np.linalg.norm(image, axis=1))
    np.testing.assert_allclose(found["card_scores"], cosine, atol=1e-6)


def test_changed_and_pushed_again_it_loads_at_every_revision(hub, isolated, first):
    (_, _, second), found, _ = isolated
    repository = hub.repositories[REPO]
    messages = [commit.message for commit in repository.history()]
    assert messages == ["The same processor", "Twice the text", "Upload model", "initial commit"][-len(messages) :]
    assert repository.commits[second].files["model.safetensors"].sha256 != first.files["model.safetensors"].sha256
    for name in ("again", "second"):
        assert np.array_equal(found[f"{name}_text"], 2 * found["first_text"])
        assert np.array_equal(found[f"{name}_image"], found["first_image"])
        assert found[f"{name}_ratio"] == 0.25
    assert np.array_equal(found["pinned_text"], found["first_text"]) and found["pinned_ratio"] == 0.15
    assert repository.tags == {"v1": first.sha}  # by docs/release.md
    code = {name for name in first.files if name.endswith(".py")}
    latest = repository.at("main").files
    assert code and {name: latest[name].oid for name in code} == {name: first.files[name].oid for name in code}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        assert "--" not in json.dumps(json.loads(latest[name].content).get("auto_map"))


def test_what_was_pushed_from_elsewhere_can_be_released_from_here(hub, isolated, tmp_path):
    for name, file in hub.repositories[REPO].at("main").files.items():
        (tmp_path / name).write_bytes(file.content)
    assert "model.safetensors" in read_release(tmp_path).files


def test_the_name_stands_for_a_folder_in_searches_and_starts(hub, first):
    encoder = PersonEncoder.from_pretrained(REPO, "cpu")
    assert encoder.rendered_only and encoder.encode_texts(CAPTIONS).shape == (2, 32)
    assert says_rendered(find_card(REPO)) and find_card(f"{OWNER}/nothing") is None


def test_the_same_command_again_pushes_nothing_new(place):
    with HubServer() as hub, connected(hub):
        shutil.copytree(place / "run", place / "same")
        with (place / "same" / "model" / "README.md").open("a") as card:
            card.write("What I know.")
        command = [str(place / "run.yaml"), "--output_dir", str(place / "same")]
        assert main(command) == 0
        assert "What I know." in hub.repositories[REPO].at("main").files["README.md"].content.decode()
        commits = list(hub.repositories[REPO].commits)
        assert main(command) == 0
        assert list(hub.repositories[REPO].commits) == commits and len(commits) == 2


def test_a_push_that_fails_at_the_end_loses_nothing(place, tmp_path, capsys):
    with HubServer() as hub, connected(hub):
        shutil.copytree(place / "run", tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "model")
        hub.fail("POST", "/commit/", 500)
        command = [str(place / "run.yaml"), "--output_dir", str(tmp_path / "run"), "--hub_private_repo", "false"]
        assert main(command) == 1
        again = re.search("the run is finished; `aga (.*)` pushes its model", capsys.readouterr().err)[1]
        assert again == f"push {tmp_path / 'run' / 'model'} --repo {REPO} --public"
        assert hub.repositories[REPO].names() == {".gitattributes"} and not hub.repositories[REPO].private
        pushed = CliRunner().invoke(app, again.split())
        assert pushed.exit_code == 0, pushed.output
        assert "model.safetensors" in hub.repositories[REPO].names()


def test_a_run_without_a_name_for_its_repository_tells_the_one_that_it_found(place, tmp_path, capsys):
    """It has the folder's name as given, where transformers too looks for it, and the token's owner."""
    settings = yaml.safe_load((place / "run.yaml").read_text())
    del settings["hub_model_id"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(place / "run", tmp_path / "target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with HubServer() as hub, connected(hub):
        hub.fail("POST", "/commit/", 500)
        assert main([str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "link")]) == 1
        again = re.search("the run is finished; `aga (.*)` pushes its model", capsys.readouterr().err)[1]
        assert again == f"push {tmp_path / 'link' / 'model'} --repo {OWNER}/link"
        assert list(hub.repositories) == [f"{OWNER}/link"]
        pushed = CliRunner().invoke(app, again.split())
        assert pushed.exit_code == 0, pushed.output


@pytest.mark.parametrize(
    ("token", "change", "named"),
    [
        (READ_TOKEN, [], "may not write to user/tiny"),
        (None, [], "run `hf auth login`"),
        ("token-that-nobody-has", [], "does not know the token"),
        (READ_TOKEN, ["--hub_strategy", "every_save"], "hub_strategy every_save: only end"),
        (READ_TOKEN, ["--hub_strategy", "checkpoint"], "pickles"),
        (READ_TOKEN, ["--hub_strategy", "all_checkpoints"], "pickles"),
    ],
)
def test_a_run_that_could_not_push_does_not_begin(place, tmp_path, capsys, token, change, named):
    with HubServer() as hub, connected(hub, token):
        assert main([str(place / "run.yaml"), "--output_dir", str(tmp_path / "run"), *change]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not hub.repositories


def _described(place):
    run = json.loads((place / "run" / "run.json").read_text())
    return run, json.loads((place / "run" / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("dataset", "source"),
    [
        ("cuhk-pedes", "ShuangLI59/Person-Search-with-Natural-Language-Description"),
        ("icfg-pedes", "zifyloo/SSAN"),
        ("rstp-reid", "NjtechCVLab/RSTPReid-Dataset"),
        ("ufine6926", "Zplusdragon/UFineBench"),
        ("own", None),
    ],
)
def test_a_model_of_real_people_is_bound_by_the_terms_of_its_data(hub, place, tmp_path, dataset, source):
    run, metrics = _described(place)
    run |= {"rendered_data": False, "start": "/home/somebody/checkpoints/clip-b16", "start_rendered": False}
    run["data"]["dataset"] = dataset
    card = ModelCard.load(write_model_card(tmp_path, run, metrics, 2))
    assert card.data.license == "other" and "rendered-data" not in card.data.tags
    assert source is None or (source in card.data.license_link and source in card.text)
    assert card.data.datasets == (None if dataset == "own" else [dataset])
    assert "/home" not in card.text and "checkpoints/clip-b16" in card.text
    assert "never a photograph" not in card.text


def test_drawings_after_photographs_are_not_drawings_alone(hub, place, tmp_path):
    run, metrics = _described(place)
    run |= {"start": "openai/clip-vit-base-patch16", "start_rendered": False}
    card = ModelCard.load(write_model_card(tmp_path, run, metrics, 2))
    assert card.data.license == "other" and "rendered-data" not in card.data.tags
    assert card.data.base_model == "openai/clip-vit-base-patch16"
    assert re.search(r"terms of what it started from \(openai/clip-vit-base-patch16\)", card.text)


@pytest.mark.parametrize(("weight", "offered"), [(1.0, True), (0.0, False), (0, False)])
def test_a_card_offers_a_re_ranker_where_there_is_one(hub, place, tmp_path, weight, offered):
    run, metrics = _described(place)
    del run["model"]["has_itm_head"]  # as in runs of versions before 0.2, whose losses say it
    run["model"]["objective_config"]["loss_weights"]["itm"] = weight
    run["model"]["objective_config"]["loss_weights"]["mlm"] = weight
    text = ModelCard.load(write_model_card(tmp_path, run, metrics, 2)).text
    assert ("AgaForImageTextRetrieval" in text) is offered
    assert ("itm x" in text) is offered and "itc x 1.0" in text
    assert ("| enrichment | TEM" in text) is offered


@pytest.mark.parametrize("has_head", [True, False])
def test_a_card_goes_by_the_head_and_not_by_its_loss(hub, place, tmp_path, has_head):
    run, metrics = _described(place)
    run["model"]["has_itm_head"] = has_head
    run["model"]["objective_config"]["loss_weights"]["itm"] = 1.0 - has_head
    text = ModelCard.load(write_model_card(tmp_path, run, metrics, 2)).text
    assert ("AgaForImageTextRetrieval" in text) is has_head
