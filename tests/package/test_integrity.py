"""What is damaged, missing or no number is told where it is read, and never searched with."""

import json

import numpy as np
import pytest
import torch
from helpers import make_model, make_tokenizer, write_shop
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from modeling_mmfusion import MMFusionProcessor
from modeling_mmfusion.checksums import MARK
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import load_model
from modeling_mmfusion.search import Searcher
from training import embed, evaluate, export, index
from training.common.files import new_folder
from training.evaluation.options import EvaluateArguments
from training.features import cache
from training.features.backends import TorchTowers
from training.features.cache import cached_features
from training.features.encoder import Encoder
from training.features.options import EmbedArguments, ExportArguments
from training.index import IndexArguments


@pytest.fixture
def folder(towers, tmp_path):
    """A run with a model as training writes it, vectors and index."""
    with new_folder(tmp_path / "run" / "model", "training.train") as partial:
        make_model(towers).save_pretrained(partial)
        MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(partial)
    write_shop(tmp_path / "shop")
    embed.main(EmbedArguments(str(tmp_path / "run" / "model"), str(tmp_path / "shop")))
    index.main(IndexArguments(str(tmp_path / "run" / "vectors")))
    return tmp_path


def uses(folder) -> dict:
    """All that reads a model folder."""
    model, shop = str(folder / "run" / "model"), str(folder / "shop")
    return {
        "evaluate": lambda: evaluate.main(EvaluateArguments(model, shop)),
        "embed": lambda: embed.main(EmbedArguments(model, shop, output=str(folder / "other"))),
        "export": lambda: export.main(ExportArguments(model, str(folder / "exported"), ["onnx"])),
        "search": lambda: Searcher(folder / "run"),
    }


def without_mark(folder):
    (folder / "run" / "model" / MARK).unlink()


@pytest.mark.parametrize("use", ["evaluate", "embed", "export", "search"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_model_without_its_tokenizer_is_refused(folder, use, marked):
    (folder / "run" / "model" / "tokenizer.json").unlink()
    if not marked:
        without_mark(folder)
    with pytest.raises(DataError, match="tokenizer.json: is missing" if marked else "can't load the .*tokenizer"):
        uses(folder)[use]()


def test_a_processor_knows_its_tokenizers_by_their_size(folder, tmp_path):
    model = folder / "run" / "model"
    saved = json.loads((model / "processor_config.json").read_text())
    tokens = len(make_tokenizer())
    assert saved["vocabulary_sizes"] == [tokens, tokens]
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=True)
    processor.tokenizer.add_tokens(["newword"])
    processor.save_pretrained(tmp_path / "more")
    assert MMFusionProcessor.from_pretrained(tmp_path / "more").vocabulary_sizes == [tokens + 1, tokens]
    parts = json.loads((model / "tokenizer.json").read_text())
    parts["model"]["vocab"] = {word: n for word, n in parts["model"]["vocab"].items() if n < 5}
    (model / "tokenizer.json").write_text(json.dumps(parts))  # BERT's class makes such a one where the file is missing
    with pytest.raises(ValueError, match=f"have 5 and {tokens} tokens, and had {tokens} and {tokens} when they were"):
        AutoProcessor.from_pretrained(model, trust_remote_code=True)


@pytest.mark.parametrize("use", ["evaluate", "embed", "export", "search"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, use, value):
    file = folder / "run" / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("text_model.") and tensors[name].ndim > 1)
    tensors[name][0, 0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match="model.safetensors: is not the file that was written"):
        uses(folder)[use]()
    without_mark(folder)
    with pytest.raises(DataError, match=f"the weight {name} holds what is no finite number"):
        uses(folder)[use]()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json", "tokenizer.json"])
def test_a_flipped_bit_anywhere_in_a_model_is_told(folder, name):
    file = folder / "run" / "model" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for use in uses(folder).values():
        with pytest.raises(DataError, match=f"{name}: is not the file that was written"):
            use()


@pytest.mark.parametrize("damage", ["random bytes", "truncated", "missing", "rows", "of before"])
def test_damaged_cached_features_are_computed_again(folder, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path / "cache"))
    measured = uses(folder)["evaluate"]()["views"]
    files = sorted((tmp_path / "cache" / "features").glob("*/*.npy"))
    assert files
    for file in files:
        content = file.read_bytes()
        noise = np.random.default_rng(0).bytes(len(content) - 128)
        if damage == "random bytes":
            file.write_bytes(content[:128] + noise)
        elif damage == "truncated":
            file.write_bytes(content[: len(content) // 2])
        elif damage == "missing":
            file.unlink()
        elif damage == "rows":
            (file.parent / "rows.json").write_text('[[0, "can\'t be read"]]')
        else:
            (file.parent / MARK).unlink(missing_ok=True)
    capsys.readouterr()
    assert uses(folder)["evaluate"]()["views"] == measured
    assert "is damaged and computed again" in capsys.readouterr().out
    assert uses(folder)["evaluate"]()["views"] == measured and "is damaged and" not in capsys.readouterr().out


def test_features_are_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(cache.np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises((OSError, DataError), match="No space left"):
        cached_features("key", lambda: ({"a": np.zeros(2)}, []))
    assert not list((tmp_path / "features").iterdir())


def test_vectors_that_are_no_numbers_are_neither_written_nor_measured(folder, monkeypatch):
    real = TorchTowers.product_vectors

    def product_vectors(self, inputs):
        vectors = real(self, inputs)
        vectors[-1, 0] = np.nan
        return vectors

    monkeypatch.setattr(TorchTowers, "product_vectors", product_vectors)
    with pytest.raises(DataError, match="run/model: the vector of .*corpus.parquet row .* is no finite number"):
        uses(folder)["embed"]()
    assert not (folder / "other" / "manifest.json").exists()
    encoder = Encoder.load(folder / "run" / "model")
    monkeypatch.setattr(type(encoder.model), "get_product_features", lambda self, **_: Nothing())
    monkeypatch.setattr(type(encoder.model), "get_query_features", lambda self, **_: Nothing())
    monkeypatch.setattr(Encoder, "load", lambda *_, **__: encoder)
    with pytest.raises(DataError, match="run/model: the vectors of .* are none, first of .*: no finite number"):
        uses(folder)["evaluate"]()


class Nothing:
    """A tower's output that is no number."""

    pooler_output = torch.full((12, 44), torch.nan)
    block_weights = torch.full((12, 4), torch.nan)


def test_a_model_that_was_changed_on_purpose_is_used_without_its_mark(folder):
    config = folder / "run" / "model" / "config.json"
    config.write_text(config.read_text().replace('"truncate_dim": null', '"truncate_dim": 22'))
    with pytest.raises(DataError, match=f"if you changed it on purpose, delete {MARK} there"):
        load_model(folder / "run" / "model")
    without_mark(folder)
    load_model(folder / "run" / "model")
