"""Any encoder that `AutoModel` knows: a table of kinds, tiny and random, each from start to search; and those that
can't be taken, which are refused in one line before any work."""

import pytest
import torch
from helpers import TINY_DIMS, make_image_processor, make_text_tower, make_tokenizer, make_vision_tower, write_shop
from helpers import picture as one_colour
from transformers import AutoConfig, AutoModel

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError
from training import evaluate, export
from training.evaluation.options import EvaluateArguments
from training.features.options import ExportArguments
from training.learning.options import ModelArguments
from training.learning.starting import new_model

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = SIZES | {"vocab_size": 64, "max_position_embeddings": 64}
OFFSET, EMBEDDED = TEXT | {"max_position_embeddings": 66}, TEXT | {"embedding_size": 16}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
TEXTS = {
    "bert": TEXT,
    "roberta": OFFSET,
    "xlm-roberta": OFFSET,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 64},
    "mpnet": OFFSET,
    "electra": EMBEDDED,
    "albert": EMBEDDED,
    "deberta-v2": TEXT,
    "modernbert": TEXT | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
    "nomic_bert": TEXT,
    "eurobert": GROUPED,
    "ernie": TEXT,
    "roformer": EMBEDDED,
    "mobilebert": EMBEDDED | {"intra_bottleneck_size": 16, "true_hidden_size": 16},
    "rembert": TEXT | {"input_embedding_size": 16, "output_embedding_size": 16},
    "longformer": OFFSET | {"attention_window": 8},
    "xlnet": {"vocab_size": 64, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    "clip_text_model": TEXT | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "qwen3": GROUPED,
    "gemma3_text": GROUPED,
    "llama": GROUPED,
}
PATCHES = SIZES | {"image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
HEADED = STAGES | {"num_attention_heads": [1, 1, 2, 2]}
CONVOLUTIONS = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
IMAGES = {
    "vit": PATCHES,
    "deit": PATCHES,
    "beit": PATCHES,
    "dinov2": PATCHES,
    "dinov2_with_registers": PATCHES,
    "dinov3_vit": PATCHES,
    "dinov3_convnext": STAGES,
    "siglip_vision_model": PATCHES,
    "clip_vision_model": PATCHES,
    "chinese_clip_vision_model": PATCHES,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "resnet": CONVOLUTIONS,
    "regnet": CONVOLUTIONS | {"groups_width": 8},
    "bit": CONVOLUTIONS | {"num_groups": 2},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128, "image_size": 32},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 32},
    "poolformer": STAGES,
    "pvt_v2": HEADED | {"image_size": 32},
    "segformer": HEADED,
    "data2vec-vision": PATCHES,
    "ijepa": PATCHES,
}
STAGED = {"dinov3_convnext": 5, "convnext": 4, "convnextv2": 4, "resnet": 2, "regnet": 3, "bit": 2, "efficientnet": 5}
STAGED |= {"mobilenet_v2": 4, "poolformer": 4, "pvt_v2": 4, "segformer": 4}
PAIRS = list(zip(TEXTS, IMAGES, strict=True))
EXPORTED = [("t5", "convnextv2"), ("deberta-v2", "swin"), ("qwen3", "resnet")]
PRODUCTS = [
    {"title": "plain mug", "image": one_colour("red")},
    {"title": "a big soft lamp of clay and cotton", "image": None},
    {"title": "", "image": [one_colour("blue"), one_colour("white")]},
]


