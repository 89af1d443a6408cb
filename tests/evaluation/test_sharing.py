"""What a process shares of its embeddings is no larger than they are, and comes together in order."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import free_port
from datasets import Dataset
from safetensors.torch import load_file

from aga_model.data.rendered import render_dataset
from aga_model.evaluation import retrieval

pytestmark = pytest.mark.timeout(180)  # processes that may wait for each other

REPOSITORY = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("sharing_worker.py")


def test_a_share_is_as_large_as_its_rows(monkeypatch):
    """A tensor's rows, pickled one by one, would each carry the whole tensor: quadratic in the size of the split."""
    evaluator = object.__new__(retrieval.RetrievalEvaluator)
    evaluator.batch_size = 50
    rows = torch.randn(700, 64)
    sizes = []

    def gather(share):
        sizes.append(len(pickle.dumps(share)))
        return share

    monkeypatch.setattr(retrieval, "gather_object", gather)
    got = evaluator._encode_share(lambda model, indices: rows[indices], None, range(700), "rows")
    assert torch.equal(got, rows)
    assert sizes[0] < 1.1 * rows.numel() * 4


def test_shares_of_several_processes_come_together_in_order(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    shares = [(list(range(rank, 7, 3)), rows[rank::3]) for rank in range(3)]
    evaluator = object.__new__(retrieval.RetrievalEvaluator)
    evaluator.batch_size = 2
    monkeypatch.setattr(retrieval, "gather_object", lambda share: shares)
    got = evaluator._encode_share(lambda model, indices: torch.from_numpy(rows[indices]), None, range(7), "rows")
    assert np.array_equal(got.numpy(), rows)


def test_captions_of_one_length_share_a_batch(make_model, processor, monkeypatch):
    """Encoded in the order of their length they are the same as each alone, in the order of the split."""
    captions = [" ".join(["a man in red shoes"] * (1 + (7 * index) % 5)) for index in range(20)]
    rows = Dataset.from_dict(
        {
            "image": [{"path": "", "bytes": None}] * 20,
            "caption": captions,
            "person_id": list(range(20)),
            "image_id": list(range(20)),
        }
    )
    evaluator = retrieval.RetrievalEvaluator(rows, processor, batch_size=4)
    model = make_model().eval().aga
    seen = []
    encode = model.get_text_features

    def watch(input_ids, attention_mask):
        seen.append(attention_mask.float().mean().item())
        return encode(input_ids, attention_mask)

    with torch.no_grad():
        wanted = torch.cat([encode(**processor(text=[text], return_tensors="pt")).pooler_output for text in captions])
        monkeypatch.setattr(model, "get_text_features", watch)
        got = evaluator._encode_share(evaluator._encode_captions, model, evaluator.by_length, "captions")
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)
    assert seen == [1.0] * 5


def test_two_processes_measure_what_one_does(python, make_model, processor, tmp_path):
    """Really launched: embeddings in the order of the split, and the same metrics."""
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    render_dataset(tmp_path / "data", 12, 1, val_identities=1, test_identities=1, height=64, width=32, processes=1)
    found = []
    for world in (1, 2):
        out = tmp_path / str(world)
        out.mkdir()
        port, processes = str(free_port()), []
        for rank in range(world):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "PYTHONPATH": REPOSITORY}
            environment = os.environ | {key: str(value) for key, value in own.items()}
            arguments = [tmp_path / "model", tmp_path / "data", out]
            command = [python, str(WORKER), *map(str, arguments)]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        for process in processes:
            text, _ = process.communicate(timeout=300)
            assert process.returncode == 0, text[-3000:]
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics.pop("processes") == world
        found.append((load_file(out / "found.safetensors"), metrics))
    (one, metrics), (two, shared_metrics) = found
    assert shared_metrics == metrics
    for name, rows in one.items():
        # Captions are padded to other lengths in other batches, which rounds differently.
        torch.testing.assert_close(two[name], rows, atol=1e-6, rtol=1e-5)
