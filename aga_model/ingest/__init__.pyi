from .detection import Box, Detection, HogDetector, PersonDetector, TransformersDetector, load_detector
from .facts import FactsOf, ImageFacts, TimeSource, facts_reader
from .held import Held, HeldFiles
from .image_files import ImageFiles, index_images
from .people import MIN_HEIGHT, CropBox, PersonCrop, crops_of_image, crops_of_video, save_crop
from .pipeline import Flush, index
from .scenes import Scene, SceneSettings, index_scenes
from .shards import ShardError, Shards, no_progress
from .source import Found, IndexReport, Source
from .tracking import PersonTracker, TrackedBox, unfinished

__all__ = [
    "MIN_HEIGHT",
    "Box",
    "CropBox",
    "Detection",
    "FactsOf",
    "Flush",
    "Found",
    "Held",
    "HeldFiles",
    "HogDetector",
    "ImageFacts",
    "ImageFiles",
    "IndexReport",
    "PersonCrop",
    "PersonDetector",
    "PersonTracker",
    "Scene",
    "SceneSettings",
    "ShardError",
    "Shards",
    "Source",
    "TimeSource",
    "TrackedBox",
    "TransformersDetector",
    "crops_of_image",
    "crops_of_video",
    "facts_reader",
    "index",
    "index_images",
    "index_scenes",
    "load_detector",
    "no_progress",
    "save_crop",
    "unfinished",
]
