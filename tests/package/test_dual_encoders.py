"""A model that starts from an aligned dual encoder is that dual encoder before any training."""

import shutil

import pytest
import torch
from helpers import (
    DUAL_ENCODERS,
    TINY_DIMS,
    TINY_TEXT,
    TINY_VISION,
    WORDS,
    make_dual_encoder,
    make_image_processor,
    make_text_tower,
    picture,
)
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel, BertConfig, SiglipConfig, SiglipModel, XLMRobertaConfig

from modeling_mmfusion import MMFusionConfig, MMFusionModel, MMFusionProcessor, MMFusionQueryModel
from modeling_mmfusion.encoders_mmfusion import cells_of, longest_text_of, maps_of
from modeling_mmfusion.fingerprint import LATER, _own_settings, _settings_of, model_fingerprint, stored_fingerprint
from modeling_mmfusion.fusion_mmfusion import split_blocks
from modeling_mmfusion.model_folder import load_model

QUERIES = ["red mug", "the big lamp of soft cotton", "bowl"]
PRODUCTS = [
    {"title": "plain red mug", "image": picture("red", (48, 40))},
    {"title": "striped lamp", "image": picture("blue", (40, 64))},
    {"title": "a small bowl of clay", "image": picture("green")},
]


@pytest.fixture(scope="module", params=list(DUAL_ENCODERS))
def checkpoint(request, tmp_path_factory):
    return make_dual_encoder(tmp_path_factory.mktemp(request.param), request.param)


def start(folder, **options):
    return MMFusionModel.from_towers(aligned=folder, **(TINY_DIMS | options)), MMFusionProcessor.from_towers(
        aligned=folder
    )


@torch.no_grad()
def block_scores(model, processor, block, view):
    """The cosines of one block of queries and products."""
    queries = model.get_query_features(**processor.process_queries(QUERIES)).pooler_output
    products = model.get_product_features(**processor.process_products(PRODUCTS), view=view).pooler_output
    parts = [F.normalize(split_blocks(found, model.output_dims)[block], dim=-1) for found in (queries, products)]
    return parts[0] @ parts[1].T


@torch.no_grad()
def own_features(folder, processor):
    """The checkpoint's own unit vectors of the queries, the products' texts and their pictures, prepared here by the
    rules of its family: SigLIP's texts are padded to their full length, and no padding is masked."""
    model = AutoModel.from_pretrained(folder).eval()
    is_siglip = model.config.model_type.startswith("siglip")
    padding = {"padding": "max_length", "max_length": 32} if is_siglip else {"padding": True}
    found = []
    for texts in (QUERIES, [product["title"] for product in PRODUCTS]):
        inputs = processor.tokenizer(texts, return_tensors="pt", return_token_type_ids=False, **padding)
        if is_siglip:
            inputs.pop("attention_mask")
        found.append(model.get_text_features(**inputs).pooler_output)
    inputs = processor.process_products(PRODUCTS)
    pictures = {
        name: inputs[name][:, 0]
        for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")
        if name in inputs
    }
    found.append(model.get_image_features(**pictures).pooler_output)
    return [F.normalize(features, dim=-1) for features in found]


def test_step_0_is_the_checkpoint(checkpoint):
    model, processor = start(checkpoint)
    queries, texts, images = own_features(checkpoint, processor)
    close = {"atol": 1e-5, "rtol": 0}
    assert images.std(dim=0).max() > 1e-3, "pictures don't differ"
    torch.testing.assert_close(block_scores(model, processor, "aligned", "image"), queries @ images.T, **close)
    torch.testing.assert_close(block_scores(model, processor, "aligned", "fused"), queries @ images.T, **close)
    torch.testing.assert_close(block_scores(model, processor, "text", "text"), queries @ texts.T, **close)


def test_the_image_view_ranks_as_the_checkpoint_does(checkpoint):
    model, processor = start(checkpoint)
    queries, _, images = own_features(checkpoint, processor)
    with torch.no_grad():
        asked = model.get_query_features(**processor.process_queries(QUERIES)).pooler_output
        shown = model.get_product_features(**processor.process_products(PRODUCTS), view="image").pooler_output
    assert torch.equal((asked @ shown.T).argsort(dim=1), (queries @ images.T).argsort(dim=1))


def test_the_temperature_is_taken_over(checkpoint):
    model, _ = start(checkpoint)
    scale, bias = model.logit_scale()
    expected = 10.0 if model.config.aligned_config.model_type == "align" else torch.e**2
    assert scale.item() == pytest.approx(expected, rel=1e-5)
    assert bias.item() == pytest.approx(-7.0 if "siglip" in model.config.aligned_config.model_type else -10.0)


