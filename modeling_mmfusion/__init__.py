"""mmfusion: multimodal product search with a query tower and a product tower that fuses text and pictures.

A name is imported when it is first asked for, so that a search by an exported query tower needs no torch. The first of
the model's own (`MMFusionModel` and its kin) registers it with `AutoConfig`, `AutoModel` and `AutoProcessor`, and so
does `import modeling_mmfusion` where transformers is imported already. A model that is saved carries files
`*_mmfusion.py`, so that it loads elsewhere by `AutoModel.from_pretrained(..., trust_remote_code=True)`.

Search needs the extra `index`:

```python
>>> from modeling_mmfusion import ProductIndex, Searcher
>>> results, shares = Searcher("runs/myshop").search("green striped mug", k=3)
```
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auto import (
        MMFusionConfig,
        MMFusionExplanation,
        MMFusionFeatures,
        MMFusionModel,
        MMFusionOutput,
        MMFusionPreTrainedModel,
        MMFusionProcessor,
        MMFusionStates,
    )
    from .errors import DataError, ProductIndexError
    from .exported import OnnxTowers, OpenVinoTowers
    from .fingerprint import model_fingerprint, stored_fingerprint
    from .index import ProductIndex, SearchResult
    from .index_graph import SearchWidth
    from .model_folder import load_model
    from .query_mmfusion import MMFusionQueryModel
    from .search import Searcher

LAZY = {
    "DataError": "errors",
    "MMFusionConfig": "auto",
    "MMFusionExplanation": "auto",
    "MMFusionFeatures": "auto",
    "MMFusionModel": "auto",
    "MMFusionOutput": "auto",
    "MMFusionPreTrainedModel": "auto",
    "MMFusionProcessor": "auto",
    "MMFusionQueryModel": "query_mmfusion",
    "MMFusionStates": "auto",
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

__all__ = [  # noqa: F822, found in LAZY
    "DataError",
    "MMFusionConfig",
    "MMFusionExplanation",
    "MMFusionFeatures",
    "MMFusionModel",
    "MMFusionOutput",
    "MMFusionPreTrainedModel",
    "MMFusionProcessor",
    "MMFusionQueryModel",
    "MMFusionStates",
    "OnnxTowers",
    "OpenVinoTowers",
    "ProductIndex",
    "ProductIndexError",
    "SearchResult",
    "SearchWidth",
    "Searcher",
    "load_model",
    "model_fingerprint",
    "stored_fingerprint",
]


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for; see [PEP 562](https://peps.python.org/pep-0562/)."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{LAZY[name]}", __name__), name)


if "transformers" in sys.modules:
    import_module(".auto", __name__)
