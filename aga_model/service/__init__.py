"""What serves a gallery to others: the demo, and the guard in front of everything that listens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
