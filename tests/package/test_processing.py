import json
from io import BytesIO

import numpy as np
import pytest
import torch
from helpers import make_image_processor, make_tokenizer, picture
from PIL import Image
from transformers import AutoProcessor, CLIPImageProcessor, CLIPImageProcessorPil

from modeling_mmfusion import MMFusionProcessor
from modeling_mmfusion.processing_mmfusion import load_picture


def test_a_products_fields_become_one_text(processor):
    product = {"title": "Breton Tee.", "brand": " Harrow\n Lane ", "category": None, "description": float("nan")}
    assert processor.product_text(product) == "Breton Tee. Harrow Lane"
    attributes = {"size": "M", "fit": None, "weight": 3}
    assert processor.product_text({"title": "Tee", "attributes": attributes}) == "Tee. size M weight 3"
    processor.plain_words = False
    assert processor.product_text({"title": "Tee", "attributes": attributes}) == "Tee. size: M, weight: 3"
    assert processor.product_text({"title": "Tee", "attributes": json.dumps({"size": "M"})}) == "Tee. size: M"
    assert processor.product_text({"title": "Tee", "attributes": "{not json"}) == "Tee. {not json"
    assert processor.product_text({"title": "Tee", "attributes": '["a", "b"]'}) == 'Tee. ["a", "b"]'
    processor.product_fields = ["price", "title"]
    assert processor.product_text({"title": "Tee", "price": 9.5}) == "price: 9.50. Tee"
    assert processor.product_text({"image": picture()}) == ""


@pytest.mark.parametrize(
    "text, plain",
    [
        ("\uff52\uff45\uff44\u3000\uff4d\uff55\uff47", "red mug"),
        ("\ufb01ne\xa0cotton", "fine cotton"),
        ("lego\u2122", "lego"),
        ("3\xbd inch", "3 1/2 inch"),
        ("caf\xe9 ol\xe9", "caf\xe9 ol\xe9"),
    ],
)
def test_queries_and_listings_are_read_in_the_plain_forms_of_their_letters(processor, text, plain):
    assert processor.query_text(text) == processor.query_text(plain) == plain
    assert processor.product_text({"title": text}) == processor.product_text({"title": plain})
    assert torch.equal(processor.process_queries([text])["input_ids"], processor.process_queries([plain])["input_ids"])
    assert processor.query_text(processor.query_text(text)) == plain, "once is enough"


@pytest.mark.parametrize(
    "query, kept, unwanted",
    [
        ("dress without stripes", "dress", "stripes dress"),
        ("dress  without any stripes in blue", "dress in blue", "stripes dress in blue"),
        ("lamp without shade or cable for kids", "lamp for kids", "shade or cable lamp for kids"),
        ("shirt, not striped", "shirt", "striped shirt"),
        ("skirt but not black or navy", "skirt", "black or navy skirt"),
        ("jacket NOT light blue", "jacket", "light blue jacket"),
        ("dress -black", "dress", "black dress"),
        ("mug w/o handle", "mug", "handle mug"),
        ("curtains with no ruffles", "curtains", "ruffles curtains"),
        ("blazer no light pink", "blazer", "light pink blazer"),
        ("no show socks", "no show socks", None),
        ("blue socks no pattern", "blue socks no pattern", None),
        ("top not red not blue", "top", "red blue top"),
        ("Kleid ohne Taschen", "Kleid", "Taschen Kleid"),
        ("curtains with no pattern", "curtains with no pattern", None),
        ("forget me not earrings", "forget me not earrings", None),
        ("not your mother's shampoo", "not your mother's shampoo", None),
        ("game without", "game without", None),
        ("sans serif poster", "sans serif poster", None),
        ("knot pillow", "knot pillow", None),
        ("t-shirt - black", "t shirt black", None),
        ("red mug", "red mug", None),
    ],
)
def test_what_a_query_does_not_want_is_told_from_what_it_wants(processor, query, kept, unwanted):
    assert processor.query_text(query) == kept and processor.unwanted_text(query) == unwanted


@pytest.mark.parametrize(
    "query, words",
    [
        ("red%20mug", "red mug"),
        ("red%2520mug", "red mug"),
        ("t%C3%A9e", "t\xe9e"),
        ("c%2B%2B", "c++"),
        ("100% cotton", "100% cotton"),
        ("100%", "100%"),
        ("50%20 off", "50%20 off"),
        ("%E3%81", "%E3%81"),
    ],
)
def test_a_query_from_an_address_is_read_in_words(processor, query, words):
    assert processor.query_text(query) == words == processor.query_text(words)


def test_every_form_of_a_picture_is_the_same_picture(processor, tmp_path):
    file = tmp_path / "mug.png"
    file.write_bytes(picture("green"))
    forms = [Image.open(file), str(file), file, picture("green"), {"bytes": picture("green"), "path": None}]
    forms += [{"bytes": None, "path": str(file)}, [file]]
    pixels = [processor.process_products([{"title": "mug", "image": form}])["pixel_values"] for form in forms]
    assert all(torch.equal(pixels[0], other) for other in pixels[1:])


@pytest.mark.parametrize("nothing", [None, "", " ", b"", float("nan"), {"bytes": None, "path": None}, []])
def test_a_missing_picture_is_no_picture(processor, nothing):
    assert "pixel_values" not in processor.process_products([{"title": "mug", "image": nothing}])
    inputs = processor.process_products([{"image": nothing}, {"image": picture()}])
    assert inputs["image_mask"].tolist() == [[False], [True]]
    assert inputs["pixel_values"][0].abs().max() == 0
    assert inputs["text_mask"].tolist() == [False, False]


