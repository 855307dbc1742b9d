"""mmfusion: multimodal product search with a query tower and a product tower that fuses text and pictures.

Importing this package registers the model with `AutoConfig`, `AutoModel` and `AutoProcessor`; a model that is saved
carries files `*_mmfusion.py`, so that it loads elsewhere by `AutoModel.from_pretrained(..., trust_remote_code=True)`.

Search is imported when it is first asked for, since it needs the extra `index`:

```python
>>> from modeling_mmfusion import ProductIndex, Searcher
>>> results, shares = Searcher("runs/myshop").search("green striped mug", k=3)
```
"""

from importlib import import_module
from typing import Any

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

LAZY = {
    "DataError": "errors",
    "MMFusionQueryModel": "query_mmfusion",
    "OnnxTowers": "exported",
    "OpenVinoTowers": "exported",
    "ProductIndex": "index",
    "ProductIndexError": "errors",
    "SearchResult": "index",
    "SearchWidth": "index_graph",
    "Searcher": "search",
    "ShardedIndex": "sharded",
    "load_model": "model_folder",
    "model_fingerprint": "fingerprint",
    "open_index": "sharded",
    "stored_fingerprint": "fingerprint",
}

__all__ = [
    "MMFusionConfig",
    "MMFusionExplanation",
    "MMFusionFeatures",
    "MMFusionModel",
    "MMFusionOutput",
    "MMFusionPreTrainedModel",
    "MMFusionProcessor",
    "MMFusionStates",
    *LAZY,
]


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for; see [PEP 562](https://peps.python.org/pep-0562/)."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{LAZY[name]}", __name__), name)
