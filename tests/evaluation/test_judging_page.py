"""The page on which people judge, in a real browser: keys, undo, a later visit, grades out and in again."""

import base64
import re

import numpy as np
import pytest
from browser import DESKTOP, PHONE, chromium, open_page
from helpers import shop_rows, write_shop
from PIL import Image

from training import judge
from training.catalogue.layout import load_split
from training.common.errors import Problems
from training.evaluation.grades import read_grades
from training.evaluation.judging_page import file_beside, json_inside, write_page
from training.evaluation.pooling import read_pool
from training.judge import JudgeArguments

HOSTILE = "</script><script>document.title=1</script><img src=x onerror='document.title=1'> ${1} {{pool}}"
FITS = """[...document.querySelectorAll('.grades button')].every((button) =>
  button.scrollWidth <= button.clientWidth
  && button.getBoundingClientRect().right <= button.closest('li').getBoundingClientRect().right)"""
in_browser = pytest.mark.skipif(
    chromium() is None,
    reason="no Chromium is installed (Debian: apt-get install chromium), so the page is not tried",
)


@pytest.fixture
def judging(tmp_path):
    """A folder with the page and pool of three queries of a shop whose texts and ids are hostile."""
    corpus, queries, qrels = shop_rows()
    for row in corpus[:3]:
        row |= {"title": HOSTILE + " plain mug", "description": HOSTILE}
    corpus[0]["image"] = None
    corpus[1]["image"] = {"bytes": b"no picture", "path": "broken.png"}
    corpus[1]["_id"] = qrels[1]["corpus-id"] = '__proto__ "a", b'
    queries = [dict(row, text=f"{HOSTILE} {row['text']}") for row in queries[:3]]
    write_shop(tmp_path / "shop", corpus, queries, qrels[:3])
    output = tmp_path / "judging"
    judge.main(JudgeArguments("pool", str(output), str(tmp_path / "shop"), systems=["bm25"]))
    judge.main(JudgeArguments("page", str(output)))
    return output


def open_judging(judging, **options):
    return open_page((judging / "page.html").as_uri(), ready="#cards li", **options)


def shown(page) -> list[str | None]:
    """The grade of each card."""
    return page.eval_on_selector_all("#cards > li", "items => items.map(item => item.dataset.grade ?? null)")


def current(page) -> int:
    return page.eval_on_selector_all(
        "#cards > li", "items => items.findIndex(item => item.classList.contains('current'))"
    )


def test_json_in_a_script_ends_none():
    assert re.search("[<>&]", json_inside({"a": "</script><!--&amp;\u2028"})) is None
    assert "</script" not in file_beside("judging_page.js")


def test_the_page_tells_no_rank_and_no_system(judging):
    text = (judging / "page.html").read_text()
    assert "bm25" not in text and '"found"' not in text and "http:" not in text and "https:" not in text
    assert text.count("<script") == 2, "what the catalogue says opens no element"


