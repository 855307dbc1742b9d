"""The model, its configuration and its processor, known to transformers' auto classes."""

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
