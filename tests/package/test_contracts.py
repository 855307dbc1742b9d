"""What users of transformers expect of any model and processor of the library; each test has the name that the
library's own common tests give it, or says why a contract can't hold here."""

import inspect

import pytest
import torch
from helpers import TINY_DIMS, make_dual_encoder, make_model, picture
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, Trainer, TrainingArguments, set_seed
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_mmfusion import MMFusionModel, MMFusionProcessor, MMFusionQueryModel

LAYERS, HEADS = 2, 2
QUERIES = ["red mug", "blue lamp of clay", "a soft striped shirt"]
PRODUCTS = [
    {"title": "plain mug", "image": picture("red")},
    {"title": "lamp", "image": [picture("blue"), picture("white")]},
    {"title": "soft shirt", "description": "striped, of cotton"},
]


@pytest.fixture(scope="module", params=["two encoders", "clip", "own query encoder"])
def start(request, towers, tmp_path_factory):
    """A folder with a tiny model of one kind and its processor."""
    folder = tmp_path_factory.mktemp("start")
    if request.param == "clip":
        aligned = make_dual_encoder(tmp_path_factory.mktemp("clip"), "clip")
        set_seed(0)
        model = MMFusionModel.from_towers(aligned=aligned, fusion_dropout=0.0, modality_dropout=0.0, **TINY_DIMS)
        processor = MMFusionProcessor.from_towers(aligned=aligned)
    else:
        query = towers["query"] if request.param == "own query encoder" else None
        model = make_model(towers, query=query, fusion_dropout=0.0, modality_dropout=0.0)
        processor = MMFusionProcessor.from_towers(towers["text"], towers["vision"], query)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def loaded(start):
    return MMFusionModel.from_pretrained(start, attn_implementation="eager")


@pytest.fixture
def inputs(start):
    return dict(MMFusionProcessor.from_pretrained(start)(queries=QUERIES, products=PRODUCTS))


