"""Defaults that the command line tells of, in a file of its own, so that help and errors need nothing else."""

from enum import StrEnum

EVERY = 0.5  # seconds between the frames of a video that are looked at: a walking person crosses about its own width
MARGIN = 0.05  # added to a detected box on each side, in parts of its width and height
MIN_HEIGHT = 40  # pixels; lower people are left out
RERANK_MEMORY_MIB = 1024.0  # for the patch states of images that wait to be re-ranked
SIMILARITY_WEIGHT = 1.0  # of the cosine similarity, divided by the temperature, beside the ITM head's log-odds
TOKEN_VARIABLE = "AGA_DEMO_TOKEN"  # the environment variable that holds the token of the demo
SERVICE_TOKEN_VARIABLE = "AGA_TOKEN"  # and that of the service


class TimeSource(StrEnum):
    """Where the time of an image comes from: its EXIF tags, the file's last change, or nowhere."""

    EXIF = "exif"
    MTIME = "mtime"
    NONE = "none"
