"""From pixels to rows: files, photographs and videos, detection, tracking, facts, several processes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
