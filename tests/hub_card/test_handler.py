"""An endpoint that runs a model repository's `handler.py` gives the model's vectors, and says what a request lacks."""

import base64
import json

import numpy as np
import pytest
import torch
from helpers import ROOT, WITHOUT_PACKAGE, picture, run_python
from hub_release import make_release

from modeling_mmfusion.model_folder import load_model

RED, BLUE = picture("red"), picture("blue")
RED64, BLUE64 = (base64.b64encode(content).decode() for content in (RED, BLUE))
LISTING = {"title": "red mug", "brand": "Clay", "attributes": {"size": "M"}, "price": 9.5}
DOCUMENT = {"parameters": {"input_type": "document"}}
ANSWERED = {
    "a text": {"inputs": "red mug"},
    "texts": {"inputs": ["red mug", "", "the big blue striped cotton shirt"]},
    "more than a batch": {"inputs": ["red mug", "lamp", "bowl of clay"] * 15},
    "pictures and texts": {
        "inputs": [
            "lamp",
            {"image": RED64},
            {"text": "plain", "image": [RED64, f"data:image/png;base64,{BLUE64}"]},
            {"text": "red mug", "image": None},
        ]
    },
    "short": {"inputs": "red mug", "parameters": {"input_type": "query", "dimensions": 24}},
    "products": {"inputs": [LISTING | {"image": RED64}, {"image": BLUE64}, "a lamp", {"text": "bowl"}]} | DOCUMENT,
}
REFUSED = {
    "inputs 0: is NoneType; give a text, or a mapping of text, image": {},
    "inputs: an empty list; give at least one": {"inputs": []},
    "inputs 1: is int; give a text, or a mapping of text, image": {"inputs": ["mug", 3]},
    "inputs 0: has title; give some of text, image": {"inputs": {"title": "mug"}},
    "inputs 0: has sku; give some of text, image, title,": {"inputs": {"title": "mug", "sku": "1"}} | DOCUMENT,
    "inputs 0: text is list; give str": {"inputs": {"text": ["mug"]}},
    "inputs 0: title is list; give str": {"inputs": {"title": ["mug"]}} | DOCUMENT,
    "inputs 0: has nothing; give some of text, image": {"inputs": {"text": None, "image": []}},
    "inputs 1: image is no base64; send the picture": {"inputs": ["mug", {"image": "https://example.com/mug.png"}]},
    "inputs 0: image is no base64; send": {"inputs": {"image": f"{ROOT}/hub_card/results/quickstart.png"}},
    "inputs 0: image is no base64; send the": {"inputs": {"image": [{"path": "mug.png"}]}},
    "inputs 0: image is no base64": {"inputs": {"image": "", "text": "mug"}},
    "(inputs 1), field image: unreadable picture": {"inputs": ["mug", {"image": "aGVsbG8="}]},
    "parameters: has top_k; give input_type or dimensions": {"inputs": "mug", "parameters": {"top_k": 1}},
    "parameters: not a mapping; give": {"inputs": "mug", "parameters": "query"},
    "parameters: input_type is 'passage'; give query or": {"inputs": "mug", "parameters": {"input_type": "passage"}},
    "parameters: dimensions is 4096; give a whole": {"inputs": "mug", "parameters": {"dimensions": 4096}},
    "parameters: dimensions is True; give a whole": {"inputs": "mug", "parameters": {"dimensions": True}},
    "can't truncate blocks of": {"inputs": "mug", "parameters": {"dimensions": 1}},
}
SERVE = """
import json
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = module_from_spec(spec)
spec.loader.exec_module(module)
handler, found = module.EndpointHandler(sys.argv[1]), []
for request in json.loads(sys.argv[3]):
    try:
        found.append(handler(request))
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The model's folder and what its handler answers, in a process that does not have mmfusion."""
    release = make_release(tmp_path_factory.getbasetemp())
    requests = json.dumps([*ANSWERED.values(), *REFUSED.values()])
    modules = tmp_path_factory.mktemp("modules")
    folder = release.hub / "model"
    ran = run_python(WITHOUT_PACKAGE + SERVE, folder, ROOT, requests, HF_MODULES_CACHE=str(modules))
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers = json.loads(ran.stdout.splitlines()[-1])
    return folder, dict(zip([*ANSWERED, *REFUSED], answers, strict=True))


@pytest.mark.slow
def test_the_answers_are_the_models_vectors(served):
    folder, answers = served
    model, processor = load_model(folder, device="cpu")

    def queries(texts):
        return model.get_query_features(**processor.process_queries(texts)).pooler_output

    def pictures(*contents):
        inputs = processor.process_products([{"image": list(contents)}])
        return {name: inputs[name] for name in ("pixel_values", "image_mask")}

    both = processor.process_queries(["plain"]) | pictures(RED, BLUE)
    mixed = [model.get_query_features(**inputs).pooler_output for inputs in (pictures(RED), both)]
    products = [LISTING | {"image": RED}, {"image": BLUE}, {"text": "a lamp"}, {"text": "bowl"}]
    products = model.get_product_features(**processor.process_products(products)).pooler_output
    expected = {
        "a text": queries(["red mug"]),
        "texts": queries(["red mug", "", "the big blue striped cotton shirt"]),
        "more than a batch": queries(["red mug", "lamp", "bowl of clay"] * 15),
        "pictures and texts": torch.cat([queries(["lamp"]), *mixed, queries(["red mug"])]),
        "short": model.truncate(queries(["red mug"]), 24),
        "products": products,
    }
    for name, vectors in expected.items():
        np.testing.assert_allclose(answers[name], vectors.detach().numpy(), atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.slow
def test_a_wrong_request_is_told_what_is_wrong_in_one_sentence(served):
    _, answers = served
    for said in REFUSED:
        assert isinstance(answers[said], str) and said in answers[said] and "\n" not in answers[said], said


@pytest.mark.slow
def test_what_the_endpoint_has_to_install_is_beside_the_handler(served):
    lines = (served[0] / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("transformers>=5") for line in lines) and len(lines) == 3
