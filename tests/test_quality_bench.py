"""The quality bench: its arithmetic by hand, and its smoke size from a kill to the report."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from datasets import Dataset

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.data import CaptionError, NoiseRecord
from aga_model.data.rendered import render_dataset
from aga_model.training.run_folder import NOISE_FILE
from benchmarks.quality import cells as quality_cells
from benchmarks.quality import quality
from benchmarks.quality.report import _draw_recipes, _draws_lines, chance_beyond, draw, markdown, write_report
from benchmarks.quality.settings import load_settings, merge, run_values
from benchmarks.quality.summary import mean_sd, paired_difference, summarise

REPOSITORY = Path(__file__).parents[1]
SETTINGS = REPOSITORY / "benchmarks" / "quality"

# --- arithmetic -------------------------------------------------------------------------------------------------


def test_mean_and_sample_deviation():
    assert mean_sd([1, 2, 6]) == {"mean": 3.0, "sd": pytest.approx(7**0.5), "seeds": 3}  # (4 + 1 + 9) / 2
    assert mean_sd([4.5]) == {"mean": 4.5, "sd": None, "seeds": 1}


def test_the_chance_of_two_standard_errors():
    """Student's t: with two degrees of freedom P(|t| > x) = 1 - x / sqrt(2 + x * x); with many the normal's 4.55%."""
    assert chance_beyond(2.0, 3) == pytest.approx(1 - 2 / 6**0.5, abs=1e-5)
    assert chance_beyond(2.0, 300) == pytest.approx(0.0464, abs=2e-4)


def test_differences_are_paired_by_seed():
    """60, 62, 61 -> 61, 65, 63: differences 1, 3, 2 with sd 1, although either side varies by 1 and 2."""
    found = paired_difference({1: 60, 2: 62, 3: 61, 4: 0}, {3: 63, 2: 65, 1: 61, 5: 99})
    assert found == {
        "mean": pytest.approx(2.0),
        "standard_error": pytest.approx(1 / 3**0.5),
        "standard_errors": pytest.approx(2 * 3**0.5),
        "seeds": 3,
    }
    assert paired_difference({1: 5.0}, {1: 7.0}) == {
        "mean": 2.0, "standard_error": None, "standard_errors": None, "seeds": 1,
    }  # fmt: skip
    assert paired_difference({1: 5.0, 2: 5.0}, {1: 6.0, 2: 6.0})["standard_errors"] is None
    assert paired_difference({1: 5.0}, {2: 7.0}) is None


def test_choice_of_the_learning_rate():
    assert quality.best_factor({2.0: 30.0, 0.5: 10.0, 1.0: 30.0}) == 1.0
    assert quality.factors_beyond({0.5: 10.0, 1.0: 30.0, 2.0: 20.0}) == ()
    assert quality.factors_beyond({0.5: 10.0, 1.0: 20.0, 2.0: 30.0}) == (4.0,)
    assert quality.factors_beyond({0.5: 30.0, 1.0: 20.0, 2.0: 10.0}) == (0.25,)
    scores = {0.5: 76.2, 1.0: 77.0, 2.0: 77.1}
    assert [quality.choose_factor(scores, *rule) for rule in ((0.5, 1.0), (0.5, 0.5), (4.0, 1.0))] == [0.5, 2.0, 2.0]


class ToldTrials:
    """Workers whose trials end with given scores."""

    def __init__(self, scores, failing=()):
        self.scores, self.failing, self.ran = scores, failing, []

    def run(self, work, jobs, label):
        for job in jobs:
            self.ran.append(job.name)
            job.result.parent.mkdir(parents=True, exist_ok=True)
            content = {"validation": {"validation_mAP": self.scores[job.name]}, "settings_hash": job.settings_hash}
            if job.name not in self.failing:
                job.result.write_text(json.dumps(content))
        return {job.name: "failed" for job in jobs if job.name in self.failing}


def _search(tmp_path, workers, **search):
    settings = load_settings(SETTINGS / "bench.yaml")
    rates = dataclasses.replace(settings.learning_rates, **search)
    bench = quality.Bench(dataclasses.replace(settings, learning_rates=rates), tmp_path / "out", tmp_path, 1)
    bench.base_model, bench.fixed = "a model", {}
    return bench._search(workers, ["itc", "irra"])


TRIALS = {
    "itc--x0.5": 60.0, "itc--x1": 77.0, "itc--x2": 70.0,
    "irra--x0.5": 76.5, "irra--x1": 77.0, "irra--x2": 77.2, "irra--x4": 70.0,
}  # fmt: skip


def test_the_preferred_rate_is_taken_unless_the_search_can_tell_a_better_one(tmp_path):
    workers = ToldTrials(TRIALS)
    assert _search(tmp_path, workers, prefer=0.5, near=1.0) == ({"itc": 1.0, "irra": 0.5}, {})
    assert workers.ran == list(TRIALS)
    chosen = json.loads((tmp_path / "out" / "learning_rates.json").read_text())
    assert chosen["irra"]["validation"] == {"0.5": 76.5, "1": 77.0, "2": 77.2, "4": 70.0}
    remarks = {recipe: (found["factor"], found["extended"], found["at_end"]) for recipe, found in chosen.items()}
    assert remarks == {"itc": (1.0, False, False), "irra": (0.5, True, False)}
    (tmp_path / "runs" / "irra--x1").mkdir(parents=True)  # a kill between the result and the end of the run
    assert _search(tmp_path, workers, prefer=0.5, near=0.0) == ({"itc": 1.0, "irra": 2.0}, {})
    assert not list((tmp_path / "runs").iterdir())
    assert len(workers.ran) == len(TRIALS)  # what was there has not run again


def test_a_grid_that_is_not_to_be_extended(tmp_path):
    workers = ToldTrials(TRIALS)
    assert _search(tmp_path, workers, near=0.0, extend=False) == ({"itc": 1.0, "irra": 2.0}, {})
    assert "irra--x4" not in workers.ran
    chosen = json.loads((tmp_path / "out" / "learning_rates.json").read_text())
    assert (chosen["irra"]["extended"], chosen["irra"]["at_end"]) == (False, True)


@pytest.mark.parametrize("failing", ["irra--x1", "irra--x4"])
def test_a_recipe_whose_trial_fails_is_left_out(tmp_path, failing):
    factors, failed = _search(tmp_path, ToldTrials(TRIALS, failing=(failing,)), prefer=0.5, near=1.0)
    assert factors == {"itc": 1.0} and list(failed) == [failing]


def test_steps_at_equal_time():
    seconds = {"slow": 0.2, "fast": 0.1, "between": 0.15, "slower still": 90.0}
    steps = quality.equal_time_steps(seconds, budget=0.2 * 200)
    assert steps == {"slow": 200, "fast": 400, "between": 267, "slower still": 1}


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.fixture
def settings_folder(tmp_path):
    folder = tmp_path / "quality"
    shutil.copytree(SETTINGS, folder)
    return folder


def _change(path: Path, **changes) -> Path:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))
    return path


def test_the_committed_settings_can_be_read():
    bench = load_settings(SETTINGS / "bench.yaml")
    assert {"itc", "irra", "irra_agm", "irra_agm_tem"} <= bench.recipes.keys()
    assert len(bench.seeds) >= 3 and set(bench.budgets) == {"steps", "time"} and bench.noise[bench.clean] == {}
    rates = {(noise.get("noisy_correspondence", 0), noise.get("caption_errors", 0)) for noise in bench.noise.values()}
    assert rates >= {(0, 0), (0.2, 0), (0.5, 0), (0, 0.15)}
    weights = [recipe.run["model_config"]["objective_config"]["loss_weights"] for recipe in bench.recipes.values()]
    assert weights[0] == {"itc": 1.0} and weights[1] == {"sdm": 1.0, "id": 1.0, "mlm": 1.0}


def test_settings_stand_on_those_that_they_extend():
    bench = load_settings(SETTINGS / "bench.yaml")
    choices = load_settings(SETTINGS / "choices" / "bench.yaml")
    assert choices.data == bench.data and choices.base_model == bench.base_model
    assert choices.run == {**bench.run, "learning_rate": 1e-3, "muon_learning_rate": 1e-3}
    assert choices.learning_rates.factors == (1.0,) and choices.learning_rates.seed == bench.learning_rates.seed
    assert choices.noise.keys() == {"clean", "caption-errors-0.15"} and choices.measured_on == "val"
    assert not set(choices.seeds) & set(bench.seeds)


def test_what_was_found_belongs_to_one_file(settings_folder):
    found = _change(settings_folder / "smoke.yaml", title="Rain", findings="- It is wet.\n")
    (settings_folder / "more.yaml").write_text("extends: smoke.yaml\nseeds: [7]\n")
    settings, more = load_settings(found), load_settings(settings_folder / "more.yaml")
    assert (settings.title, settings.findings) == ("Rain", "- It is wet.")
    assert (more.title, more.findings, more.seeds) == ("Quality bench", "", (7,))


def test_a_recipe_adds_to_the_common_settings():
    common = {"weight_decay": 0.1, "model_config": {"a": 1, "objective_config": {"loss_weights": {"itc": 1}, "b": 2}}}
    own = {"model_config": {"objective_config": {"loss_weights": {"sdm": 1}}}}
    assert merge(common, own) == {
        "weight_decay": 0.1,
        "model_config": {"a": 1, "objective_config": {"loss_weights": {"sdm": 1}, "b": 2}},
    }
    assert common["model_config"]["objective_config"]["loss_weights"] == {"itc": 1}


def test_a_run_has_its_factor_and_the_noise_of_its_seed():
    bench = load_settings(SETTINGS / "bench.yaml")
    plain = run_values(bench, "itc", "clean", 3, 100, 1.0)
    noisy = run_values(bench, "irra", "correspondence-0.2", 3, 100, 2.0)
    assert noisy["learning_rate"] == 2 * plain["learning_rate"]
    assert noisy["muon_learning_rate"] == 2 * plain["muon_learning_rate"]
    assert (noisy["noisy_correspondence"], noisy["noise_seed"], noisy["seed"]) == (0.2, 3, 3)
    assert "noise_seed" not in plain and plain["max_steps"] == 100 and plain["eval_steps"] == 34


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'"),
        ({"reference": "irrra"}, "no recipe irrra"),
        (
            {"learning_rates": {"factors": [0.5, 1], "seed": 1, "prefer": 1, "near": 1, "extend": True, "steps": 2}},
            "one of the seeds that are compared",
        ),
        ({"noise": {"clean": {}, "rain": {"raindrops": 0.1}}}, "rain: unknown key raindrops"),
    ],
)
def test_bad_settings_are_named(settings_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        load_settings(_change(settings_folder / "smoke.yaml", **changes))


@pytest.mark.parametrize(
    "file",
    [
        "bench.yaml",
        "published.yaml",
        "noise.yaml",
        "noise_seeds.yaml",
        "bert.yaml",
        "choices/bench.yaml",
        "choices_amns/bench.yaml",
        "choices_weights/bench.yaml",
    ],
)
def test_recipes_say_what_their_method_does(file):
    """What a recipe leaves unsaid comes from the base model's file, not from the defaults of the day."""
    for recipe in load_settings(SETTINGS / file).recipes.values():
        objective = recipe.run["model_config"]["objective_config"]
        if "mlm" in objective["loss_weights"]:
            assert {"mask_strategy", "mask_ratio", "mask_max_probability", "enrichment"} <= objective.keys()
            assert objective["mask_strategy"] == "random" or "attention_decay" in objective
            tem = {f"enrichment_{name}" for name in ("probability", "sampling", "min_confidence", "start")}
            assert objective["enrichment"] == "none" or tem <= objective.keys()
        if objective.get("image_keep_ratio", 1.0) < 1:
            assert "image_mask_strategy" in objective
            awm = {"momentum", "distillation_weight", "image_score_resolution"}
            assert objective["image_mask_strategy"] == "random" or awm <= objective.keys()
        if "waf" in objective["loss_weights"]:
            assert {"waf_target", "waf_gamma", "waf_weighting"} <= objective.keys()
        if "bsdm" in objective["loss_weights"]:
            assert "bsdm_kl_weights" in objective


