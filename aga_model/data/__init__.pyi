from .annotations import detect_dataset
from .augmentation import Augmentation
from .benchmarks import has_validation_split, hold_out_identities, is_rendered, load_benchmark, split_records
from .cards import RENDERED_TAG, find_card, says_rendered
from .checking.check import check_dataset, find_unreadable
from .checking.problems import Problem
from .formats import FORMATS, OWN, SplitSize
from .images import read_crop, to_pixel_values
from .mentions import find_mentions, phrases_of
from .noise import CaptionError, NoiseRecord, add_noise, check_noise
from .noise_index import RDE, NoiseIndex, add_indexed_noise, make_noise_index, read_noise_index
from .pairs import PairCollator, PairDataset
from .rendered import attribute_words
from .rendered.dataset import render_dataset
from .tokenizer import text_settings, train_tokenizer

__all__ = [
    "FORMATS",
    "OWN",
    "RDE",
    "RENDERED_TAG",
    "Augmentation",
    "CaptionError",
    "NoiseIndex",
    "NoiseRecord",
    "PairCollator",
    "PairDataset",
    "Problem",
    "SplitSize",
    "add_indexed_noise",
    "add_noise",
    "attribute_words",
    "check_dataset",
    "check_noise",
    "detect_dataset",
    "find_card",
    "find_mentions",
    "find_unreadable",
    "has_validation_split",
    "hold_out_identities",
    "is_rendered",
    "load_benchmark",
    "make_noise_index",
    "phrases_of",
    "read_crop",
    "read_noise_index",
    "render_dataset",
    "says_rendered",
    "split_records",
    "text_settings",
    "to_pixel_values",
    "train_tokenizer",
]
