from .faces import FaceHider, face_hider, hide_faces
from .image_files import (
    MIN_SIDE,
    Skipped,
    UnreadableImageError,
    decode_image,
    find_images,
    read_bytes,
    read_image,
    read_image_file,
)
from .tensors import Unread, read_tensors
from .video import (
    EVERY,
    UnreadableVideoError,
    VideoDamagedWarning,
    VideoFrame,
    expected_frames,
    hash_video,
    import_opencv,
    is_video,
    read_frame,
    sample_frames,
)
from .whole_files import whole_file, write_json, write_through

__all__ = [
    "EVERY",
    "MIN_SIDE",
    "FaceHider",
    "Skipped",
    "Unread",
    "UnreadableImageError",
    "UnreadableVideoError",
    "VideoDamagedWarning",
    "VideoFrame",
    "decode_image",
    "expected_frames",
    "face_hider",
    "find_images",
    "hash_video",
    "hide_faces",
    "import_opencv",
    "is_video",
    "read_bytes",
    "read_frame",
    "read_image",
    "read_image_file",
    "read_tensors",
    "sample_frames",
    "whole_file",
    "write_json",
    "write_through",
]
