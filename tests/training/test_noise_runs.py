"""Runs on noisy training captions: only the training split changes, and a continued run has the same noise."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_run import RUN

from aga_model import AgaConfig, AgaForPreTraining, AgaProcessor
from aga_model.data import NoiseRecord, load_benchmark, make_noise_index
from aga_model.data.rendered import render_dataset
from aga_model.training import run as training_run
from aga_model.training.arguments import parse_run_arguments
from aga_model.training.release.card import label_noise
from aga_model.training.run import main, prepare

BASE = Path(__file__).parents[2] / "checkpoints" / "aga-small-rendered"
NOISE = ["--noisy_correspondence", "0.25", "--caption_errors", "0.2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    render_dataset(folder, 14, 0, val_identities=3, test_identities=3, height=48, width=32, processes=1)
    return folder


@pytest.fixture
def run_file(tmp_path, data):
    path = tmp_path / "run.yaml"
    settings = {**RUN, "max_steps": 1, "eval_steps": 1, "save_steps": 1, "data_root": str(data)}
    path.write_text(yaml.safe_dump(settings))
    return path


def _prepare(run_file, folder, *change):
    return prepare(*parse_run_arguments([str(run_file), "--output_dir", str(folder), *change]))


def _captions(run):
    return run.splits["train"]["caption"][:]


def test_only_the_training_captions_change(run_file, data, tmp_path):
    run = _prepare(run_file, tmp_path / "run", *NOISE)
    clean = load_benchmark("cuhk-pedes", data)
    for split in ("val", "test"):
        assert run.splits[split].to_dict() == clean[split].to_dict()
    before, after = clean["train"], run.splits["train"]
    assert after.remove_columns("caption").to_dict() == before.remove_columns("caption").to_dict()

    record = NoiseRecord.from_json(json.loads((tmp_path / "run" / "noise.json").read_text()))
    assert record.rows == len(before) and len(record.permuted) == round(0.25 * len(before)) > 0
    persons, captions = before["person_id"][:], after["caption"][:]
    assert all(persons[row] != persons[source] for row, source in record.permuted.items())
    assert record.errors and all(captions[e.row][e.start : e.end] == e.wrong for e in record.errors)
    touched = set(record.permuted) | {error.row for error in record.errors}
    assert {row for row, caption in enumerate(before["caption"][:]) if captions[row] != caption} == touched
    noted = json.loads((tmp_path / "run" / "run.json").read_text())
    assert noted["noise"] == record.summary() and noted["noise"]["seed"] == RUN["seed"] == 3
    assert noted["data"]["noisy_correspondence"] == 0.25 and noted["data"]["caption_errors"] == 0.2


def test_identities_held_out_for_validation_stay_clean(run_file, data, tmp_path):
    """A set without a validation split: its captions are noised after the identities are held out."""
    records = [r for r in json.loads((data / "reid_raw.json").read_text()) if r["split"] != "val"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reid_raw.json").write_text(json.dumps(records))
    (tmp_path / "data" / "imgs").symlink_to(data / "imgs")
    options = ["--data_root", str(tmp_path / "data"), "--validation_identities", "3"]
    clean = _prepare(run_file, tmp_path / "clean", *options)
    noisy = _prepare(run_file, tmp_path / "noisy", *options, *NOISE)
    assert noisy.splits["val"].to_dict() == clean.splits["val"].to_dict()
    assert noisy.splits["test"].to_dict() == clean.splits["test"].to_dict()
    assert _captions(noisy) != _captions(clean)
    assert json.loads((tmp_path / "noisy" / "noise.json").read_text())["counts"]["rows"] == len(_captions(noisy))


def test_the_seed_of_the_run_is_that_of_the_noise(run_file, tmp_path):
    first = _captions(_prepare(run_file, tmp_path / "a", *NOISE))
    assert _captions(_prepare(run_file, tmp_path / "b", *NOISE, "--noise_seed", "3")) == first
    assert _captions(_prepare(run_file, tmp_path / "c", *NOISE, "--seed", "4")) != first
    assert _captions(_prepare(run_file, tmp_path / "d", *NOISE, "--seed", "4", "--noise_seed", "3")) == first


def test_permuted_captions_can_be_left_out(run_file, data, tmp_path):
    run = _prepare(run_file, tmp_path / "run", *NOISE, "--leave_out_permuted", "True")
    noisy = _prepare(run_file, tmp_path / "noisy", *NOISE).splits["train"].to_dict()
    record = NoiseRecord.from_json(json.loads((tmp_path / "run" / "noise.json").read_text()))
    left = [row for row in range(record.rows) if row not in record.permuted]
    assert run.splits["train"].to_dict() == {name: [values[row] for row in left] for name, values in noisy.items()}


@pytest.fixture
def started_file(run_file):
    """The run from the base model, which knows such pairs."""
    settings = yaml.safe_load(run_file.read_text()) | {"model_name_or_path": str(BASE)}
    del settings["model_config"]
    run_file.write_text(yaml.safe_dump(settings))
    return run_file


def test_pairs_that_the_start_finds_wrong_are_left_out(started_file, tmp_path, monkeypatch):
    noise = ["--noisy_correspondence", "0.4"]
    noisy = _prepare(started_file, tmp_path / "noisy", *noise).splits["train"]
    folder = tmp_path / "run"
    run = _prepare(started_file, folder, *noise, "--leave_out_wrong_pairs", "True")
    found = json.loads((folder / "wrong_pairs.json").read_text())
    left_out = {pair["row"] for pair in found["left_out"]}
    kept = [row for row in range(len(noisy)) if row not in left_out]
    assert run.splits["train"].to_dict() == noisy.select(kept).to_dict()
    assert all(noisy["caption"][pair["row"]] == pair["caption"] for pair in found["left_out"])
    permuted = set(NoiseRecord.from_json(json.loads((folder / "noise.json").read_text())).permuted)
    assert len(left_out & permuted) > 0.7 * len(permuted) and len(left_out - permuted) < 0.2 * len(kept)
    noted = json.loads((folder / "run.json").read_text())
    assert noted["wrong_pairs"] == found | {"left_out": len(left_out)}
    said = f"; {len(left_out)} of {len(noisy)} left out, which the model to start from found wrong"
    assert label_noise(noted).endswith(said) and label_noise({"data": {}}) == "none added"
    assert noted["data_counts"]["train"]["captions"] == len(kept)
    run.lock.release()

    def forbidden(*args, **kwargs):
        raise AssertionError("a continued run takes the list of its first start")

    monkeypatch.setattr(training_run, "find_wrong_pairs", forbidden)
    again = _prepare(started_file, folder, *noise, "--leave_out_wrong_pairs", "True")
    assert again.splits["train"].to_dict() == run.splits["train"].to_dict()
    again.lock.release()
    (folder / "wrong_pairs.json").unlink()
    with pytest.raises(ValueError, match=r"wrong_pairs\.json: cannot be read"):
        _prepare(started_file, folder, *noise, "--leave_out_wrong_pairs", "True")


def test_wrong_pairs_ask_for_a_model_that_knows(run_file, tmp_path):
    with pytest.raises(ValueError, match="give model_name_or_path"):
        _prepare(run_file, tmp_path / "run", "--leave_out_wrong_pairs", "True")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_model_that_knows_nothing_is_named(started_file, tmp_path):
    config = AgaConfig.from_pretrained(BASE)
    torch.manual_seed(0)
    AgaForPreTraining(config).save_pretrained(tmp_path / "fresh")
    AgaProcessor.from_pretrained(BASE).save_pretrained(tmp_path / "fresh")
    with pytest.raises(ValueError, match="match their images no better than a stranger's"):
        _prepare(
            started_file, tmp_path / "run", "--leave_out_wrong_pairs", "True", "--model_name_or_path",
            str(tmp_path / "fresh"),
        )  # fmt: skip


def test_without_noise_there_is_no_record(run_file, data, tmp_path):
    run = _prepare(run_file, tmp_path / "run")
    assert run.splits["train"].to_dict() == load_benchmark("cuhk-pedes", data)["train"].to_dict()
    assert not (tmp_path / "run" / "noise.json").exists()
    assert "noise" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_run_trains_on_noise_and_is_continued_with_the_same(run_file, data, tmp_path, capsys):
    folder = tmp_path / "run"
    command = [str(run_file), "--output_dir", str(folder)]
    assert main([*command, *NOISE]) == 0
    before = (folder / "noise.json").read_bytes()
    captions = _captions(_prepare(run_file, folder, *NOISE))
    record = NoiseRecord.from_json(json.loads(before))
    assert (folder / "noise.json").read_bytes() == before
    assert all(captions[e.row][e.start : e.end] == e.wrong for e in record.errors)
    assert not list(folder.glob("*.tmp"))

    capsys.readouterr()
    assert main([*command, "--noisy_correspondence", "0.5", "--caption_errors", "0.2"]) == 2
    assert "data.noisy_correspondence: 0.25 -> 0.5" in capsys.readouterr().err
    assert main(command) == 2
    assert "data.caption_errors: 0.2 -> 0.0" in capsys.readouterr().err
    assert (folder / "noise.json").read_bytes() == before

    # A folder whose data have changed since, or that an earlier version started without noise.
    values = json.loads(before)
    values["errors"].pop()
    (folder / "noise.json").write_text(json.dumps(values))
    assert main([*command, *NOISE]) == 2
    assert "started with other noise" in capsys.readouterr().err
    (folder / "noise.json").unlink()
    assert main([*command, *NOISE]) == 2
    assert "started with other noise" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--noisy_correspondence", "1.0"], "noisy_correspondence must be at least 0 and below 1, got 1.0"),
        (["--caption_errors", "-0.1"], "caption_errors must be at least 0 and below 1, got -0.1"),
        (["--caption_errors", "0.1", "--noise_seed", "-2"], "seed of the noise must be at least 0, got -2"),
    ],
)
def test_bad_settings_are_named_before_any_work(run_file, tmp_path, capsys, change, named):
    change = [*change, "--data_root", "/no/such/folder"]
    assert main([str(run_file), "--output_dir", str(tmp_path / "run"), *change]) == 2
    assert named in capsys.readouterr().err


def test_the_help_explains_the_noise(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_run_arguments(["--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "share of the training captions, in [0, 1), that are permuted" in text
    assert "replaced by a wrong one of the same kind" in text and "the run's seed when not given" in text


def test_noise_as_the_field_measures_it(run_file, data, tmp_path):
    clean = load_benchmark("cuhk-pedes", data)["train"]
    made = make_noise_index(len(clean), 0.25)
    np.save(tmp_path / "own.npy", made.values)
    wanted = [clean["caption"][int(source)] for source in made.values]
    ruled = _prepare(run_file, tmp_path / "rde", "--noise_index", "rde", "--noisy_correspondence", "0.25")
    read = _prepare(run_file, tmp_path / "file", "--noise_index", str(tmp_path / "own.npy"))
    assert _captions(ruled) == _captions(read) == wanted != clean["caption"][:]
    for folder, name, rate in (("rde", "rde", 0.25), ("file", "own.npy", 0.0)):
        noted = json.loads((tmp_path / folder / "run.json").read_text())["noise"]
        assert noted["index"] == {"name": name, "rows": len(clean), "sha256": made.sha256}
        assert (
            noted["noisy_correspondence"] == rate
            and noted["permuted_rows"] == (made.values != range(len(clean))).sum()
        )
    left = _prepare(
        run_file, tmp_path / "left", "--noise_index", str(tmp_path / "own.npy"), "--leave_out_permuted", "1"
    )
    assert _captions(left) == [wanted[row] for row in range(len(clean)) if made.values[row] == row]


def test_an_index_counts_the_identities_that_are_held_out(run_file, data, tmp_path):
    records = [r for r in json.loads((data / "reid_raw.json").read_text()) if r["split"] != "val"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reid_raw.json").write_text(json.dumps(records))
    (tmp_path / "data" / "imgs").symlink_to(data / "imgs")
    whole = load_benchmark("cuhk-pedes", tmp_path / "data")["train"]
    made = make_noise_index(len(whole), 0.5)
    options = ["--data_root", str(tmp_path / "data"), "--validation_identities", "3", "--noise_index", "rde"]
    run = _prepare(run_file, tmp_path / "run", *options, "--noisy_correspondence", "0.5")
    wanted = {}
    for row, person in enumerate(whole["person_id"][:]):
        wanted.setdefault(person, []).append(whole["caption"][int(made.values[row])])
    trained = set(run.splits["train"]["person_id"][:])
    assert _captions(run) == [caption for person, own in wanted.items() if person in trained for caption in own]
    held_out = set(run.splits["val"]["person_id"][:])
    clean = [whole["caption"][row] for row, person in enumerate(whole["person_id"][:]) if person in held_out]
    assert sorted(run.splits["val"]["caption"][:]) == sorted(clean) and len(held_out) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise_index", "rde"], "noise_index rde needs the share"),
        (["--noise_index", "any.npy", "--noisy_correspondence", "0.2"], "leave noisy_correspondence out"),
        (["--noise_index", "gone.npy"], "no such file"),
    ],
)
def test_an_index_that_cannot_be_meant_is_refused_before_data_are_read(run_file, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _prepare(run_file, tmp_path / "run", "--data_root", str(tmp_path / "nowhere"), *options)


def test_an_index_is_not_counted_among_fewer_images(run_file, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    records = json.loads((data / "reid_raw.json").read_text())
    first = next(record for record in records if record["split"] == "train")
    (tmp_path / "data" / "imgs" / first["file_path"]).write_bytes(b"broken")
    options = ["--data_root", str(tmp_path / "data"), "--skip_unreadable", "1", "--noise_index", "rde"]
    with pytest.raises(ValueError, match="counts every image of the annotation"):
        _prepare(run_file, tmp_path / "run", *options, "--noisy_correspondence", "0.2")
