import peft
import pytest
import torch
from helpers import TINY_DIMS, make_model, picture
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ModernBertConfig,
    ModernBertModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)

from modeling_mmfusion import MMFusionConfig, MMFusionModel, MMFusionStates
from modeling_mmfusion.fusion_mmfusion import drop_modalities

PRODUCTS = [
    {"title": "red mug", "description": "soft clay", "image": picture("red")},
    {"title": "green shirt of cotton", "image": None},
    {"title": None, "image": picture("blue")},
    {"title": "lamp", "image": [picture("green"), picture("blue")]},
    {"title": "", "description": None},
]


def vectors(model, processor, products, **options):
    with torch.no_grad():
        return model.get_product_features(**processor.process_products(products), **options).pooler_output


def test_a_mixed_batch_equals_its_products_one_by_one(model, processor):
    together = vectors(model, processor, PRODUCTS)
    alone = torch.cat([vectors(model, processor, [product]) for product in PRODUCTS])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(PRODUCTS)))
    assert (torch.cdist(together, together) + 9 * torch.eye(len(PRODUCTS)) > 0.01).all()


def test_views_are_the_product_as_if_it_had_one_modality(model, processor):
    product = PRODUCTS[0]
    text = vectors(model, processor, [product], view="text")
    image = vectors(model, processor, [product], view="image")
    torch.testing.assert_close(text, vectors(model, processor, [{**product, "image": None}]))
    torch.testing.assert_close(image, vectors(model, processor, [{"image": product["image"]}]))
    assert not torch.allclose(text, vectors(model, processor, [product]), atol=1e-3)
    with pytest.raises(ValueError, match="view must be one of"):
        vectors(model, processor, [product], view="both")


def test_a_batch_without_pictures_does_not_run_the_vision_tower(model, processor):
    model.vision_model.forward = None
    assert vectors(model, processor, [PRODUCTS[1]]).shape == (1, model.config.embedding_dim)
    with pytest.raises(TypeError):
        vectors(model, processor, [PRODUCTS[0]])


def test_one_product_needs_text_or_pictures(model):
    with pytest.raises(ValueError, match="give input_ids"):
        model.get_product_features()


def test_before_training_the_text_block_is_the_text_towers_own_space(towers, processor):
    model = MMFusionModel.from_towers(text=towers["text"], vision=towers["vision"], **TINY_DIMS)
    with torch.no_grad():
        queries = model.get_query_features(**processor.process_queries(["red mug", "lamp"]))
        products = model.get_product_features(**processor.process_products(PRODUCTS[:2]))
    width = model.config.text_dim
    for output in (queries, products):
        torch.testing.assert_close(F.normalize(output.pooler_output[:, :width], dim=1), output.states.text_features)
    torch.testing.assert_close(
        queries.block_weights.square(), torch.tensor([1.0, 0.6, 0.5, 0.5]).softmax(0).expand(2, 4)
    )
    assert products.block_weights[1, 2] == 0


@pytest.mark.parametrize("own_query_tower", [False, True])
def test_save_and_load_keep_every_bit(towers, processor, tmp_path, own_query_tower):
    model = make_model(towers, query=towers["query"] if own_query_tower else None)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is MMFusionModel and hasattr(loaded, "query_model") == own_query_tower
    assert model.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    close = {"atol": 1e-6, "rtol": 0}  # where a tensor lies in memory decides the last bit of some products
    torch.testing.assert_close(vectors(model, processor, PRODUCTS), vectors(loaded, processor, PRODUCTS), **close)
    inputs = processor.process_queries(["red mug"])
    with torch.no_grad():
        torch.testing.assert_close(
            model.get_query_features(**inputs)[0], loaded.get_query_features(**inputs)[0], **close
        )


def test_keys_missing_from_a_checkpoint_start_as_intended(towers, tmp_path):
    model = make_model(towers, query=towers["query"], logit_scale_init_value=1.5)
    model.save_pretrained(tmp_path)
    kept = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if k.startswith(("text_m", "vision_m"))}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = MMFusionModel.from_pretrained(tmp_path)
    assert loaded.logit_scale.log_scale.item() == 1.5
    assert loaded.product_heads.router.weight.abs().max() == 0
    assert loaded.query_heads.router.bias.tolist() == pytest.approx([1.0, 0.6, 0.5, 0.5])
    assert loaded.text_head.residual.fc2.weight.abs().max() == 0
    assert loaded.product_heads.missing_image.weight.std() > 0.5
    base = loaded.query_text_head.base.weight  # 20 to 16: its rows are orthonormal
    torch.testing.assert_close(base @ base.T, torch.eye(16), atol=1e-5, rtol=0)
    assert 0.01 < loaded.product_heads.image_head.fc1.weight.std() < 0.03
    assert 0.05 < loaded.query_model.encoder.layer[0].output.dense.weight.std() < 0.5  # the tower's own initialiser
    assert torch.equal(loaded.text_model.pooler.dense.weight, model.text_model.pooler.dense.weight)


