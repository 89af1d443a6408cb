"""What a model card's metadata say about the data of the model."""

from pathlib import Path

from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import HTTPError

# Tag of the card of a model that was trained on rendered drawings only.
RENDERED_TAG = "rendered-data"


def says_rendered(card: str | Path | None) -> bool:
    """Whether a card is there and its metadata say that the model has seen rendered drawings only."""
    if card is None or not Path(card).is_file():
        return False
    try:
        metadata = metadata_load(card) or {}
    except Exception:  # a card that somebody wrote by hand must not stop a search or a training
        return False
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return isinstance(tags, list) and RENDERED_TAG in tags


def find_card(model: str) -> Path | None:
    """The card of a saved model's folder or of a Hub repository; None without one that can be read."""
    if Path(model).is_dir():
        return Path(model) / "README.md"
    try:
        return Path(hf_hub_download(model, "README.md"))
    except (OSError, ValueError, HTTPError):
        return None
