"""The query tower alone, for machines that search and never embed a product."""

from .auto import MMFusionConfig, MMFusionModel


class MMFusionQueryModel(MMFusionModel):
    r"""
    A trained [`MMFusionModel`] without its image encoder and its product heads, nor the product's text encoder where
    queries have their own. [`~MMFusionModel.get_query_features`] of texts says what the whole model says.

    `from_pretrained` takes the folder of a whole model and reads no other weights than these. What the image encoder
    would need, such as timm, need not be installed.

    Args:
        config (`MMFusionConfig`): the whole model's.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(vision_model|product_heads|logit_scale|text_model|text_head)\."]

    has_product_tower = False

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if config.query_config is not None:
            self.text_model = self.text_head = None


__all__ = ["MMFusionQueryModel"]
