"""The speed bench: its reference computes the same losses as this package, its meters count right, every way runs."""

import json
import time
from pathlib import Path

import pytest
import torch
from command_line import run_bench
from torch.profiler import record_function

from aga_model import AgaForPreTraining, pair_model
from benchmarks.speed import speed
from benchmarks.speed.batches import make_batch, make_loader, write_images
from benchmarks.speed.reference import Attention, Recipe, ReferenceModel
from benchmarks.speed.step_meters import OTHER, PREFIX, count_flops, labelled, time_by_part
from benchmarks.speed.ways import AGA, AGM, ENCODINGS, RANDOM, STEPS, WAYS, model_config

ARGUMENTS = ("pixel_values", "input_ids", "attention_mask", "person_ids")


def _pair(size: str, objective: dict) -> tuple[AgaForPreTraining, ReferenceModel]:
    torch.manual_seed(0)
    model = AgaForPreTraining(model_config(size, objective)).train()
    return model, ReferenceModel(model.config).load_from(model)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_reference_is_this_package_in_plain_torch(size, monkeypatch):
    """Same weights, same masks: the same losses, with every caption padded to the text length and without."""
    model, reference = _pair(size, RANDOM)
    for padded in (True, False):
        batch = make_batch(model.config, 6, padded, packed=False, seed=1)
        monkeypatch.setattr(pair_model, "sample_tokens", lambda probabilities, batch=batch: batch["masked"])
        monkeypatch.setattr(pair_model, "corrupt_tokens", lambda ids, masked, config, batch=batch: batch["corrupted"])
        with torch.no_grad():
            output = model(**{name: batch[name] for name in ARGUMENTS})
            wanted = {name: output[f"{name}_loss"] for name in ("sdm", "id", "mlm")}
            for everywhere in (True, False):
                found = reference.losses(batch, Recipe(padded, everywhere))
                assert found.keys() == wanted.keys()
                for name, value in wanted.items():
                    torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("enrichment", ["none", "own_pass", "shared_pass"])
def test_agm_and_tem_of_the_reference_are_this_package_s(enrichment):
    """From the same seed all draw the same masks and words, whatever attention is read from."""
    model, reference = _pair("tiny", AGM if enrichment == "none" else AGA)
    batch = make_batch(model.config, 6, padded=False, packed=False, seed=2)
    torch.manual_seed(5)
    output = model(**{name: batch[name] for name in ARGUMENTS})
    for attention in ("maps", "row"):
        torch.manual_seed(5)
        found = reference.losses(batch, Recipe(False, True, attention, enrichment))
        for name, value in found.items():
            torch.testing.assert_close(value, output[f"{name}_loss"], atol=1e-4, rtol=0, msg=name)


