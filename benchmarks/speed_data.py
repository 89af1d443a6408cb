"""What the speed bench computes on: batches of pairs of real lengths, and image files to decode, augment and batch."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from aga_model import AgaConfig
from aga_model.data.augmentation import Augmentation
from aga_model.data.pairs import PairCollator, PairDataset
from aga_model.masking import RandomMasking, corrupt_tokens, ordinary_tokens, sample_tokens
from aga_model.packing import pack_captions

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "aga-small-rendered"
# Captions of CUHK-PEDES have 24 words on average; how they spread, and tokens per word, are this bench's assumption.
WORDS, SPREAD, LEAST_WORDS, TOKENS_PER_WORD = 24, 8, 8, 1.2
IRRA_AUGMENTATION = Augmentation(flip=0.5, crop_padding=0.05, erasing=0.5)
IMAGE_SIDES = {"crops": (420, 150), "photographs": (1536, 640)}  # height, width in pixels


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


def data_throughput(kind: str, workers: int, size: tuple[int, int], batch: int, count: int) -> dict:
    """
    Pairs that the data loader alone gives a second: decoded, augmented as in IRRA, batched.

    Args:
        kind: of `IMAGE_SIDES`.
        workers: processes of the loader; 0 for this one.
        size: height and width of the model's images.
        batch: pairs of a batch.
        count: pairs timed; those before them fill the workers' queues.
    """
    untimed = 1 + 2 * workers
    count += untimed * batch
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    processor.image_processor.size = {"height": size[0], "width": size[1]}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), min(count, 64), *IMAGE_SIDES[kind])
        rows = {
            "image": [{"path": paths[index % len(paths)]} for index in range(count)],
            "caption": ["a man in a red coat with a black bag walks to the left and looks at his phone"] * count,
            "person_id": list(range(count)),
        }
        dataset = PairDataset(rows, processor, IRRA_AUGMENTATION)  # type: ignore[arg-type]
        loader = DataLoader(
            dataset, batch, num_workers=workers, collate_fn=PairCollator(processor, packed=True), drop_last=True,
            pin_memory=torch.cuda.is_available(), prefetch_factor=2 if workers else None,
        )  # fmt: skip
        batches = iter(loader)
        for _ in range(untimed):
            next(batches)
        began = time.perf_counter()
        pairs = sum(len(part["person_ids"]) for part in batches)
        seconds = time.perf_counter() - began
    figures = {"workers": workers, "pairs": pairs, "pairs_per_second": pairs / seconds}
    return {"images": kind, "height": IMAGE_SIDES[kind][0], "width": IMAGE_SIDES[kind][1], **figures}


def default_workers() -> int:
    """Processes that decode beside the one that trains."""
    return max(1, (os.cpu_count() or 1) - 1)
