from .release.contents import Release, ReleaseError, read_release
from .release.hub import Repository, find_token, open_repository, push_release

__all__ = [
    "Release",
    "ReleaseError",
    "Repository",
    "find_token",
    "open_repository",
    "push_release",
    "read_release",
]
