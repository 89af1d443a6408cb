"""
What an installation without extras does: `python base_install.py MODEL`, in an empty folder, by the Python that it is
installed for. tests/test_install.py runs it where the base dependencies alone can be seen, `make test-wheel` where pip
installed them.
"""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner

import aga_model
from aga_model.cli.main import app
from aga_model.evaluation import rank_gallery, ranking_metrics
from aga_model.files import read_image
from aga_model.search import PersonEncoder

REPOSITORY = Path(__file__).parents[1]
# Brought by the extras alone: where one is there, this proves nothing.
ABSENT = ("accelerate", "datasets", "evaluate", "matplotlib", "lancedb", "cv2", "pymilvus", "gradio", "onnxruntime")
# What needs an extra -> the extra that it has to name.
REFUSED = {
    "index people/imgs --model MODEL --out gallery": "search",
    "index people --split test --model MODEL --out gallery": "train",
    "index people/imgs --model MODEL --out milvus://localhost:1/people": "milvus",
    "search gallery coat": "search",
    "gallery info gallery": "search",
    "demo --gallery gallery": "demo",
    "evaluate --model MODEL --data-root people": "train",
    "report run --gallery gallery --query coat": "train",
    "export MODEL --out onnx": "export",
}


def aga(command: str, model: str) -> tuple[int, str]:
    """Exit status and output of a command of `aga`."""
    result = CliRunner().invoke(app, [word.replace("MODEL", model) for word in command.split()])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def search(model: str) -> None:
    """Draw people, encode them and their captions, and find them."""
    drawn = "render people --identities 12 --seed 0 --world base --height 96 --width 48 --processes 1"
    assert aga(drawn, model)[0] == 0
    assert aga("check-data people", model)[0] == 0
    records = json.loads(Path("people/reid_raw.json").read_text())
    captions = [(record["captions"][0], record["id"]) for record in records]
    encoder = PersonEncoder.from_pretrained(model)
    images = encoder.encode_images([read_image(Path("people/imgs") / record["file_path"]) for record in records])
    texts = encoder.encode_texts([caption for caption, _ in captions])
    persons = np.array([person for _, person in captions])
    best = (texts @ images.T).argmax(axis=1)
    metrics = ranking_metrics(rank_gallery(texts, images, persons, persons))
    np.testing.assert_allclose(metrics["rank1"], 100 * np.mean(persons[best] == persons))
    assert metrics["rank1"] > 40, f"12 people in {len(records)} images, and Rank-1 is {metrics['rank1']:.0f}"
    print(f"{captions[0][0]!r}: {records[best[0]]['file_path']}; Rank-1 {metrics['rank1']:.0f}%")
    loaded = AutoModel.from_pretrained(model, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=True)
    with torch.inference_mode():
        text = loaded.get_text_features(**processor(text=[captions[0][0]], return_tensors="pt")).pooler_output
    np.testing.assert_allclose(torch.nn.functional.normalize(text).numpy(), texts[:1], atol=1e-5)


def refusals(model: str) -> None:
    """Every command that needs an extra says which."""
    for command, extra in REFUSED.items():
        status, output = aga(command, model)
        assert status == 2 and f"pip install 'aga-model[{extra}]'" in " ".join(output.split()), f"{command}: {output}"
    try:
        runpy.run_path(str(REPOSITORY / "train_hf.py"), run_name="__main__")
    except SystemExit as end:
        assert "aga-model[train]" in str(end.code), end.code
    else:
        raise AssertionError("train_hf.py ran")


def main(model: str) -> None:
    assert Path(aga_model.__file__).parents[1] != REPOSITORY, f"the checkout is imported: {aga_model.__file__}"
    found = [name for name in ABSENT if importlib.util.find_spec(name)]
    assert not found, f"these belong to extras: {', '.join(found)}"
    search(model)
    refusals(model)
    print(f"aga_model {aga_model.__version__} in {Path(aga_model.__file__).parent} works without extras")


if __name__ == "__main__":
    main(sys.argv[1])
