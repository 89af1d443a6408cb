"""`check_dataset`: each defect, put into a miniature set one at a time, is reported with its file and record."""

import copy
import json
from dataclasses import replace

import pytest
from miniatures import CUHK, ICFG, LAYOUTS, OWN_LINES, write_image, write_miniature
from PIL import Image

from aga_model.data import FORMATS, SplitSize, check_dataset, detect_dataset, find_unreadable, load_benchmark
from aga_model.data.checking.problems import KINDS, Place, Problems
from aga_model.data.rendered import render_dataset


def found(report, *kinds):
    """kind -> (count, [(record, image)]) of everything but remarks on the set as a whole."""
    problems = {problem.kind: problem for problem in report.examination.problems if problem.kind != "unpublished"}
    assert set(problems) == set(kinds), [str(place) for problem in problems.values() for place in problem.places]
    return {
        kind: (problem.count, [(place.record, place.image) for place in problem.places])
        for kind, problem in problems.items()
    }


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_sound_set_passes_and_is_recognised(tmp_path, name):
    annotation = write_miniature(name, tmp_path / LAYOUTS[name][0])
    report = check_dataset(tmp_path)
    assert report.ok and report.examination.name == name == detect_dataset(tmp_path)
    assert report.examination.annotation == annotation
    assert report.images == len(LAYOUTS[name][3])
    assert {problem.kind for problem in report.examination.problems} <= {"unpublished"}


def test_the_rendered_set_passes(tmp_path):
    summary = render_dataset(tmp_path, 12, 0, val_identities=2, test_identities=3, height=48, width=32, processes=1)
    report = check_dataset(tmp_path)
    assert report.ok and [problem.kind for problem in report.examination.problems] == ["rendered"]
    assert {split: vars(size) for split, size in report.examination.sizes.items()} == summary.splits
    assert report.images == summary.images and report.published == {}