def test_several_pictures_are_padded(processor):
    inputs = processor.process_products([{"image": [picture("red"), picture("blue")]}, {"image": picture("red")}])
    assert inputs["pixel_values"].shape == (2, 2, 3, 32, 32)
    assert inputs["image_mask"].tolist() == [[True, True], [True, False]]
    assert torch.equal(inputs["pixel_values"][0, 0], inputs["pixel_values"][1, 0])
    assert not torch.equal(inputs["pixel_values"][0, 0], inputs["pixel_values"][0, 1])


def test_pictures_are_upright_rgb_on_white():
    transparent = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert load_picture(transparent).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert load_picture(palette).getpixel((0, 0)) == (255, 255, 255)
    assert load_picture(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)
    assert load_picture(Image.new("CMYK", (4, 4), (255, 0, 0, 0))).getpixel((0, 0)) == (0, 255, 255)
    stream, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4)).save(stream, "JPEG", exif=exif)
    assert load_picture(stream.getvalue()).size == (4, 8)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3), "uint8"), torch.zeros(3, 4, 4)], ids=["numpy", "torch"])
def test_an_array_is_refused_by_what_it_is(processor, array):
    for image in (array, [array]):
        with pytest.raises(
            ValueError, match="product 0 .*field image: a picture must be a PIL image, a path or bytes"
        ):
            processor.process_products([{"title": "mug", "image": image}])


def bomb():
    stream = BytesIO()
    Image.new("1", (20_000, 10_000)).save(stream, "PNG")
    return stream.getvalue()


UNREADABLE = {
    "no picture": b"<svg></svg>",
    "cut off": picture("red", (200, 200), "JPEG")[:500],
    "too large": bomb(),
    "a missing file": "/nowhere/mug.png",
    "a number": 3,
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_picture_names_its_product_in_one_line(processor, kind):
    products = [{"title": "mug"}, {"_id": "sku-7", "image": UNREADABLE[kind]}]
    with pytest.raises(ValueError, match=r"product 1 \(sku-7\), field image: ") as caught:
        processor.process_products(products)
    assert "\n" not in str(caught.value)


def test_prefixes_lengths_and_the_call_for_both_sides(towers):
    options = {"query_prefix": "red ", "product_prefix": "big ", "max_query_length": 4}
    processor = MMFusionProcessor(make_image_processor(), make_tokenizer(), **options)
    inputs = processor(queries="mug mug mug mug", products={"title": "lamp"})
    words = processor.tokenizer.convert_ids_to_tokens
    assert words(inputs["query_input_ids"][0]) == ["[CLS]", "red", "mug", "[SEP]"]
    assert words(inputs["input_ids"][0]) == ["[CLS]", "big", "lamp", "[SEP]"]


def test_save_and_load(processor, tmp_path):
    processor.query_prefix, processor.product_fields, processor.max_product_length = "query: ", ["title"], 9
    processor.save_pretrained(tmp_path)
    loaded = MMFusionProcessor.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "auto_map": None} == {**processor.to_dict(), "auto_map": None}
    assert (loaded.query_prefix, loaded.product_fields, loaded.max_product_length) == ("query: ", ["title"], 9)


def test_pixels_do_not_depend_on_torchvision(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert type(MMFusionProcessor.from_pretrained(tmp_path).image_processor) is CLIPImageProcessorPil
    of_torchvision = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    assert type(MMFusionProcessor(of_torchvision, make_tokenizer()).image_processor) is CLIPImageProcessorPil


def test_auto_processor_knows_ours(processor, model, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is MMFusionProcessor


SAME = {
    "navy striped t shirt": [
        "navy, striped, t-shirt",
        "navy_striped_t_shirt",
        '"navy striped t-shirt"?!',
        "#navy/striped t-shirt\u2026",
        "\u201cnavy\u201d 'striped' t\u2011shirt",
        "navy+striped+t+shirt",
        "(navy) striped; t.shirt",
        "navy|striped \u2014 t shirt \U0001f455",
    ],
    "men's 3.5 l jug 60 x 80 cm": ["men\u2019s 3.5l jug, 60x80cm", "men's 3.5 l jug; 60 \u00d7 80 cm"],
    "R&D 100% C++ 10-12 1/2 inch": ["R&D, 100% C++ 10-12 1/2inch"],
}


@pytest.mark.parametrize("plain", SAME)
def test_punctuation_hyphens_and_units_make_no_difference(processor, plain):
    for text in [plain, *SAME[plain]]:
        assert processor.query_text(text) == plain
        expected = processor.process_queries(plain)["input_ids"]
        assert torch.equal(processor.process_queries(text)["input_ids"], expected)
    for text in SAME[plain][:2]:
        listing = processor.product_text({"title": text, "description": "Two parts. And more"})
        assert listing == f"{plain}. Two parts. And more" == processor.product_text({"text": listing})


def test_a_model_that_was_trained_on_punctuation_keeps_it(processor, tmp_path):
    processor.plain_words = False
    processor.save_pretrained(tmp_path)
    old = json.loads((tmp_path / "processor_config.json").read_text())
    del old["plain_words"]
    (tmp_path / "processor_config.json").write_text(json.dumps(old))
    assert MMFusionProcessor.from_pretrained(tmp_path).query_text("navy, t-shirt") == "navy, t-shirt"
