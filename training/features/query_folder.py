"""The query tower as a folder that embedding servers, search engines and browsers take for any text encoder.

Read by text-embeddings-inference (TEI) on a CPU, the embedders of Vespa and OpenSearch, and transformers.js:

- `onnx/model.onnx` has what all of them feed (`input_ids` and `attention_mask`, int64) and what all of them read,
  `last_hidden_state` of shape `(batch, tokens, dim)`. A tower ends in one vector, so each token has that vector, and
  every pooling of theirs (first token, mean, last token) gives it.
- `tokenizer.json` does what the processor does with a query: plain letters, prefix, length.
- `config.json` is that of a DistilBERT, which all of them know as the encoder of just these two inputs; its
  `hidden_size` is the vector's length.
- `1_Pooling/config.json` and `sentence_bert_config.json` tell TEI the pooling and the length of a query.

No tokenizer undoes the escapes of an address (`red%20mug`), corrects spelling or leaves out what a query does not
want, as `MMFusionProcessor.query_text` does: whoever wants that has it done first.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import pad

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.text_mmfusion import FRACTION, FRACTION_SLASH, QUERY_STEPS, TRADE_MARKS, normalize_text
from training.common.files import write_json
from training.features.exporting import (
    QUERIES,
    QUERY_FOLDER,
    Case,
    Tower,
    check_agreement,
    check_int8,
    export_onnx,
    make_case,
    measure_tower,
    quantize_int8,
)

MODEL, QUANTIZED = "onnx/model", "onnx/model_quantized"
OUTPUT = "last_hidden_state"
FRACTIONS = [letter for letter in map(chr, range(0x10000)) if FRACTION.match(letter)]
SPECIAL_TOKENS = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")
LONG_QUERY = "a warm, light and water-proof jacket for long walks in the mountains " * 40
# Beside the plain ones; what a tokenizer of its own could well read otherwise.
HARD_QUERIES = (
    "",
    "  two  spaces,\ta tab ",
    "Crème brûlée bowl",
    "CAFÉ cre\u0300me",
    "LEGO\u2122 3\u00bd inch, size \uff14\uff12, \ufb01ne",
    "👟 running shoes 🏃‍♀️",
    '"navy", striped_t-shirt!?',
    "men\u2019s 3.5l jug, 60x80CM (1/2 price) \u201cgift\u201d",
    "C++ R&D d'\u00e9t\u00e9 caf\u00e9+cr\u00e8me 10-12 -5 \u2022 #mug; a.b 500ML",
    "手袋 ジャケット куртка",
    LONG_QUERY,
)


class QueryEncoder(nn.Module):
    """A query tower that takes token ids of any length and padding, and has its vector at each of them.

    Of a longer query it reads the first tokens and the closing ones, as tokenizers cut it; transformers.js cuts off
    the closing ones instead, and is therefore not told to cut.

    Args:
        model (`MMFusionModel`): the model; it is put in eval mode.
        processor (`MMFusionProcessor`): its processor.
        closing (`int`): how many special tokens stand at the end of each query.
    """

    def __init__(self, model: MMFusionModel, processor: MMFusionProcessor, closing: int):
        super().__init__()
        self.tower = Tower(model, "query")
        self.length = processor.max_query_length
        self.closing = closing
        self.padding = processor.query_tokenizer.pad_token_id if processor.text_padding == "max_length" else None
        self.eval()

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """`input_ids` and `attention_mask` of shape `(batch, tokens)`, padded on the right, to
        `(batch, tokens, embedding_dim)`."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        tokens = ids.shape[1]
        if self.padding is not None:
            ids, mask = pad(ids, (0, self.length), value=self.padding), pad(mask, (0, self.length))
        count = mask.sum(dim=1, keepdim=True)
        place = torch.arange(ids.shape[1], device=ids.device)[: self.length].unsqueeze(0)
        too_many = (count - self.length).clamp(min=0)
        ids = ids.gather(1, place + (place >= self.length - self.closing) * too_many)
        vectors = self.tower(input_ids=ids, attention_mask=(place < count).to(mask.dtype))
        return vectors.unsqueeze(1).expand(-1, tokens, -1)