def test_masked_blocks_give_finite_gradients(model, processor):
    model.train()
    inputs = processor(queries=["red mug", "lamp"], products=PRODUCTS)
    output = model(**inputs, views=("fused", "text", "image"))
    sum((output.query_embeds @ found.T).square().mean() for found in output.embeds_per_view.values()).backward()
    gradients = [p.grad for name, p in model.named_parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert model.product_heads.missing_image.weight.grad.abs().sum() > 0
    assert model.product_heads.missing_text.weight.grad.abs().sum() > 0


def test_forward_scores_like_the_two_towers(model, processor):
    with torch.no_grad():
        output = model(**processor(queries=["red mug", "lamp"], products=PRODUCTS), views=("fused", "text"))
        queries = model.get_query_features(**processor.process_queries(["red mug", "lamp"])).pooler_output
    torch.testing.assert_close(output.embeds_per_view["text"], vectors(model, processor, PRODUCTS, view="text"))
    expected = model.logit_scale()[0].item() * queries @ vectors(model, processor, PRODUCTS).T
    torch.testing.assert_close(output.logits_per_query, expected)


def test_cached_features_stand_in_for_the_towers(model, processor):
    inputs = processor.process_products(PRODUCTS)
    with torch.no_grad():
        first = model.get_product_features(**inputs)
        model.text_model.forward = model.vision_model.forward = None
        again = model.get_product_features(states=first.states)
    assert torch.equal(first.pooler_output, again.pooler_output)


def test_modality_dropout_hides_one_modality_of_some_products_and_never_both(model):
    torch.manual_seed(0)
    text, image = torch.ones(4000, dtype=torch.bool), torch.ones(4000, 2, dtype=torch.bool)
    text[:1000] = False
    dropped = drop_modalities(MMFusionStates(text_mask=text, image_mask=image), 0.25)
    dropped_text, dropped_image = dropped.text_mask, dropped.image_mask
    assert dropped_image[:1000].all(), "a product without text keeps its picture"
    assert 0.2 < 1 - dropped_text[1000:].float().mean() < 0.3
    assert 0.2 < 1 - dropped_image[1000:].float().mean() < 0.3
    assert (dropped_text | dropped_image.any(1)).all()


def lora_model(model):
    config = peft.LoraConfig(
        r=4,
        target_modules=r"text_model\..*\.(query|value)|vision_model\.encoder\..*\.(q_proj|v_proj)",
        modules_to_save=["product_heads", "query_heads", "text_head", "logit_scale"],
        init_lora_weights=False,
    )
    return peft.get_peft_model(model, config).eval()


def test_lora_changes_the_output_in_eval_mode_and_equals_its_merge(model, processor):
    before = vectors(model, processor, PRODUCTS[:1]), vectors(model, processor, PRODUCTS[2:3])
    adapted = lora_model(model)
    after = vectors(adapted, processor, PRODUCTS)
    assert (after[:1] - before[0]).abs().max() > 1e-3, "the text tower's adapter has no effect"
    assert (after[2:3] - before[1]).abs().max() > 1e-3, "the vision tower's adapter has no effect"
    merged = vectors(adapted.merge_and_unload(), processor, PRODUCTS)
    torch.testing.assert_close(after, merged, atol=1e-5, rtol=0)


def test_a_lora_adapter_is_saved_with_heads_and_temperature(model, processor, towers, tmp_path):
    adapted = lora_model(model)
    with torch.no_grad():
        adapted.base_model.model.logit_scale.modules_to_save["default"].log_scale.fill_(0.7)
        adapted.base_model.model.product_heads.modules_to_save["default"].missing_image.weight.fill_(0.3)
    expected = vectors(adapted, processor, PRODUCTS)
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(make_model(towers), tmp_path).eval()
    torch.testing.assert_close(vectors(loaded, processor, PRODUCTS), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.base_model.model.logit_scale()[0].log(), torch.tensor([0.7]))


def test_a_lora_adapter_of_the_towers_loads_by_load_adapter(model, processor, towers, tmp_path):
    config = peft.LoraConfig(r=4, target_modules=r"text_model\..*\.(query|value)", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    expected = vectors(adapted, processor, PRODUCTS)
    adapted.save_pretrained(tmp_path)
    loaded = make_model(towers)
    before = vectors(loaded, processor, PRODUCTS)
    loaded.load_adapter(str(tmp_path))
    torch.testing.assert_close(vectors(loaded.eval(), processor, PRODUCTS), expected, atol=1e-6, rtol=0)
    loaded.disable_adapters()
    torch.testing.assert_close(vectors(loaded, processor, PRODUCTS), before, atol=1e-6, rtol=0)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = SMALL | {"vocab_size": 64, "max_position_embeddings": 32}
VISION = SMALL | {"image_size": 32, "patch_size": 8}


def make_clip():
    return CLIPModel(CLIPConfig(text_config=TEXT | {"eos_token_id": 3}, vision_config=VISION, projection_dim=8))


TEXT_FAMILIES = {"clip": make_clip, "modernbert": lambda: ModernBertModel(ModernBertConfig(**TEXT, pad_token_id=0))}
VISION_FAMILIES = {
    "clip": make_clip,
    "siglip": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**VISION)),
}


