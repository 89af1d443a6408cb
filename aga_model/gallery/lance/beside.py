"""What lies beside a gallery's table and goes with its rows: saved crops, and the list of files that were not read."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..crops import (
    CROPS,
    crop_file,
    crop_name,
    is_crop_folder,
    remove_crop,
    saved_crops,
    stored_crop_path,
    write_crop,
)
from ..rows import Filter, GalleryError, GalleryRow, read_text
from .files import (
    SKIPPED,
    replace_file,
)
from .rows import (
    RowBefore,
    read_batches,
    tells_of,
)
from .table import LanceTable


class TableWithCrops(LanceTable):
    """A gallery folder whose crops follow its rows."""

    def _save_crops(
        self, rows: Sequence[GalleryRow], images: Sequence[Image.Image | None], before: dict[str, RowBefore]
    ) -> list[str]:
        """Save the crops that are given, or none if one cannot be; the paths that are stored with the rows."""
        held = {each.path for each in before.values()}
        written: list[Path] = []
        stored = []
        try:
            for row, image in zip(rows, images):
                path = row.path
                if image is not None:
                    path = f"{CROPS}/{crop_name(row.source_hash, row.frame, row.box or ())}"
                    file = self.folder / path
                    self._require_no_link(self.folder / CROPS)
                    self._require_no_link(file.parent)
                    write_crop(image, file)
                    if path not in held:
                        written.append(file)
                elif path and path != row.source:
                    path = stored_crop_path(path, self.folder) or path
                stored.append(path)
        except BaseException:
            for file in written:
                remove_crop(file)
            raise
        return stored

    def _remove_replaced_crops(
        self, before: dict[str, RowBefore], rows: Sequence[GalleryRow], changed: set[str], hashes: dict[str, str]
    ) -> None:
        """Remove the saved crops of rows that are no more, or that have another image now."""
        ids, paths = {row.id for row in rows}, {row.path for row in rows}
        for row_id, each in before.items():
            outdated = each.source in changed and hashes[each.source] != each.source_hash
            path = read_text(each.path)
            if (row_id in ids or outdated) and path not in paths:
                file = crop_file(path, self.folder)
                if file is not None:
                    remove_crop(file)

    def _sweep_crops(self, kept: str | None) -> None:
        """Remove the saved crops that no row of a condition names."""
        if not (self.folder / CROPS).is_dir() or (self.folder / CROPS).is_symlink():
            return
        named = "starts_with(path, 'crops/')"
        left = self._paths(named if kept is None else f"{named} AND {kept}")
        for path, file in saved_crops(self.folder):
            if path not in left:
                remove_crop(file)
        if kept is not None:  # crops with names of other makers go with their rows
            for path in self._paths(f"{named} AND NOT {kept}") - left:
                if (own := crop_file(path, self.folder)) is not None:
                    remove_crop(own)

    def _paths(self, condition: str) -> set[str]:
        batches = read_batches(self._table, condition, ["path"])
        return {read_text(path) for batch in batches for path in batch["path"].to_pylist()}

    def _remove_skipped(self, where: Filter | None, condition: str | None) -> None:
        """
        Take out of the list of files that could not be read those that may tell of the deleted: their files, whatever
        lies in the same folders, and paths in which their person ids stand.
        """
        file = self.folder / SKIPPED
        if where is None or not file.exists():
            return
        batches = list(read_batches(self._table, condition, ["source", "person_id"]))
        sources = {read_text(value) for batch in batches for value in batch["source"].to_pylist()}
        persons = {read_text(value) for batch in batches for value in batch["person_id"].to_pylist() if value}
        persons |= {str(person) for person in where.person_ids or ()}
        folders = {os.path.dirname(source) for source in (*sources, *map(str, where.sources or ()))}
        try:
            items = json.loads(file.read_text(encoding="utf-8"))
            left = [item for item in items if not tells_of(str(item["path"]), folders, persons)]
        except (ValueError, KeyError, TypeError, RecursionError):  # what cannot be read may tell of anybody
            left = []
        replace_file(file, (json.dumps(left, indent=2, sort_keys=True) + "\n").encode())

    def _require_no_link(self, place: Path) -> None:
        """Through a link a stranger's gallery would have files removed elsewhere; its owner's would keep them."""
        if place.is_symlink():
            raise GalleryError(
                f"{place} is a symbolic link, through which nothing is removed: put what it points to in its place"
            )

    def _require_no_links(self, place: Path) -> None:
        """The same of a folder and the folders of the gallery's in it."""
        self._require_no_link(place)
        if place.is_dir():
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_symlink() and (place.name != CROPS or is_crop_folder(entry.name)):
                        self._require_no_link(Path(entry.path))