class QueryFolder:
    """The folder of a model's query tower: made ready, with all that may refuse it but the export, then written.

    Args:
        model (`MMFusionModel`): the model; it is put in eval mode.
        processor (`MMFusionProcessor`): its processor.

    Raises:
        DataError: if no tokenizer.json reads queries as the processor does.
    """

    def __init__(self, model: MMFusionModel, processor: MMFusionProcessor):
        self.processor = copy(processor)
        self.processor.spelling_words = ""
        self.tokenizer = query_tokenizer(self.processor)
        check_tokens(self.tokenizer, self.processor)
        self.case = query_case(model, self.processor, self.tokenizer)

    def write(self, folder: Path, quantize: bool) -> dict[str, dict[str, float | int]]:
        """Fills the folder and measures it; by file what [`measure_tower`] returns.

        Args:
            folder (`Path`): an empty folder.
            quantize (`bool`): adds `onnx/model_quantized.onnx` with 8-bit weights, which transformers.js takes in
                browsers if it is not told otherwise.

        Raises:
            DataError: if the encoder can't be exported, or a vector differs from the model's by more than 1e-4.
        """
        write_descriptions(folder, self.processor, self.tokenizer, dim=self.case.vectors[0].shape[1])
        (folder / "onnx").mkdir()
        export_onnx(self.case, folder / f"{MODEL}.onnx", OUTPUT)
        measured = {MODEL: self._measure(folder, MODEL)}
        check_agreement(QUERY_FOLDER, MODEL, measured[MODEL])
        if quantize:
            quantize_int8(folder / f"{MODEL}.onnx", folder / f"{QUANTIZED}.onnx")
            measured[QUANTIZED] = self._measure(folder, QUANTIZED)
            check_int8(QUERY_FOLDER, QUANTIZED, measured[QUANTIZED])
        return measured

    def _measure(self, folder: Path, name: str) -> dict[str, float | int]:
        return measure_tower(f"{QUERY_FOLDER}/{name}", first_token_vectors(folder / f"{name}.onnx"), self.case)


def query_tokenizer(processor: MMFusionProcessor) -> Tokenizer:
    """A tokenizer that makes of a query what `processor.process_queries` makes of it.

    Raises:
        DataError: if the processor's has no tokenizer.json, or its prefix can't be told from what follows it.
    """
    slow_or_fast = processor.query_tokenizer
    if not slow_or_fast.is_fast:
        raise DataError(f"{QUERY_FOLDER}: the query tokenizer, {type(slow_or_fast).__name__}, has no tokenizer.json")
    content = json.loads(slow_or_fast.backend_tokenizer.to_str())
    content |= {"truncation": None, "padding": None}
    if processor.query_prefix:
        content["post_processor"] = template_with_prefix(content, processor.query_prefix)
    steps = [*plain_letters(), *(word_steps() if processor.plain_words else [])]
    steps += [*([{"type": "Lowercase"}] if processor.lower_case else []), content["normalizer"]]
    content["normalizer"] = {"type": "Sequence", "normalizers": [step for step in steps if step]}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.enable_truncation(processor.max_query_length)
    tokenizer.enable_padding(pad_id=slow_or_fast.pad_token_id, pad_token=slow_or_fast.pad_token)
    return tokenizer


def plain_letters() -> list[dict[str, Any]]:
    """[`normalize_text`] as a tokenizer's normalisers."""
    replaced = {chr(code): "" for code in TRADE_MARKS}
    replaced |= {fraction: normalize_text(fraction) for fraction in FRACTIONS}
    return [*map(replacement, replaced, replaced.values()), {"type": "NFKC"}, replacement(FRACTION_SLASH, "/")]


def word_steps() -> list[dict[str, Any]]:
    """[`plain_words`] as a tokenizer's normalisers; in browsers \\w is of English letters alone."""
    found = [
        (pattern.pattern.replace(r"[^\W0-9_]", r"\p{L}").replace(r"\w", r"[\p{L}\p{N}_]"), words)
        for pattern, words in QUERY_STEPS
    ]
    steps = [{"type": "Replace", "pattern": {"Regex": pattern}, "content": words} for pattern, words in found]
    return [*steps, {"type": "Strip", "strip_left": True, "strip_right": True}]


