"""What the page's server side answers, and why a product was found, in words."""

import html
import re
import shutil
import time

import markup
import numpy as np
import page as pages
import pytest
import reasons
import start
import visitors
from app import Endpoints
from catalogue import Filters, Hit, VisitorError, short_names
from helpers import picture
from pictures import small_jpeg
from reasons import missed, sentence, unsaid
from upload import PICTURE_SIZE
from visits import shown_ids

VISITOR = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def page(shop):
    """The page's answers on the tiny shop."""
    return pages.Page(Endpoints(shop))


def ids(answer: dict) -> list[str]:
    return shown_ids(answer["board"])[1]


def test_an_answer_depends_on_its_request_alone(page, shop):
    requests = [{"q": "red mug"}, {"q": "blue lamp", "brand": ["blue"]}, {"like": "lamp-red"}, {"q": "red", "k": "4"}]
    requests += [{"like": "lamp-red", "but": "blue", "weight": "0.9"}, {"q": "mug", "presence": "without picture"}]
    once = [ids(page.search(request, None)) for request in requests]
    assert [ids(page.search(request, None)) for request in reversed(requests)] == once[::-1]
    assert len({tuple(found) for found in once}) == len(requests), "a part of the request has no effect"
    for view, found in shop.search(shop.encoder.query("red mug"), k=8).items():
        rows = [shop.products[hit.row]["_id"] for hit in found.hits]
        assert any(once[0][start : start + 8] == rows for start in (0, 8, 16)), view
    by_picture = page.search({}, picture("red"))
    assert "A picture" in by_picture["board"] and ids(by_picture) != ids(page.search({"q": "red"}, None))


def test_choices_are_sent_where_the_browser_has_others(page):
    answer = page.search({"q": "mug"}, None)
    assert answer["place"] == "shop" and "value='blue'" in answer["choices"] and ">6<" in answer["choices"]
    assert page.search({"q": "mug", "have": "shop"}, None)["choices"] == ""
    page.bring({"visitor": VISITOR, "number": 2}, b"title,brand\nmy mug,Mine\n")
    mine = page.search({"q": "mug", "have": "shop", "where": "yours", "visitor": VISITOR}, None)
    assert mine["place"] == "yours 2" and "Mine" in mine["choices"] and "blue" not in mine["choices"]
    page.bring({"visitor": VISITOR, "number": 1}, b"title\nan older file that was read later\n")
    assert page.search({"q": "mug", "where": "yours", "visitor": VISITOR}, None)["place"] == "yours 2"
    page.forget({"visitor": VISITOR}, None)
    gone = page.search({"q": "mug", "where": "yours", "visitor": VISITOR}, None)
    assert "Your products are not here" in gone["board"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"q": "x" * 501}, "at most 500 characters"),
        ({"q": "mug", "low": "cheap"}, "A price is a number, such as 12.50, not 'cheap'"),
        ({"q": "mug", "weight": "nan"}, "The weight is a number"),
        ({"q": "mug", "k": "1000"}, "4, 8, 12, 24 results"),
        ({"q": "mug", "show": "<b>"}, "side or fused"),
        ({"q": "mug", "brand": ["<script>"]}, "No product has the brand"),
        ({"q": "mug", "brand": 5}, "No product has the brand '5'"),
        ({"q": "mug", "category": "Kitchen"}, "No product has the category 'Kitchen'"),
        ({"q": "mug", "where": "moon"}, "Search in one of"),
        ({"q": "mug", "where": "yours", "visitor": "../../etc"}, "no key of its own"),
        ({"like": "nobody"}, "no product with the id"),
    ],
)
def test_a_wrong_request_gets_one_sentence(page, request_, words):
    board = page.search(request_, None)["board"]
    assert words in "".join(shown_ids(board)[2] or [board]) or words in board.replace("&#39;", "'")
    assert "<script" not in board and "data-id" not in board


def test_what_is_no_request_is_an_empty_one(page):
    for sent in (None, 5, "red mug", ["q"], {}):
        assert "Type what a shopper would" in page.search(*pages.unpacked(sent))["board"]