# what is done to the records, kinds that are reported, (record, image) of the first place of the first kind
DEFECTS = {
    "no object": (lambda r: r.__setitem__(1, "text"), ["bad-record"], (1, None)),
    "no captions": (lambda r: r[1].pop("captions"), ["missing-key"], (1, "cam_a/003_45.bmp")),
    "no path": (lambda r: r[1].pop("file_path"), ["missing-key"], (1, None)),
    "bad split": (lambda r: r[1].update(split="valid"), ["bad-split"], (1, "cam_a/003_45.bmp")),
    "id as text": (lambda r: r[1].update(id="2"), ["bad-id"], (1, "cam_a/003_45.bmp")),
    "path no text": (lambda r: r[1].update(file_path=7), ["bad-path"], (1, None)),
    "caption list empty": (lambda r: r[3].update(captions=[]), ["no-caption"], (3, "Market/1363_c3s3_063744_00.jpg")),
    "caption blank": (lambda r: r[0].update(captions=["ok", "\n"]), ["empty-caption"], (0, "CUHK01/0363004.png")),
    "caption no text": (lambda r: r[2].update(captions=[None]), ["bad-caption"], (2, "cam_b/003_45.bmp")),
    "captions no list": (lambda r: r[2].update(captions="A man."), ["bad-caption"], (2, "cam_b/003_45.bmp")),
    "image twice": (lambda r: r.append(r[2]), ["duplicate-image"], (5, "cam_b/003_45.bmp")),
    "image twice, written otherwise": (
        lambda r: r.append({**r[2], "file_path": "./cam_b//003_45.bmp"}),
        ["duplicate-image"],
        (5, "./cam_b//003_45.bmp"),
    ),
    "image twice, other person": (lambda r: r.append({**r[2], "id": 1}), ["duplicate-image"], (5, "cam_b/003_45.bmp")),
    "image in two splits": (
        lambda r: r.append({**r[2], "split": "val", "id": 3}), ["conflicting-image"], (5, "cam_b/003_45.bmp"),
    ),
    "person in two splits": (lambda r: r[3].update(id=2), ["shared-identity"], (3, "Market/1363_c3s3_063744_00.jpg")),
    "ids from 5": (
        lambda r: [own.update(id=own["id"] + 4) for own in r], ["first-id"], (0, "CUHK01/0363004.png"),
    ),
    "gap": (lambda r: [own.update(id=own["id"] * 4 - 3) for own in r], ["id-gap"], (1, "cam_a/003_45.bmp")),
    "id a truth value": (lambda r: r[0].update(id=True), ["bad-id"], (0, "CUHK01/0363004.png")),
    "caption with half a character": (
        lambda r: r[0].update(captions=["ok", "\ud83d"]), ["bad-caption"], (0, "CUHK01/0363004.png"),
    ),
    "image not there": (lambda r: r[3].update(file_path="Market/x.jpg"), ["missing-image"], (3, "Market/x.jpg")),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_reported_with_file_and_record(tmp_path, defect):
    break_it, kinds, place = DEFECTS[defect]
    records = copy.deepcopy(CUHK)
    break_it(records)
    annotation = write_miniature("cuhk-pedes", tmp_path, records)
    report = check_dataset(tmp_path)
    assert not report.ok
    problems = found(report, *kinds)
    assert problems[kinds[0]][1][0] == place
    written = [problem for problem in report.to_json()["problems"] if problem["kind"] == kinds[0]]
    assert written[0]["places"][0]["file"] == str(annotation) and written[0]["places"][0]["record"] == place[0]
    assert str(report.examination.problems[kinds[0]].places[0]).startswith(f"{annotation}: record {place[0]}")


# Nothing loads the set; the set loads but is not what it should be.
ERRORS = {
    "bad-record", "missing-key", "bad-split", "bad-id", "bad-path", "no-caption", "bad-caption", "empty-caption",
    "conflicting-image", "shared-identity", "missing-image", "unreadable-image",
}  # fmt: skip
WARNINGS = {"duplicate-image", "first-id", "id-gap", "count", "missing-split"}


def test_how_grave_each_kind_is():
    assert {kind for kind, (severity, _) in KINDS.items() if severity == "error"} == ERRORS
    assert {kind for kind, (severity, _) in KINDS.items() if severity == "warning"} == WARNINGS


def test_missing_ids_are_counted_one_by_one(tmp_path):
    """Training has the persons 1, 5 and 7: 2, 3, 4 and 6 are missing."""
    ids = (1, 5, 7, 8, 9)
    write_miniature("cuhk-pedes", tmp_path, [{**record, "id": own} for record, own in zip(CUHK, ids)])
    assert found(check_dataset(tmp_path), "id-gap")["id-gap"] == (
        4,
        [(1, "cam_a/003_45.bmp"), (2, "cam_b/003_45.bmp")],
    )


def test_the_first_advice_of_a_kind_stays(tmp_path):
    problems = Problems()
    place = Place(tmp_path / "a.json", 0, None, "gone")
    for advice in ("", "unpack it", "", "or not"):
        problems.add("missing-image", place, advice=advice)
    assert (problems["missing-image"].count, problems["missing-image"].advice) == (4, "unpack it")


# What the check warns of and the loader reads.
READABLE = {
    "image twice",
    "image twice, written otherwise",
    "image twice, other person",
    "ids from 5",
    "gap",
}


def test_the_loader_refuses_what_the_check_calls_an_error(tmp_path):
    read = set()
    for number, defect in enumerate(DEFECTS):
        records = copy.deepcopy(CUHK)
        DEFECTS[defect][0](records)
        folder = tmp_path / str(number)
        write_miniature("cuhk-pedes", folder, records)
        errors = [p for p in check_dataset(folder).examination.problems if p.severity == "error"]
        if errors:
            with pytest.raises((ValueError, FileNotFoundError)):
                load_benchmark("cuhk-pedes", folder)
        else:
            load_benchmark("cuhk-pedes", folder)
            read.add(defect)
    assert read == READABLE


def test_all_defects_at_once(tmp_path):
    """The check does not stop at the first one."""
    records = copy.deepcopy(CUHK)
    records[0]["captions"] = ["", 3, "ok"]
    del records[1]["split"]
    records[2]["id"] = None
    records[3]["file_path"] = "gone.jpg"
    write_miniature("cuhk-pedes", tmp_path, records)
    (tmp_path / "imgs" / "test_query" / "p2703_s3526.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    kinds = ["empty-caption", "bad-caption", "missing-key", "bad-id", "missing-image", "unreadable-image"]
    problems = found(check_dataset(tmp_path), *kinds)
    assert all(count == 1 for count, _ in problems.values())
    assert problems["unreadable-image"][1] == [(4, "test_query/p2703_s3526.jpg")]
    assert problems["missing-image"][1] == [(3, "gone.jpg")]


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-60])


def _tiny(path):
    Image.new("RGB", (2, 2)).save(path)


