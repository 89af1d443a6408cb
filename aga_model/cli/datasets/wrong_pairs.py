"""`aga wrong-pairs`: which captions of a split a model finds to be another person's."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer
from PIL import Image

from aga_model.files import write_json
from aga_model.gallery import GalleryRow, Hit
from aga_model.search import COLUMNS, save_picture, save_result_picture, stack_pictures

from ..messages import fail, note, shown
from ..opening import open_split

if TYPE_CHECKING:
    from aga_model.evaluation import SplitEmbeddings

WRONG_PAIRS_FILE = "wrong_pairs.json"
PICTURE_FILE = "wrong_pairs.png"
_LISTED = 5
_DRAWN = 8


def wrong_pairs(
    model: str,
    data_root: Path,
    dataset: str,
    split: str,
    out: Path | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool,
    seed: int,
) -> None:
    """What the command does; `commands` declares it."""
    try:
        _find(model, data_root, dataset, split, out, batch_size, device, trust_remote_code, seed)
    except torch.OutOfMemoryError:
        fail(f"a batch of {batch_size} does not fit into the GPU's memory: give a smaller --batch-size")
    except (ValueError, OSError) as error:
        fail(error)


def _find(
    model: str,
    data_root: Path,
    dataset: str,
    split: str,
    out: Path | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool,
    seed: int,
) -> None:
    # Imported here, so that the other commands run without the libraries of the extra `train`.
    from aga_model.evaluation import MOST_WRONG, RetrievalEvaluator, find_wrong_pairs

    rows, encoder = open_split(model, data_root, dataset, split, device, trust_remote_code)
    embedded = RetrievalEvaluator(rows, encoder.processor, batch_size).embed(encoder.model)
    found = find_wrong_pairs(embedded, seed, encoder.device)
    if found.wrong_share > MOST_WRONG:
        note("this model can hardly tell these pairs from strangers': take one that has learnt such data")
    report: dict[str, Any] = {"model": model, "dataset": dataset, "split": split, "seed": seed} | found.to_json(
        embedded
    )
    worst = report["left_out"]
    typer.echo(
        f"about {found.wrong_share:.1%} of {report['rows']:,} captions are another person's; {len(worst):,} are more "
        f"likely wrong than right, and about {found.wrong_kept:,.0f} wrong ones are not among them"
    )
    for pair in worst[:_LISTED]:
        typer.echo(f"  {shown(pair['image'])}: {shown(pair['caption'])}")
    if len(worst) > _LISTED:
        typer.echo("  and more")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / PICTURE_FILE).unlink(missing_ok=True)  # of other pairs
        write_json(out / WRONG_PAIRS_FILE, report)
        if worst:
            picture = _draw([pair["row"] for pair in worst[:_DRAWN]], embedded, encoder.device)
            save_picture(picture, out / PICTURE_FILE, "PNG")
        typer.echo(f"all of them: {shown(out / WRONG_PAIRS_FILE)}" + (f", {PICTURE_FILE}" if worst else ""))


def _draw(rows: list[int], embedded: "SplitEmbeddings", device: torch.device) -> Image.Image:
    """Each caption with the image that it is said to describe, framed red, and the images that match it best."""
    ranking = embedded.rank_images(COLUMNS - 1, device)
    own = {int(image): row for row, image in enumerate(embedded.gallery_image_ids)}
    texts = torch.nn.functional.normalize(embedded.text_embeds, dim=-1)
    images = torch.nn.functional.normalize(embedded.image_embeds, dim=-1)
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            first = own[int(embedded.query_image_ids[row])]
            best = [place for place in ranking.top_indices[row].tolist() if place != first]
            hits = [
                Hit(rank, float(texts[row] @ images[place]), GalleryRow(embedded.gallery_paths[place]))
                for rank, place in enumerate([first, *best])
            ]
            framed = [False] + [True] * len(best)
            pictures.append(save_result_picture(embedded.captions[row], hits, Path(folder) / "pair.png", framed))
    return stack_pictures(pictures)
