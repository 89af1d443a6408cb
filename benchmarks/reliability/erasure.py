"""
Is a deleted person gone from every file of a gallery, whatever was killed before, and is nothing else lost?

    python -m benchmarks erasure --kills 60

Galleries with images, crops of videos and photographs, crops that are cut out again, and files that have changed since
they were indexed: used where they were made, moved, copied, and through a symbolic link. On each a process adds,
deletes, compacts, builds the index or indexes the files again, and is killed at a random moment (`--kills` of each).
Then the gallery is opened, a person is deleted, and the gallery is opened once more. Every byte below its folder, and
in the folder for temporary files, is searched for the person's id, names of files, saved crops, and embeddings in
single and half precision; index files from before the deletion must be gone, since they hold other forms of these.
Everyone else's rows, embeddings, crops and indexed files, and 50 files beside and inside the gallery that are not its
own, must be as they were. Prints counts and writes them as JSON; ends with an error if one of them is not 0.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from aga_model.files import write_json
from aga_model.gallery import Filter, Gallery, GalleryRow
from aga_model.ingest import Detection, ImageFacts, SceneSettings, index_scenes
from benchmarks.places import RESULTS
from benchmarks.processes import SERVE, KilledProcesses, serve
from benchmarks.reports import write_result
from benchmarks.runner import bench_parser

OUT = RESULTS / "erasure.json"
SECRET = "zq7-anna-zv0"
MODEL = "a" * 64
DIM = 32
STILLS = 800
INDEXED_ABOVE = 200  # rows, in place of 50,000
SIZE = 160, 64  # of videos
NOTED = "secret embeddings.txt"
OPERATIONS = ("add", "delete", "compact", "build-index", "re-index")
PLACES = ("made", "moved", "copied", "linked")
WRONG = (
    "traces",
    "temporary",
    "old_index_files",
    "rows_lost",
    "rows_changed",
    "crops_lost",
    "files_touched",
    "hidden",
)


class Halves:
    """A detector to which the left and the right half of every image are people."""

    def detect(self, images):
        boxes = [(0.0, 0.0, SIZE[0] / 2, float(SIZE[1])), (SIZE[0] / 2, 0.0, float(SIZE[0]), float(SIZE[1]))]
        return [[Detection(box, 0.9) for box in boxes] for _ in images]


class Hashes:
    """An encoder whose embeddings are drawn by the content of an image."""

    model_hash, name = MODEL, "hashes"

    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        return np.stack([direction(hashlib.sha256(image.tobytes()).hexdigest()) for image in images])


def direction(name: str) -> np.ndarray:
    """A unit vector (dim,) for a name."""
    drawn = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)).normal(size=DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def note_secret(gallery: Gallery, files: Path) -> None:
    """Keep the secret person's embeddings that the gallery holds now; later ones may take their place."""
    rows = {row.id for row in gallery.rows() if row.person_id == SECRET}
    with (files.parent / NOTED).open("a", encoding="utf-8") as file:
        file.write("\n")
        for ids, embeddings in gallery.embeddings():
            file.writelines(f"{one.tobytes().hex()}\n" for row_id, one in zip(ids, embeddings) if row_id in rows)


def facts_of(path: str) -> ImageFacts:
    """The person stands in the name of a file, before the first underscore."""
    return ImageFacts(person_id=Path(path).stem.partition("_")[0])


def still(number: int, person: str, files: Path) -> GalleryRow:
    path = str(files / f"{person}_{number:05}.jpg")
    return GalleryRow(path, f"{number:064x}", path, 20, 40, MODEL, person_id=person)


def add_stills(gallery: Gallery, numbers: range, files: Path) -> None:
    """Every 50th is the secret person."""
    rows = [still(number, SECRET if number % 50 == 0 else f"p{number % 50}", files) for number in numbers]
    gallery.add(np.stack([direction(row.id) for row in rows]), rows)


def draw_video(path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, SIZE)
    for _ in range(6):
        writer.write(cv2.resize(generator.integers(0, 256, (4, 10, 3), dtype=np.uint8), SIZE))
    writer.release()


