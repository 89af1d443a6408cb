"""Text-based person search with Attention-Guided Alignment (AGA), as transformers models."""

import lazy_loader

from .moved import keep_old_paths
from .registration import watch_imports

# Names are imported when they are asked for: whoever needs no model waits for neither torch nor transformers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

keep_old_paths()
watch_imports()
