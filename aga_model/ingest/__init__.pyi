from .detection import Box, Detection, HogDetector, PersonDetector, TransformersDetector, load_detector
from .facts import FactsOf, ImageFacts, TimeSource, facts_reader
from .indexing import IndexReport, index_images
from .people import MIN_HEIGHT, CropBox, PersonCrop, crops_of_image, crops_of_video, save_crop
from .scenes import SceneReport, SceneSettings, index_scenes
from .shards import ShardError, Shards, no_progress
from .tracking import PersonTracker, TrackedBox, unfinished

__all__ = [
    "MIN_HEIGHT",
    "Box",
    "CropBox",
    "Detection",
    "FactsOf",
    "HogDetector",
    "ImageFacts",
    "IndexReport",
    "PersonCrop",
    "PersonDetector",
    "PersonTracker",
    "SceneReport",
    "SceneSettings",
    "ShardError",
    "Shards",
    "TimeSource",
    "TrackedBox",
    "TransformersDetector",
    "crops_of_image",
    "crops_of_video",
    "facts_reader",
    "index_images",
    "index_scenes",
    "load_detector",
    "no_progress",
    "save_crop",
    "unfinished",
]