def make_encoder(folder, kind, settings):
    """An encoder as transformers saves it, with a tokenizer and an image processor."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return folder


def make_pair(tmp_path, text, image):
    """A model of two encoders and its processor; encoder-decoders are saved whole, as on the Hub."""
    towers = {
        "text": make_encoder(tmp_path / "text", text, TEXTS[text]),
        "vision": make_encoder(tmp_path / "vision", image, IMAGES[image]),
    }
    torch.manual_seed(1)
    return MMFusionModel.from_towers(**towers, **TINY_DIMS), MMFusionProcessor.from_towers(**towers)


@pytest.mark.parametrize(("text", "image"), PAIRS)
def test_from_start_to_search(text, image, tmp_path):
    model, processor = make_pair(tmp_path, text, image)
    assert len(model.config.image_levels) == STAGED.get(image, 0)
    queries = ["red mug", "a big soft lamp of clay", "mug"]
    inputs = dict(processor(queries=queries, products=PRODUCTS))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-2)
    before, losses = {name: value.clone() for name, value in model.state_dict().items()}, []
    for _ in range(2):
        loss = model.train()(**inputs, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert torch.tensor(losses).isfinite().all()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(any(name.startswith(tower) for name in changed) for tower in ("text_model.", "vision_model."))
    model.eval().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True)
    with torch.no_grad():
        one, other = model(**inputs), again(**inputs)
        torch.testing.assert_close(one.logits_per_query, other.logits_per_query, atol=1e-4, rtol=1e-4)
        alone = again.get_query_features(**processor.process_queries("mug")).pooler_output
        torch.testing.assert_close(alone[0], other.query_embeds[2], atol=1e-4, rtol=1e-4)
        listing = again.get_product_features(**processor.process_products(PRODUCTS[:1])).pooler_output
        torch.testing.assert_close(listing[0], other.product_embeds[0], atol=1e-4, rtol=1e-4)
    found = model.explain(dict(processor.process_queries("red")), dict(processor.process_products(PRODUCTS)))
    assert found.image_maps.isfinite().all() and found.image_maps[1].sum() == 0
    shop = write_shop(tmp_path / "shop", splits=("test",))
    report = evaluate.main(EvaluateArguments(str(tmp_path / "model"), str(shop), views=["fused"], metrics=["ndcg@10"]))
    assert 0 < report["views"]["fused"]["ndcg@10"]["mean"] <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_encoders_that_were_saved_in_half_precision(dtype, towers, tmp_path):
    folders = {"text": towers["text"], "vision": make_encoder(tmp_path / "vision", "convnext", STAGES)}
    for name, folder in folders.items():
        AutoModel.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path / f"half {name}")
    half, whole = (
        MMFusionModel.from_towers(**{name: place(name) for name in folders}, **TINY_DIMS)
        for place in (lambda name: tmp_path / f"half {name}", lambda name: folders[name])
    )
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    assert half.config.image_levels == whole.config.image_levels
    half.save_pretrained(tmp_path / "model")
    again = MMFusionModel.from_pretrained(tmp_path / "model")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    torch.testing.assert_close(
        half.text_model.get_input_embeddings().weight,
        whole.text_model.get_input_embeddings().weight,
        atol=1e-2,
        rtol=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("text", "image"), EXPORTED)
def test_export(text, image, tmp_path):
    pytest.importorskip("onnxruntime")
    model, processor = make_pair(tmp_path, text, image)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    export.main(ExportArguments(str(tmp_path / "model"), formats=["onnx"]))
    assert (tmp_path / "model" / "onnx" / "export.json").is_file()


REFUSED = {
    "fnet": ("text", SIZES | {"vocab_size": 64}, "what FNetModel says of a text depends on its padding"),
    "bart": (
        "text",
        {"vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32},
        "bart is no text encoder that transformers has by itself",
    ),
    "funnel": (
        "vision",  # one of two classes
        {"vocab_size": 64, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "block_sizes": [1, 1]}
        | {"block_repeats": [1, 1], "architectures": ["FunnelModel"]},
        "funnel is no image encoder that transformers has by itself",
    ),
    "vit": ("text", PATCHES, "vit is no text encoder that transformers has by itself"),
    "bert": ("vision", TEXT, "bert is no image encoder that transformers has by itself"),
    "vit_mae": ("vision", PATCHES, "ViTMAEModel says another thing of the same picture each time"),
    "siglip": (
        "vision",
        {"text_config": TEXT, "vision_config": PATCHES},
        None,  # its image encoder is known by itself
    ),
    "align": (
        "vision",
        {"text_config": TEXT, "vision_config": IMAGES["efficientnet"]},
        "the halves of align can't be taken by themselves; give it as aligned",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_taken_is_refused_in_one_line(kind, tmp_path):
    part, settings, message = REFUSED[kind]
    folder = make_encoder(tmp_path / kind, kind, settings)
    towers = {"text": make_text_tower(tmp_path / "text"), "vision": make_vision_tower(tmp_path / "vision")}
    arguments = ModelArguments(**{name: str(path) for name, path in (towers | {part: folder}).items()})
    if message is None:
        assert new_model(arguments)[0].config.vision_config.model_type == "siglip_vision_model"
        return
    with pytest.raises(DataError) as raised:
        new_model(arguments)
    assert message in str(raised.value) and "\n" not in str(raised.value)