def test_a_saved_model_loads_and_has_one_fingerprint(checkpoint, tmp_path):
    model, processor = start(checkpoint)
    expected = block_scores(model, processor, "aligned", "image")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_model(tmp_path)
    torch.testing.assert_close(block_scores(loaded, its_processor, "aligned", "image"), expected, atol=1e-6, rtol=0)
    assert stored_fingerprint(tmp_path, processor) == model_fingerprint(loaded, its_processor)
    assert its_processor.text_padding == processor.text_padding and its_processor.cut_fields == processor.cut_fields
    queries = MMFusionQueryModel.from_pretrained(tmp_path).eval()
    inputs = processor.process_queries(QUERIES)
    with torch.no_grad():
        found, whole = queries.get_query_features(**inputs), model.get_query_features(**inputs)
    torch.testing.assert_close(found.pooler_output, whole.pooler_output, atol=1e-6, rtol=0)


def test_pictures_are_explained(checkpoint):
    model, processor = start(checkpoint)
    products = processor.process_products(PRODUCTS)
    found = [model.explain(processor.process_queries([query]), products).image_maps for query in QUERIES]
    assert all(maps.shape[:2] == (3, 1) and maps.isfinite().all() for maps in found)
    assert max(maps.max() for maps in found) == 1


@pytest.mark.parametrize("text_pooling", ["aligned", "mean"])
def test_a_text_beside_a_picture_is_composed(tmp_path, text_pooling):
    model, processor = start(make_dual_encoder(tmp_path, "clip"), text_pooling=text_pooling)
    with torch.no_grad():
        features = model.encode_queries(**processor.process_queries(QUERIES)).text_features
        model.query_heads.familiarity.fit(features)
        model.logit_scale.log_scale.fill_(4.6)
        said = model.get_query_features(**processor.process_queries(QUERIES)).pooler_output
        again = model.compose_queries(model.encode_queries(**processor.process_queries(QUERIES)), said)
    torch.testing.assert_close(again.pooler_output, said, atol=0.05, rtol=0)


@pytest.mark.parametrize("words", [1, 77, 78, 5000])
def test_texts_of_any_length(checkpoint, words):
    model, processor = start(checkpoint)
    text = " ".join((WORDS * 300)[:words])
    with torch.no_grad():
        query = model.get_query_features(**processor.process_queries([text]))
        product = model.get_product_features(**processor.process_products([{"title": text, "description": text}]))
    assert query.pooler_output.isfinite().all() and product.pooler_output.isfinite().all()


def test_a_narrower_block_keeps_what_tells_most(tmp_path):
    folder = make_dual_encoder(tmp_path, "clip")
    model, processor = start(folder, aligned_dim=6)
    with torch.no_grad():
        states = model.encode_products(**processor.process_products(PRODUCTS))
        images = model.alignment.images(states.image_features, states.image_mask)
        texts = F.normalize(torch.randn(40, 20) * torch.linspace(2, 0.01, 20), dim=-1)
        model.alignment.start(texts, images)
        centred = texts - texts.mean(dim=0)
        kept = model.alignment.base(centred).square().sum() / centred.square().sum()
    assert kept > 0.6 and model.config.block_dims["aligned"] == 6
    torch.testing.assert_close(model.alignment.text_centre.weight, texts.mean(dim=0))


def test_no_picture_is_at_no_disadvantage_once_centred(tmp_path):
    folder = make_dual_encoder(tmp_path, "siglip")
    model, processor = start(folder)
    with torch.no_grad():
        texts = model.encode_queries(**processor.process_queries(QUERIES)).aligned_features
        states = model.encode_products(**processor.process_products(PRODUCTS))
        model.alignment.start(texts, model.alignment.images(states.image_features, states.image_mask))
    assert block_scores(model, processor, "aligned", "image").mean().abs() < 0.2
    assert block_scores(model, processor, "text", "text").mean().abs() < 0.5


def test_siglip_sees_padding_and_others_do_not(checkpoint):
    model, processor = start(checkpoint)
    inputs = processor.process_queries(["red mug"])
    is_siglip = model.config.aligned_config.model_type.startswith("siglip")
    assert inputs["input_ids"].shape[1] == (32 if is_siglip else 4)
    assert model.config.attend_padding == is_siglip
    assert processor.lower_case == is_siglip


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_lower_case_is_obeyed(tmp_path, family):
    processor = MMFusionProcessor.from_towers(aligned=make_dual_encoder(tmp_path, family))
    assert processor.product_text({"title": "RED Mug"}) == "red mug" and processor.query_text("Red MUG") == "red mug"


