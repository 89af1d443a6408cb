"""
Person search: read image files, or cut people out of videos and photographs, encode them, keep a gallery on disk, rank
it for a sentence.
"""

from aga_model.data.image_files import Skipped, UnreadableImageError, find_images, read_image

from .audit import AuditError, AuditLog, AuditReport
from .detection import Detection, HogDetector, PersonDetector, TransformersDetector, load_detector
from .encoder import ModelLoadError, PersonEncoder, QueryWarning, TextTruncatedWarning, UnknownWritingWarning
from .explanation import Explainer, Explanation
from .explanation_picture import explanation_image, save_explanation_picture
from .faces import FaceHider, hide_faces
from .gallery import Gallery, Hit
from .hit_images import read_hit, shown_image
from .indexing import IndexReport, index_images
from .ingestion import PersonCrop, crops_of_image, crops_of_video, cut_again, save_crop
from .picture import save_result_picture
from .reranking import Reranker, rerank_hits
from .results import Answer, collapse, write_csv, write_page
from .scenes import SceneReport, SceneSettings, index_scenes
from .searching import Ranking, answer_image, answer_sentence
from .shards import ShardError, Shards
from .store import (
    EXACT_ROWS,
    Filter,
    FilteredRecall,
    GalleryError,
    GalleryRow,
    GallerySettings,
    VectorIndex,
    VectorIndexReport,
)
from .tracking import PersonTracker
from .video import UnreadableVideoError, VideoDamagedWarning, VideoFrame, is_video, read_frame, sample_frames

__all__ = [
    "EXACT_ROWS",
    "Answer",
    "AuditError",
    "AuditLog",
    "AuditReport",
    "Detection",
    "Explainer",
    "Explanation",
    "FaceHider",
    "Filter",
    "FilteredRecall",
    "Gallery",
    "GalleryError",
    "GalleryRow",
    "GallerySettings",
    "Hit",
    "HogDetector",
    "IndexReport",
    "ModelLoadError",
    "PersonCrop",
    "PersonDetector",
    "PersonEncoder",
    "PersonTracker",
    "QueryWarning",
    "Ranking",
    "Reranker",
    "SceneReport",
    "SceneSettings",
    "ShardError",
    "Shards",
    "Skipped",
    "TextTruncatedWarning",
    "TransformersDetector",
    "UnknownWritingWarning",
    "UnreadableImageError",
    "UnreadableVideoError",
    "VectorIndex",
    "VectorIndexReport",
    "VideoDamagedWarning",
    "VideoFrame",
    "answer_image",
    "answer_sentence",
    "collapse",
    "crops_of_image",
    "crops_of_video",
    "cut_again",
    "explanation_image",
    "find_images",
    "hide_faces",
    "index_images",
    "index_scenes",
    "is_video",
    "load_detector",
    "read_frame",
    "read_hit",
    "read_image",
    "rerank_hits",
    "sample_frames",
    "save_crop",
    "save_explanation_picture",
    "save_result_picture",
    "shown_image",
    "write_csv",
    "write_page",
]
