"""Training pairs: image-caption rows to tensors, reproducible whatever the number of workers or a resumed run."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from aga_model.packing import pack_captions

from .augmentation import Augmentation
from .images import read_crop, to_pixel_values


class PairDataset(torch.utils.data.Dataset):
    """
    Image-caption pairs of a split, decoded, augmented and tokenised.

    The augmentation of a sample depends on (seed, epoch, index) alone, so that workers, processes and a resumed run
    see the same crops.

    Args:
        rows: a split of [`load_benchmark`].
        processor: AgaProcessor; gives the crop size, the text length and the token ids.
        augmentation: applied to every crop, or None.
        seed: of the augmentation.
        cache: decode every image once, up front, and keep the crops in memory (height * width * 3 bytes each).
    """

    def __init__(
        self, rows: Dataset, processor, augmentation: Augmentation | None, seed: int = 0, cache: bool = False
    ):
        self.rows = rows
        size = processor.image_processor.size
        self.height, self.width = size["height"], size["width"]
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.paths = [image["path"] for image in rows["image"]]
        person_ids = np.asarray(rows["person_id"])
        # Labels run from 0 without gaps, in the order of the person ids.
        self.labels = np.unique(person_ids, return_inverse=True)[1]
        self.token_ids = processor.tokenizer(list(rows["caption"]), truncation=True)["input_ids"]
        self.crops: dict[str, np.ndarray] = {}
        if cache:
            self.crops = self._decode_all(sorted(set(self.paths)))

    def _read(self, path: str) -> np.ndarray:
        return read_crop(path, self.height, self.width, draft=True)

    def _decode_all(self, paths: list[str]) -> dict[str, np.ndarray]:
        """Crops by path, decoded in threads (Pillow releases the interpreter while it decodes)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            crops = pool.map(self._read, paths)
            return dict(zip(paths, tqdm(crops, total=len(paths), desc="decoding", unit="image", leave=False)))

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer's data loader at the start of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, index: int) -> dict[str, Any]:
        """What the split says about a pair, as JSON values, for a message to the person."""
        row = self.rows[index]
        named = {key: row[key] for key in ("image_id", "person_id", "caption")}
        return {"row": index, "image": self.paths[index], **named}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`crop` uint8 (height, width, 3), `input_ids` list of int, `person_id` int, `row` int."""
        path = self.paths[index]
        crop = self.crops[path] if path in self.crops else self._read(path)
        if self.augmentation is not None:
            crop = self.augmentation(crop, np.random.default_rng((self.seed, self.epoch, index)))
        person_id = int(self.labels[index])
        return {"crop": crop, "input_ids": self.token_ids[index], "person_id": person_id, "row": index}


class PairCollator:
    """
    Batch the samples of [`PairDataset`]; captions are padded to the longest of the batch.

    Args:
        processor: AgaProcessor.
        packed: also say how the captions lie side by side in rows (`aga_model.packing`), which spares the text tower
            the padding.
    """

    def __init__(self, processor, packed: bool = False):
        self.image_processor = processor.image_processor
        self.pad_token_id = processor.tokenizer.pad_token_id
        self.text_length = processor.tokenizer.model_max_length
        self.packed = packed

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """
        `pixel_values` (batch, 3, height, width), `input_ids` and `attention_mask` (batch, seq), `person_ids` (batch,),
        `rows`, a list of the samples' places in the split, which is no input of the model, and `packing`, if asked
        for.
        """
        lengths = [len(sample["input_ids"]) for sample in samples]
        input_ids = torch.full((len(samples), max(lengths)), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, (sample, length) in enumerate(zip(samples, lengths)):
            input_ids[row, :length] = torch.tensor(sample["input_ids"])
            attention_mask[row, :length] = 1
        pixels = to_pixel_values([sample["crop"] for sample in samples], self.image_processor)
        packing = {"packing": pack_captions(lengths, self.text_length)} if self.packed else {}
        return {
            "pixel_values": torch.from_numpy(pixels),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "person_ids": torch.tensor([sample["person_id"] for sample in samples]),
            "rows": [sample["row"] for sample in samples],
            **packing,
        }
