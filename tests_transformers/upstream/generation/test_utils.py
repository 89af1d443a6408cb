"""Stand-in for transformers' tests of `generate`: no AGA model generates text."""


class GenerationTesterMixin:
    """No test. A common test checks that nobody who cannot generate derives from it."""