def _folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: path.write_bytes(b""), "unreadable-image"),
        (lambda path: path.write_text("<html>not found</html>"), "unreadable-image"),
        (_truncate, "unreadable-image"),
        (_tiny, "unreadable-image"),
        (_folder, "missing-image"),
        (lambda path: path.unlink(), "missing-image"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere.jpg")), "missing-image"),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), "missing-image"),
    ],
)
def test_every_way_to_lose_an_image(tmp_path, damage, kind):
    annotation = write_miniature("rstp-reid", tmp_path)
    damage(tmp_path / "imgs" / "0000_c1_0004.jpg")
    report = check_dataset(tmp_path)
    assert found(report, kind)[kind] == (1, [(1, "0000_c1_0004.jpg")])
    assert report.examination.problems[kind].places[0].file == annotation
    assert [str(item.path) for item in find_unreadable("rstp-reid", tmp_path)] == [
        str(tmp_path / "imgs" / "0000_c1_0004.jpg")
    ]


def test_many_problems_are_counted_and_the_first_ones_kept(tmp_path):
    records = [{"split": "train", "id": n, "img_path": f"{n:03}.jpg", "captions": ["a"]} for n in range(300)]
    (tmp_path / "imgs").mkdir()
    (tmp_path / "data_captions.json").write_text(json.dumps(records))
    report = check_dataset(tmp_path)
    count, places = found(report, "missing-image")["missing-image"]
    assert count == 300 and places == [(n, f"{n:03}.jpg") for n in range(10)] and report.images == 0


def test_a_line_of_an_own_file_is_named(tmp_path):
    annotation = write_miniature("own", tmp_path)
    broken = json.dumps({**OWN_LINES[0], "file_name": "b.jpg", "caption": " "})
    annotation.write_text("\n" + annotation.read_text() + broken + "\nnot json\n")
    report = check_dataset(tmp_path)
    problems = found(report, "empty-caption", "bad-record")
    assert problems["empty-caption"][1] == [(6, "b.jpg")] and problems["bad-record"][1] == [(7, None)]
    assert report.to_json()["problems"][0]["places"][0]["line"] == 6
    assert "line 6 (b.jpg)" in str(report.examination.problems["empty-caption"].places[0])


def test_own_images_repeated_for_several_captions_are_no_problem(tmp_path):
    write_miniature("own", tmp_path, [*OWN_LINES, {**OWN_LINES[0], "caption": "Once more."}])
    report = check_dataset(tmp_path)
    assert report.ok and vars(report.examination.sizes["train"]) == {"identities": 1, "images": 2, "captions": 4}


# --- against what was published -----------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch):
    """Pretend that the miniature of ICFG-PEDES is the published set."""
    sizes = {"train": SplitSize(2, 2, 2), "test": SplitSize(1, 1, 1)}
    monkeypatch.setitem(FORMATS, "icfg-pedes", replace(FORMATS["icfg-pedes"], published=sizes, identities=3))


def test_the_published_set_passes(tmp_path, published):
    write_miniature("icfg-pedes", tmp_path)
    report = check_dataset(tmp_path)
    assert report.ok and not list(report.examination.problems) and set(report.published) == {"train", "test"}


@pytest.mark.parametrize(
    ("records", "kind", "detail"),
    [
        (ICFG[1:], "count", "1 identities in train, published are 2"),
        ([*ICFG[:2], {**ICFG[2], "captions": ["a", "b"]}], "count", "2 captions in test, published are 1"),
        (ICFG[:2], "missing-split", "no record of test, published with 1 images"),
        ([{**ICFG[0], "split": "val"}, *ICFG[1:]], "count", "published without a split val"),
    ],
)
def test_a_difference_to_the_published_set_is_a_problem(tmp_path, published, records, kind, detail):
    annotation = write_miniature("icfg-pedes", tmp_path, records)
    report = check_dataset(tmp_path)
    assert not report.ok
    places = report.examination.problems[kind].places
    assert any(detail in place.detail for place in places) and all(place.file == annotation for place in places)


def test_ids_that_start_anew_in_each_published_split_are_no_shared_identity(tmp_path, published):
    write_miniature("icfg-pedes", tmp_path, [*ICFG[:2], {**ICFG[2], "id": 0}])
    assert check_dataset(tmp_path).ok
    assert set(load_benchmark("icfg-pedes", tmp_path)) == {"train", "test"}
    write_miniature("icfg-pedes", tmp_path, [*ICFG[:2], {**ICFG[2], "id": 1}])
    found(check_dataset(tmp_path), "shared-identity")


def test_ids_that_start_anew_are_shared_identities_in_a_set_of_another_size(tmp_path, published):
    """One caption more than published: that the numbering only restarts cannot be known."""
    write_miniature("icfg-pedes", tmp_path, [*ICFG[:2], {**ICFG[2], "id": 0, "captions": ["a", "b"]}])
    found(check_dataset(tmp_path), "shared-identity", "count")


