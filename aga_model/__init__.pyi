from .configuration_aga import (
    AgaBertFusionConfig,
    AgaBertTextConfig,
    AgaConfig,
    AgaFusionConfig,
    AgaObjectiveConfig,
    AgaTextConfig,
    AgaVisionConfig,
    AgaViTConfig,
)
from .modeling_aga import AgaModel
from .pretraining_aga import AgaForPreTraining
from .processing_aga import AgaProcessor
from .retrieval_aga import AgaForImageTextRetrieval
from .version import __version__

__all__ = [
    "AgaBertFusionConfig",
    "AgaBertTextConfig",
    "AgaConfig",
    "AgaForImageTextRetrieval",
    "AgaForPreTraining",
    "AgaFusionConfig",
    "AgaModel",
    "AgaObjectiveConfig",
    "AgaProcessor",
    "AgaTextConfig",
    "AgaViTConfig",
    "AgaVisionConfig",
    "__version__",
]