def flat(output) -> list[torch.Tensor]:
    """All tensors of an output, however deep."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in flat(part)]


@pytest.mark.parametrize("model_class", [MMFusionModel, MMFusionQueryModel])
def test_model_main_input_name(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert names[1] == model_class.main_input_name == "query_input_ids"
    assert not any(
        parameter.kind is parameter.VAR_KEYWORD
        for parameter in inspect.signature(model_class.forward).parameters.values()
    ), "a misspelt argument must be refused"


def test_attention_outputs(loaded, inputs):
    tokens = inputs["query_input_ids"].shape[1]
    for settings in ({"output_attentions": True}, {}):
        loaded.config.output_attentions = not settings  # by the argument, then by the configuration
        with torch.no_grad():
            output = loaded(**inputs, **settings)
        assert [tuple(layer.shape) for layer in output.attentions] == [(3, HEADS, tokens, tokens)] * LAYERS
        of_product = output.product_output
        listing = inputs["input_ids"].shape[1]
        assert of_product.text_model_output.attentions[0].shape == (3, HEADS, listing, listing)
        assert len(of_product.vision_model_output.attentions[0]) == inputs["image_mask"].numel()
        assert output.hidden_states is None
    loaded.config.output_attentions = False
    assert loaded(**inputs).attentions is loaded(**inputs).query_output.text_model_output is None


def test_hidden_states_output(loaded, inputs):
    width = (loaded.config.query_config or loaded.config.text_config).hidden_size
    for settings in ({"output_hidden_states": True}, {}):
        loaded.config.output_hidden_states = not settings
        with torch.no_grad():
            output = loaded(**inputs, **settings)
        shape = (3, inputs["query_input_ids"].shape[1], width)
        assert [tuple(state.shape) for state in output.hidden_states] == [shape] * (LAYERS + 1)
        assert len(output.product_output.vision_model_output.hidden_states) == LAYERS + 1
        assert len(output.product_output.text_model_output.hidden_states) == LAYERS + 1


def test_can_capture_specific_layers_hidden_states(loaded, inputs):
    with torch.no_grad():
        whole = loaded(**inputs, output_hidden_states=True).hidden_states
        found = loaded(**inputs, output_hidden_states=[0, -1]).hidden_states
    assert found[1] is None
    assert torch.equal(found[0], whole[0]) and torch.equal(found[-1], whole[-1])


def test_retain_grad_hidden_states_attentions(loaded, inputs):
    output = loaded(**inputs, output_hidden_states=True, output_attentions=True)
    parts = [output.hidden_states[0], output.attentions[0]]
    for encoder in (output.product_output.text_model_output, output.product_output.vision_model_output):
        parts += [encoder.hidden_states[0], encoder.attentions[0]]
    for part in parts:
        part.retain_grad()
    output[0].sum().backward()
    assert all(part.grad is not None for part in parts)


@pytest.mark.parametrize("settings", [{}, {"return_loss": True}, {"output_hidden_states": True}])
def test_model_outputs_equivalence(loaded, inputs, settings):
    with torch.no_grad():
        whole = loaded(**inputs, **settings)
        as_tuple = loaded(**inputs, **settings, return_dict=False)
        loaded.config.return_dict = False
        by_config = loaded(**inputs, **settings)
        query = loaded.get_query_features(inputs["query_input_ids"], inputs["query_attention_mask"])
        loaded.config.return_dict = True
    assert isinstance(as_tuple, tuple) and isinstance(query, tuple)
    assert not any(isinstance(part, dict) and "states" in part for part in as_tuple)
    for found in (as_tuple, by_config):
        expected, found = flat(whole.to_tuple()), flat(found)
        assert len(expected) == len(found) > 8
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    torch.testing.assert_close(query[0], whole.query_embeds)


@pytest.mark.parametrize("side", ["left", "right", None])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 5e-3)], ids=str
)
def test_eager_matches_sdpa_inference(start, inputs, dtype, tolerance, side):
    eager, sdpa = (
        MMFusionModel.from_pretrained(start, dtype=dtype, attn_implementation=name) for name in ("eager", "sdpa")
    )
    for prefix in ("", "query_"):
        mask = torch.ones_like(inputs[f"{prefix}attention_mask"])
        if side is not None:
            mask[-1, slice(0, 2) if side == "left" else slice(-2, None)] = 0
        inputs[f"{prefix}attention_mask"] = mask if side else None
    with torch.no_grad():
        one, other = (model(**inputs) for model in (eager, sdpa))
    assert one.query_embeds.dtype == dtype
    for name in ("query_embeds", "product_embeds"):
        torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fusion_type", ["experts", "aligned", "weighted_mean", "sum", "concat", "gated"])
def test_what_is_missing_is_finite_in_every_precision(towers, tmp_path, fusion_type, dtype):
    if fusion_type == "aligned":
        aligned = make_dual_encoder(tmp_path, "clip")
        model = MMFusionModel.from_towers(aligned=aligned, **TINY_DIMS)
        processor = MMFusionProcessor.from_towers(aligned=aligned)
    else:
        model = make_model(towers, fusion_type=fusion_type)
        processor = MMFusionProcessor.from_towers(towers["text"], towers["vision"])
    empty = {"title": "", "image": None}
    inputs = dict(processor(queries=["", "red mug"], products=[empty, PRODUCTS[0], PRODUCTS[2]]))
    with torch.no_grad():
        output = model.to(dtype)(**inputs, views=("fused", "text", "image"))
    assert all(found.isfinite().all() for found in (output.query_embeds, *output.embeds_per_view.values()))
    assert output.query_embeds.dtype == dtype


def test_batching_equivalence(loaded, inputs):
    with torch.no_grad():
        whole = loaded(**inputs)
        alone = loaded(**{name: value[:1] for name, value in inputs.items()})
    torch.testing.assert_close(alone.query_embeds, whole.query_embeds[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone.product_embeds, whole.product_embeds[:1], atol=1e-5, rtol=1e-5)


def test_each_tower_alone(loaded, inputs):
    queries = {name: value for name, value in inputs.items() if name.startswith("query_")}
    products = {name: value for name, value in inputs.items() if not name.startswith("query_")}
    with torch.no_grad():
        whole, of_queries, of_products = loaded(**inputs), loaded(**queries), loaded(**products)
    assert torch.equal(of_queries.query_embeds, whole.query_embeds)
    assert torch.equal(of_products.product_embeds, whole.product_embeds)
    assert of_queries.product_embeds is of_products.query_embeds is of_queries.logits_per_query is None
    with pytest.raises(ValueError, match="give query_input_ids or query_states"):
        loaded()
    with pytest.raises(ValueError, match="a loss needs queries and products"):
        loaded(**queries, return_loss=True)


def test_labels_say_which_products_are_relevant(loaded, inputs):
    labels = torch.tensor([[2.0, 0, 1], [0, 3, 0], [0, 0, 0]])
    with torch.no_grad():
        output = loaded(**inputs, labels=labels)
        logits = output.logits_per_query.double()
    first = [
        torch.log1p(sum(torch.exp(logits[row, other] - logits[row, own]) for other in negatives)) * weight
        for row, own, negatives, weight in ((0, 0, (1,), 2 / 3), (0, 2, (1,), 1 / 3), (1, 1, (0, 2), 1))
    ]
    second = [
        torch.log1p(sum(torch.exp(logits[other, column] - logits[own, column]) for other in (0, 1, 2) if other != own))
        for own, column in ((0, 0), (1, 1), (0, 2))
    ]
    torch.testing.assert_close(output.loss.double(), (sum(first) / 3 + sum(second) / 3) / 2, atol=1e-5, rtol=1e-5)
    assert output[0] is output.loss
    alike = loaded(**inputs, labels=torch.eye(3)).loss
    torch.testing.assert_close(loaded(**inputs, return_loss=True).loss, alike)
    with pytest.raises(ValueError, match=r"labels must be \(queries, products\).*\(3, 3\); got \(3,\)"):
        loaded(**inputs, labels=torch.arange(3))


@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_training_gradient_checkpointing(loaded, inputs, use_reentrant):
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    expected = [
        part
        for part in ("logit_scale.bias", "pooler", "familiarity", "alignment")
        if any(part in name for name in frozen)
    ]
    assert "logit_scale.bias" in expected and all(any(part in name for part in expected) for name in frozen)
    loaded.train()
    set_seed(0)
    loaded(**inputs, return_loss=True).loss.backward()
    plain = {name: parameter.grad for name, parameter in loaded.named_parameters() if name not in frozen}
    assert not [name for name, gradient in plain.items() if gradient is None]
    loaded.zero_grad()
    settings = None if use_reentrant is None else {"use_reentrant": use_reentrant}
    loaded.activation_checkpointing_enable(settings)
    if use_reentrant:
        loaded.enable_input_require_grads()
    layer, calls = next(module for module in loaded.modules() if isinstance(module, GradientCheckpointingLayer)), []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    set_seed(0)
    loaded(**inputs, return_loss=True).loss.backward()
    assert calls
    for name, parameter in loaded.named_parameters():
        if name not in frozen:
            torch.testing.assert_close(parameter.grad, plain[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["from_pretrained", "AutoModel", "new"])
def test_what_is_never_trained_gets_no_gradient(start, way):
    if way == "new":
        model = MMFusionModel(MMFusionModel.from_pretrained(start).config)
    elif way == "AutoModel":
        model, _ = AutoModel.from_pretrained(start, trust_remote_code=True, output_loading_info=True)
    else:
        model = MMFusionModel.from_pretrained(start)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if "familiarity" in name or "alignment" in name or name == "logit_scale.bias"]
    assert {"logit_scale.log_scale", "text_model.embeddings.word_embeddings.weight"} <= trained or any(
        "text_model" in name and "token_embedding" in name for name in trained
    )


def test_no_parameter_waits_for_a_gradient_that_never_comes(loaded, inputs, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", world_size=1, rank=0)
    try:
        wrapped = DistributedDataParallel(loaded.train(), find_unused_parameters=False)
        for _ in range(2):  # the second pass refuses what the first one left out
            wrapped(**inputs, return_loss=True).loss.backward()
    finally:
        torch.distributed.destroy_process_group()


def test_training_by_the_trainer_of_transformers(loaded, start, tmp_path):
    processor = MMFusionProcessor.from_pretrained(start)

    def collate(rows):
        queries, products = zip(*rows, strict=True)
        return dict(processor(queries=queries, products=products), labels=torch.eye(len(rows)))

    settings = {"per_device_train_batch_size": 3, "remove_unused_columns": False, "report_to": []}
    settings |= {"learning_rate": 3e-3, "max_steps": 12, "save_strategy": "no", "logging_steps": 1, "seed": 0}
    pairs = list(zip(QUERIES, PRODUCTS, strict=True))
    trainer = Trainer(
        loaded, TrainingArguments(str(tmp_path), **settings), collate, train_dataset=pairs, eval_dataset=pairs
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before
    trainer.save_model(str(tmp_path / "saved"))
    again = MMFusionModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in again.state_dict().items())


def test_resize_tokens_embeddings(loaded, inputs, tmp_path):
    encoders = [loaded.text_model] + ([loaded.query_model] if loaded.config.query_config else [])
    before = [encoder.get_input_embeddings().weight.clone() for encoder in encoders]
    loaded.eval().resize_token_embeddings(74)
    assert loaded.config.get_text_config().vocab_size == loaded.vocab_size == 74
    for encoder, rows in zip(encoders, before, strict=True):
        assert encoder.get_input_embeddings().weight.shape[0] == encoder.config.vocab_size == 74
        assert torch.equal(encoder.get_input_embeddings().weight[:64], rows)
    inputs["input_ids"][0, 1] = inputs["query_input_ids"][0, 1] = 73
    with torch.no_grad():
        expected = loaded(**inputs)
    loaded.save_pretrained(tmp_path)
    again = MMFusionModel.from_pretrained(tmp_path)
    with torch.no_grad():
        found = again(**inputs)
    torch.testing.assert_close(found.logits_per_query, expected.logits_per_query)
    loaded.resize_token_embeddings(60)
    assert loaded.get_input_embeddings().weight.shape[0] == 60


def test_inputs_embeds_do_not_apply():
    assert "inputs_embeds" not in inspect.signature(MMFusionModel.forward).parameters, (
        "the lexical block is made of token ids, which embeddings don't tell"
    )


def test_the_query_towers_embeddings_are_those_that_it_has(towers, tmp_path):
    model = make_model(towers, query=towers["query"])
    model.save_pretrained(tmp_path)
    tower = MMFusionQueryModel.from_pretrained(tmp_path)
    assert torch.equal(tower.get_input_embeddings().weight, model.query_model.get_input_embeddings().weight)
    tower.resize_token_embeddings(70)
    assert tower.query_model.config.vocab_size == tower.get_input_embeddings().weight.shape[0] == 70


def test_auto_model_returns_features_of_remote_code(start, inputs):
    model = AutoModel.from_pretrained(start, trust_remote_code=True)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True, return_loss=True)
    assert output.loss.isfinite() and len(output.hidden_states) == LAYERS + 1


def test_processor_with_multiple_inputs(processor):
    inputs = processor(text="plain mug", images=picture("red"))
    assert set(inputs) == set(processor.model_input_names)
    several = processor(text=["plain mug", "lamp"], images=[picture("red"), picture("blue")], padding=True)
    assert torch.equal(several["pixel_values"][:1], inputs["pixel_values"])
    with pytest.raises(ValueError, match="give queries or products or both, or text or images"):
        processor()


@pytest.mark.parametrize("flat", [True, False])
def test_processor_kwargs_override_how_the_encoders_were_trained(processor, flat):
    settings = {"max_length": 17, "padding": "max_length"}, {"do_rescale": True, "rescale_factor": -1.0}
    kwargs = settings[0] | settings[1] if flat else {"text_kwargs": settings[0], "images_kwargs": settings[1]}
    inputs = processor(text=["plain mug"], images=[picture("red")], **kwargs)
    assert inputs["input_ids"].shape == (1, 17)
    assert (inputs["pixel_values"] <= processor(images=[picture("black")])["pixel_values"].max()).all()
    both = processor(queries=["red mug"], products=[{"title": "plain mug"}], **kwargs)
    assert both["query_input_ids"].shape == both["input_ids"].shape == (1, 17)


def test_doubly_passed_kwargs(processor):
    with pytest.raises(ValueError):
        processor(text=["plain mug"], text_kwargs={"padding": "max_length"}, padding="longest")


def test_save_load_pretrained_additional_features(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = MMFusionProcessor.from_pretrained(tmp_path, sep_token="(SEP)", do_normalize=False)
    assert again.tokenizer.sep_token == "(SEP)" and again.image_processor.do_normalize is False
    again.save_pretrained(tmp_path)
    assert len(MMFusionProcessor.from_pretrained(tmp_path).tokenizer) == len(processor.tokenizer) + 1
