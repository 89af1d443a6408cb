"""What the speed bench computes on: batches of pairs of real lengths, and image files to decode, augment and batch."""

import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import AutoProcessor

from aga_model import AgaConfig
from aga_model.data import Augmentation, PairCollator, PairDataset
from aga_model.masking import RandomMasking, corrupt_tokens, ordinary_tokens, sample_tokens
from aga_model.packing import pack_captions
from benchmarks.meters import in_turns, paired_ratios
from benchmarks.places import SMALL_MODEL

# Captions of CUHK-PEDES have 24 words on average; how they spread, and tokens per word, are this bench's assumption.
WORDS, SPREAD, LEAST_WORDS, TOKENS_PER_WORD = 24, 8, 8, 1.2
IRRA_AUGMENTATION = Augmentation(flip=0.5, crop_padding=0.05, erasing=0.5)
IMAGE_SIDES = {"crops": (420, 150), "photographs": (1536, 640)}  # height, width in pixels
DATA_WAYS = ("field", "package")


def caption_lengths(count: int, longest: int, generator: torch.Generator) -> Tensor:
    """Tokens of captions with their start and end, (count,), of 24 words on average and at most `longest` tokens."""
    words = WORDS + SPREAD * torch.randn(count, generator=generator)
    tokens = (words.clamp(min=LEAST_WORDS) * TOKENS_PER_WORD).round().long() + 2
    return tokens.clamp(max=longest)


