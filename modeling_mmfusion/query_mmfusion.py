"""The query tower alone, for machines that search and never embed a product."""

from .configuration_mmfusion import MMFusionConfig
from .modeling_mmfusion import MMFusionModel


class MMFusionQueryModel(MMFusionModel):
    r"""
    A trained [`MMFusionModel`] without its image encoder and its product heads, nor the product's text encoder where
    queries have their own. [`~MMFusionModel.get_query_features`] of texts says what the whole model says.

    `from_pretrained` takes the folder of a whole model and reads no other weights than these. It builds modules
    without their memory first, so what is taken out here never needed any.

    Args:
        config (`MMFusionConfig`): the whole model's.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(vision_model|product_heads|logit_scale|text_model|text_head)\."]

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        for name in ("vision_model", "product_heads", "logit_scale"):
            setattr(self, name, None)
        if config.query_config is not None:
            self.text_model = self.text_head = None


__all__ = ["MMFusionQueryModel"]
