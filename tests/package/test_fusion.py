"""The fusion network: blocks, familiarity, truncation, baselines, pictures as queries and explanations."""

import math

import pytest
import torch
from helpers import TINY_DIMS, make_dual_encoder, make_model, picture
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F
from transformers import AutoModel

from modeling_mmfusion import MMFusionConfig, MMFusionModel, MMFusionStates
from modeling_mmfusion.fusion_mmfusion import (
    LEXICAL_PRIME,
    MMFusionFamiliarity,
    MMFusionLexicalHead,
    pool_images,
    split_blocks,
    truncate_vectors,
)
from modeling_mmfusion.modeling_mmfusion import cells_of

PRODUCTS = [
    {"title": "red mug", "description": "soft clay", "image": picture("red")},
    {"title": "green shirt of cotton"},
    {"image": picture("blue")},
    {"title": "lamp", "image": [picture("green"), picture("blue")]},
]


def query(model, processor, *texts, **inputs):
    with torch.no_grad():
        return model.get_query_features(**processor.process_queries(list(texts)), **inputs)


def products(model, processor, rows=PRODUCTS, **options):
    with torch.no_grad():
        return model.get_product_features(**processor.process_products(rows), **options)


def test_lexical_codes_count_shared_tokens_and_rare_ones_more():
    head = MMFusionLexicalHead(MMFusionConfig(lexical_dim=4096))
    ids = torch.tensor([[2000, 30000], [30000, 5], [2000, 5], [7, 8]])
    vectors = head(ids, torch.ones_like(ids))
    scores = (vectors @ vectors.T)[0]

    def weight(token):
        return math.log1p(token / 1000)

    def score(shared, *other):
        norms = [math.sqrt(sum(map(weight, tokens))) for tokens in ((2000, 30000), (shared, *other))]
        return weight(shared) / math.prod(norms)

    expected = [1, score(30000, 5), score(2000, 5), 0]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=4 / math.sqrt(4096), rtol=0)
    assert score(30000, 5) > 1.5 * score(2000, 5)
    masked = head(torch.tensor([[2000, 30000, 17]]), torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(masked, vectors[:1])
    assert head(ids[:1], torch.zeros(1, 2)).abs().max() == 0
    repeated = head(torch.tensor([[2000, 30000, 2000, 2000]]), torch.ones(1, 4))
    torch.testing.assert_close(repeated, vectors[:1], msg="a word counts once, however often it is there")


def test_lexical_hashes_are_the_formula_and_stay_below_24_bits():
    head = MMFusionLexicalHead(MMFusionConfig(lexical_dim=64))
    ids = torch.arange(1, 70000)
    factors, offsets = torch.tensor(head.factors), torch.tensor(head.offsets)
    hashes = (ids[:, None] % LEXICAL_PRIME * factors + offsets) % LEXICAL_PRIME
    expected = torch.where(hashes < LEXICAL_PRIME // 2, 1.0, -1.0) / 8
    torch.testing.assert_close(head(ids[:, None], torch.ones(len(ids), 1)), expected)
    largest = LEXICAL_PRIME - 1
    assert largest * 256 + largest * 255 + largest < 2**24 and largest * (largest // 256) < 2**24


def test_special_tokens_of_the_encoder_do_not_count():
    config = MMFusionConfig(text_config={"model_type": "modernbert", "cls_token_id": 50281, "sep_token_id": 50282})
    head = MMFusionLexicalHead(config)
    ids = torch.tensor([[50281, 300, 50282]])
    torch.testing.assert_close(head(ids, torch.ones_like(ids)), head(ids[:, 1:2], torch.ones(1, 1)))


def test_the_lexical_block_finds_the_listing_with_the_querys_words(towers, processor):
    model = make_model(towers, lexical_dim=4096)
    vectors = query(model, processor, "blue lamp")
    start = model.config.text_dim
    block = slice(start, start + model.config.lexical_dim)
    rows = [{"title": title} for title in ("striped shirt", "the blue lamp", "big lamp")]
    found = F.normalize(products(model, processor, rows).pooler_output[:, block], dim=1)
    assert (vectors.pooler_output[:, block] @ found.T)[0].argmax() == 1


def test_texts_like_those_of_the_training_are_familiar_and_others_are_not():
    torch.manual_seed(0)
    centres = F.normalize(torch.randn(4, 32), dim=1)
    known = F.normalize(centres.repeat_interleave(100, 0) + 0.1 * torch.randn(400, 32), dim=1)
    familiarity = MMFusionFamiliarity(32, MMFusionConfig(num_prototypes=4))
    assert familiarity(known).eq(1).all(), "before it has seen texts everything is familiar"
    familiarity.fit(known)
    found = familiarity(known).squeeze()
    assert (found > 0.5).float().mean() > 0.98 and found.median() > 0.99
    assert familiarity(F.normalize(torch.randn(100, 32), dim=1)).median() < 0.01


def test_held_out_texts_are_farther_from_prototypes_than_those_that_they_were_made_of():
    torch.manual_seed(0)
    kinds = F.normalize(torch.randn(20, 64), dim=1)
    known, new = (F.normalize(kinds.repeat_interleave(12, 0) + 0.08 * torch.randn(240, 64), dim=1) for _ in range(2))
    familiarity = MMFusionFamiliarity(64, MMFusionConfig(num_prototypes=2048))
    familiarity.fit(known, low=0.05, least=4)
    assert (familiarity(known) > 0.5).float().mean() > 0.9 > (familiarity(new) > 0.5).float().mean()
    familiarity.set_cosines(*familiarity.held_out_cosines(known, low=0.05, least=4))
    assert (familiarity(new) > 0.5).float().mean() > 0.9, "new texts of the same kinds"
    assert familiarity(F.normalize(torch.randn(100, 64), dim=1)).median() < 0.05


def test_a_query_that_is_half_familiar_is_wary_only_where_it_has_an_aligned_block(towers, tmp_path):
    aligned = MMFusionModel.from_towers(aligned=make_dual_encoder(tmp_path, "clip"), **TINY_DIMS)
    for model, power in ((make_model(towers), 1), (aligned, 4)):
        router, states = model.query_heads.router, torch.zeros(1, model.query_heads.router.in_features)
        names, learned = list(model.config.blocks), torch.tensor(model.query_heads.router.learned_blocks)
        with torch.no_grad():
            router.bias.copy_(torch.tensor(router.unfamiliar_logits))
            half, whole = (router(states, torch.full((1, 1), share))[0] ** 2 for share in (0.5, 1.0))
        ratio = (half / whole)[learned] / (half / whole)[names.index("text")]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5**power))


def test_in_another_world_a_trained_model_is_its_text_encoder_and_its_words(towers, processor):
    model, untrained = make_model(towers), MMFusionModel.from_towers(towers["text"], towers["vision"], **TINY_DIMS)
    with torch.no_grad():
        model.text_head.base.weight.copy_(untrained.text_head.base.weight)
    far = F.normalize(torch.randn(20, 16), dim=1) * torch.tensor([1.0] + [1e-3] * 15)
    for heads in (model.query_heads, model.product_heads):
        heads.familiarity.fit(F.normalize(-far.abs(), dim=1))
        heads.familiarity.threshold.weight.fill_(2.0)  # nothing is familiar
    text = [{"title": "red mug"}, {"title": "blue lamp of clay", "image": picture("red")}]
    for ours, theirs in (
        (query(model, processor, "red mug"), query(untrained, processor, "red mug")),
        (products(model, processor, text), products(untrained, processor, text)),
    ):
        width = model.config.text_dim + model.config.lexical_dim
        same = F.cosine_similarity(ours.pooler_output[:, :width], theirs.pooler_output[:, :width])
        torch.testing.assert_close(same, torch.ones_like(same), atol=1e-4, rtol=0)
    silent = query(model, processor, "red mug").block_weights[:, 2:]
    assert silent.square().max() < 1e-5, "a query's image and cross blocks are silent"


def test_a_text_that_says_nothing_silences_no_picture(model, processor):
    taught(model, processor)
    row, image = {"title": "of the of", "image": picture("red")}, list(model.config.blocks).index("image")
    known, unknown = products(model, processor, [{**row, "title": "red mug"}, row]).block_weights[:, image]
    assert unknown > 0.7 * known
    cross = slice(-model.config.cross_dim, None)
    vectors = products(model, processor, [row, {"image": picture("red")}, {**row, "title": "red mug"}]).pooler_output
    nothing, missing, told = F.normalize(vectors[:, cross], dim=1)
    torch.testing.assert_close(nothing, missing, atol=0.02, rtol=0)
    assert (told @ missing).item() < 0.99, "a text that says something is heard"


def test_contributions_sum_to_the_score_and_maps_tell_what_cells_add(model, processor):
    inputs = processor.process_queries(["red mug"]), processor.process_products(PRODUCTS)
    found = model.explain(*inputs)
    expected = query(model, processor, "red mug").pooler_output @ products(model, processor).pooler_output.T
    torch.testing.assert_close(found.scores, expected[0])
    torch.testing.assert_close(found.contributions.sum(dim=1), found.scores)
    assert found.contributions.shape == (4, 4) and found.query_weights.sum() == pytest.approx(1)
    assert found.image_maps.shape == (4, 2, 4, 4)
    assert found.image_maps[1].max() == 0 and found.image_maps[0, 1].max() == 0, "no picture, no map"
    assert found.image_maps.max() == pytest.approx(1) and found.image_maps.min() >= 0
    assert model.explain(inputs[0], processor.process_products(PRODUCTS[1:2])).image_maps is None
    model.requires_grad_(False)
    torch.testing.assert_close(model.explain(*inputs).image_maps, found.image_maps)


def test_a_map_is_the_effect_of_a_cell_on_the_score(model, processor):
    """Raising the cells' states along themselves changes the score by the map's sum, before it is clamped."""
    inputs = processor.process_queries(["red mug"]), processor.process_products(PRODUCTS[:1])
    layer, sizes = model.vision_model.encoder.layers[-1], [0.0, 1e-3]
    scores = []
    for size in sizes:
        hook = layer.register_forward_pre_hook(lambda module, args, size=size: (args[0] * (1 + size), *args[1:]))
        scores.append(model.explain(*inputs).scores.item())
        hook.remove()
    slope = (scores[1] - scores[0]) / sizes[1]
    cells, gradients = [], []
    hook = layer.register_forward_pre_hook(lambda module, args: cells.append(args[0]) or None)
    torch.autograd.grad = _recording(torch.autograd.grad, gradients)
    try:
        model.explain(*inputs)
    finally:
        hook.remove()
        torch.autograd.grad = torch.autograd.grad.__wrapped__
    assert slope == pytest.approx((gradients[0] * cells[0]).sum().item(), rel=0.05)


def _recording(function, found):
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        found.append(result[0])
        return result

    call.__wrapped__ = function
    return call


def test_a_query_may_be_a_picture_or_a_picture_and_a_text(model, processor):
    inputs = processor.process_products([{"image": picture("blue")}])
    pixels = {"pixel_values": inputs["pixel_values"], "image_mask": inputs["image_mask"]}
    with torch.no_grad():
        like_this = model.get_query_features(**pixels)
    torch.testing.assert_close(like_this.pooler_output, products(model, processor, PRODUCTS[2:3]).pooler_output)
    text = query(model, processor, "red mug").pooler_output
    for weight, expected in ((0.0, text), (1.0, like_this.pooler_output)):
        found = query(model, processor, "red mug", **pixels, image_weight=weight)
        torch.testing.assert_close(found.pooler_output, expected)
        torch.testing.assert_close(found.block_weights.norm(dim=1), torch.ones(1))
    pixels["image_mask"] = torch.zeros(1, 1, dtype=torch.bool)
    torch.testing.assert_close(query(model, processor, "red mug", **pixels).pooler_output, text)
    with pytest.raises(ValueError, match="give input_ids or states, or pixel_values"):
        model.get_query_features()


def taught(model, processor, texts=("red mug", "red shirt", "red lamp", "red bowl")):
    """The model, which takes these texts for those that it was trained on."""
    with torch.no_grad():
        queries = model.encode_queries(**processor.process_queries(list(texts)))
        products = model.encode_products(**processor.process_products([{"title": text} for text in texts]))
        model.query_heads.familiarity.fit(queries.text_features)
        model.product_heads.familiarity.fit(products.text_features)
        model.logit_scale.log_scale.fill_(4.6)


def composed(model, processor, text, like, weight=0.5):
    with torch.no_grad():
        return model.compose_queries(model.encode_queries(**processor.process_queries([text])), like, weight)


def test_a_text_beside_what_it_says_already_is_the_text_itself(model, processor):
    taught(model, processor)
    shirt = query(model, processor, "red shirt").pooler_output
    for weight in (0.2, 0.5, 0.9):
        found = composed(model, processor, "red shirt", shirt, weight).pooler_output
        torch.testing.assert_close(found, shirt, atol=0.02, rtol=0)
    assert (composed(model, processor, "red bowl", shirt).pooler_output @ shirt.T).item() < 0.99


def test_a_text_beside_a_picture_is_as_familiar_as_what_the_picture_says(model, processor):
    taught(model, processor)
    learned = [list(model.config.blocks).index(name) for name in ("image", "cross")]
    shirt = query(model, processor, "red shirt").pooler_output
    alone = query(model, processor, "of the").block_weights.square()[0, learned].sum()
    beside = composed(model, processor, "of the", shirt, 0.6).block_weights.square()[0, learned].sum()
    assert alone < 0.01 and beside > 100 * alone


def test_a_model_that_knows_no_texts_mixes_the_vectors(model, processor):
    like = products(model, processor).pooler_output[:1]
    for without in (MMFusionFamiliarity.forget, MMFusionFamiliarity.know_nothing):
        without(model.query_heads.familiarity)
        text = query(model, processor, "red").pooler_output
        expected = F.normalize(0.7 * text + 0.3 * like, dim=1)
        torch.testing.assert_close(composed(model, processor, "red", like, 0.3).pooler_output, expected)
    assert not model.query_heads.prototypes[1].any()


@pytest.mark.parametrize(
    "options", [{"truncate_dim": 22}, {"lexical_dim": 0}, {"fusion_type": "gated"}, {"query": "query"}]
)
def test_models_of_every_kind_compose(towers, processor, options):
    options = {name: towers[value] if name == "query" else value for name, value in options.items()}
    model = make_model(towers, **options)
    if model.config.fusion_type == "experts":
        taught(model, processor)
    pixels = {name: processor.process_products(PRODUCTS[2:3])[name] for name in ("pixel_values", "image_mask")}
    found = query(model, processor, "red", **pixels)
    assert found.pooler_output.shape == (1, model.config.projection_dim)
    torch.testing.assert_close(found.pooler_output.norm(dim=1), torch.ones(1))


def test_rows_of_a_batch_are_composed_each_for_itself(model, processor):
    taught(model, processor)
    inputs = processor.process_products([PRODUCTS[0], PRODUCTS[1], PRODUCTS[2]])
    pixels = {name: inputs[name] for name in ("pixel_values", "image_mask")}
    together = query(model, processor, "red", "soft", "big", **pixels).pooler_output
    for row, text in enumerate(("red", "soft", "big")):
        one = {name: value[row : row + 1] for name, value in pixels.items()}
        torch.testing.assert_close(query(model, processor, text, **one).pooler_output, together[row : row + 1])


def test_truncation_keeps_each_blocks_first_dimensions_and_its_weight(model, processor, tmp_path):
    whole = products(model, processor)
    assert model.config.block_dims == {
        "text": 16,
        "lexical": 8,
        "image": 12,
        "cross": 8,
    } and model.config.matryoshka_dims == [22, 11]
    model.save_pretrained(tmp_path)
    short = AutoModel.from_pretrained(tmp_path, truncate_dim=22).eval()
    found = products(short, processor)
    assert short.config.projection_dim == 22 and found.pooler_output.shape == (4, 22)
    torch.testing.assert_close(found.pooler_output, truncate_vectors(whole.pooler_output, model.config, 22))
    torch.testing.assert_close(found.block_weights, whole.block_weights)
    torch.testing.assert_close(found.pooler_output.norm(dim=1), torch.ones(4))
    text = F.normalize(whole.pooler_output[0, :8], dim=0) * whole.block_weights[0, 0]
    torch.testing.assert_close(found.pooler_output[0, :8], text)
    with pytest.raises(ValueError, match="can't truncate blocks"):
        query(AutoModel.from_pretrained(tmp_path, truncate_dim=3), processor, "red mug")


def test_several_pictures_are_pooled_with_attention_and_padding_has_no_weight():
    scorer = torch.nn.Linear(2, 1)
    pictures = torch.tensor([[[1.0, 0], [0, 1], [9, 9]]])
    mask = torch.tensor([[True, True, False]])
    torch.nn.init.zeros_(scorer.weight)
    torch.testing.assert_close(pool_images(pictures, mask, scorer), torch.tensor([[0.5, 0.5]]))
    with torch.no_grad():
        scorer.weight.copy_(torch.tensor([[math.log(3), 0.0]]))
    torch.testing.assert_close(pool_images(pictures, mask, scorer), torch.tensor([[0.75, 0.25]]))
    assert pool_images(pictures, ~mask & False, scorer).abs().max() == 0


FUSION_TYPES = ("weighted_mean", "sum", "concat", "gated")


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_baselines_make_one_unit_vector_and_do_without_a_modality(towers, processor, fusion_type, tmp_path):
    model = make_model(towers, fusion_type=fusion_type)
    found = products(model, processor)
    assert list(model.config.blocks) == ["fused"] and found.pooler_output.shape == (4, 24)
    torch.testing.assert_close(found.pooler_output.norm(dim=1), torch.ones(4))
    text = products(model, processor, view="text").pooler_output
    torch.testing.assert_close(found.pooler_output[1], text[1])
    assert not torch.allclose(found.pooler_output[0], text[0], atol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(products(loaded, processor).pooler_output, found.pooler_output, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion_type", ("weighted_mean", "sum"))
def test_mean_and_sum_by_hand(towers, processor, fusion_type):
    model = make_model(towers, fusion_type=fusion_type, text_mean_weight=0.1)
    heads = model.product_heads
    states = products(model, processor, PRODUCTS[:1]).states
    with torch.no_grad():
        text = heads.text_head(heads.text_norm(states.text_features))
        image = heads.image_head(heads.image_norm(states.image_features)[:, 0])
    if fusion_type == "weighted_mean":
        text, image = 0.1 * F.normalize(text, dim=1), 0.9 * F.normalize(image, dim=1)
    torch.testing.assert_close(
        products(model, processor, PRODUCTS[:1]).pooler_output, F.normalize(text + image, dim=1)
    )


def test_both_experts_look_at_cells_and_never_at_padding(towers, processor):
    model = make_model(towers)
    together = products(model, processor)
    alone = torch.cat([products(model, processor, [row]).pooler_output for row in PRODUCTS])
    torch.testing.assert_close(together.pooler_output, alone, atol=1e-6, rtol=0)
    states = MMFusionStates(**together.states)
    states.image_states = states.image_states + torch.randn(states.image_states.shape)
    with torch.no_grad():
        moved = model.get_product_features(states=states).pooler_output
    before, after = (split_blocks(vectors, model.output_dims).values() for vectors in (together.pooler_output, moved))
    changed = [((one - other).abs().amax(dim=1) > 1e-6).tolist() for one, other in zip(before, after, strict=True)]
    never, with_picture = [False] * 4, [True, False, True, True]
    assert changed == [never, never, with_picture, with_picture], "text, lexical, image and cross block"


def test_the_text_turns_where_the_cross_modal_expert_looks(towers, processor):
    model = make_model(towers)
    attention, states = model.product_heads.cell_attention, products(model, processor).states
    texts = torch.randn(2, len(PRODUCTS), 16)
    cells = states.image_states.flatten(1, 2)
    mask = states.image_mask[..., None].expand(-1, -1, states.image_states.shape[2]).flatten(1)
    with torch.no_grad():
        (image, cross), (other_image, other_cross) = (
            attention(text, attention.project(cells), mask) for text in texts
        )
    torch.testing.assert_close(image, other_image, msg="the image expert sees no text")
    assert ((cross - other_cross).abs().amax(dim=1) > 1e-4).tolist() == [True, False, True, True]
    assert not image[1].any() and not cross[1].any(), "a product without a picture has no cells"


def test_cells_are_the_means_of_each_levels_parts_of_the_picture():
    fine, coarse = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    cells = cells_of([fine, coarse], grid=7)
    assert cells.shape == (2, 16, 8), "no more cells than the last level has"
    expected = F.layer_norm(fine[:, :, 2:4, 4:6].mean(dim=(2, 3)), (3,))  # second row, third column of 2 x 2 parts
    torch.testing.assert_close(cells[:, 6, :3], expected)
    patches = torch.cat([torch.randn(2, 1, 5), coarse.flatten(2).transpose(1, 2)], dim=1)  # a class token comes first
    torch.testing.assert_close(cells_of([patches], grid=4), cells[:, :, 3:])


def test_attention_implementations_agree(towers, processor):
    model = make_model(towers)
    assert model.config._attn_implementation == "sdpa"
    expected = products(model, processor).pooler_output
    model.set_attn_implementation("eager")
    torch.testing.assert_close(products(model, processor).pooler_output, expected, atol=1e-5, rtol=0)


def test_half_precision_and_device_map(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu").eval()
    found, expected = products(half, processor).pooler_output, products(model, processor).pooler_output
    assert found.dtype == torch.bfloat16
    assert F.cosine_similarity(found.float(), expected).min() > 0.99
    assert query(half, processor, "red mug").pooler_output.dtype == torch.bfloat16


def test_gradient_checkpointing_changes_no_gradient(model, processor):
    inputs = processor(queries=["red mug", "lamp"], products=PRODUCTS)
    model.config.modality_dropout = 0.0
    model.product_heads.modality_dropout = 0.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model.train()
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(**inputs).logits_per_query.square().mean().backward()
        gradients.append(model.text_model.encoder.layer[0].output.dense.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image_levels": [0]}, "image_level_dims"),
        ({"num_attention_heads": 3}, "multiple of num_attention_heads"),
        ({"cell_grid": 0}, "cell_grid must be at least 1"),
        ({"matryoshka_dims": [2]}, "can't truncate"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        MMFusionConfig(**fields)


def test_gradients_are_finite_where_text_and_picture_are_both_hidden(towers, processor):
    model = MMFusionModel.from_towers(towers["text"], towers["vision"], **TINY_DIMS)
    inputs = processor.process_products([{"title": "red mug"}, {"title": "blue lamp", "image": picture("red")}])
    with torch.no_grad():
        states = model.encode_products(**inputs)
    vectors = model.get_product_features(states=states, view="image").pooler_output
    (vectors * torch.randn_like(vectors)).sum().backward()
    gradients = [parameter.grad for parameter in model.product_heads.parameters() if parameter.grad is not None]
    assert gradients and max(gradient.norm() for gradient in gradients) < 1e4