def make_captions(lengths: Tensor, text_config, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random words of given lengths, (count, longest), and their attention mask."""
    places = torch.arange(int(lengths.max()))
    inside = places < lengths[:, None]
    special = (text_config.bos_token_id, text_config.eos_token_id, text_config.mask_token_id)
    # Ids from 1: pretrained vocabularies have the padding of other tokenizers at 0.
    ids = torch.randint(1, min(special), inside.shape, generator=generator)
    ids[:, 0] = text_config.bos_token_id
    ids[places >= lengths[:, None] - 1] = text_config.eos_token_id
    return ids, inside.long()


def pad_captions(ids: Tensor, attention_mask: Tensor, length: int, padding: int) -> tuple[Tensor, Tensor]:
    """Captions (count, seq) and their mask, padded to `length`."""
    missing = (0, length - ids.shape[1])
    return torch.nn.functional.pad(ids, missing, value=padding), torch.nn.functional.pad(attention_mask, missing)


def make_batch(config: AgaConfig, size: int, padded: bool, packed: bool, seed: int) -> dict[str, Any]:
    """
    Pairs of images of noise and captions of random words, two of each person.

    Args:
        config: gives sizes and special tokens.
        size: pairs.
        padded: captions are padded to the text length, else to the longest of the batch.
        packed: with `packing`, how the captions share rows of the text tower.
        seed: of everything; the images, the words and their masks are the same either way.

    Returns:
        the arguments of `AgaForPreTraining`, and `masked` and `corrupted` (size, seq), a random masking of the words.
    """
    text, objective = config.text_config, config.objective_config
    generator = torch.Generator().manual_seed(seed)
    ids, mask = make_captions(caption_lengths(size, text.caption_length, generator), text, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ordinary = ordinary_tokens(ids, mask, text)
        masked = sample_tokens(RandomMasking(objective.mask_ratio, 1.0).probabilities(ordinary))
        corrupted = corrupt_tokens(ids, masked, text)
    if padded:
        masked = pad_captions(masked.long(), mask, text.caption_length, 0)[0].bool()
        corrupted, _ = pad_captions(corrupted, mask, text.caption_length, text.pad_token_id)
        ids, mask = pad_captions(ids, mask, text.caption_length, text.pad_token_id)
    height, width = config.vision_config.image_height_width
    packing = {"packing": pack_captions(mask.sum(dim=1).tolist(), text.caption_length)} if packed else {}
    return {
        **packing,
        "pixel_values": torch.randn(size, 3, height, width, generator=generator),
        "input_ids": ids,
        "attention_mask": mask,
        "person_ids": torch.arange(size) // 2,
        "masked": masked,
        "corrupted": corrupted,
    }


def write_images(folder: Path, count: int, height: int, width: int) -> list[str]:
    """Smooth pictures with noise as JPEG files of quality 90, which are about as costly to decode as photographs."""
    generator = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = generator.integers(0, 256, (24, 10, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        picture = picture + generator.normal(0, 6, picture.shape).astype(np.int16)
        path = folder / f"{index}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


class FieldPairs(Dataset):
    """
    Pairs as the field reads them: the file decoded whole, augmented as torchvision does it, its caption tokenised on
    its own to the full text length; for the loader's own collation.

    Args:
        paths: image files.
        captions: one for each.
        tokenizer: gives the text length.
        size: height and width of the model's images.
        mean, std: of the pixel values, three each.
    """

    def __init__(self, paths: list[str], captions: list[str], tokenizer, size: tuple[int, int], mean, std):
        self.paths, self.captions, self.tokenizer, self.size = paths, captions, tokenizer, size
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        height, width = self.size
        picture = Image.open(self.paths[index]).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        border = round(0.05 * max(height, width))
        top, left = (int(torch.randint(2 * border + 1, (1,))) for _ in range(2))
        picture = ImageOps.expand(picture, border).crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().div(255)
        pixels = (pixels - self.mean) / self.std
        if torch.rand(1) < 0.5:
            _erase(pixels)
        text = self.tokenizer(self.captions[index], padding="max_length", truncation=True)
        ids = {name: torch.tensor(text[name]) for name in ("input_ids", "attention_mask")}
        return {"pixel_values": pixels, **ids, "person_ids": index}


def _erase(pixels: Tensor) -> None:
    """Put zeros into a rectangle of 2% to 40% of an image (3, height, width)."""
    _, height, width = pixels.shape
    area = height * width * float(torch.empty(1).uniform_(0.02, 0.4))
    aspect = math.exp(float(torch.empty(1).uniform_(math.log(0.3), math.log(3.3))))
    tall, wide = min(height, round(math.sqrt(area * aspect))), min(width, round(math.sqrt(area / aspect)))
    top, left = int(torch.randint(height - tall + 1, (1,))), int(torch.randint(width - wide + 1, (1,)))
    pixels[:, top : top + tall, left : left + wide] = 0


def make_loader(way: str, paths: list[str], workers: int, size: tuple[int, int], batch: int) -> DataLoader:
    """
    Batches of pairs of these files with a caption of 18 words each.

    Args:
        way: of `DATA_WAYS`.
        workers: processes of the loader; 0 for this one.
        size: height and width of the model's images.
        batch: pairs of a batch; what is left over at the end is dropped.
    """
    processor = AutoProcessor.from_pretrained(SMALL_MODEL, trust_remote_code=False)
    images = processor.image_processor
    images.size = {"height": size[0], "width": size[1]}
    captions = ["a man in a red coat with a black bag walks to the left and looks at his phone"] * len(paths)
    how: dict[str, Any] = {"batch_size": batch, "num_workers": workers, "drop_last": True}
    if way == "field":
        return DataLoader(
            FieldPairs(paths, captions, processor.tokenizer, size, images.image_mean, images.image_std), **how
        )
    rows = {"image": [{"path": path} for path in paths], "caption": captions, "person_id": list(range(len(paths)))}
    dataset = PairDataset(datasets.Dataset.from_dict(rows), processor, IRRA_AUGMENTATION)
    return DataLoader(
        dataset, collate_fn=PairCollator(processor, packed=True), pin_memory=torch.cuda.is_available(),
        prefetch_factor=2 if workers else None, **how,
    )  # fmt: skip


def pairs_per_second(loader: DataLoader, untimed: int) -> float:
    """The pace of a loader behind its first `untimed` batches, which fill the workers' queues."""
    batches = iter(loader)
    for _ in range(untimed):
        next(batches)
    began = time.perf_counter()
    pairs = sum(len(batch["person_ids"]) for batch in batches)
    return pairs / (time.perf_counter() - began)


def data_throughput(kind: str, workers: int, size: tuple[int, int], batch: int, count: int, rounds: int) -> dict:
    """
    Pairs that the data loader alone gives a second, decoded, augmented as in IRRA and batched, in each of `DATA_WAYS`.

    Args:
        kind: of `IMAGE_SIDES`.
        workers, size, batch: see [`make_loader`].
        count: pairs that are timed.
        rounds: the ways are measured in turn, so often.

    Returns:
        of each way the pace in every round, and of this package how many times it is as fast in the same round.
    """
    untimed = 1 + 2 * workers
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), min(count, 64), *IMAGE_SIDES[kind])
        total = count + untimed * batch
        paths = (files * (1 + total // len(files)))[:total]

        def pace(way: str) -> float:
            return pairs_per_second(make_loader(way, paths, workers, size, batch), untimed)

        paces = in_turns({way: partial(pace, way) for way in DATA_WAYS}, rounds)
    height, width = IMAGE_SIDES[kind]
    return {
        "images": kind, "height": height, "width": width, "workers": workers, "pairs_per_second": paces,
        "faster_by": paired_ratios(paces["package"], paces["field"]),
    }  # fmt: skip


def default_workers() -> int:
    """Processes that decode beside the one that trains."""
    return max(1, (os.cpu_count() or 1) - 1)
