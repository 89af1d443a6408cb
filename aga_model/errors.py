"""Errors that several rooms raise, in a file that needs none of what may fail."""


class ModelLoadError(ValueError):
    """A model that cannot be loaded as a dual encoder, or not on the wanted device."""


__all__ = ["ModelLoadError"]
