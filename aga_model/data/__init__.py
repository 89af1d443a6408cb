"""Benchmarks on disk and rendered data, as `datasets.Dataset`, and what turns them into training batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
