from .card import PIPELINE_TAG, TASK, TEMPLATE, label_noise, write_model_card
from .contents import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_CLASSES,
    MODEL_FOLDER,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    Release,
    ReleaseError,
    read_release,
    rename_in_examples,
)
from .hub import Repository, find_token, open_repository, push_release

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "MODEL_CLASSES",
    "MODEL_FOLDER",
    "PIPELINE_TAG",
    "PROCESSOR_FILE",
    "TASK",
    "TEMPLATE",
    "WEIGHTS_FILE",
    "WEIGHTS_INDEX_FILE",
    "Release",
    "ReleaseError",
    "Repository",
    "find_token",
    "label_noise",
    "open_repository",
    "push_release",
    "read_release",
    "rename_in_examples",
    "write_model_card",
]
