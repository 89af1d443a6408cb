"""Miniature copies of the benchmarks in their exact on-disk format: names, keys, folders, numbering of persons."""

import json
from pathlib import Path

from PIL import Image

CUHK = [
    {
        "split": "train",
        "captions": ["A man in black.", "He walks with a red bag."],
        "file_path": "CUHK01/0363004.png",
        "processed_tokens": [["a", "man", "in", "black"], ["he", "walks", "with", "a", "red", "bag"]],
        "id": 1,
    },
    {
        "split": "train",
        "captions": ["A woman in a coat.", "She is seen from behind."],
        "file_path": "cam_a/003_45.bmp",
        "processed_tokens": [["a", "woman", "in", "a", "coat"], ["she", "is", "seen", "from", "behind"]],
        "id": 2,
    },
    {
        "split": "train",
        "captions": ["A woman in a long coat.", "She carries a bag."],
        "file_path": "cam_b/003_45.bmp",
        "processed_tokens": [["a", "woman", "in", "a", "long", "coat"], ["she", "carries", "a", "bag"]],
        "id": 2,
    },
    {
        "split": "val",
        "captions": ["A boy with a cap.", "Short trousers."],
        "file_path": "Market/1363_c3s3_063744_00.jpg",
        "processed_tokens": [["a", "boy", "with", "a", "cap"], ["short", "trousers"]],
        "id": 3,
    },
    {
        "split": "test",
        "captions": ["A girl in yellow.", "White shoes.", "A third sentence."],
        "file_path": "test_query/p2703_s3526.jpg",
        "processed_tokens": [["a", "girl", "in", "yellow"], ["white", "shoes"], ["a", "third", "sentence"]],
        "id": 4,
    },
]
ICFG = [
    {
        "split": "train",
        "file_path": "test/0627/0627_010_05_0303afternoon_1591_0.jpg",
        "id": 0,
        "processed_tokens": [["A", "young", "woman"]],
        "captions": ["A young woman has black hair."],
    },
    {
        "split": "train",
        "file_path": "train/0001/0001_000_01_0303morning_0017_2.jpg",
        "id": 1,
        "processed_tokens": [["A", "man"]],
        "captions": ["A man wears a grey coat."],
    },
    {
        "split": "test",
        "file_path": "test/0114/0114_019_10_0303noon_0284_2_ex.jpg",
        "id": 2,
        "processed_tokens": [["An", "old", "man"]],
        "captions": ["An old man pushes a bicycle."],
    },
]
RSTP = [
    {"id": 0, "img_path": "0000_c14_0031.jpg", "captions": ["A man in blue.", "He holds a phone."], "split": "train"},
    {"id": 0, "img_path": "0000_c1_0004.jpg", "captions": ["A man.", "Blue trousers."], "split": "train"},
    {"id": 1, "img_path": "3701_c5_0022.jpg", "captions": ["A woman.", "A white dress."], "split": "val"},
    {"id": 2, "img_path": "3901_c7_0015.jpg", "captions": ["A boy.", "A green cap."], "split": "test"},
]
UFINE = [
    {"split": "train", "id": 1, "file_path": "images/1.jpg", "captions": ["A tall man, who...", "This man..."]},
    {"split": "train", "id": 2, "file_path": "images/2.jpg", "captions": ["A woman, whose...", "This woman..."]},
    {"split": "test", "id": 3, "file_path": "images/3.jpg", "captions": ["A child, that...", "This child..."]},
]
OWN_LINES = [
    {"file_name": "a/1.jpg", "person_id": "anna", "caption": "A red coat.", "split": "train", "camera_id": "door"},
    {"file_name": "a/2.jpg", "person_id": "anna", "captions": ["From behind.", "A bag."], "split": "train"},
    {"file_name": "b.jpg", "person_id": "bert", "caption": "A hat.", "split": "val"},
    {"file_name": "c.jpg", "person_id": "carl", "caption": "Boots.", "split": "test"},
]
OWN_TABLE = """file_name,person_id,caption,split,camera_id
a/1.jpg,7,"A red coat, long.",train,door
a/1.jpg,7,"A coat
and a bag.",train,door
b.jpg,9,A hat.,val,
c.jpg,11,Boots.,test,
"""

# dataset -> (its own folder, annotation file, folder of images, records, key of the image path)
LAYOUTS = {
    "cuhk-pedes": ("CUHK-PEDES", "reid_raw.json", "imgs", CUHK, "file_path"),
    "icfg-pedes": ("ICFG-PEDES", "ICFG-PEDES.json", "imgs", ICFG, "file_path"),
    "rstp-reid": ("RSTPReid", "data_captions.json", "imgs", RSTP, "img_path"),
    "ufine6926": ("UFine6926", "UFine6926_Annotations.json", ".", UFINE, "file_path"),
    "own": ("", "metadata.jsonl", ".", OWN_LINES, "file_name"),
}


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 24), (90, 20, 20)).save(path)


def write_miniature(name: str, folder: Path, records: list | None = None) -> Path:
    """Write annotation and images of a dataset into `folder` (its own folder); returns the annotation file."""
    _, annotation, image_folder, whole, path_key = LAYOUTS[name]
    records = whole if records is None else records
    folder.mkdir(parents=True, exist_ok=True)
    for record in whole:
        write_image(folder / image_folder / record[path_key])
    file = folder / annotation
    if name == "own":
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        file.write_text(json.dumps(records), encoding="utf-8")
    return file
