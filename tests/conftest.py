"""Tiny random towers, a tiny shop, and an environment without network and with caches of its own."""

import atexit
import json
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MMFUSION_CACHE"] = tempfile.mkdtemp(prefix="mmfusion-test-cache-")
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="mmfusion-test-datasets-")

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from training.catalogue.writing import write_card, write_split

for variable in ("MMFUSION_CACHE", "HF_DATASETS_CACHE"):
    atexit.register(shutil.rmtree, os.environ[variable], ignore_errors=True)

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
WORDS = "red green blue plain striped mug shirt lamp bowl cotton clay soft big small a the of".split()
TINY_DIMS = {"lexical_dim": 8, "image_dim": 12, "cross_dim": 8, "fusion_hidden_size": 16}
TINY_DIMS |= {"attention_hidden_size": 8, "num_attention_heads": 2, "vector_dim": 24, "num_prototypes": 4}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of a few words, with BERT's special tokens."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate(specials + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def make_text_tower(folder: Path, hidden_size: int = 16, seed: int = 0) -> Path:
    """A random BERT of two layers with its tokenizer."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=64, initializer_range=0.2, **sizes)).save_pretrained(
        folder
    )
    make_tokenizer().save_pretrained(folder)
    return folder


def make_image_processor(size: int = 32) -> CLIPImageProcessorPil:
    """Pictures of `size` x `size` pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def make_vision_tower(folder: Path) -> Path:
    """A random SigLIP vision encoder of two layers with its image processor."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    SiglipVisionModel(SiglipVisionConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> dict[str, Path]:
    """Folders of the tiny towers: `text`, `vision` and a wider `query`."""
    folder = tmp_path_factory.mktemp("towers")
    return {
        "text": make_text_tower(folder / "text"),
        "vision": make_vision_tower(folder / "vision"),
        "query": make_text_tower(folder / "query", hidden_size=20, seed=2),
    }


@pytest.fixture
def model(towers) -> MMFusionModel:
    """A tiny model whose heads are random, not just started, so that every part has an effect."""
    return make_model(towers)


def make_model(towers, **options) -> MMFusionModel:
    """See the fixture `model`; `options` go to `from_towers`."""
    torch.manual_seed(3)
    model = MMFusionModel.from_towers(text=towers["text"], vision=towers["vision"], **(TINY_DIMS | options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def processor(towers) -> MMFusionProcessor:
    """The tiny model's processor."""
    return MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"])


def picture(colour: str = "red", size: tuple[int, int] = (40, 48), format: str = "PNG") -> bytes:
    """A picture of one colour as the bytes of a file."""
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, format)
    return stream.getvalue()


def shop_rows() -> tuple[list[dict], list[dict], list[dict]]:
    """Corpus, queries and qrels of a shop of 12 products whose colour only the picture tells."""
    corpus, queries, qrels = [], [], []
    for kind in ("mug", "shirt", "lamp", "bowl"):
        for colour in ("red", "green", "blue"):
            image = {"bytes": picture(colour), "path": f"{kind}-{colour}.png"}
            row = {
                "title": f"plain {kind}",
                "description": f"the soft {kind}",
                "category": "",
                "brand": "",
                "price": "9.90",
            }
            corpus.append({"_id": f"{kind}-{colour}", **row, "image": image})
            query = {"_id": f"q-{kind}-{colour}", "text": f"{colour} {kind}", "slice": "both", "novel": False}
            queries.append({**query, "attributes": json.dumps({"type": kind, "color": colour})})
            qrels.append({"query-id": query["_id"], "corpus-id": f"{kind}-{colour}", "score": 2})
    return corpus, queries, qrels


def write_shop(folder: Path, *rows, splits=("train", "dev", "test")) -> Path:
    """Writes a shop to a folder, the same rows in each split."""
    for split in splits:
        write_split(folder, split, *(rows or shop_rows()))
    write_card(folder, "Tiny shop", "apache-2.0", list(splits), "For tests.")
    return folder


@pytest.fixture
def shop(tmp_path) -> Path:
    """The tiny shop's folder."""
    return write_shop(tmp_path / "shop")
