"""The loaders on miniature sets in their on-disk layout."""

import json
from dataclasses import replace

import numpy as np
import pytest
from miniatures import CUHK, LAYOUTS, OWN_LINES, OWN_TABLE, RSTP, write_image, write_miniature
from PIL import Image

from aga_model.data import (
    FORMATS,
    SplitSize,
    find_unreadable,
    has_validation_split,
    hold_out_identities,
    is_rendered,
    load_benchmark,
    split_records,
)
from aga_model.data.annotations import read_records
from aga_model.data.benchmarks import FEATURES

RECORDS = [
    {
        "split": "train",
        "id": 1,
        "file_path": "CUHK01/a.png",
        "captions": ["A man.", "He walks."],
        "processed_tokens": [],
    },
    {"split": "train", "id": 2, "file_path": "cam_a/b.png", "captions": ["A woman."], "processed_tokens": []},
    {"split": "val", "id": 3, "file_path": "c.png", "captions": ["A boy."], "processed_tokens": []},
    {"split": "test", "id": 4, "file_path": "test_query/d.png", "captions": ["A girl."], "processed_tokens": []},
]


def load_cuhk_pedes(root):
    return load_benchmark("cuhk-pedes", root)


def write_set(folder, records):
    for record in records:
        path = folder / "imgs" / record.get("file_path", "x.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 12)).save(path)
    (folder / "reid_raw.json").write_text(json.dumps(records))


@pytest.mark.parametrize("level", ["", "CUHK-PEDES"])
def test_one_row_per_caption(tmp_path, level):
    write_set(tmp_path / level, RECORDS)
    splits = load_benchmark("cuhk-pedes", tmp_path)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "val": 1, "test": 1}
    train = splits["train"]
    assert train["caption"] == ["A man.", "He walks.", "A woman."]
    assert train["person_id"] == [1, 1, 2] and train["image_id"] == [0, 0, 1]
    assert train["camera_id"] == ["CUHK01", "CUHK01", "cam_a"]
    assert splits["val"]["camera_id"] == [None]
    assert train["image"][2]["path"] == str(tmp_path / level / "imgs" / "cam_a" / "b.png")
    assert not is_rendered(tmp_path)


def _without(key):
    return {name: value for name, value in RECORDS[1].items() if name != key}


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (_without("captions"), "'captions' is missing"),
        (_without("id"), "'id' is missing"),
        ({**RECORDS[1], "captions": []}, r"record 1 \(cam_a/b.png\): has no caption"),
        ({**RECORDS[1], "captions": ["ok", "  "]}, "caption 1 is empty"),
        ({**RECORDS[1], "captions": ["ok", 3]}, r"record 1 \(cam_a/b.png\): caption 1 is 3, expected text"),
        ({**RECORDS[1], "captions": "text"}, "captions is str, expected a list"),
        ({**RECORDS[1], "captions": ["\ud800"]}, "caption 0 is .*, expected text"),
        ({**RECORDS[1], "split": "query"}, "split is 'query'"),
        ({**RECORDS[1], "id": "7"}, "id is '7'"),
        ({**RECORDS[1], "id": True}, "id is True"),
        ({**RECORDS[1], "id": 2**64}, "expected an integer"),
        ({**RECORDS[1], "file_path": ""}, "file_path is ''"),
        ({**RECORDS[1], "file_path": None}, "file_path is None"),
        ("not a record", "record 1: expected an object"),
    ],
)
def test_a_broken_record_is_named(tmp_path, broken, named):
    write_set(tmp_path, RECORDS)
    (tmp_path / "reid_raw.json").write_text(json.dumps([RECORDS[0], broken]))
    with pytest.raises(ValueError, match=named):
        load_cuhk_pedes(tmp_path)


def test_the_first_error_is_named_and_the_others_are_counted(tmp_path):
    write_set(tmp_path, RECORDS)
    broken = [{**record, "captions": []} for record in RECORDS]
    (tmp_path / "reid_raw.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"record 0 .*and 3 more: `aga check-data` lists them"):
        load_cuhk_pedes(tmp_path)


def test_missing_images_are_counted_and_named(tmp_path):
    write_set(tmp_path, RECORDS)
    (tmp_path / "imgs" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images named in .*first: c\.png"):
        load_cuhk_pedes(tmp_path)


def test_missing_annotation_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="aga render"):
        load_cuhk_pedes(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "[" * 200_000, "[" + "1" * 5000 + "]", "\udcff"])
