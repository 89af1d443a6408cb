"""Other people's checkpoints in: each loader accounts for every key of the file it reads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
