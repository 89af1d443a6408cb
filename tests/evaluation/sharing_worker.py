"""One process of test_sharing: evaluates a saved model on a split; the first one saves embeddings and metrics."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file

from aga_model import AgaModel, AgaProcessor
from aga_model.data import load_benchmark
from aga_model.evaluation import RetrievalEvaluator


def main(model: str, data: str, out: str) -> None:
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    encoder = AgaModel.from_pretrained(model).eval()
    rows = load_benchmark("cuhk-pedes", data)["train"]
    evaluator = RetrievalEvaluator(rows, AgaProcessor.from_pretrained(model), batch_size=7)
    embeddings, metrics = evaluator.embed(encoder), evaluator.evaluate(encoder)
    if state.is_main_process:
        save_file({"image": embeddings.image_embeds, "text": embeddings.text_embeds}, Path(out) / "found.safetensors")
        (Path(out) / "metrics.json").write_text(json.dumps(metrics | {"processes": state.num_processes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
