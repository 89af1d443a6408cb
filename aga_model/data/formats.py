"""The benchmarks of text-based person search: names on disk, keys of a record, and what the published splits hold."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

SPLITS = ("train", "val", "test")
CUHK_ANNOTATION = "reid_raw.json"
RENDERED_ATTRIBUTES = "attributes.json"
OWN = "own"  # the format of a folder with metadata.jsonl

# RSTPReid renamed MSMT17's images to person, camera, number: 0000_c14_0031.jpg. ICFG-PEDES kept MSMT17's names:
# person, number, camera, date and time of day, frame, ...: 0627_010_05_0303afternoon_1591_0.jpg.
_RSTP_NAME = re.compile(r"\d+_c(\d+)_\d+")
_MSMT17_NAME = re.compile(r"\d+_\d+_(\d+)_\d{4}(?:morning|noon|afternoon)_")


@dataclass(frozen=True)
class SplitSize:
    """What a split holds; None for a figure that was not published."""

    identities: int | None
    images: int | None
    captions: int | None

    def agrees_with(self, published: "SplitSize") -> bool:
        """Whether no figure differs from a published one."""
        pairs = zip(vars(self).values(), vars(published).values())
        return all(there is None or here == there for here, there in pairs)


@dataclass(frozen=True)
class BenchmarkFormat:
    """
    A dataset on disk.

    Args:
        title: its name in papers.
        annotations: names of the annotation file, the preferred one first.
        folders: names of the dataset's own folder, which may lie between the given folder and the annotation.
        image_folders: folders that hold the images, relative to the annotation's.
        path_key, person_key, caption_key: keys of a record.
        camera_of: camera from the image's path, None where the path does not tell it.
        published: size of each published split; empty where nothing was published.
        identities: persons in all splits together.
        key_advice: annotation -> what to know when a key is missing in it.
        count_advice: what to know when the counts differ.
        licence: on which terms its authors give it away, for the card of a model that learnt from it.
        source: address of its authors.
    """

    title: str
    annotations: tuple[str, ...]
    camera_of: Callable[[str], str | None]
    folders: tuple[str, ...] = ()
    image_folders: tuple[str, ...] = ("imgs", ".")
    path_key: str = "file_path"
    person_key: str = "id"
    caption_key: str = "captions"
    published: dict[str, SplitSize] = field(default_factory=dict)
    identities: int | None = None
    key_advice: dict[str, str] = field(default_factory=dict)
    count_advice: str = ""
    licence: str = ""
    source: str = ""


def _first_folder(file_path: str) -> str | None:
    folder, separator, _ = file_path.partition("/")
    return folder if separator else None


def _camera_of_msmt17_name(file_path: str) -> str | None:
    name = file_path.rpartition("/")[2]
    match = _RSTP_NAME.match(name) or _MSMT17_NAME.match(name)
    return f"c{int(match[1])}" if match else None


def _no_camera(file_path: str) -> str | None:
    return None


# The benchmarks that can be read, by the names that `--dataset` takes.
FORMATS = {
    "cuhk-pedes": BenchmarkFormat(
        title="CUHK-PEDES",
        annotations=(CUHK_ANNOTATION, "caption_all.json"),
        folders=("CUHK-PEDES",),
        camera_of=_first_folder,
        published={
            "train": SplitSize(11003, 34054, 68126),
            "val": SplitSize(1000, 3078, 6158),
            "test": SplitSize(1000, 3074, 6156),
        },
        identities=13003,
        key_advice={
            "caption_all.json": "caption_all.json was released without splits; the file with them is "
            f"{CUHK_ANNOTATION}, which the dataset's authors offer in the README of "
            "https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description"
        },
        licence="on request from its authors, from a university address, for academic use only",
        source="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
    ),
    "icfg-pedes": BenchmarkFormat(
        title="ICFG-PEDES",
        annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
        folders=("ICFG-PEDES", "ICFG_PEDES"),
        camera_of=_camera_of_msmt17_name,
        published={"train": SplitSize(3102, 34674, 34674), "test": SplitSize(1000, 19848, 19848)},
        identities=4102,
        licence="on request from its authors; the images are from MSMT17, whose release agreement applies too",
        source="https://github.com/zifyloo/SSAN",
    ),
    "rstp-reid": BenchmarkFormat(
        title="RSTPReid",
        annotations=("data_captions.json",),
        folders=("RSTPReid",),
        path_key="img_path",
        camera_of=_camera_of_msmt17_name,
        published={
            "train": SplitSize(3701, 18505, 37010),
            "val": SplitSize(200, 1000, 2000),
            "test": SplitSize(200, 1000, 2000),
        },
        identities=4101,
        count_advice="a first release had 3,901/100/100 identities in train/val/test and was replaced: download it "
        "again if yours has",
        licence="offered for download by its authors without a licence text; the images are from MSMT17",
        source="https://github.com/NjtechCVLab/RSTPReid-Dataset",
    ),
    "ufine6926": BenchmarkFormat(
        title="UFine6926",
        annotations=("UFine6926_Annotations.json", "UFine6926.json"),
        folders=("UFine6926", "UFineBench/UFine6926"),
        camera_of=_no_camera,
        published={"train": SplitSize(None, 18577, 37154), "test": SplitSize(None, 7629, 15258)},
        identities=6926,
        licence="on request from its authors, with a signed licence agreement",
        source="https://github.com/Zplusdragon/UFineBench",
    ),
    OWN: BenchmarkFormat(
        title="own images",
        annotations=("metadata.jsonl", "metadata.csv"),
        licence="images of people, which need a legal basis",
        image_folders=(".",),
        path_key="file_name",
        person_key="person_id",
        caption_key="caption",
        camera_of=_no_camera,
        key_advice={
            "metadata.jsonl": "a line has file_name, person_id and caption (one) or captions (a list), and may have "
            "split and camera_id",
            "metadata.csv": "the columns are file_name, person_id and caption, and optionally split and camera_id; an "
            "image with several captions has several rows",
        },
    ),
}
