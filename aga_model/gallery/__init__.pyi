from .audit import AuditError, AuditLog, AuditReport, Head, verify
from .crops import crop_name, write_crop
from .exact import EXACT_ROWS
from .gallery import Gallery, Hit
from .hit_images import cut_again, read_hit, shown_image
from .locations import redacted, redacted_text
from .milvus.store import SERVER_KEEPS
from .recording import MAX_PURPOSE, Recorder, require_outside
from .rows import Filter, GalleryError, GalleryRow, absolute_source
from .store import FilteredRecall, GallerySettings, VectorIndex, VectorIndexReport
from .times import read_time

__all__ = [
    "EXACT_ROWS",
    "MAX_PURPOSE",
    "SERVER_KEEPS",
    "AuditError",
    "AuditLog",
    "AuditReport",
    "Filter",
    "FilteredRecall",
    "Gallery",
    "GalleryError",
    "GalleryRow",
    "GallerySettings",
    "Head",
    "Hit",
    "Recorder",
    "VectorIndex",
    "VectorIndexReport",
    "absolute_source",
    "crop_name",
    "cut_again",
    "read_hit",
    "read_time",
    "redacted",
    "redacted_text",
    "require_outside",
    "shown_image",
    "verify",
    "write_crop",
]