@pytest.mark.parametrize("families", ["clip+clip", "modernbert+siglip", "modernbert+dinov2"])
def test_towers_of_many_families(families, tmp_path):
    text_family, vision_family = families.split("+")
    vision = VISION_FAMILIES[vision_family]()
    TEXT_FAMILIES[text_family]().save_pretrained(tmp_path / "text")
    vision.save_pretrained(tmp_path / "vision")
    model = MMFusionModel.from_towers(text=tmp_path / "text", vision=tmp_path / "vision", **TINY_DIMS)
    ids, pixels = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]), torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        output = model.get_product_features(ids, (ids > 0).long(), pixel_values=pixels)
        source = vision if vision_family == "dinov2" else vision.vision_model
        expected = source.eval()(pixel_values=pixels[:, 0]).pooler_output
        shorter = model.get_product_features(ids[1:, :3], torch.ones(1, 3))
    assert output.pooler_output.shape == (2, model.config.embedding_dim)
    assert (model.config.text_pooling == "pooler") == (text_family == "clip")
    torch.testing.assert_close(output.states.image_features[:, 0], expected)
    torch.testing.assert_close(output.states.text_features[1:], shorter.states.text_features)


def test_a_timm_backbone_and_its_preprocessing(tmp_path, towers):
    from helpers import make_tokenizer

    from modeling_mmfusion import MMFusionProcessor

    pytest.importorskip("timm")
    settings = {"input_size": [3, 32, 32], "interpolation": "bilinear", "crop_pct": 0.8, "mean": [0.5] * 3}
    config = TimmWrapperConfig(architecture="test_resnet", pretrained_cfg=settings | {"std": [0.5] * 3})
    backbone = TimmWrapperModel(config)
    config.num_features = backbone.timm_model.num_features
    backbone.save_pretrained(tmp_path / "vision")
    make_tokenizer().save_pretrained(tmp_path / "vision")
    model = MMFusionModel.from_towers(text=towers["text"], vision=tmp_path / "vision", **TINY_DIMS)
    processor = MMFusionProcessor.from_towers(text=towers["text"], vision=tmp_path / "vision")
    assert processor.image_processor.size.shortest_edge == 40
    assert vectors(model, processor, PRODUCTS).shape == (5, model.config.embedding_dim)


def test_pictures_of_variable_size(towers, tmp_path):
    from transformers import Siglip2ImageProcessor

    from modeling_mmfusion import MMFusionProcessor

    config = Siglip2VisionConfig(**SMALL, num_patches=16, patch_size=8)
    Siglip2VisionModel(config).save_pretrained(tmp_path / "vision")
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path / "vision")
    model = MMFusionModel.from_towers(text=towers["text"], vision=tmp_path / "vision", **TINY_DIMS)
    processor = MMFusionProcessor.from_towers(text=towers["text"], vision=tmp_path / "vision")
    together = vectors(model, processor, PRODUCTS)
    alone = torch.cat([vectors(model, processor, [product]) for product in PRODUCTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_ignores_padding(towers, processor, pooling):
    model = make_model(towers, text_pooling=pooling)
    one = model.get_query_features(**processor.process_queries(["red mug"])).states.text_features
    padded = model.get_query_features(**processor.process_queries(["red mug", "a big lamp of the soft cotton"]))
    torch.testing.assert_close(one[0], padded.states.text_features[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("field, value", [("cross_dim", 0), ("modality_dropout", 0.9)])
def test_a_configuration_that_can_not_be_is_refused(field, value):
    with pytest.raises(StrictDataclassClassValidationError, match=field):
        MMFusionConfig(**{field: value})