def draw_photograph(path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    Image.fromarray(generator.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(path)


def index(gallery: Gallery, paths: Sequence[Path], saved: bool) -> None:
    settings = SceneSettings(0.1, 0.0, 8, gallery.crops if saved else None)
    index_scenes(paths, Halves(), Hashes(), gallery, settings, facts_of=facts_of)  # type: ignore[arg-type]


# --- what is done in a process of its own ---


def make(folder: Path, files: Path) -> None:
    """The gallery that all begin with."""
    files.mkdir()
    for number, person in enumerate((SECRET, "p1", "p2")):
        for kind in ("saved", "recut", "changed"):
            draw_video(files / f"{person}_{kind}.avi", seed=10 * number + len(kind))
            draw_photograph(files / f"{person}_{kind}.png", seed=100 * number + len(kind))
    gallery = Gallery.create(folder, MODEL, DIM, "hashes")
    add_stills(gallery, range(STILLS), files)
    by_kind = {kind: sorted(files.glob(f"*_{kind}.*")) for kind in ("saved", "recut", "changed")}
    index(gallery, [*by_kind["saved"], *by_kind["changed"]], saved=True)
    index(gallery, by_kind["recut"], saved=False)
    note_secret(gallery, files)
    for number, path in enumerate(sorted(files.glob(f"{SECRET}_changed.*"))):
        (draw_video if path.suffix == ".avi" else draw_photograph)(path, 1000 + number)
    index(gallery, sorted(files.glob(f"{SECRET}_changed.*")), saved=True)
    names = [f"/broken/{person}.jpg" for person in (SECRET, "p1")]
    write_json(folder / "skipped.json", [{"path": name, "reason": "damaged"} for name in names])
    gallery.build_index()


def add(folder: Path, files: Path) -> None:
    gallery = Gallery.open(folder)
    for first in range(STILLS, STILLS + 300, 100):
        add_stills(gallery, range(first, first + 100), files)
    draw_photograph(files / f"{SECRET}_new.png", 77)
    index(gallery, [files / f"{SECRET}_new.png"], saved=True)


def delete(folder: Path, files: Path) -> None:
    Gallery.open(folder).delete(Filter(person_ids=[SECRET]))


def compact(folder: Path, files: Path) -> None:
    Gallery.open(folder).compact()


def build_index(folder: Path, files: Path) -> None:
    Gallery.open(folder).build_index()


def index_again(folder: Path, files: Path) -> None:
    """With other contents of the secret person's files, and then without saving their crops."""
    for number, path in enumerate(sorted(files.glob(f"{SECRET}_*.*"))):
        if path.suffix in (".avi", ".png"):
            (draw_video if path.suffix == ".avi" else draw_photograph)(path, 2000 + number)
    gallery = Gallery.open(folder)
    paths = [path for path in sorted(files.glob(f"{SECRET}_*.*")) if path.suffix in (".avi", ".png")]
    index(gallery, paths, saved=True)
    index(gallery, paths, saved=False)


def finish(folder: Path, files: Path) -> None:
    """What whoever keeps the gallery does after something was killed, and what the gallery holds before and after."""
    look(folder, files)
    (files.parent / "seen.json").rename(files.parent / "seen before.json")
    delete(folder, files)
    Gallery.open(folder)
    look(folder, files)


def look(folder: Path, files: Path) -> None:
    """Write down everyone else's rows, and how many of the secret person's a search finds."""
    gallery = Gallery.open(folder)
    note_secret(gallery, files)
    rows = {row.id: row for row in gallery.rows()}
    embeddings = {row_id: one.tobytes().hex() for ids, some in gallery.embeddings() for row_id, one in zip(ids, some)}
    seen = {
        row_id: [Path(row.source).name, row.person_id, embeddings.get(row_id), _content_of_crop(row)]
        for row_id, row in rows.items()
    }
    found = gallery.search(direction("query")[None], len(rows) + 100)[0]
    content = {
        "rows": {row_id: values for row_id, values in seen.items() if rows[row_id].person_id != SECRET},
        "secret": sum(row.person_id == SECRET for row in rows.values()),
        "secret_found": sum(hit.row.person_id == SECRET for hit in found),
    }
    (files.parent / "seen.json").write_text(json.dumps(content))


def _content_of_crop(row: GalleryRow) -> str | None:
    if row.path in ("", row.source):
        return None
    return hashlib.sha256(Path(row.path).read_bytes()).hexdigest() if Path(row.path).is_file() else "missing"


WORK: dict[str, Callable[[Path, Path], None]] = {
    "make": make, "add": add, "delete": delete, "compact": compact, "build-index": build_index,
    "re-index": index_again, "finish": finish, "look": look,
}  # fmt: skip


# --- processes that are killed ---


class Processes(KilledProcesses):
    """Processes for `WORK`, whose temporary files lie in a folder of their own."""

    def __init__(self, temporary: Path):
        temporary.mkdir()
        super().__init__("erasure", {"TMPDIR": str(temporary), "LANCE_CPU_THREADS": "1"})

    def do(self, work: str, folder: Path, files: Path, kill_after: float = math.inf) -> tuple[bool, float]:
        """[`KilledProcesses.run`]"""
        return self.run([work, str(folder), str(files)], kill_after)


def _run(work: str, folder: str, files: str, told_by: int) -> NoReturn:
    """In a process that was forked for it; tells when everything is imported and the work begins."""
    code = 1
    try:
        os.dup2(2, 1)  # what is printed is no answer of the helper
        from aga_model.gallery.lance.store import LanceStore  # starts threads, which would not outlive a fork

        LanceStore.exact_rows = INDEXED_ABOVE
        os.write(told_by, b".")
        WORK[work](Path(folder), Path(files))
        code = 0
    except Exception as error:
        print(f"{work}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


# --- what is looked at ---


class Round:
    """One gallery, from its copy of the template to what is left after the deletion."""

    def __init__(self, template: Path, place: Path, how: str):
        self.place = place
        shutil.copytree(template, place, symlinks=True)
        self.files = place / "files"
        self.folder = place / "gallery"
        if how == "moved":
            (place / "nas").mkdir()
            self.folder = Path(shutil.move(self.folder, place / "nas" / "people"))
        elif how == "copied":
            self.folder = Path(shutil.copytree(self.folder, place / "copy"))
            shutil.rmtree(place / "gallery")
        elif how == "linked":
            self.folder = place / "link"
            self.folder.symlink_to(place / "gallery")
        self.foreign = place_foreign_files(self.folder)

    def traces(self) -> list[bytes]:
        """Of the secret person: name, and the embeddings that were in the gallery, in single and half precision."""
        noted = set((self.place / NOTED).read_text(encoding="utf-8").split())
        embeddings = [np.frombuffer(bytes.fromhex(one), np.float32) for one in noted]
        return [SECRET.encode(), *(one.tobytes() for one in embeddings),
                *(one.astype(np.float16).tobytes() for one in embeddings)]  # fmt: skip

    def held_embeddings(self) -> list[bytes]:
        """Of the secret person, as the gallery held them when they were noted last."""
        last = (self.place / NOTED).read_text(encoding="utf-8").rpartition("\n\n")[2]
        return [bytes.fromhex(one) for one in last.split()]

    def index_files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("_indices/*/*")}


def place_foreign_files(folder: Path) -> dict[Path, str]:
    """50 files beside and inside a gallery that are not its own, some with names much like its own."""
    inside = [
        "notes.txt",
        "images.txt",
        "images-1.lance.txt",
        "crops/holiday.jpg",
        "crops/album/photograph_1_2_3_4.jpg",
    ]
    inside += [
        f"crops/{'0' * 16}/me.jpg",
        f"crops/{'0' * 16}/00000001_1_2_3.jpg",
        f"crops/{'x' * 16}/00000001_1_2_3_4.jpg",
    ]
    inside += ["gallery.json.bak", "my images-1.lance/a.lance"]
    places = [folder / name for name in inside]
    places += [folder / f"mine-{number}.txt" for number in range(20)]
    places += [folder.parent / f"beside-{number}.txt" for number in range(50 - len(places))]
    for number, path in enumerate(places):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine {number}")
    return {path: path.read_text() for path in places}


def secret_crops(folder: Path, others: set[str]) -> set[str]:
    """Hashes of pictures among the crops other than these: the secret person's, named by a row or not."""
    crops = folder / "crops"
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in crops.rglob("*_*_*_*.jpg")}
    return found - others


def count_traces(folder: Path, traces: Sequence[bytes], crops: set[str]) -> int:
    """Files below a folder that hold a trace in their content or their name."""
    count = 0
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        held = hashlib.sha256(content).hexdigest() in crops or any(trace in content for trace in traces)
        count += held or SECRET in path.name
    return count


def _require_traces(this: Round) -> None:
    """Raise AssertionError unless the search finds the person where nothing is deleted yet."""
    content = b"".join(path.read_bytes() for path in this.folder.rglob("*") if path.is_file())
    traces = [SECRET.encode(), *this.held_embeddings()]
    found = sum(trace in content for trace in traces)
    if not found == len(traces) > 1 or not secret_crops(this.folder, set()):
        raise AssertionError(f"of {len(traces)} traces {found} are found before the deletion")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    generator = random.Random(options.seed)
    temporary = folder / "temporary"
    processes = Processes(temporary)
    template = folder / "template"
    template.mkdir()
    processes.do("make", template / "gallery", template / "files")
    processes.do("look", template / "gallery", template / "files")
    before = json.loads((template / "seen.json").read_text())
    _require_traces(Round(template, folder / "trial", "made"))
    shutil.rmtree(folder / "trial")
    results: dict[str, Counter] = {}
    longest = {}
    for operation in OPERATIONS:  # how long each takes, unkilled
        trial = Round(template, folder / "trial", "made")
        longest[operation] = processes.do(operation, trial.folder, trial.files)[1]
        shutil.rmtree(folder / "trial")
    with tqdm(total=options.kills * len(OPERATIONS), desc="killing", unit="kill") as bar:
        for operation in OPERATIONS:
            counts = results.setdefault(operation, Counter())
            while counts["killed"] < options.kills:  # a process may end before its moment has come
                this = Round(template, folder / "round", PLACES[counts["rounds"] % len(PLACES)])
                moment = generator.uniform(0, longest[operation])
                found = _one(processes, this, before, operation, moment, temporary)
                counts.update(found)
                bar.update(found["killed"])
                shutil.rmtree(folder / "round")
    processes.close()
    return {
        operation: {name: counts.get(name, 0) for name in ("rounds", "killed", "deletion_pending", *WRONG)}
        for operation, counts in results.items()
    }


def _one(
    processes: Processes, this: Round, before: dict[str, Any], operation: str, moment: float, temporary: Path
) -> Counter:
    """What is wrong with one gallery, counted."""
    crops_of_others = {values[3] for values in before["rows"].values() if values[3] is not None}
    crops_of_others |= {hashlib.sha256(content.encode()).hexdigest() for content in this.foreign.values()}
    index_files = this.index_files()
    killed, _ = processes.do(operation, this.folder, this.files, moment)
    if operation != "delete":  # that may have made the index anew already, without the person
        index_files |= this.index_files()
    crops = secret_crops(this.folder, crops_of_others)
    written_down = (this.folder / ".erasing").exists()
    contents = {path: path.read_bytes() for path in this.files.iterdir()}
    processes.do("finish", this.folder, this.files)
    traces = this.traces()
    seen, after = (json.loads((this.place / name).read_text()) for name in ("seen before.json", "seen.json"))
    counts = Counter(rounds=1, killed=int(killed), deletion_pending=int(written_down))
    counts["hidden"] += written_down and (seen["secret"] > 0 or seen["secret_found"] > 0)
    counts["traces"] += count_traces(this.folder, traces, crops) + after["secret"] + after["secret_found"]
    counts["temporary"] += count_traces(temporary, traces, crops)
    counts["old_index_files"] += len(index_files & this.index_files())
    counts["rows_lost"] += len(before["rows"].keys() - after["rows"].keys())
    both = before["rows"].keys() & after["rows"].keys()
    counts["rows_changed"] += sum(before["rows"][row][:3] != after["rows"][row][:3] for row in both)
    counts["crops_lost"] += sum(before["rows"][row][3] != after["rows"][row][3] for row in both)
    everything = {path: content.encode() for path, content in this.foreign.items()} | contents
    counts["files_touched"] += sum(
        not path.is_file() or path.read_bytes() != content for path, content in everything.items()
    )
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when something was wrong."""
    if arguments == [SERVE]:
        serve(_run)
        return 0
    parser = bench_parser(__name__, __doc__)
    parser.add_argument("--kills", type=int, default=60, help="of each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    for operation, counts in results.items():
        print(f"{operation:12}", *(f"{name} {count}" for name, count in counts.items()))
    wrong = sum(counts[name] for counts in results.values() for name in WRONG)
    print(f"{sum(counts['killed'] for counts in results.values())} kills, {wrong} wrong")
    settings = {"kills": options.kills, "seed": options.seed, "stills": STILLS, "dim": DIM}
    write_result(options.out, settings, ("lancedb",), results=results, wrong=wrong)
    return 1 if wrong else 0