def replacement(old: str, new: str) -> dict[str, Any]:
    """A tokenizer's normaliser that puts one string in place of another."""
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def template_with_prefix(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A tokenizer's post-processor that puts a prefix's tokens between the special ones and the text's.

    Args:
        content (`Mapping`): a tokenizer.json.
        prefix (`str`): put before each query, such as `"query: "`.

    Raises:
        DataError: if the prefix has no tokens of its own, as where a space belongs to the word behind it (byte-level
            BPE).
    """
    tokenizer = Tokenizer.from_str(json.dumps(content))
    text = tokenizer.encode("mug", add_special_tokens=False).tokens
    whole = tokenizer.encode(f"{prefix}mug", add_special_tokens=False).tokens
    if whole[-len(text) :] != text:
        raise DataError(f"{QUERY_FOLDER}: the tokenizer joins the prefix {prefix!r} with the query's first word")
    encoding = tokenizer.encode("mug")
    closing = closing_tokens(tokenizer)
    opening = len(encoding.tokens) - len(text) - closing
    before = [*encoding.tokens[:opening], *whole[: -len(text)]]
    after = encoding.tokens[len(encoding.tokens) - closing :]
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    single = [*map(special_piece, before), sequence, *map(special_piece, after)]
    special = {
        token: {"id": token, "ids": [tokenizer.token_to_id(token)], "tokens": [token]} for token in before + after
    }
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]  # never used, but read
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def special_piece(token: str) -> dict[str, Any]:
    """A token that stands in a template as it is."""
    return {"SpecialToken": {"id": token, "type_id": 0}}


def closing_tokens(tokenizer: Tokenizer) -> int:
    """How many special tokens stand at the end of a text."""
    mask = tokenizer.encode("mug").special_tokens_mask
    return mask[::-1].index(0)


def check_tokens(tokenizer: Tokenizer, processor: MMFusionProcessor) -> None:
    """Compares a tokenizer with the processor on queries of all kinds.

    Raises:
        DataError: naming the first query that it reads otherwise.
    """
    for query in (*QUERIES, *HARD_QUERIES):
        inputs = processor.process_queries(query)
        expected = inputs["input_ids"][inputs["attention_mask"].bool()].tolist()
        if tokenizer.encode(query).ids != expected:
            raise DataError(
                f"{QUERY_FOLDER}: a tokenizer.json reads the query {query[:40]!r} otherwise than the processor; "
                f"{QUERY_FOLDER}/ is not written"
            )


def query_case(model: MMFusionModel, processor: MMFusionProcessor, tokenizer: Tokenizer) -> Case:
    """The encoder on what the folder's tokenizer makes of queries, and the vectors of the model with its processor;
    the third batch is not cut."""
    uncut = Tokenizer.from_str(tokenizer.to_str())
    uncut.no_truncation()
    groups = [
        (tokenizer, [*QUERIES, *HARD_QUERIES]),
        (tokenizer, QUERIES[:2]),
        (uncut, [LONG_QUERY, *QUERIES[:2]]),
        (tokenizer, QUERIES[1:2]),
    ]
    expected = make_case(Tower(model, "query"), [processor.process_queries(list(group)) for _, group in groups])
    encoder = QueryEncoder(model, processor, closing_tokens(tokenizer))
    batches = [token_inputs(reader, group) for reader, group in groups]
    return Case(encoder, batches, expected.vectors, expected.ms)


def token_inputs(tokenizer: Tokenizer, queries: Sequence[str]) -> dict[str, torch.Tensor]:
    """What an engine feeds of a batch of queries: `input_ids` and `attention_mask` of shape `(batch, tokens)`."""
    encodings = tokenizer.encode_batch(list(queries))
    return {
        "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
        "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
    }


def write_descriptions(folder: Path, processor: MMFusionProcessor, tokenizer: Tokenizer, dim: int) -> None:
    """Writes what is no weight: the tokenizer and the files that describe it, the encoder and its pooling."""
    special = {
        name: str(token) for name in SPECIAL_TOKENS if (token := getattr(processor.query_tokenizer, name, None))
    }
    config = {
        "model_type": "distilbert",
        "architectures": ["DistilBertModel"],
        "hidden_size": dim,
        "num_hidden_layers": 1,  # TEI wants a number, and has no use for it here
        "max_position_embeddings": processor.max_query_length,
        "pad_token_id": processor.query_tokenizer.pad_token_id,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    pooling = {
        "word_embedding_dimension": dim,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": config,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"} | special,
        "sentence_bert_config.json": {"max_seq_length": processor.max_query_length, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
    }
    for name, content in files.items():
        write_json(folder / name, content)


def first_token_vectors(file: Path) -> Callable[[Mapping[str, torch.Tensor]], np.ndarray]:
    """Runs an encoder on ONNX Runtime and pools as the folder says, by the first token: `(batch, dim)`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([OUTPUT], {name: tensor.numpy() for name, tensor in inputs.items()})[0][:, 0]