def test_annotation_that_is_no_list_of_records(tmp_path, content):
    (tmp_path / "reid_raw.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"reid_raw\.json"):
        load_cuhk_pedes(tmp_path)


def test_unknown_dataset():
    with pytest.raises(ValueError, match="known: cuhk-pedes"):
        load_benchmark("market", "x")


# --- every benchmark ----------------------------------------------------------------------------------------------

EXPECTED = {
    "cuhk-pedes": (
        {"train": [1, 1, 2, 2, 2, 2], "val": [3, 3], "test": [4, 4, 4]},
        {"CUHK01", "cam_a", "cam_b", "Market", "test_query"},
    ),
    "icfg-pedes": ({"train": [0, 1], "test": [2]}, {"c5", "c1", "c10"}),
    "rstp-reid": ({"train": [0, 0, 0, 0], "val": [1, 1], "test": [2, 2]}, {"c14", "c1", "c5", "c7"}),
    "ufine6926": ({"train": [1, 1, 2, 2], "test": [3, 3]}, {None}),
    "own": ({"train": [0, 0, 0], "val": [1], "test": [2]}, {"door", None}),
}


@pytest.mark.parametrize("level", [True, False])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_miniature_loads_to_one_schema(tmp_path, name, level):
    own_folder, _, image_folder, records, path_key = LAYOUTS[name]
    folder = tmp_path / own_folder if level else tmp_path
    write_miniature(name, folder)
    splits = load_benchmark(name, tmp_path)
    persons, cameras = EXPECTED[name]
    assert {split: rows["person_id"][:] for split, rows in splits.items()} == persons
    assert {camera for rows in splits.values() for camera in rows["camera_id"]} == cameras
    seen = []
    for split, rows in splits.items():
        assert rows.features == FEATURES and set(rows["split"]) == {split}
        for row in rows:
            record = records[row["image_id"]]
            captions = record.get("captions") or [record["caption"]]
            assert row["image"]["path"] == str(folder / image_folder / record[path_key])
            assert row["caption"] in captions and record["split"] == split
            seen.append((row["image_id"], row["caption"]))
    assert len(set(seen)) == len(seen) == sum(len(r.get("captions") or [r["caption"]]) for r in records)


@pytest.mark.parametrize(
    ("name", "annotation"),
    [("cuhk-pedes", "caption_all.json"), ("icfg-pedes", "ICFG_PEDES.json"), ("ufine6926", "UFine6926.json")],
)
def test_other_names_of_the_annotation(tmp_path, name, annotation):
    write_miniature(name, tmp_path).rename(tmp_path / annotation)
    assert set(load_benchmark(name, tmp_path)) >= {"train", "test"}


def test_reid_raw_is_preferred_to_the_release_without_splits(tmp_path):
    write_miniature("cuhk-pedes", tmp_path / "CUHK-PEDES")
    plain = [{key: record[key] for key in ("id", "file_path", "captions")} for record in CUHK]
    (tmp_path / "CUHK-PEDES" / "caption_all.json").write_text(json.dumps(plain))
    assert len(load_cuhk_pedes(tmp_path)["train"]) == 6
    (tmp_path / "CUHK-PEDES" / "reid_raw.json").unlink()
    with pytest.raises(ValueError, match=r"key 'split' is missing.*reid_raw\.json, which the dataset's authors offer"):
        load_cuhk_pedes(tmp_path)


def test_the_wrong_dataset_is_named(tmp_path):
    write_miniature("icfg-pedes", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ICFG-PEDES\.json is the annotation of icfg-pedes"):
        load_cuhk_pedes(tmp_path)


def test_a_wrong_key_is_named_with_those_that_are_there(tmp_path):
    records = [{**record, "file_path": record["img_path"]} for record in RSTP]
    del records[2]["img_path"]
    write_miniature("rstp-reid", tmp_path, records)
    with pytest.raises(
        ValueError, match="record 2: key 'img_path' is missing; the record has id, captions, split, fi"
    ):
        load_benchmark("rstp-reid", tmp_path)


def test_a_folder_too_deep_or_another_name(tmp_path):
    write_miniature("cuhk-pedes", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"reid_raw\.json lies one folder higher"):
        load_cuhk_pedes(tmp_path / "imgs")
    (tmp_path / "reid_raw.json").rename(tmp_path / "annotations.json")
    with pytest.raises(FileNotFoundError, match=r"There is annotations\.json: rename it"):
        load_cuhk_pedes(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_cuhk_pedes(tmp_path / "nowhere")


def test_an_image_that_is_named_again_keeps_both_records(tmp_path):
    write_miniature("cuhk-pedes", tmp_path, [*CUHK, {**CUHK[2], "captions": ["Once more."]}])
    train = load_cuhk_pedes(tmp_path)["train"]
    assert train["image_id"][:] == [0, 0, 1, 1, 2, 2, 5] and train["caption"][6] == "Once more."
    (tmp_path / "imgs" / "cam_b" / "003_45.bmp").unlink()
    with pytest.raises(FileNotFoundError, match="1 images named in"):
        load_cuhk_pedes(tmp_path)


def test_the_image_folder_is_the_one_with_most_images(tmp_path):
    write_miniature("cuhk-pedes", tmp_path)
    (tmp_path / "CUHK01").mkdir()
    (tmp_path / "imgs" / "CUHK01" / "0363004.png").rename(tmp_path / "CUHK01" / "0363004.png")
    with pytest.raises(FileNotFoundError, match=r"are not under .*imgs, first: CUHK01/0363004\.png"):
        load_cuhk_pedes(tmp_path)


def test_images_beside_the_annotation(tmp_path):
    write_miniature("cuhk-pedes", tmp_path)
    for folder in (tmp_path / "imgs").iterdir():
        folder.rename(tmp_path / folder.name)
    paths = [image["path"] for image in load_cuhk_pedes(tmp_path)["test"]["image"]]
    assert set(paths) == {str(tmp_path / "test_query" / "p2703_s3526.jpg")}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("imgs", "pictures", "there is no folder .*imgs; .* holds pictures/.*move what is in .*pictures to .*imgs"),
        ("imgs", "imgs.d/imgs", "there is no folder .*imgs; .* holds imgs.d/, reid_raw.json"),
        ("imgs/cam_b", "lost", "imgs holds CUHK01/, Market/, cam_a/, test_query/; not there at all: cam_b"),
    ],
)
def test_a_wrong_layout_is_described(tmp_path, old, new, named):
    write_miniature("cuhk-pedes", tmp_path)
    (tmp_path / new).parent.mkdir(exist_ok=True)
    (tmp_path / old).rename(tmp_path / new)
    with pytest.raises(FileNotFoundError, match=named):
        load_cuhk_pedes(tmp_path)


def test_a_folder_level_too_many_is_described(tmp_path):
    write_miniature("cuhk-pedes", tmp_path)
    (tmp_path / "imgs").rename(tmp_path / "all")
    (tmp_path / "imgs").mkdir()
    (tmp_path / "all").rename(tmp_path / "imgs" / "imgs")
    with pytest.raises(FileNotFoundError, match=r"move what is in .*imgs/imgs to .*imgs"):
        load_cuhk_pedes(tmp_path)


def test_an_identity_in_two_splits_is_refused(tmp_path):
    write_miniature("cuhk-pedes", tmp_path, [*CUHK[:4], {**CUHK[4], "id": 2}])
    with pytest.raises(ValueError, match=r"record 4 .*id 2 is in test here and in train at record 1"):
        load_cuhk_pedes(tmp_path)


@pytest.mark.parametrize("written", ["cam_a/003_45.bmp", "./cam_a//003_45.bmp"])
def test_images_can_be_left_out(tmp_path, written):
    write_miniature("cuhk-pedes", tmp_path, [CUHK[0], {**CUHK[1], "file_path": written}, *CUHK[2:]])
    gone = tmp_path / "imgs" / "cam_a" / "003_45.bmp"
    gone.unlink()
    assert [item.path for item in find_unreadable("cuhk-pedes", tmp_path)] == [gone]
    splits = load_benchmark("cuhk-pedes", tmp_path, skip=[str(gone)])
    assert splits["train"]["image_id"][:] == [0, 0, 2, 2]


def test_a_large_set_loads_in_seconds(tmp_path):
    """Guards against work that grows with the square of the records; 3,000 records take about a tenth of a second."""
    (tmp_path / "imgs").mkdir()
    image = tmp_path / "imgs" / "0.jpg"
    write_image(image)
    records = [
        {"split": "train", "id": number // 3, "img_path": f"{number}.jpg", "captions": ["one", "two"]}
        for number in range(3000)
    ]
    for record in records[1:]:
        (tmp_path / "imgs" / record["img_path"]).hardlink_to(image)
    (tmp_path / "data_captions.json").write_text(json.dumps(records))
    assert len(load_benchmark("rstp-reid", tmp_path)["train"]) == 6000


# --- own images ---------------------------------------------------------------------------------------------------


def test_a_table_has_one_row_per_caption(tmp_path):
    for name in ("a/1.jpg", "b.jpg", "c.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "metadata.csv").write_text(OWN_TABLE, encoding="utf-8-sig")
    splits = load_benchmark("own", tmp_path)
    assert splits["train"]["caption"][:] == ["A red coat, long.", "A coat\nand a bag."]
    assert splits["train"]["image_id"][:] == [0, 0] and splits["train"]["person_id"][:] == [7, 7]
    assert splits["train"]["camera_id"][:] == ["door", "door"]
    assert splits["val"]["person_id"][:] == [9] and splits["test"]["person_id"][:] == [11]
    assert splits["val"]["camera_id"][:] == [None]


@pytest.mark.parametrize("name", ["cuhk-pedes", "own"])
def test_a_byte_order_mark_is_no_part_of_the_annotation(tmp_path, name):
    annotation = write_miniature(name, tmp_path)
    annotation.write_text(annotation.read_text(), encoding="utf-8-sig")
    assert set(load_benchmark(name, tmp_path)) == {"train", "val", "test"}


def test_an_empty_split_column_names_no_split(tmp_path):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,person_id,caption,split\na.jpg,1,A coat.,\n")
    assert {split: rows["caption"][:] for split, rows in load_benchmark("own", tmp_path).items()} == {
        "test": ["A coat."]
    }


def test_lines_after_a_caption_of_two_lines_keep_their_numbers(tmp_path):
    table = 'file_name,person_id,caption\na.jpg,1,"A coat\nand a bag."\nb.jpg,2\nc.jpg,3,Boots.\n'
    (tmp_path / "metadata.csv").write_text(table)
    assert [line for line, _ in read_records(tmp_path / "metadata.csv")] == [2, 4, 5]


@pytest.mark.parametrize(("camera", "expected"), [(0, "0"), (3, "3"), ("", None), (None, None)])
def test_a_camera_may_have_the_number_zero(tmp_path, camera, expected):
    write_miniature("own", tmp_path, [{**OWN_LINES[3], "camera_id": camera}])
    assert load_benchmark("own", tmp_path)["test"]["camera_id"][:] == [expected]


def test_persons_are_numbered_in_the_order_of_their_names(tmp_path):
    names = [f"person {letter}" for letter in "hgfedcba"]
    records = [{"file_name": f"{n}.jpg", "person_id": name, "caption": "A coat."} for n, name in enumerate(names)]
    for record in records:
        write_image(tmp_path / record["file_name"])
    write_miniature("own", tmp_path, records)
    assert load_benchmark("own", tmp_path)["test"]["person_id"][:] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_without_any_split_all_is_test(tmp_path):
    records = [{key: value for key, value in record.items() if key != "split"} for record in OWN_LINES]
    write_miniature("own", tmp_path, records)
    assert set(load_benchmark("own", tmp_path)) == {"test"}
    write_miniature("own", tmp_path, [*records[:3], OWN_LINES[3]])
    with pytest.raises(ValueError, match=r"metadata.jsonl: line 1 \(a/1.jpg\): key 'split' is missing"):
        load_benchmark("own", tmp_path)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"file_name": "c.jpg", "person_id": "carl", "split": "test"}, r"line 4 \(c.jpg\): key 'caption' is missing"),
        ({**OWN_LINES[3], "captions": ["x"]}, "line 4: has both caption and captions"),
        ({**OWN_LINES[3], "person_id": " "}, "person_id is ' ', expected a number or a name"),
        ({**OWN_LINES[3], "person_id": None}, "person_id is None"),
        ({**OWN_LINES[3], "caption": ""}, "caption 0 is empty"),
        ({**OWN_LINES[0], "person_id": "carl"}, "line 4 .*shows person 'carl' here and 'anna' at line 1"),
        ({**OWN_LINES[0], "split": "test"}, "line 4 .*the file is in test here and in train at line 1"),
        ({**OWN_LINES[3], "person_id": "anna"}, "line 4 .*id anna is in test here and in train at line 1"),
    ],
)
def test_a_broken_own_record_is_named(tmp_path, record, named):
    write_miniature("own", tmp_path, [*OWN_LINES[:3], record])
    with pytest.raises(ValueError, match=named):
        load_benchmark("own", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("metadata.csv", "file_name,person_id,caption\na.jpg,1,A coat, red\n", "line 2: 4 values, but .* 3"),
        ("metadata.csv", "file_name,person_id,caption\na.jpg\n", "line 2: 1 values, but .* 3"),
        ("metadata.csv", 'file_name,person_id,caption\na.jpg,1,"A coat" red\n', "line 2: not valid CSV"),
        ("metadata.csv", "file_name,file_name\n1,2\n", "a column name appears twice"),
        ("metadata.csv", "file_name,person_id,caption\n", "no rows"),
        ("metadata.csv", "file_name,person_id\na/1.jpg,1\n", "line 2 .*key 'caption' is missing"),
        ("metadata.jsonl", "\n\n", "empty"),
        ("metadata.jsonl", '{"file_name"\n', "line 1: not valid JSON"),
    ],
)  # fmt: skip
def test_an_unreadable_own_file_is_named(tmp_path, name, content, named):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}.*{named}"):
        load_benchmark("own", tmp_path)


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [
        (["7", "3", "3"], [7, 3, 3]),
        (["007", "3", "3"], [0, 1, 1]),
        (["x", 3, "3"], [1, 0, 0]),
        ([5, "5", 9], [5, 5, 9]),
    ],
)
def test_person_names_are_numbered(tmp_path, ids, numbers):
    records = [{**record, "split": "test", "person_id": own} for record, own in zip(OWN_LINES[1:], ids)]
    write_miniature("own", tmp_path, records)
    rows = load_benchmark("own", tmp_path)["test"]
    first = np.unique(rows["image_id"], return_index=True)[1]
    assert [rows["person_id"][int(index)] for index in first] == numbers
    assert [record.person_name for record in split_records("own", tmp_path)["test"]] == [str(own) for own in ids]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_persons_keep_the_names_of_the_annotation(tmp_path, name):
    write_miniature(name, tmp_path)
    records = LAYOUTS[name][3]
    key = "person_id" if name == "own" else "id"
    found = {record.image_id: record for split in split_records(name, tmp_path).values() for record in split}
    assert {place: record.person_name for place, record in found.items()} == {
        place: str(record[key]) for place, record in enumerate(records)
    }


