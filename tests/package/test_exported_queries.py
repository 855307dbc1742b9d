"""Searches by an exported query tower read queries as the processor does, without torch and transformers."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import IMPORTED, WORDS, make_model, write_shop
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modeling_mmfusion import MMFusionProcessor, Searcher
from modeling_mmfusion.checksums import MARK
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.exported import MANIFEST, SETTINGS, TOKENIZER, exported_query_reader
from modeling_mmfusion.search import block_shares, load_query_tower
from training import embed, export, index
from training.common.files import write_json
from training.features.exporting import write_query_tokenizer

QUERIES = [
    "",
    "   ",
    "red mug",
    "RED%20Mug",
    "strped mgu",  # spelled by the shop's words
    "redmug",
    "dot ted shirt",
    "mug without stripes",
    "red shirt, not blue",
    "lamp -green",
    "Größe \U0001f455 ﬁne ½ cup™",
    "\u200f\u202eمصباح أحمر",
    "赤いマグ 红色杯子",
    "e\u0301toile \u0000 \ufeff \x7f",
    "[PAD] [CLS] </s> <|endoftext|> mug",
    "9" * 300,
    "red mug " * 2500,
]
READERS = {
    "plain": {},
    "prefix": {"query_prefix": "query: ", "plain_words": False},
    "padded": {"text_padding": "max_length", "lower_case": True, "max_query_length": 7},
    "short": {"max_query_length": 3},
}


def byte_level():
    """A tokenizer of bytes, as CLIP's and RoBERTa's are, which pads and cuts on the left."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<pad>", *letters, "re", "red"])}
    backend = Tokenizer(models.BPE(vocabulary, [("r", "e"), ("re", "d")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side="left", truncation_side="left", model_max_length=64, **names
    )


def unigram():
    """A tokenizer as SentencePiece makes them for T5 and XLM-R, in lower case."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -9.0) for letter in "abcdeghilmnoprstuw"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


def saved_reader(folder, processor):
    """A folder as a model's with an exported query tower is, as far as queries are read."""
    processor.save_pretrained(folder)
    (folder / "onnx").mkdir()
    told = {"model": "", "inputs": {"query": {}, "product": {}}} | write_query_tokenizer(folder / "onnx", processor)
    write_json(folder / "onnx" / MANIFEST, told)
    return folder


def assert_same_inputs(found, expected):
    assert found.keys() == dict(expected).keys()
    for name, values in found.items():
        assert values.dtype == np.int64 and np.array_equal(values, expected[name].numpy()), name


@pytest.mark.parametrize("settings", READERS)
@pytest.mark.parametrize("make", [None, byte_level, unigram])
def test_queries_are_read_as_the_processor_reads_them(processor, tmp_path, make, settings):
    tokenizer = copy.deepcopy(processor.tokenizer) if make is None else make()
    words = {"spelling_words": " ".join(WORDS) + " dotted"}
    options = {"query_tokenizer": tokenizer, "plain_words": True} | words | READERS[settings]
    whole = MMFusionProcessor(processor.image_processor, processor.tokenizer, **options)
    reader = exported_query_reader(saved_reader(tmp_path, whole))
    whole = MMFusionProcessor.from_pretrained(tmp_path)
    assert reader is not None
    for query in QUERIES:
        assert_same_inputs(reader.process_queries([query]), whole.process_queries([query]))
        assert reader.correction(query) == whole.correction(query)
        assert reader.unwanted_text(query) == whole.unwanted_text(query)
    assert_same_inputs(reader.process_queries(QUERIES), whole.process_queries(QUERIES))
    assert_same_inputs(reader.process_queries("red mug"), whole.process_queries("red mug"))
    for word in [*WORDS, "zebra", "e", "a" * 60]:
        assert reader._is_token(word) == whole._is_token(word)


def test_a_tokenizer_that_is_not_of_the_library_is_not_written(processor, tmp_path, monkeypatch):
    monkeypatch.setattr(type(processor.query_tokenizer), "is_fast", False)
    assert write_query_tokenizer(tmp_path, processor) == {} and not list(tmp_path.iterdir())
    assert exported_query_reader(tmp_path) is None


@pytest.mark.parametrize(
    "name, content, message",
    [
        (SETTINGS, "{", "processor_config.json: is damaged"),
        (SETTINGS, "[1]", "processor_config.json: is damaged"),
        (SETTINGS, '{"query_prefix": 3, "max_query_length": 5}', "field query_prefix is no text: 3"),
        (SETTINGS, '{"query_prefix": ""}', "field max_query_length is missing"),
        (f"onnx/{TOKENIZER}", "{}", "query_tokenizer.json: can't load the tower"),
        (f"onnx/{MANIFEST}", '{"model": "", "inputs": {"query": {}, "product": {}}}', "unknown_token is missing"),
    ],
)
def test_a_damaged_file_is_one_line(processor, tmp_path, name, content, message):
    saved_reader(tmp_path, processor)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        exported_query_reader(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def run(towers, tmp_path_factory):
    """A run of the tiny shop with the 8-bit query tower."""
    folder = tmp_path_factory.mktemp("searched")
    shop, model = write_shop(folder / "shop"), folder / "run" / "model"
    make_model(towers).save_pretrained(model)
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(model)
    embed.main(embed.EmbedArguments(str(model), str(shop), "test"))
    index.main(index.IndexArguments(str(folder / "run" / "vectors")))
    export.main(export.ExportArguments(str(model), formats=["onnx"], quantize_query="int8"))
    return folder / "run"


SEARCH = """
import sys
from training.search import SearchArguments, main
main(SearchArguments(sys.argv[2], sys.argv[1], k=3, tower="int8", json=True))
from modeling_mmfusion import ProductIndex, Searcher
assert not {"torch", "transformers", "datasets", "torchvision"} & set(sys.modules)
"""


@pytest.mark.slow
def test_a_search_needs_no_torch_and_finds_what_the_processor_finds(run):
    searcher = Searcher(run, tower="int8")
    processor, tower, fingerprint = load_query_tower(run / "model", "int8")
    searcher.index.check_model(fingerprint)
    searcher.index.teach(processor)
    for query in QUERIES[2:]:
        vectors = tower.query_vectors(processor.process_queries([query]))
        assert np.array_equal(searcher._embed_texts([query]), vectors)
        assert searcher.shares(vectors[0]) == block_shares(vectors[0], searcher.index.blocks)
    for query in ("strped mgu", "red mug without stripes"):
        command = [sys.executable, "-c", SEARCH, str(run), query]
        ran = subprocess.run(command, env={"PYTHONPATH": IMPORTED}, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr[-2000:]
        results, _ = searcher.search(query, 3)
        found = [one["product_id"] for one in json.loads(ran.stdout)["results"]]
        assert found == [one.product_id for one in results]


@pytest.mark.slow
def test_of_a_search_by_text_and_by_picture_the_same_words_are_mended(run):
    searcher = Searcher(run, tower="int8")
    searcher.search("strped mgu", image=next(iter((run.parent / "shop").rglob("*.png")), None))
    assert searcher.whole_model[1].spelling_words == searcher.processor.spelling_words != ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [SETTINGS, f"onnx/{TOKENIZER}", "onnx/query_tower_int8.onnx", f"onnx/{MANIFEST}"])
def test_a_file_that_a_search_reads_is_checked_and_no_other(run, name):
    file = run / "model" / name
    mark, content = file.parent / MARK, file.read_bytes()
    had_mark = mark.is_file()
    if not had_mark:
        write_json(mark, {"writer": "", "files": {name: "0" * 64}})
    try:
        file.write_bytes(content + b" ")
        with pytest.raises(DataError, match=f"{file.name}: is not the file that was written"):
            Searcher(run, tower="int8").search("red mug")
    finally:
        file.write_bytes(content)
        if not had_mark:
            mark.unlink()
    heavy = run / "model" / "onnx" / "product_tower.onnx"
    content = heavy.read_bytes()
    try:
        heavy.write_bytes(b"damaged")
        assert Searcher(run, tower="int8").search("red mug")[0]
        heavy.unlink()
        with pytest.raises(DataError, match="product_tower.onnx: is missing"):
            Searcher(run, tower="int8")
    finally:
        heavy.write_bytes(content)
