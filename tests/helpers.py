"""What tests of several rooms share: tiny random towers and models, a tiny shop, a tiny training, processes."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.model_folder import load_model
from training.catalogue.writing import write_card, write_split
from training.features.options import EmbedArguments
from training.learning.options import DataArguments, LoraArguments, ModelArguments, StageArguments, TrainArguments

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # PYTHONPATH of processes that import what tests import
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # for a process whose files are limited: Python would cut them short
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


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TINY_TEXT = SMALL | {"vocab_size": 64, "max_position_embeddings": 32, "initializer_range": 0.3, "projection_size": 24}
TINY_VISION = SMALL | {"hidden_size": 24, "image_size": 32, "patch_size": 8, "initializer_range": 0.3}


def _pair(model, config, projection_dim=20, text=(), vision=()):
    halves = {"text_config": TINY_TEXT | dict(text), "vision_config": TINY_VISION | dict(vision)}
    return model(config(**halves, projection_dim=projection_dim))


def _align():
    settings = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 32, "initializer_range": 0.3}
    halves = {"text_config": TINY_TEXT, "vision_config": settings | {"image_size": 32}}
    model = AlignModel(AlignConfig(**halves, projection_dim=32))
    with torch.no_grad():  # so that its batch norms know how large random convolutions' maps are
        for _ in range(20):
            model.vision_model.train()(pixel_values=torch.randn(8, 3, 32, 32))
    return model.eval()


def _vision_text():
    text = BertModel(BertConfig(**{key: value for key, value in TINY_TEXT.items() if key != "projection_size"}))
    vision = ViTModel(ViTConfig(**TINY_VISION))
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text.config, projection_dim=20)
    return VisionTextDualEncoderModel(config, vision, text)


DUAL_ENCODERS = {
    "clip": lambda: _pair(CLIPModel, CLIPConfig, text={"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}),
    "siglip": lambda: _pair(SiglipModel, SiglipConfig),
    "siglip2": lambda: _pair(Siglip2Model, Siglip2Config, vision={"num_patches": 16}),
    "chinese_clip": lambda: _pair(ChineseCLIPModel, ChineseCLIPConfig),
    "altclip": lambda: _pair(AltCLIPModel, AltCLIPConfig, text={"project_dim": 12}),
    "align": _align,
    "vision_text": _vision_text,
}


def make_dual_encoder(folder: Path, family: str) -> Path:
    """A random dual encoder as transformers saves it, with a tokenizer and an image processor."""
    torch.manual_seed(4)
    model = DUAL_ENCODERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("logit_scale", "logit_bias", "temperature"):
                parameter.fill_({"logit_scale": 2.0, "logit_bias": -7.0, "temperature": 0.1}[name])
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    if family == "siglip2":
        Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(folder)
    else:
        make_image_processor().save_pretrained(folder)
    return folder


def make_model(towers, **options) -> MMFusionModel:
    """See the fixture `model`; `options` go to `from_towers`."""
    torch.manual_seed(3)
    model = MMFusionModel.from_towers(text=towers["text"], vision=towers["vision"], **(TINY_DIMS | options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_parts(towers, query=None) -> tuple[MMFusionModel, MMFusionProcessor]:
    """A model and its processor; prefixes and lengths tell queries from products also where the tower is shared."""
    options = {"query_prefix": "small ", "product_prefix": "the ", "max_query_length": 5, "max_product_length": 7}
    processor = MMFusionProcessor.from_towers(towers["text"], towers["vision"], query, **options)
    return make_model(towers, query=query), processor


@torch.no_grad()
def query_vectors(parts, queries) -> np.ndarray:
    """The model's own vectors of queries; `parts` are of [`make_parts`]."""
    model, processor = parts
    return model.get_query_features(**processor.process_queries(queries)).pooler_output.numpy()


@torch.no_grad()
def product_vectors(parts, products) -> np.ndarray:
    """The model's own vectors of products."""
    model, processor = parts
    return model.get_product_features(**processor.process_products(products)).pooler_output.numpy()


def assert_same(found, expected):
    """That two sets of vectors differ by rounding at most."""
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


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


TWO_STAGES = {"align": {"epochs": 2, "text": "full", "fused_weight": 0.0}, "fuse": {"epochs": 2, "text": "lora"}}


def weights(folder) -> dict[str, torch.Tensor]:
    return load_model(folder)[0].state_dict()


def expect_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def losses(folder: Path) -> list[float]:
    lines = (folder.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line).get("loss") for line in lines]


def told(capfd) -> str:
    return "".join(capfd.readouterr())


def recipe(towers, shop, output, lora=None, **stages):
    model = ModelArguments(str(towers["text"]), str(towers["vision"]), config=dict(TINY_DIMS))
    defaults = {"batch_size": 6, "positives_per_query": 1, "chunk_size": 3}
    stages = {name: StageArguments(**(defaults | options)) for name, options in stages.items()}
    stages = {"fuse": StageArguments(epochs=0)} | stages
    lora = lora or LoraArguments(rank=2, alpha=4)
    return TrainArguments(
        DataArguments(str(shop).split(",")), model, lora, output=str(output), checkpoint_minutes=99, **stages
    )


class Killed(Exception):
    """Stands for the end of the process."""


def drawn_catalogue(count=300, dim=16):
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"sku-{number:03d}" for number in range(count)]
    return vectors, pa.table({"_id": ids, "title": [f"Product {number}" for number in range(count)]})


WITHOUT_PACKAGE = """
import importlib.util, sys
root = sys.argv[2]
sys.path[:] = [entry for entry in sys.path if entry and not entry.startswith(root) or "site-packages" in entry]
assert importlib.util.find_spec("modeling_mmfusion") is None, "the package can still be imported"
"""


def run_python(code, *words, **environment):
    """Runs Python outside the repository, without network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **environment}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300)


def odd_rows():
    """Texts of different lengths, two pictures missing, one product with two, and one picture that can't be read."""
    corpus, _, _ = shop_rows()
    for row in (1, 4):
        corpus[row]["image"] = None
    corpus[2]["title"] = "a very long title of a big soft striped cotton mug"
    corpus[9].update(title="", description="", price="12.00")
    corpus[7]["image"] = {"bytes": b"no picture", "path": "broken.png"}
    return corpus


def write_products(folder, corpus):
    return write_shop(folder, corpus, [], [], splits=("test",))


def embed_arguments(saved, shop, output, **options):
    options = {"shard_size": 5, "batch_tokens": 30, "batch_pictures": 3, "workers": 2} | options
    return EmbedArguments(str(saved), str(shop), "test", str(output), **options)


def run_module(*words, **variables):
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, *words], env=variables, capture_output=True, text=True, check=False)


def embed_words(saved, shop, output):
    words = ["--model", saved, "--data", shop, "--split", "test", "--output", output]
    words += ["--shard_size", 5, "--batch_tokens", 30, "--batch_pictures", 3, "--workers", 2]
    return list(map(str, words))


def big_shop(folder):
    return write_products(folder, [{**row, "_id": f"{row['_id']}-{n}"} for n in range(4) for row in odd_rows()])


def commands() -> dict[str, type]:
    """Every module of ours that is run with `python -m`, and the dataclass of its options."""
    found = {}
    for file in (path for room in ("training", "hub_card") for path in sorted((ROOT / room).rglob("*.py"))):
        match = re.search(r"^    run\([\w.\"]+, (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name] = getattr(import_module(name), match[1])
    return found
