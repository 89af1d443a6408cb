"""Errors that end a training run with one line for the person."""

from transformers import TrainingArguments


class TrainingStopped(RuntimeError):
    """
    A run that cannot go on; what it has saved stays as it was.

    Args:
        message: what happened, where, and what to do.
        everywhere: all processes raise it at the same moment, so that one of them is enough to tell.
    """

    def __init__(self, message: str, everywhere: bool = False):
        super().__init__(message)
        self.everywhere = everywhere


def another_try(args: TrainingArguments) -> str:
    """What to do about values that are not finite."""
    wider = " or float32" if args.bf16 or args.fp16 else ""
    return f"to try a lower learning_rate{wider}, give another output_dir"


__all__ = ["TrainingStopped", "another_try"]
