"""Text-based person search with Attention-Guided Alignment (AGA), as transformers models."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

from .configuration_aga import AgaConfig, AgaFusionConfig, AgaObjectiveConfig, AgaTextConfig, AgaVisionConfig
from .modeling_aga import AgaForPreTraining, AgaModel
from .processing_aga import AgaProcessor
from .version import __version__

AutoConfig.register("aga", AgaConfig, exist_ok=True)
AutoModel.register(AgaConfig, AgaModel, exist_ok=True)
AutoModelForPreTraining.register(AgaConfig, AgaForPreTraining, exist_ok=True)
AutoProcessor.register(AgaConfig, AgaProcessor, exist_ok=True)

__all__ = [
    "AgaConfig",
    "AgaForPreTraining",
    "AgaFusionConfig",
    "AgaModel",
    "AgaObjectiveConfig",
    "AgaProcessor",
    "AgaTextConfig",
    "AgaVisionConfig",
    "__version__",
]