def test_random_weights_have_the_words_of_the_data(tmp_path):
    sizes = {"val_identities": 2, "test_identities": 2, "height": 64, "width": 32, "processes": 1}
    render_dataset(tmp_path / "data", 12, 0, **sizes)
    base = load_settings(SETTINGS / "bert.yaml").base_model
    quality._save_random_model(base | {"vocab_size": 600}, tmp_path / "data", tmp_path / "base")
    model = AgaForPreTraining.from_pretrained(tmp_path / "base")
    tokenizer = AgaProcessor.from_pretrained(tmp_path / "base").tokenizer
    text = model.config.text_config
    assert model.config.family == "bert" and text.vocab_size == len(tokenizer) == 600
    for name in ("bos", "eos", "mask", "pad"):
        assert getattr(text, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")


def test_a_recipe_cannot_train_longer(settings_folder):
    _change(settings_folder / "recipes" / "itc.yaml", max_steps=1000)
    with pytest.raises(ValueError, match=r"itc\.yaml: max_steps is set by the bench"):
        load_settings(settings_folder / "smoke.yaml")


@pytest.mark.parametrize("left_out", ["nothing", "leave_out_wrong_pairs", "leave_out_permuted"])
def test_the_truth_about_errors_needs_the_rows_of_the_record(tmp_path, monkeypatch, left_out):
    """Of rows 0 to 3 the first and the last are read, the last as row 1. Without some pairs the rows are others'."""
    errors = [CaptionError(row, 0, 3, "top colour", "red", "blue", "red", "blue") for row in (1, 3)]
    record = NoiseRecord(seed=0, caption_errors=0.15, rows=4, mentions=4, errors=errors)
    (tmp_path / NOISE_FILE).write_text(json.dumps(record.to_json()))
    rows = Dataset.from_dict(
        {"caption": list("abcd"), "image": [{"path": name} for name in "wxyz"], "person_id": [0, 1, 2, 3]}
    )
    flags = dict.fromkeys(("nothing", "leave_out_wrong_pairs", "leave_out_permuted"), False) | {left_out: True}
    run = SimpleNamespace(
        processor=None,
        data_args=SimpleNamespace(**flags, noisy_correspondence=0.0, caption_errors=0.15),
        args=SimpleNamespace(output_dir=str(tmp_path)),
        splits={"train": rows},
    )
    read = []
    for name in ("masked_attribute_share", "mlm_accuracy"):
        monkeypatch.setattr(quality_cells, name, lambda *arguments: {})
    monkeypatch.setattr(
        quality_cells, "enrichment_truth",
        lambda model, processor, captions, images, found, rounds: read.append((captions, [one.row for one in found])),
    )  # fmt: skip
    model = SimpleNamespace(config=AgaConfig(objective_config={"loss_weights": {"mlm": 1.0}}))
    quality_cells._diagnose(SimpleNamespace(settings={"diagnostic_captions": 2}), run, model, rows)
    assert read == ([(["a", "d"], [1])] * 2 if left_out == "nothing" else [])


# --- summary ----------------------------------------------------------------------------------------------------

RANK1 = {  # recipe, noise -> of the seeds 1, 2
    ("itc", "clean"): (50, 52),
    ("itc", "caption-errors-0.15"): (40, 43),
    ("irra_agm_tem", "clean"): (51, 54),
    ("irra_agm_tem", "caption-errors-0.15"): (44, 49),
}


@pytest.fixture
def smoke():
    return load_settings(SETTINGS / "smoke.yaml")


@pytest.fixture
def results(tmp_path, smoke):
    """Cells as the bench writes them, of the smoke settings; only `itc` has cells of its own at equal time."""
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    entries = {"itc": {"steps": 8, "seconds_per_step": 0.1}, "irra_agm_tem": {"steps": 4, "seconds_per_step": 0.2}}
    (out / "calibration.json").write_text(json.dumps({"recipes": entries}))
    for (recipe, noise), values in RANK1.items():
        for seed, rank1 in enumerate(values, start=1):
            for budget in ("steps", "time") if recipe == "itc" else ("steps",):
                share = {"attention": 60.0 + seed, "random": 30.0}
                steps = entries[recipe]["steps"] if budget == "time" else smoke.steps
                cell = {
                    "recipe": recipe, "noise": noise, "seed": seed, "budget": budget,
                    "steps": steps, "learning_rate_factor": 1.0,
                    "metrics": {"rank1": rank1 - (budget == "time"), "mAP": 30.0},
                    "diagnostics": {} if recipe == "itc" else {"attribute_share": share},
                    "seconds": {"wall": 3600.0, "training": 60.0 * steps}, "versions": {"torch": "2"},
                    "device": {"processor": "cpu", "accelerator": None, "threads": 1, "workers": 2},
                    "settings": {"data": {"world": "target", "identities": 9, "val_identities": 2,
                                          "test_identities": 3, "seed": 0},
                                 "base_model": {"config.json": "0"},
                                 "run": run_values(smoke, recipe, noise, seed, steps, 1.0)},
                }  # fmt: skip
                (out / "cells" / f"{recipe}--{noise}--seed{seed}--{budget}.json").write_text(json.dumps(cell))
    return out


def test_results_of_another_recipe_are_refused(results, smoke, tmp_path):
    changed = {**smoke.recipes["itc"].run, "weight_decay": 0.5}
    recipes = {**smoke.recipes, "itc": dataclasses.replace(smoke.recipes["itc"], run=changed)}
    with pytest.raises(
        ValueError, match=r"itc--clean--seed1--steps\.json was made with other settings than 'itc' has"
    ):
        summarise(dataclasses.replace(smoke, recipes=recipes), results)
    (results / "learning_rates.json").write_text(json.dumps({"irra_agm_tem": {"factor": 2.0}}))
    with pytest.raises(ValueError, match="irra_agm_tem--clean"):
        summarise(smoke, results)


def test_summary_by_hand(results, smoke, tmp_path):
    summary = summarise(smoke, results)
    assert summary["recipes"]["itc"]["training_seconds"] == {"steps": 240.0, "time": 480.0}
    assert summary["recipes"]["irra_agm_tem"]["training_seconds"] == {"steps": 240.0, "time": 240.0}
    assert summary["results"]["steps"]["itc"]["clean"]["rank1"] == {
        "mean": 51,
        "sd": pytest.approx(2**0.5),
        "seeds": 2,
    }
    at_steps = {row["noise"]: row["metrics"]["rank1"] for row in summary["differences"] if row["budget"] == "steps"}
    clean, errors = at_steps["clean"], at_steps["caption-errors-0.15"]  # differences (1, 2) and (4, 6)
    assert (clean["mean"], clean["standard_error"], clean["change"]) == (1.5, pytest.approx(0.5), None)
    assert (errors["mean"], errors["standard_error"], errors["standard_errors"]) == (5, pytest.approx(1), 5)
    # Less the clean ones: 3 and 4.
    assert (errors["change"]["mean"], errors["change"]["standard_error"]) == (3.5, pytest.approx(0.5))
    assert errors["p_value"] is None
    # At equal time the slowest recipe's cells count again; itc has 1 less there.
    at_time = {row["noise"]: row["metrics"]["rank1"] for row in summary["differences"] if row["budget"] == "time"}
    assert at_time["clean"]["mean"] == 2.5
    shares = [row["figures"]["share_attention"]["mean"] for row in summary["diagnostics"]]
    assert shares == [61.5, 61.5] and {row["recipe"] for row in summary["diagnostics"]} == {"irra_agm_tem"}
    assert summary["run_seconds"] == 12 * 3600 and summary["elapsed_seconds"] == 6 * 3600

    text = markdown(summary, "the command", "plot.png", [])
    assert "| IRRA + AGM + TEM | 52.5 ± 2.1 | 46.5 ± 3.5 |" in text
    assert "| caption-errors-0.15 | **+5.00 ± 1.00 (5.0)** | - | **+3.50 ± 0.50 (7.0)** | +0.00 |" in text
    assert "| 61.5 ± 0.7 | 30.0 ± 0.0 |" in text
    assert "# Quality bench\n" in text and "What it shows" not in text and "At equal time" in text
    summary |= {"title": "Rain", "findings": "- It is wet.", "results": {"steps": summary["results"]["steps"]}}
    text = markdown(summary, "the command", "plot.png", [])
    assert "# Rain\n" in text and "## What it shows\n\n- It is wet.\n\n## Recipes" in text
    assert "At equal time" not in text and "## Rank-1 against noise" in text

    summary |= {"noise": {"clean": {}}}
    text = markdown(summary, "the command", "plot.png", [])
    assert "## Plot" in text and "![Metrics of each recipe](plot.png)" in text
    draw(summary, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    rank1, _ = _draw_recipes(summary).axes
    assert [text.get_text() for text in rank1.get_yticklabels()] == ["ITC", "IRRA + AGM + TEM"]
    points = [tuple(bars.lines[0].get_xydata()[0]) for bars in rank1.containers]
    assert points == [(51, pytest.approx(-0.1)), (52.5, pytest.approx(0.9))]


def test_more_recipes_than_colours_get_a_row_each(results, smoke, tmp_path):
    summary = summarise(smoke, results)
    many = {f"{number}": summary["recipes"]["itc"] | {"name": f"recipe {number}"} for number in range(9)}
    figures = {key: summary["results"]["steps"]["itc"] for key in many}
    summary |= {"recipes": many, "results": {"steps": figures}}
    assert not _draws_lines(summary)
    panels = _draw_recipes(summary).axes
    assert [panel.get_title() for panel in panels] == [
        "Rank-1, clean", "Rank-1, caption-errors-0.15", "mAP, clean", "mAP, caption-errors-0.15",
    ]  # fmt: skip
    assert [text.get_text() for text in panels[2].get_yticklabels()] == [f"recipe {number}" for number in range(9)]
    assert [bars.lines[0].get_xydata()[0][0] for bars in panels[0].containers] == [51] * 9


def test_the_test_over_persons_takes_the_mean_of_the_seeds(results, smoke, tmp_path):
    """Each of 12 persons is found by the second recipe only, in one of the seeds or the other."""
    records = results / "records"
    records.mkdir()
    persons = np.repeat(np.arange(12), 2)
    for path in results.glob("cells/*.json"):
        cell = json.loads(path.read_text())
        found = (cell["recipe"] != "itc") & (persons % 2 == cell["seed"] % 2)
        np.savez(
            records / f"{path.stem}.npz", person_ids=persons, first_rank=np.where(found, 1, 2),
            average_precision=np.full(24, 0.5),
        )  # fmt: skip
    row = summarise(smoke, results)["differences"][0]["metrics"]
    assert row["rank1"]["p_value"] < 0.002 and row["mAP"]["p_value"] == 1.0  # 2 / 2^12 both ways


def test_missing_cells_are_shown_as_such(results, smoke, tmp_path):
    for path in results.glob("cells/itc--*--seed2--*.json"):
        path.unlink()
    for path in results.glob("cells/*--caption*--seed1--*.json"):
        path.unlink()
    write_report(smoke, results, tmp_path / "doc.md", "the command")
    text = (tmp_path / "doc.md").read_text()
    assert "| ITC | 50.0 (1 of 2 seeds) | - |" in text and "| Cells | 8 of 16 |" in text
    assert "| IRRA + AGM + TEM | clean | +1.00 | - | - |" in text


def test_results_of_different_data_are_not_compared(results, smoke, tmp_path):
    path = results / "cells" / "itc--clean--seed1--steps.json"
    cell = json.loads(path.read_text())
    cell["settings"]["data"]["seed"] = 1
    path.write_text(json.dumps(cell))
    with pytest.raises(ValueError, match="differ in data"):
        summarise(smoke, results)


# --- the smoke size ---------------------------------------------------------------------------------------------


def _start(python: str, folder: Path, *arguments: str) -> subprocess.Popen:
    command = [python, "-m", "benchmarks", "quality", "--smoke", "--work", str(folder), "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], stdout=subprocess.PIPE, text=True)
    return [int(line) for line in listed.stdout.split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.is_file() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture(scope="module")
def finished(python, tmp_path_factory):
    """A bench that was killed after its first cell, and then run to its end."""
    folder = tmp_path_factory.mktemp("quality") / "work"
    process, deadline = _start(sys.executable, folder), time.monotonic() + 240
    while not list(folder.glob("results/cells/*.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no cell before the end"
        time.sleep(0.1)
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(_alive(child) for child in children):
        assert time.monotonic() < deadline, "a worker outlives its bench"
        time.sleep(0.1)
    first = {path: path.read_bytes() for path in folder.glob("results/*/*.json")}
    process = _start(python, folder)
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 0, errors
    assert all(path.read_bytes() == content for path, content in first.items()), "a finished run was done again"
    return folder


def _figures(path: Path) -> dict:
    cell = json.loads(path.read_text())
    return {key: cell[key] for key in ("metrics", "diagnostics", "validation", "settings_hash", "steps")}


@pytest.fixture
def in_this_process(monkeypatch):
    """What the bench sets for its workers ends with the test."""
    for name in ("TQDM_DISABLE", "TRANSFORMERS_VERBOSITY", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1" if name.endswith("THREADS") else ""))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.mark.nightly
def test_a_killed_bench_continues_to_all_cells(finished):
    cells = {path.stem for path in finished.glob("results/cells/*.json")}
    calibration = json.loads((finished / "results" / "calibration.json").read_text())
    slowest = calibration["slowest"]
    assert calibration["recipes"][slowest]["steps"] == 4 and calibration["seconds"] == pytest.approx(
        4 * max(entry["seconds_per_step"] for entry in calibration["recipes"].values())
    )
    wanted = {
        f"{recipe}--{noise}--seed{seed}--{budget}"
        for recipe, entry in calibration["recipes"].items()
        for noise in ("clean", "caption-errors-0.15")
        for seed in (1, 2)
        for budget in (("steps",) if entry["steps"] == 4 else ("steps", "time"))
    }
    assert cells == wanted
    assert not list((finished / "runs").iterdir()), "run folders of finished cells are removed"
    assert [path.name for path in (finished / "models").iterdir()] == ["irra_agm_tem--clean--seed1--steps"]
    assert {path.stem for path in (finished / "results" / "records").iterdir()} == cells

    cell = json.loads((finished / "results/cells/irra_agm_tem--caption-errors-0.15--seed2--steps.json").read_text())
    assert {"rank1", "mAP"} <= cell["metrics"].keys() and cell["settings"]["run"]["noise_seed"] == 2
    assert set(cell["diagnostics"]) == {
        "attribute_share", "mlm_accuracy", "enrichment_truth", "enrichment_truth_wrong_image",
    }  # fmt: skip
    assert cell["device"]["threads"] == 1 and cell["seconds"]["wall"] > 0 and "torch" in cell["versions"]
    assert json.loads((finished / "results/cells/itc--clean--seed1--steps.json").read_text())["diagnostics"] == {}


@pytest.mark.nightly
def test_learning_rates_are_chosen_on_validation(finished):
    chosen = json.loads((finished / "results" / "learning_rates.json").read_text())
    for recipe, search in chosen.items():
        scores = {float(factor): score for factor, score in search["validation"].items()}
        assert search["factor"] == quality.choose_factor(scores, prefer=0.5, near=1.0)
        assert search["extended"] and len(scores) == 3  # of two factors one is at either end
        cell = json.loads((finished / f"results/cells/{recipe}--clean--seed1--steps.json").read_text())
        assert cell["settings"]["run"]["learning_rate"] == pytest.approx(1e-2 * search["factor"])
        trial = json.loads((finished / f"results/search/{recipe}--x{search['factor']:g}.json").read_text())
        assert "metrics" not in trial and trial["settings"]["run"]["seed"] == 101


@pytest.mark.nightly
def test_the_report(finished):
    text = (finished / "quality.md").read_text()
    for part in ("python -m benchmarks quality --smoke", "| Seeds | 1, 2 |", "## Equal steps", "## Equal time", "TEM"):
        assert part in text
    assert "| Cells | 16 of 16 |" in text and "](results/pictures/irra_agm_tem--clean--seed1--steps.png)" in text
    assert (finished / "quality.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((finished / "results" / "summary.json").read_text())
    assert all(row["metrics"]["rank1"]["p_value"] is not None for row in summary["differences"])


@pytest.mark.nightly
def test_a_second_call_does_nothing(finished, in_this_process):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.glob("results/cells/*.json")}
    texts = {name: (finished / name).read_bytes() for name in ("quality.md", "results/summary.json")}
    assert quality.main(["--smoke", "--work", str(finished), "--workers", "1"]) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert {name: (finished / name).read_bytes() for name in texts} == texts


@pytest.mark.nightly
def test_one_cell_is_redone_to_the_same_figures(python, finished, tmp_path):
    folder, name = tmp_path / "work", "irra_agm_tem--caption-errors-0.15--seed2--steps"
    shutil.copytree(finished, folder)
    path = folder / "results" / "cells" / f"{name}.json"
    path.unlink()
    (folder / "results" / "records" / f"{name}.npz").unlink()
    process = _start(python, folder, "--only", name)
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 0, errors
    assert _figures(path) == _figures(finished / "results" / "cells" / path.name)
    with (
        np.load(folder / "results" / "records" / f"{name}.npz") as redone,
        np.load(finished / "results" / "records" / f"{name}.npz") as first,
    ):
        assert all(np.array_equal(redone[key], first[key]) for key in first.files)
    other = finished / "results" / "cells" / path.name.replace("seed2", "seed1")
    assert _figures(path)["metrics"] != _figures(other)["metrics"], "too small to tell one run from another"


@pytest.mark.nightly
def test_other_settings_are_refused(finished, settings_folder, in_this_process, capsys):
    path = settings_folder / "smoke.yaml"
    _change(path, run={**yaml.safe_load(path.read_text())["run"], "weight_decay": 0.25})
    before = {path: path.read_bytes() for path in finished.glob("results/**/*.json")}
    assert quality.main(["--smoke", "--work", str(finished), "--settings", str(path)]) == 2
    errors = capsys.readouterr().err
    assert "run.weight_decay: None -> 0.25" in errors and "give another --out" in errors
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.nightly
def test_reranking_and_a_failing_recipe(python, settings_folder, tmp_path):
    """A recipe with ITM and momentum model is re-ranked; one that fails is listed, and the others stand."""
    settings = settings_folder / "few.yaml"
    few = {
        "extends": "smoke.yaml", "only_recipes": ["itc", "aga_itm_momentum", "broken"], "seeds": [1],
        "noise": {"clean": {}}, "budgets": ["steps"], "keep_models": [], "learning_rates": {"factors": [1]},
    }  # fmt: skip
    settings.write_text(yaml.safe_dump(few))
    broken = {"name": "Broken", "description": "Has a key that is none.", "learning_ratte": 1.0}
    (settings_folder / "recipes" / "broken.yaml").write_text(yaml.safe_dump(broken))
    process = _start(python, tmp_path / "work", "--settings", str(settings))
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 1
    assert "failed: broken" in errors and "did you mean 'learning_rate'" in errors
    assert any("learning_ratte" in path.read_text() for path in tmp_path.glob("work/failures/broken*.txt"))
    cells = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("work/results/cells/*.json")}
    metrics = {name.split("--")[0]: cell["metrics"] for name, cell in cells.items()}
    assert "reranked_rank1" not in metrics["itc"] and 0 <= metrics["aga_itm_momentum"]["reranked_rank1"] <= 100
    report = (tmp_path / "work" / "quality.md").read_text()
    assert "the first 8 images of each query ordered by ITM head and similarity" in report
    assert "| Cells | 2 of 3 |" in report