def test_a_bad_picture_and_a_bad_file_get_one_sentence_and_leave_nothing(page, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "no picture that can be read" in page.search({}, b"<html>")["board"]
    report = page.bring({"visitor": VISITOR, "number": 1}, b"<html></html>")
    assert not report["ready"] and "role='alert'" in report["report"]
    assert page.search({"q": "red"}, picture("red"))["board"]
    assert not list(tmp_path.iterdir())


def test_visitors_are_forgotten_in_time_and_told(shop, monkeypatch):
    kept = visitors.Visitors()
    monkeypatch.setattr(visitors, "MAX_PRODUCTS", 30)  # two shops of twelve
    for name in ("a", "b", "c"):
        kept.keep(name, 1, shop)
    with pytest.raises(VisitorError, match="Bring them again"):
        kept.find("a")
    assert kept.find("b") == (1, shop) and kept.find("c") == (1, shop)
    now = time.monotonic()
    monkeypatch.setattr(visitors.time, "monotonic", lambda: now + visitors.KEPT_SECONDS + 1)
    with pytest.raises(VisitorError, match="Bring them again"):
        kept.find("b")
    assert not kept.kept, "memory of visitors who left is held"


def test_what_a_listing_does_not_say():
    product = {"title": "Vesper Runners", "description": "Soft suede, two mugs", "brand": "Harrow Lane"}
    assert unsaid("the harrow lane purple runner", product) == ["purple"]
    assert unsaid("mug of suede", product) == [] and unsaid("Flowery MUGS", product) == ["flowery"]
    assert unsaid("été", {"title": "robe d'été"}) == []


def hit(row: int, text: int, image: int) -> Hit:
    return Hit(row, 1, 0.5, {}, None, {"fused": 1, "text": text, "image": image})


def test_reasons_say_what_is_so(shop):
    query = shop.encoder.query("green lamp")  # colours are in the pictures alone
    row = shop.row("lamp-green")
    assert sentence(shop, query, hit(row, 5, 1)).startswith("Found by its picture: the listing never says “green”.")
    assert sentence(shop, query, hit(row, 1, 5)) == "Found by its listing, which says “lamp”, but never “green”."
    assert sentence(shop, shop.encoder.query("lamp"), hit(row, 1, 1)) == "Found by its listing, which says “lamp”."
    assert "meaning" in sentence(shop, shop.encoder.query("cotton"), hit(row, 1, 1))
    bare = shop.row("mug-green")  # without a picture
    assert "picture" not in sentence(shop, query, hit(bare, 9, 1))
    found = {view: shop.search(query, k=8)[view] for view in ("fused", "text")}
    found["fused"].hits, found["text"].hits = [hit(row, 9, 1), hit(bare, 1, 1)], [hit(bare, 1, 1)]
    assert missed(shop, query, found) == "Text alone misses 1 of these 2: the listing never says “green”."
    found["text"].hits = found["fused"].hits
    assert missed(shop, query, found) == "Text alone finds the same products."
    assert missed(shop, query, {"fused": found["fused"]}) == ""


def test_the_value_is_what_the_judgments_say(page, shop):
    firsts = page.firsts
    for view in ("fused", "text", "image"):
        right = []
        for text, grades in shop.judged.items():
            first = shop.search(shop.encoder.query(text), k=1)[view].hits[0]
            right.append(grades.get(shop.products[first.row]["_id"], 0) >= shop.right)
        assert firsts[view] == pytest.approx(sum(right) / len(right))
    claim = markup.intro(shop, {"fused": 0.26, "text": 0.3, "image": 0.1}, firsts)
    assert "3 of 10" in claim and "Listings don't say" not in claim, "it claims what this shop does not show"
    assert all(example.text in shop.judged_texts for example in page.examples)


def test_the_least_score_is_below_what_judged_queries_find(shop):
    best = [shop.search(shop.encoder.query(text), k=1)["fused"].hits[0].score for text in shop.judged_texts]
    assert shop.least_score() < sorted(best)[len(best) // 10]
    assert reasons.examples(shop, None)[0].text == reasons.FALLBACK[0]


def test_columns_that_are_not_known_are_chosen(page):
    """A table of a shop's own words: what its columns are is asked, and read so."""
    table = b"Was;Wieviel;Bild\nRoter Krug;9,90;a.png\nBlaue Lampe;19,90;\n"
    first = page.bring({"visitor": VISITOR, "number": 1}, table)
    assert not first["ready"] and "<option>Was</option>" in first["report"]
    columns = {"title": "Was", "price": "Wieviel"}
    second = page.bring({"visitor": VISITOR, "number": 2, "columns": columns}, table)
    assert second["ready"] and "<option selected>Was</option>" in second["report"] and "Roter Krug" in second["report"]
    found = page.search({"q": "krug", "where": "yours", "visitor": VISITOR}, None)["board"]
    assert "Roter Krug" in found and "9,90" in found
    wrong = page.bring({"visitor": VISITOR, "number": 3, "columns": {"title": "<b>"}}, table)
    assert not wrong["ready"] and "<b>" not in wrong["report"].replace("<b>That didn't work.</b>", "")
    for columns in (5, ["Was"], {"colour": "Was"}, {"title": 5}):
        assert not page.bring({"visitor": VISITOR, "number": 4, "columns": columns}, table)["ready"]


@pytest.fixture(scope="module")
def two(shop_of_two):
    """The page's answers where there are two models."""
    return pages.Page(Endpoints(shop_of_two))


def lanes(board: str) -> list[tuple[str, list[str], list[str]]]:
    """The name, the ids and the marked ids of each list of a board."""
    found = []
    for lane in board.split("<section ")[1:]:
        cards = [(re.search("data-id='([^']*)'", card)[1], "missed by" in card) for card in lane.split("<li>")[1:]]
        name = re.search("<h2[^>]*>([^<]*)<", lane)[1]
        found.append((name, [one for one, _ in cards], [one for one, is_marked in cards if is_marked]))
    return found


def best(catalogue, query, **options) -> list[str]:
    return [catalogue.products[hit.row]["_id"] for hit in catalogue.search(query, **options)["fused"].hits]


def test_two_models_find_what_each_finds_alone(two, shop_of_two, shop):
    models, differ = (shop_of_two, shop_of_two.other), 0
    assert models[0].encoder.dim != models[1].encoder.dim, "the two are one"
    assert np.array_equal(models[0].vectors["fused"], shop.vectors["fused"])
    image, small = picture("red"), shop.picture(7)
    asked = {
        "words": ({"q": "red mug"}, None, lambda one: one.encoder.query("red mug")),
        "more like": ({"like": "lamp-red"}, None, lambda one: one.like("lamp-red")),
        "but": (
            {"like": "lamp-red", "but": "green", "weight": ".3"},
            None,
            lambda one: one.like("lamp-red", "green", 0.3),
        ),
        "a picture": ({}, small, lambda one: one.encoder.query("", small_jpeg(small, PICTURE_SIZE))),
        "both": (
            {"q": "blue", "weight": "0.7"},
            image,
            lambda one: one.encoder.query("blue", small_jpeg(image, PICTURE_SIZE), 0.7),
        ),
    }
    for name, (request, content, query) in asked.items():
        for filters, of in (({}, Filters()), ({"brand": ["blue"], "high": "8"}, Filters([], ["blue"], None, 8.0))):
            board = two.search({**request, **filters, "show": "models", "k": "4"}, content)["board"]
            expected = [best(one, query(one), k=4, filters=of, views=("fused",)) for one in models]
            found = lanes(board)
            assert [one[0] for one in found] == ["run", "before"] and [one[1] for one in found] == expected, name
            alone = [[one for one in found[i][1] if one not in found[1 - i][1]] for i in (0, 1)]
            assert [one[2] for one in found] == alone, f"{name}: what the other one misses is not marked"
            differ += bool(alone[0])
    assert differ > 3, "the two find the same, so nothing was tried"


def test_two_models_are_measured_and_explained_each(two, shop_of_two):
    both = (shop_of_two, shop_of_two.other)
    request = {"q": "red mug", "show": "models"}
    board = html.unescape(two.search(request, None)["board"])
    values = [one.search(one.encoder.query("red mug"))["fused"].ndcg for one in both]
    told = re.findall(r"(\w+) <b class='ndcg \w+'>([\d.]+)<", board)
    assert told == [("run", f"{values[0]:.2f}"), ("before", f"{values[1]:.2f}")]
    assert len(re.findall("right one at|right one missed", board)) == 2
    for lane, name, one in (("fused", "run", both[0]), ("other", "before", both[1])):
        drawer = two.why({**request, "id": "lamp-blue", "lane": lane}, None)["drawer"]
        hit = one.hit(one.encoder.query("red mug"), one.row("lamp-blue"))
        assert f"By {name}: #{hit.ranks['fused']} fused" in drawer
        assert f"<td>{sum(hit.contributions.values()):.3f}</td></tr></tfoot>" in drawer
    head = markup.intro(shop_of_two, two.firsts, two.means)
    assert "one model, run; the last is before" in head and "Fused, before" in head
    assert f"<td>{both[1].judged_firsts()['fused']:.0%}</td></tr>" in head
    assert f"<td>{both[1].judged_values()['fused'].mean():.2f}</td></tr>" in head


def test_two_models_where_there_is_one(page, two):
    assert "value='models'" in two.whole() and "value='models'" not in page.whole()
    assert "side or fused, with" in page.search({"q": "mug", "show": "models"}, None)["board"]
    for lane in (None, "moon", ["other"]):  # not from our page
        assert "By run: #" in two.why({"q": "mug", "show": "models", "id": "mug-red", "lane": lane}, None)["drawer"]
    assert "side or fused or models, with" in two.search({"q": "mug", "show": ["models"]}, None)["board"]
    two.bring({"visitor": VISITOR, "number": 1}, b"title\nmy mug\n")
    mine = {"q": "mug", "where": "yours", "visitor": VISITOR}
    assert ids(two.search(mine, None)) == ["row-1"] * 3
    for answer in (
        two.search({**mine, "show": "models"}, None)["board"],
        two.why({**mine, "show": "models", "lane": "other", "id": "row-1"}, None)["drawer"],
    ):
        assert "Your products are read by the first model alone" in answer and "data-id" not in answer


def test_nothing_fits_two_models_where_neither_fits(two, monkeypatch):
    request = {"q": "red mug", "show": "models"}
    for least in ((1.1, 0.0), (0.0, 1.1), (1.1, 1.1)):
        monkeypatch.setattr(two, "least_score", least[0])
        monkeypatch.setattr(two, "least_of_other", least[1])
        assert ("No good match" in two.search(request, None)["board"]) == (least == (1.1, 1.1))


def test_a_second_model_keeps_its_vectors_and_errors_name_it(shop_of_two, folders, tmp_path, monkeypatch):
    prepared = sorted((folders / "prepared").glob("*.npz"))
    assert len(prepared) == 2
    monkeypatch.setenv("MMFUSION_MODEL_B", str(folders / "before" / "model"))
    monkeypatch.setattr(start.ShopEncoder, "products", lambda *_: pytest.fail("what is kept is embedded again"))
    again = start.start()
    assert np.array_equal(again.other.vectors["fused"], shop_of_two.other.vectors["fused"])
    assert sorted((folders / "prepared").glob("*.npz")) == prepared
    shutil.copytree(folders / "before" / "model", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"")
    for other, words in (
        (tmp_path / "none", "can't be read"),
        (tmp_path / "damaged", "can't be read"),
        (folders / "before" / ".." / "run" / "model", "first model"),
    ):
        monkeypatch.setenv("MMFUSION_MODEL_B", str(other))
        with pytest.raises(start.SetupError, match=words) as error:
            start.start()
        assert str(error.value).startswith(f"MMFUSION_MODEL_B={other}") and "\n" not in str(error.value)
    monkeypatch.setenv("MMFUSION_MODEL_B", "")
    assert start.start().other is None


def test_models_go_by_what_tells_them_apart():
    assert short_names("me/shop", "me/shop-tuned") == ["shop", "shop-tuned"]
    assert short_names("me/shop", "you/shop") == ["me/shop", "you/shop"]
    assert short_names("runs/after/model", "runs/before/model") == ["after", "before"]
    assert short_names("/a/run/model", "/b/run/model") == ["a/run", "b/run"]
    assert short_names("run", "a/run/model") == ["run", "a/run"]