@pytest.mark.browser
@in_browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_person_judges_by_keys_and_goes_on_later(judging, size, tmp_path):
    pool = read_pool(judging / "pool.jsonl")
    first = pool.queries[0]
    count = len(first.found)
    with open_judging(judging, size=size, dark=size is PHONE) as (page, errors):
        assert page.inner_text("#query") == first.text and page.locator("#cards > li").count() == count >= 3
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"
        assert page.evaluate(FITS), "the buttons stick out of their cards"
        page.keyboard.press("3")
        page.keyboard.press("0")
        assert shown(page)[:3] == ["3", "0", None] and current(page) == 2
        page.keyboard.press("Backspace")
        assert shown(page)[:3] == ["3", None, None] and current(page) == 1
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("2")
        assert shown(page)[:2] == ["2", None] and current(page) == 1, "a grade can be changed"
        page.locator("#cards > li").nth(2).get_by_role("button", name="1 complement").click()
        assert shown(page)[2] == "1" and page.inner_text("#count") == f"2 of {pool.pairs} pairs"
        page.keyboard.press("n")
        assert page.inner_text("#query") == pool.queries[1].text and shown(page)[:1] == [None]
        page.keyboard.press("1")
        page.reload()
        assert page.inner_text("#query") == pool.queries[1].text and shown(page)[:2] == ["1", None]
        page.keyboard.press("p")
        assert shown(page)[:3] == ["2", None, "1"]
        page.get_by_role("button", name="First without a grade").click()
        assert current(page) == 1
        with page.expect_download() as download:
            page.get_by_role("button", name="Download grades").click()
        download.value.save_as(tmp_path / "mine.csv")
        assert download.value.suggested_filename == f"grades-{pool.digest[:8]}.csv"
        ids = [list(query.found) for query in pool]
        grades = {first.id: {ids[0][0]: 2, ids[0][2]: 1}, pool.queries[1].id: {ids[1][0]: 1}}
        assert read_grades(tmp_path / "mine.csv", pool, Problems()) == grades
        page.evaluate("localStorage.clear()")
        page.reload()
        assert set(shown(page)) == {None}
        page.set_input_files("#load", str(tmp_path / "mine.csv"))
        page.locator("#note", has_text="3 grades loaded").wait_for()
        assert shown(page)[:3] == ["2", None, "1"]
        (tmp_path / "other.csv").write_text("query-id,corpus-id,grade\nq,p,3\n")
        page.set_input_files("#load", str(tmp_path / "other.csv"))
        page.locator("#note", has_text="0 grades loaded, 1 are not of this pool").wait_for()
        assert errors == []


@pytest.mark.browser
@in_browser
def test_all_is_graded_and_what_the_catalogue_says_is_shown_as_text(judging, tmp_path):
    pool = read_pool(judging / "pool.jsonl")
    with open_judging(judging) as (page, errors):
        for query in pool:
            assert page.inner_text("#query") == query.text, "as it was typed"
            titles = page.locator("#cards h2").all_inner_texts()
            assert sum(title == f"{HOSTILE} plain mug" for title in titles) == sum("mug" in t for t in titles) > 0
            for _ in query.found:
                page.keyboard.press("3")
            page.keyboard.press("n")
        assert page.title().startswith("Judging: ") and page.locator("#cards img[src=x]").count() == 0
        assert "All pairs are graded" in page.inner_text("#note")
        assert page.evaluate("document.getElementById('bar').value") == 1
        for button in page.locator("button").all():
            assert button.inner_text().strip()
        assert page.locator("#cards > li[aria-label*='grade 3']").count() == len(pool.queries[-1].found)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download grades").click()
        download.value.save_as(tmp_path / "mine.csv")
        grades = read_grades(tmp_path / "mine.csv", pool, Problems())
        assert grades == {query.id: dict.fromkeys(query.found, 3) for query in pool}
        page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'document.title = 1';"
                      "document.body.append(s) }")  # fmt: skip
        assert page.title() != "1" and len(errors) == 1 and "Content Security Policy" in errors[0]


@pytest.mark.browser
@in_browser
def test_pictures_are_in_the_page_or_beside_it(judging):
    pool = read_pool(judging / "pool.jsonl")
    split = load_split(pool.data, pool.split)
    inside = (judging / "page.html").read_text()
    codes = re.findall(r"data:image/jpeg;base64,([^\"]+)", inside)
    shown_ids = {product for query in pool for product in query.found}
    assert len(codes) == len(shown_ids) - 2 and base64.b64decode(codes[0]).startswith(b"\xff\xd8")
    assert not write_page(judging / "page.html", pool, split, most_inside=10)
    assert "data:image" not in (judging / "page.html").read_text()
    with open_judging(judging) as (page, errors):
        page.wait_for_function("[...document.images].every(image => image.complete)")
        widths = page.eval_on_selector_all("#cards img", "images => images.map(image => image.naturalWidth)")
        assert widths and all(widths) and errors == []
        assert page.locator(".none").count() >= 1
    for file in (judging / "pictures").iterdir():
        assert np.asarray(Image.open(file)).shape[2] == 3