def test_persons_of_splits_that_count_from_the_same_number_have_names_of_their_own(tmp_path, monkeypatch):
    records = [{**record, "id": 0} for record in RSTP[1:]]
    write_miniature("rstp-reid", tmp_path, records)
    sizes = {split: SplitSize(1, 1, 2) for split in ("train", "val", "test")}
    published = replace(FORMATS["rstp-reid"], published=sizes, identities=3)
    monkeypatch.setitem(FORMATS, "rstp-reid", published)
    for split, (record,) in split_records("rstp-reid", tmp_path).items():
        assert record.split == split and (record.person_id, record.person_name) == (0, f"{split}/0")


# --- held-out identities ------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path):
    records = [
        {"split": "train", "id": 10 + number % 20, "img_path": f"{number}.jpg", "captions": ["a", f"caption {number}"]}
        for number in range(60)
    ]
    for record in records:
        write_image(tmp_path / "imgs" / record["img_path"])
    (tmp_path / "data_captions.json").write_text(json.dumps(records))
    return load_benchmark("rstp-reid", tmp_path)["train"]


def test_which_sets_have_a_validation_split():
    assert {name for name in FORMATS if has_validation_split(name)} == {"cuhk-pedes", "rstp-reid"}


@pytest.mark.parametrize(("share_or_count", "held_out"), [(0.05, 2), (0.25, 5), (0.001, 2), (3, 3), (19, 19)])
def test_held_out_identities_are_disjoint_and_whole(train, share_or_count, held_out):
    rest, validation = hold_out_identities(train, share_or_count, seed=0)
    chosen = set(validation["person_id"])
    assert len(chosen) == held_out and chosen.isdisjoint(rest["person_id"])
    assert len(rest) + len(validation) == len(train) and len(validation) == 6 * held_out
    assert set(validation["split"]) == {"val"} and set(rest["split"]) == {"train"}
    assert validation.features == train.features and validation.column_names == train.column_names
    assert validation["image_id"][:] == [row["image_id"] for row in train if row["person_id"] in chosen]


def test_the_choice_depends_on_seed_and_identities_only(train):
    chosen = [set(hold_out_identities(train, 5, seed)[1]["person_id"]) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    shuffled = train.select(np.random.default_rng(0).permutation(len(train)))
    assert set(hold_out_identities(shuffled, 5, 0)[1]["person_id"]) == chosen[0]


@pytest.mark.parametrize("share_or_count", [0, 1, 0.0, 1.0, 1.5, -1, 20, 0.99])
def test_a_share_that_leaves_nobody_is_refused(train, share_or_count):
    with pytest.raises(ValueError, match="of 20 training identities") as refused:
        hold_out_identities(train, share_or_count, seed=0)
    assert str(share_or_count) in str(refused.value)
