"""Errors that end a training run with one line for the person."""


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


__all__ = ["TrainingStopped"]
