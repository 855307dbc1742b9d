"""mmfusion: multimodal product search with a query tower and a product tower that fuses text and pictures.

Importing this package registers the model with `AutoConfig`, `AutoModel` and `AutoProcessor`; a model that is saved
carries these files, so that it loads elsewhere by `AutoModel.from_pretrained(..., trust_remote_code=True)`.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_mmfusion import MMFusionConfig
from .fusion_mmfusion import MMFusionStates
from .modeling_mmfusion import (
    MMFusionExplanation,
    MMFusionFeatures,
    MMFusionModel,
    MMFusionOutput,
    MMFusionPreTrainedModel,
)
from .processing_mmfusion import MMFusionProcessor

AutoConfig.register(MMFusionConfig.model_type, MMFusionConfig)
AutoModel.register(MMFusionConfig, MMFusionModel)
AutoProcessor.register(MMFusionConfig, MMFusionProcessor)
MMFusionConfig.register_for_auto_class()
MMFusionModel.register_for_auto_class("AutoModel")
MMFusionProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "MMFusionConfig",
    "MMFusionExplanation",
    "MMFusionFeatures",
    "MMFusionModel",
    "MMFusionOutput",
    "MMFusionPreTrainedModel",
    "MMFusionProcessor",
    "MMFusionStates",
]
