"""What a run does with a dataset that has no validation split, or images that cannot be read."""

import json
import logging

import pytest
import yaml
from test_run import RUN

from aga_model.data.rendered import render_dataset
from aga_model.training.arguments import DataArguments
from aga_model.training.run import _load_splits, main


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    render_dataset(folder, 31, 0, val_identities=4, test_identities=3, height=48, width=32, processes=1)
    return folder


@pytest.fixture
def own(rendered, tmp_path):
    """The rendered set's train and test images in the own format, without a validation split."""
    lines = [
        {"file_name": r["file_path"], "person_id": r["id"], "captions": r["captions"], "split": r["split"]}
        for r in json.loads((rendered / "reid_raw.json").read_text())
        if r["split"] != "val"
    ]
    folder = tmp_path / "own"
    for line in lines:
        path = folder / line["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((rendered / "imgs" / line["file_name"]).read_bytes())
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder, lines


def test_a_set_with_a_validation_split_keeps_it(rendered):
    splits, decisions = _load_splits(DataArguments(data_root=str(rendered)))
    assert [len(set(splits[split]["person_id"])) for split in ("train", "val", "test")] == [24, 4, 3]
    assert decisions == {"skipped_images": [], "validation": {"source": "the dataset's own split"}}
    with pytest.raises(ValueError, match="validation_identities is 2, but cuhk-pedes has a validation split"):
        _load_splits(DataArguments(data_root=str(rendered), validation_identities=2))


@pytest.mark.parametrize(("wanted", "held_out"), [(0, 2), (6, 6)])
def test_identities_are_held_out_where_there_is_none(own, wanted, held_out):
    data = DataArguments(dataset="own", data_root=str(own[0]), validation_identities=wanted)
    splits, decisions = _load_splits(data)
    persons = {split: set(rows["person_id"]) for split, rows in splits.items()}
    assert len(persons["val"]) == held_out and len(persons["train"]) == 24 - held_out
    assert not persons["val"] & persons["train"] and not persons["test"] & (persons["val"] | persons["train"])
    assert decisions["validation"]["identities"] == held_out and "held out" in decisions["validation"]["source"]
    assert set(_load_splits(data)[0]["val"]["person_id"]) == persons["val"]


def test_a_published_validation_split_must_be_there(rendered, tmp_path):
    records = [r for r in json.loads((rendered / "reid_raw.json").read_text()) if r["split"] != "val"]
    (tmp_path / "reid_raw.json").write_text(json.dumps(records))
    (tmp_path / "imgs").symlink_to(rendered / "imgs")
    with pytest.raises(ValueError, match="no records of split 'val'"):
        _load_splits(DataArguments(data_root=str(tmp_path)))
    splits, _ = _load_splits(DataArguments(data_root=str(tmp_path), validation_identities=4))
    assert len(set(splits["val"]["person_id"])) == 4


def test_unreadable_images_are_refused_or_left_out_by_name(own, tmp_path, caplog, capsys):
    folder, lines = own
    first, second = (folder / line["file_name"] for line in lines[:2])
    first.unlink()
    second.write_bytes(b"\xff\xd8\xff")
    run_file = tmp_path / "run.yaml"
    settings = {**RUN, "max_steps": 1, "eval_steps": 1, "save_steps": 1, "dataset": "own", "data_root": str(folder)}
    run_file.write_text(yaml.safe_dump(settings))
    command = [str(run_file), "--output_dir", str(tmp_path / "run")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"2 images are missing or cannot be decoded, first: {first}, {second}" in error
    assert not (tmp_path / "run").exists()
    with caplog.at_level(logging.WARNING, logger="aga_model"):
        assert main([*command, "--skip_unreadable", "true"]) == 0
    assert "2 images are missing or cannot be decoded" in caplog.text and first.name in caplog.text
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["skipped_images"] == [str(first), str(second)]
    assert run["validation"] == {
        "source": "identities held out of the training split", "identities": 2, "seed": 0,
    }  # fmt: skip
    assert run["data"]["skip_unreadable"] is True
    images = sum(counts["images"] for counts in run["data_counts"].values())
    assert images == len(lines) - 2
    third = folder / lines[2]["file_name"]
    third.unlink()
    capsys.readouterr()
    assert main([*command, "--skip_unreadable", "true"]) == 2
    assert f"{third}: can no longer be decoded" in capsys.readouterr().err
