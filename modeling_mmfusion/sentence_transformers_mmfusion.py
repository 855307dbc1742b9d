"""The files by which sentence-transformers (6.2 or newer) loads a saved model; they need nothing of it to be written.

sentence-transformers hands `text` and `images` to the processor and then calls the method of the model that is named
here for their kind. The model is told the task (`encode_query`, `encode_document`), the processor is not: texts are
tokenized for both towers and [`MMFusionModel.get_task_features`] takes its pick. The prompt named `query` is a mark
that the processor takes off again, so that `prompt_name="query"`, by which other packages ask, is the query tower too.
Where there is a picture a product is meant, also as a query. Prefixes, lengths and the query tower's tokenizer are the
processor's, as everywhere else.

Its `truncate_dim` cuts vectors behind the model; they come as [`MMFusionTruncatableVectors`], which are then truncated
as the model does it.

LangChain and Haystack embed all texts as products until they are told. To `HuggingFaceEmbeddings` say
`query_encode_kwargs={"prompt_name": "query"}`, which it ignores with `multi_process`; to
`SentenceTransformersTextEmbedder` say `encode_kwargs={"prompt_name": "query"}`. MTEB asks for the right tower by
itself. Of a model on the Hub it also reads here that pictures are understood; for an object, its wrapper's
`mteb_model_meta` must name `image` and `text`.

A batch must be of one kind, text or picture or both, else sentence-transformers raises a `ValueError`: where products
differ, give both keys in every one and `None` for what is missing, `{"text": "Plain mug", "image": None}`. So may
queries be given, to `encode_query`: of such it makes no prompt, by which they could be told otherwise.
"""

import json
import os
from pathlib import Path

QUERY_MARK = "\u2063query\u2063"  # between separators that nobody sees or types

FILES = {
    "modules.json": [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
            "kwargs": ["task"],
        }
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_task_features", "method_output_name": "pooler_output"},
            "image": {"method": "get_task_features", "method_output_name": "pooler_output"},
            "image+text": {"method": "get_task_features", "method_output_name": "pooler_output"},
        },
        "module_output_name": "sentence_embedding",
    },
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {"query": QUERY_MARK, "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    },
}


def write_sentence_transformers_files(folder: str | os.PathLike) -> None:
    """Writes the files to a folder, which is made if need be.

    Files that are there already stay: `SentenceTransformer.save_pretrained` writes prompts and similarity of its own
    before it saves the processor.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        if not (folder / name).exists():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
