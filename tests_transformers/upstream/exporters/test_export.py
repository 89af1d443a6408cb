"""Stand-in for transformers' tests of its exporters: AGA models have their own export, tests/conversion tests that."""


class ExportTesterMixin:
    """No test."""
