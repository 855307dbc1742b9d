"""Where tensors lie and of what precision they are, asked without a GPU: on fake tensors, which have a device and no
values, an operation of tensors on two devices, or of two precisions, is refused. Autograd wants a real device, so its
passes are stood in for."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers import TINY_DIMS, make_dual_encoder, make_model, picture
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from training.catalogue.layout import load_split
from training.common.distributed import Share
from training.features.encoder import Encoder
from training.learning import gradient_cache
from training.learning.losses import alignment_loss
from training.learning.options import StageArguments
from training.learning.sampling import PairSampler
from training.learning.training_set import BatchInputs, query_set, title_set

GPU = torch.device("cuda:0")
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
PRODUCTS = [
    {"title": "plain mug", "image": [picture("red"), picture("white")]},
    {"title": "lamp", "image": None},
    {"title": "", "image": picture("blue")},
]


class OnGPU:
    """Models and inputs as if they were on a GPU."""

    def __init__(self):
        self.mode = FakeTensorMode()

    def fake(self, value):
        """Tensors, in dictionaries too, on the fake GPU."""
        if isinstance(value, torch.Tensor):
            with self.mode:
                return self.mode.from_tensor(value).to(GPU)
        if isinstance(value, dict):
            return type(value)(**{name: self.fake(item) for name, item in value.items()})
        return value

    def model(self, model, dtype=torch.float32):
        """The model with fake weights, in place."""
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    fake = self.fake(parameter.data.to(dtype))
                    module._parameters[name] = torch.nn.Parameter(fake, parameter.requires_grad)
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = self.fake(buffer.to(dtype) if buffer.is_floating_point() else buffer)
        return model


@pytest.fixture
def gpu(monkeypatch):
    """Fake tensors, and stand-ins for autograd's passes and the GPU's random state."""

    def gradients(output, inputs, **kwargs):
        assert output.device == GPU and output.ndim == 0
        return (
            [torch.zeros_like(value) for value in inputs if value is not None]
            if isinstance(inputs, list)
            else (torch.zeros_like(inputs),)
        )

    monkeypatch.setattr(torch.autograd, "grad", gradients)
    monkeypatch.setattr(gradient_cache, "_random_state", lambda device: (torch.get_rng_state(), None))
    monkeypatch.setattr(gradient_cache, "_replayed", lambda state, accelerator: nullcontext())
    return OnGPU()


def expect_on_gpu(output, dtype):
    """All tensors of an output are on the GPU, and those of numbers are of the model's precision."""
    for name, value in output.items():
        if isinstance(value, dict):
            expect_on_gpu(value, dtype)
        elif isinstance(value, torch.Tensor):
            assert isinstance(value, FakeTensor) and value.device == GPU, name
            assert value.dtype in (dtype, torch.bool, torch.int64), (name, value.dtype)


@pytest.fixture(params=["experts", "own query encoder", "weighted_mean", "sum", "concat", "gated", "clip", "siglip"])
def kinds(request, towers, tmp_path):
    """Models of several kinds with their processors."""
    if request.param in ("clip", "siglip"):
        aligned = make_dual_encoder(tmp_path, request.param)
        model = MMFusionModel.from_towers(aligned=aligned, **TINY_DIMS)
        return model, MMFusionProcessor.from_towers(aligned=aligned)
    if request.param == "own query encoder":
        return make_model(towers, query=towers["query"]), MMFusionProcessor.from_towers(**towers)
    model = make_model(towers, fusion_type=request.param)
    return model, MMFusionProcessor.from_towers(towers["text"], towers["vision"])


@PRECISIONS
@pytest.mark.parametrize("train", [False, True])
def test_forward_and_loss(gpu, kinds, dtype, train):
    model, processor = kinds
    inputs = gpu.fake(dict(processor(queries=["red mug", "", "a lamp"], products=PRODUCTS)))
    texts = {name: value for name, value in inputs.items() if "ids" in name or "attention" in name}
    labels, model = gpu.fake(torch.eye(3)), gpu.model(model, dtype).train(train)
    with gpu.mode:
        output = model(**inputs, views=("fused", "text", "image"), return_loss=True, output_hidden_states=True)
        expect_on_gpu(output, dtype)
        assert output.loss.device == GPU and output.loss.ndim == 0
        expect_on_gpu(model(**texts, labels=labels), dtype)
        states = {"query_states": output.query_output.states, "product_states": output.product_output.states}
        expect_on_gpu(model(**states), dtype)


@PRECISIONS
def test_queries_of_text_and_picture_and_explanations(gpu, kinds, dtype):
    model, processor = kinds
    query = gpu.fake(dict(processor.process_queries(["red mug"])))
    products = gpu.fake(dict(processor.process_products(PRODUCTS)))
    model = gpu.model(model, dtype)
    with gpu.mode:
        pixels = {name: products[name][:1] for name in ("pixel_values", "image_mask")}
        expect_on_gpu(model.get_query_features(**query, **pixels, image_weight=0.3), dtype)
        if model.config.fusion_type == "experts":
            expect_on_gpu(model.explain(query, products), dtype)
        found = model.get_product_features(**products).pooler_output
        assert model.truncate(found, model.config.embedding_dim // 2).device == GPU


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
@pytest.mark.parametrize("of_titles", [False, True])
def test_a_step_of_training(gpu, model, processor, shop, loss, replay, of_titles):
    model.config.matryoshka_dims = [model.config.embedding_dim // 2]
    options = {
        "text_view_weight": 1.0,
        "image_view_weight": 1.0,
        "title_image_weight": 1.0,
        "distillation_weight": 0.5,
    }
    options |= {"logq": True, "score_margin": 0.1, "chunk_size": 5, "text": "full", "vision": "full"}
    stage = StageArguments(loss=loss, gradient_cache=replay, **options)
    split = load_split(shop, "train")
    data = (title_set if of_titles else query_set)(Encoder(model, processor), split, stage)
    sampler = PairSampler(data.judgments, 1, 12, seed=0)
    _, batch, chunks = BatchInputs([data], [sampler], [(0, sampler.epoch(0)[0])], processor, stage, Share())[0]
    for chunk in chunks:
        chunk.inputs = gpu.fake(chunk.inputs)
    model, passes = gpu.model(model).train(), []
    accelerator = SimpleNamespace(
        device=GPU, process_index=0, num_processes=1, no_sync=lambda model: nullcontext(), backward=passes.append
    )

    def loss_of(vectors):
        expect_on_gpu(vectors, torch.float32)
        return alignment_loss(vectors, batch, stage, model.config, Share())

    counts = len(batch.queries), len(batch.products)
    with gpu.mode:
        found = gradient_cache.forward_backward(accelerator, model, chunks, counts, loss_of, replay)
    assert found.device == GPU and len(passes) == (len(chunks) if replay else 1)
    assert all(scalar.device == GPU and scalar.ndim == 0 for scalar in passes)
