"""Looking into a trained model: what is masked, what is written, where it attends, what language it understands."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