def test_patches_of_varying_shape_become_maps_of_their_shape():
    patches = torch.zeros(2, 6, 1)
    patches[0, :2] = 1.0  # the upper row of 3 x 2 patches
    patches[1, [0, 3]] = 1.0  # the left column of 2 x 3 patches
    maps = maps_of(patches, torch.tensor([[3, 2], [2, 3]]), 6)[:, 0]
    assert (maps[0, :2] == 1).all() and (maps[0, 2:] == 0).all()
    assert (maps[1, :, :2] == 1).all() and (maps[1, :, 2:] == 0).all()
    assert cells_of([torch.randn(2, 6, 4)], 3, torch.tensor([[3, 2], [2, 3]])).shape == (2, 9, 4)


def broken(folder, what):
    """A dual encoder that lacks something."""
    make_dual_encoder(folder, "clip")
    if what == "no dual encoder":
        shutil.rmtree(folder)
        make_text_tower(folder)
        make_image_processor().save_pretrained(folder)
    if what == "widths":
        tensors = load_file(folder / "model.safetensors")
        tensors["visual_projection.weight"] = torch.zeros(8, 24)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if what == "tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    if what == "image processor":
        for file in folder.glob("*processor_config.json"):
            file.unlink()
    return folder


@pytest.mark.parametrize(
    "what, message",
    [
        ("no dual encoder", "is no dual encoder: give a checkpoint"),
        ("widths", "fit its configuration"),
        ("tokenizer", "has no tokenizer"),
        ("image processor", "has no image processor"),
    ],
)
def test_what_is_no_whole_dual_encoder_is_one_line(tmp_path, what, message):
    folder = broken(tmp_path / "checkpoint", what)
    with pytest.raises(ValueError, match=message) as found:
        start(folder)
    assert "\n" not in str(found.value) and str(folder) in str(found.value)


def test_halves_of_different_widths_share_no_space(tmp_path):
    halves = {"text_config": TINY_TEXT | {"projection_size": 12}, "vision_config": TINY_VISION}
    SiglipModel(SiglipConfig(**halves)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="12 and 24 dimensions"):
        MMFusionModel.from_towers(aligned=tmp_path)


def test_encoders_are_given_in_one_way(towers, tmp_path):
    for given in ({}, {"text": "a"}, {"text": "a", "vision": "b", "aligned": "c"}, {"aligned": "c", "query": "d"}):
        with pytest.raises(ValueError, match="give text and vision"):
            MMFusionModel.from_towers(**given)
    with pytest.raises(ValueError, match="max_product_length 99: .* has positions for 64 tokens"):
        MMFusionProcessor.from_towers(**{n: towers[n] for n in ("text", "vision")}, max_product_length=99)


def test_longest_text_of_an_encoder():
    assert longest_text_of(BertConfig(max_position_embeddings=512)) == 512
    assert longest_text_of(XLMRobertaConfig(max_position_embeddings=514)) == 512
    assert MMFusionConfig().aligned_config is None


LONG = {
    "title": "red mug",
    "brand": "",
    "category": "bowl",
    "description": " ".join(["soft"] * 40),
    "attributes": {"size": "big", "of": "clay"},
}


def test_a_long_listing_loses_its_least_useful_words(tmp_path):
    processor = MMFusionProcessor.from_towers(aligned=make_dual_encoder(tmp_path, "clip"))
    text = processor.product_text(LONG)
    assert text.startswith("red mug. bowl. soft soft") and text.endswith("of clay")
    used = processor.tokenizer(text)["input_ids"]
    assert 28 <= len(used) <= processor.max_product_length == 32
    worse = processor.product_text(LONG | {"attributes": " ".join(["clay"] * 80)})
    assert worse.startswith("red mug. bowl. clay clay") and "soft" not in worse
    title = processor.product_text(LONG | {"title": " ".join(["lamp"] * 80)})
    assert set(title.split()) == {"lamp"}, "where the title alone is too long, nothing else is left"
    processor.cut_fields = []
    assert processor.product_text(LONG).count("soft") == 40


def test_what_came_later_leaves_old_fingerprints_as_they_were(model, processor):
    processor.cut_fields, processor.plain_words = [], False  # as in folders that were saved before
    assert not LATER.keys() & _settings_of(processor).keys() and not LATER.keys() & _own_settings(model.config).keys()


def test_a_checkpoint_in_half_precision_becomes_a_model_in_full(tmp_path):
    folder = make_dual_encoder(tmp_path / "whole", "siglip")
    AutoModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    model = MMFusionModel.from_towers(aligned=tmp_path / "half", **TINY_DIMS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert model.encode_queries(torch.tensor([[2, 5, 3]])).aligned_features.dtype == torch.float32
