"""Text-based person search with Attention-Guided Alignment (AGA), as transformers models."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

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

AutoConfig.register("aga", AgaConfig, exist_ok=True)
AutoModel.register(AgaConfig, AgaModel, exist_ok=True)
AutoModelForPreTraining.register(AgaConfig, AgaForPreTraining, exist_ok=True)
AutoProcessor.register(AgaConfig, AgaProcessor, exist_ok=True)

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
