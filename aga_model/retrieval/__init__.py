"""Person search over image files: read them, encode them, keep a gallery on disk, rank it for a sentence."""

from aga_model.data.image_files import Skipped, UnreadableImageError, find_images, read_image

from .encoder import ModelLoadError, PersonEncoder, TextTruncatedWarning
from .explanation import Explainer, Explanation
from .explanation_picture import explanation_image, save_explanation_picture
from .gallery import Gallery, GalleryError, Hit
from .indexing import IndexReport, index_images
from .picture import save_result_picture
from .reranking import Reranker, rerank_hits

__all__ = [
    "Explainer",
    "Explanation",
    "Gallery",
    "GalleryError",
    "Hit",
    "IndexReport",
    "ModelLoadError",
    "PersonEncoder",
    "Reranker",
    "Skipped",
    "TextTruncatedWarning",
    "UnreadableImageError",
    "explanation_image",
    "find_images",
    "index_images",
    "read_image",
    "rerank_hits",
    "save_explanation_picture",
    "save_result_picture",
]