@pytest.mark.parametrize(("images", "other"), [(1, True), (2, False), (6, False), (7, True)])
def test_a_set_of_under_half_or_over_twice_the_images_is_another_one(tmp_path, published, images, other):
    """The published set has three images."""
    records = [{**ICFG[0], "id": n, "file_path": f"{n}.jpg"} for n in range(images)]
    write_miniature("icfg-pedes", tmp_path, records)
    report = check_dataset(tmp_path)
    problems = report.examination.problems
    assert set(report.published) == (set() if other else {"train", "test"})
    assert ("unpublished" in problems) == other == ("missing-split" not in problems)


@pytest.mark.parametrize(("identities", "kinds"), [(3, set()), (2, {"shared-identity", "count"})])
def test_persons_of_a_set_whose_splits_were_published_without_them(tmp_path, monkeypatch, identities, kinds):
    """Train has persons 0 and 1, test has 0: three persons in all, or two of whom one is in both."""
    sizes = {"train": SplitSize(None, 2, 2), "test": SplitSize(None, 1, 1)}
    changed = replace(FORMATS["icfg-pedes"], published=sizes, identities=identities)
    monkeypatch.setitem(FORMATS, "icfg-pedes", changed)
    write_miniature("icfg-pedes", tmp_path, [*ICFG[:2], {**ICFG[2], "id": 0}])
    problems = check_dataset(tmp_path).examination.problems
    assert {problem.kind for problem in problems} - {"restarted-ids"} == kinds
    if kinds:
        assert problems["count"].places[0].detail == "3 identities in all splits, published are 2"


def test_a_missing_image_is_reported_where_it_is_named_first(tmp_path):
    write_miniature("cuhk-pedes", tmp_path, [*CUHK, CUHK[1]])
    (tmp_path / "imgs" / "cam_a" / "003_45.bmp").unlink()
    problems = found(check_dataset(tmp_path), "duplicate-image", "missing-image")
    assert problems["missing-image"] == (1, [(1, "cam_a/003_45.bmp")])


def test_figures_agree_where_none_of_those_that_are_known_differs():
    published = SplitSize(None, 2, 3)
    assert SplitSize(7, 2, 3).agrees_with(published)
    assert not SplitSize(7, 2, 4).agrees_with(published) and not SplitSize(7, 1, 3).agrees_with(published)


def test_the_figures_of_the_papers():
    """Splits add up to the published numbers of persons and images; captions as the dataset papers have them."""
    for name, persons, images, captions in (
        ("cuhk-pedes", 13003, 40206, 80440),
        ("icfg-pedes", 4102, 54522, 54522),
        ("rstp-reid", 4101, 20505, 41010),
        ("ufine6926", 6926, 26206, 52412),
    ):
        sizes = FORMATS[name].published.values()
        assert FORMATS[name].identities == persons
        assert sum(size.images for size in sizes) == images and sum(size.captions for size in sizes) == captions
        if name != "ufine6926":
            assert sum(size.identities for size in sizes) == persons


# --- what cannot be checked ---------------------------------------------------------------------------------------


def test_several_datasets_in_one_folder(tmp_path):
    write_miniature("cuhk-pedes", tmp_path / "CUHK-PEDES")
    write_miniature("icfg-pedes", tmp_path / "ICFG-PEDES")
    with pytest.raises(ValueError, match=r"several datasets: cuhk-pedes .* icfg-pedes"):
        check_dataset(tmp_path)
    assert check_dataset(tmp_path, "icfg-pedes").ok


def test_nothing_there(tmp_path):
    write_image(tmp_path / "a.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"looked for reid_raw\.json, .*metadata\.csv\. The folder holds a\.jpg"
    ):
        check_dataset(tmp_path)


def test_unreadable_images_can_be_left_out(tmp_path):
    write_miniature("cuhk-pedes", tmp_path)
    (tmp_path / "imgs" / "CUHK01" / "0363004.png").write_bytes(b"x")
    (tmp_path / "imgs" / "cam_b" / "003_45.bmp").unlink()
    skipped = find_unreadable("cuhk-pedes", tmp_path)
    assert [item.path.name for item in skipped] == ["0363004.png", "003_45.bmp"]
    splits = load_benchmark("cuhk-pedes", tmp_path, skip=[str(item.path) for item in skipped])
    assert splits["train"]["image_id"][:] == [1, 1]