def test_gradients_of_the_reference_are_this_package_s(monkeypatch):
    model, reference = _pair("tiny", RANDOM)
    batch = make_batch(model.config, 4, padded=True, packed=False, seed=3)
    monkeypatch.setattr(pair_model, "sample_tokens", lambda probabilities: batch["masked"])
    monkeypatch.setattr(pair_model, "corrupt_tokens", lambda ids, masked, config: batch["corrupted"])
    model(**{name: batch[name] for name in ARGUMENTS}).loss.backward()
    sum(reference.losses(batch, Recipe()).values()).backward()
    pairs = {
        reference.vision.patches.weight: model.aga.vision_model.embeddings.patch_embedding.weight,
        reference.text.words.weight: model.aga.text_model.embeddings.token_embedding.weight,
        reference.mlm_head.fc.weight: model.mlm_head.decoder.weight,
    }
    for own, other in pairs.items():
        torch.testing.assert_close(own.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_operations_are_counted_as_on_paper():
    batch, seq, width = 2, 5, 8
    attention = Attention(width, heads=2)
    states = torch.randn(batch, seq, width, requires_grad=True)
    forward = batch * seq * (2 * 4 * width**2 + 2 * 2 * seq * width)
    assert count_flops(lambda: attention(states)) == forward
    # Backward: twice the forward, and attention's weights are computed once more.
    assert count_flops(lambda: attention(states).sum().backward()) == 3 * forward + batch * seq * 2 * seq * width


def test_time_belongs_to_the_part_that_causes_it():
    """Most of the work of the slow part is its backward pass, which runs outside of any named range."""
    slow, fast = (torch.nn.Linear(400, 400) for _ in range(2))

    def run() -> None:
        states = slow(torch.randn(2000, 400, requires_grad=True))
        fast(states[:2]).sum().backward()
        with record_function(PREFIX + "rest"):
            start = time.perf_counter()
            time.sleep(0.05)
            slept.append(time.perf_counter() - start)

    slept = []
    with labelled([(slow, "forward", "slow"), (fast, "forward", "fast")]):
        seconds = time_by_part(run, "cpu")
    assert {"slow", "fast", "rest", OTHER} >= seconds.keys() >= {"slow", "fast", "rest"}
    assert 0.99 * slept[-1] < seconds["rest"] < 2 * slept[-1]  # a busy machine lets it sleep for longer
    assert seconds["slow"] > 3 * seconds["fast"] > 0
    assert "forward" not in vars(slow)


@pytest.mark.parametrize("workers", [0, 1])
def test_both_ways_of_data_give_the_same_pairs(tmp_path, workers):
    paths = write_images(tmp_path, 5, 90, 40)
    found = [list(make_loader(way, paths, workers, (64, 32), 2)) for way in ("field", "package")]
    for field, package in zip(*found, strict=True):
        assert field["pixel_values"].shape == package["pixel_values"].shape == (2, 3, 64, 32)
        assert field["pixel_values"].dtype == package["pixel_values"].dtype == torch.float32
        assert field["person_ids"].tolist() == package["person_ids"].tolist()
        width = package["input_ids"].shape[1]
        inside = package["attention_mask"].bool()
        assert field["input_ids"].shape[1] > width and field["attention_mask"].sum() == inside.sum()
        assert torch.equal(field["input_ids"][:, :width][inside], package["input_ids"][inside])


@pytest.mark.nightly
def test_every_way_is_measured_and_they_agree(tmp_path, capsys):
    options = speed.parse(["--smoke", "--device", "cpu", "--threads", "1", "--out", str(tmp_path / "found.json")])
    options.inspect = True
    found, embeddings = {}, {}
    for way in WAYS:
        options.embeddings = tmp_path / f"{way}.pt"
        first = speed.measure(way, options)
        found[way] = [first, {name: value for name, value in first.items() if name not in ("parts", "losses")}]
        if options.embeddings.exists():
            embeddings[way] = torch.load(options.embeddings)
    options.workers = 1
    speed.report(found, embeddings, speed.measure_data(options), options)
    content = json.loads((tmp_path / "found.json").read_text())
    results = content["results"]
    assert results.keys() == WAYS.keys() and embeddings.keys() == ENCODINGS.keys()
    for way in ("reference_unpadded", "reference_masked_only", "irra"):
        assert results[way]["largest_difference"] < 1e-4 and results[way]["gflops"] < results["reference"]["gflops"]
    for way in ("texts_batch", "texts_grouped"):
        assert results[way]["largest_difference"] < 1e-5
        assert results[way]["gflops"] < results["texts_padded"]["gflops"]
    for way in STEPS:
        parts = results[way]["rounds"][0]["parts"]
        assert {"vision", "text", "fusion", "MLM head", "loss", "optimiser"} <= parts.keys()
        assert results[way]["hours_of_training"] > 0
    assert {"class attention", "masking", "TEM's words"} <= results["aga"]["rounds"][0]["parts"].keys()
    assert {row["images"] for row in content["data"]} == {"crops", "photographs"}
    assert {row["workers"] for row in content["data"]} == {0, 1}
    for row in content["data"]:
        [field], [package] = (row["pairs_per_second"][way] for way in ("field", "package"))
        assert row["faster_by"]["median"] == pytest.approx(package / field) and field > 0
    assert "this package: AGM + TEM" in capsys.readouterr().out


@pytest.mark.nightly
def test_the_command_measures_in_processes_of_their_own(python, tmp_path):
    path = tmp_path / "found.json"
    options = ["--smoke", "--out", path, "--device", "cpu", "--threads", 1, "--workers", 0]
    run = run_bench(python, "speed", *options, "--ways", "reference", "irra")
    found = json.loads(path.read_text())
    assert found["device"]["processor"] in run.stdout and found["device"]["threads"] == 1
    ratio = found["results"]["irra"]["faster_by"]
    assert ratio["least"] == ratio["median"] == ratio["most"] > 0
    if Path("/proc/self/clear_refs").exists():
        assert 0 < found["results"]["irra"]["held_mib"] < found["results"]["irra"]["peak_mib"]
    assert {row["workers"] for row in found["data"]} == {0}
