"""The Space's page in a real browser, on a desktop and on a phone: what a visitor does, without a console error.

MMFUSION_VISITS=200 pytest -n 4 tests/space/test_browser.py -k last_thing     # the long form of that test
"""

import os
import time
from contextlib import contextmanager

import app
import page as pages
import pytest
from browser import DESKTOP, PHONE, chromium, open_page
from helpers import picture
from space_shop import HOSTILE_TITLE, make_zip
from visits import Asked, Slow, Visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None,
        reason="no Chromium is installed (Debian: apt-get install chromium), so the page is not tried",
    ),
]

FOCUS = """() => {
  const one = document.activeElement, kind = one.closest('.card, .chip, .camera, .pop') ?? one;
  const shown = one.closest('.camera, .file') ?? one;
  return [kind.classList[0] ?? kind.id, getComputedStyle(shown).outlineStyle !== 'none'];
}"""
VISITS = int(os.environ.get("MMFUSION_VISITS", "6"))
SLOWEST = 2.0 if VISITS > 6 else 0.5  # seconds


@pytest.fixture(scope="module")
def space(shop):
    """The page's answers."""
    return pages.Page(app.Endpoints(shop))


@pytest.fixture(scope="module")
def url(space, shop):
    """Address of a Space that shows this page's answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "Page", lambda _: space)
        blocks = app.lay_out(shop)
        _, address, _ = blocks.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
        yield address
        blocks.close()


@contextmanager
def delayed(space, name: str, seconds: list[float]):
    """The first calls of one of the page's answers take so long, one after the other as they come."""
    answer, waits = getattr(space, name), iter(seconds)

    def slow(*arguments):
        time.sleep(next(waits, 0))
        return answer(*arguments)

    setattr(space, name, slow)
    yield
    delattr(space, name)


def search(page, text: str) -> None:
    """Types a query and waits for its results."""
    page.fill("#query", text)
    page.keyboard.press("Enter")
    page.locator("#results:not([aria-busy]) .what", has_text=text).wait_for()


def titles(page, view: str) -> list[str]:
    """The titles of a view's results."""
    return page.locator(f"#results .{view} .title").all_inner_texts()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(VISITS))
def test_what_is_shown_belongs_to_the_last_thing_done(url, space, tmp_path, seed):
    """Random actions in a random pace on a server that is slow at random, on a desktop and on a phone."""
    slow, dark = Slow(SLOWEST, seed), seed % 4 > 1
    with slow.server(space), open_page(url, (DESKTOP, PHONE)[seed % 2], dark=dark) as (page, errors):
        visit = Visit(page, tmp_path, seed, Asked(q=space.examples[0].text))
        for _ in range(visit.random.randint(3, 9)):
            visit.act()
        visit.settle(slow)
        slow.most = 0
        visit.check(space)
        assert errors == [], visit.done


@pytest.mark.parametrize("gap_ms", [0, 30, 130])
def test_of_twelve_queries_the_last_is_answered(url, space, gap_ms):
    with Slow(0.6, gap_ms).server(space), open_page(url) as (page, errors):
        for number in range(12):
            page.fill("#query", f"red mug {number}")
            page.keyboard.press("Enter")
            page.wait_for_timeout(gap_ms)
        page.locator("#results:not([aria-busy]) .what", has_text="red mug 11").wait_for()
        page.wait_for_timeout(800)
        assert "red mug 11" in page.locator("#results .what").inner_text() and errors == []


def test_reasons_belong_to_the_card_that_was_clicked_last(url, space):
    """The first card's reasons come after the second's; and those of a card come after a new search."""
    with open_page(url) as (page, errors):
        search(page, "red mug")
        with delayed(space, "why", [0.9, 0.1, 0.9]):
            cards = page.locator("#results .fused .card")
            second = cards.nth(1).get_attribute("data-id")
            for number in (0, 1):
                cards.nth(number).click()
                page.locator("#why .why", has_text="Looking").wait_for()  # at once, whatever the server does
                if number == 0:
                    page.mouse.click(5, 400)  # beside the drawer, which closes it
            page.locator("#why .similar").wait_for()
            page.wait_for_timeout(1000)
            assert page.locator("#why .similar").get_attribute("data-id") == second
            page.keyboard.press("Escape")
            cards.nth(2).click()
            page.keyboard.press("Escape")
            search(page, "blue mug")
            page.wait_for_timeout(1000)
            assert not page.evaluate("document.querySelector('#why').open") and errors == []


def test_products_that_were_brought_last_are_searched(url, space, tmp_path):
    """The first file is read last; a query that is sent meanwhile waits for the second one's products."""
    files = [
        make_zip(tmp_path / f"{name}.zip", {"a.csv": f"title,brand\n{name} mug,{name}"}) for name in ("old", "new")
    ]
    with delayed(space, "bring", [0.6, 0.3]), open_page(url) as (page, errors):
        search(page, "red mug")
        page.locator(".pop[data-of=brand] summary").click()
        page.get_by_label("blue").check()
        for file in files:
            page.set_input_files("#file", file)
        search(page, "mug")
        assert titles(page, "fused") == ["new mug"] and page.locator(".chosen").count() == 0
        assert page.locator("#choices input[type=checkbox]").evaluate_all("all => all.map(one => one.value)") == [
            "new"
        ]
        (tmp_path / "bad.csv").write_bytes(b"<html></html>")
        page.set_input_files("#file", str(tmp_path / "bad.csv"))
        page.locator("#report [role=alert]").wait_for(state="attached")
        page.wait_for_function("document.querySelector('#results .title')?.textContent === 'new mug'")
        page.set_input_files("#file", files[0])
        page.get_by_role("radio", name="the shop").check()
        page.wait_for_function("document.querySelectorAll('#results .fused .card').length === 8")
        page.locator("#report [role=status]", has_text="1 products").wait_for()
        page.wait_for_timeout(300)
        assert page.locator("#results .fused .card").count() == 8, "a file that was read later changes the place"
        page.get_by_role("button", name="Clear my products").click()
        page.get_by_role("radio", name="your products").check()
        page.locator("#results [role=alert]", has_text="Your products are not here").wait_for()
        assert errors == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_visit(url, size, tmp_path):
    """Type a query, click a result, go on from it, change a filter, give a picture, bring products."""
    (tmp_path / "mug.png").write_bytes(picture("red"))
    mine = make_zip(tmp_path / "mine.zip", {"a.csv": "title,image\nMy own mug,mug.png", "mug.png": picture("red")})
    with open_page(url, size, dark=size is PHONE) as (page, errors):
        search(page, "red mug")
        assert [page.locator(f"#results .{view} .card").count() for view in ("fused", "text", "image")] == [8, 8, 8]
        page.locator("#results .numbers summary").click()
        assert "nDCG" in page.locator("#results .numbers .panel").inner_text()
        page.keyboard.press("Escape")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"

        page.locator("#results .image .card:not(:has(.none))").first.click()
        page.locator("#why img[alt*='glowing']").wait_for()
        assert page.locator("#why .why").inner_text()
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.className").startswith("card"), "the keyboard has lost its place"

        page.keyboard.press("Enter")
        page.locator("#why input").fill("green")
        page.keyboard.press("Enter")
        page.locator("#results:not([aria-busy]) .what", has_text="but").wait_for()
        assert "green" in page.locator("#results .what").inner_text() and not page.locator("#why").is_visible()
        assert page.locator(".holder").inner_text().startswith("like") and page.input_value("#query") == ""

        search(page, "blue mug")
        assert page.locator(".holder").count() == 0
        page.locator("#presence summary").click()
        page.get_by_label("without picture").check()
        page.wait_for_function("document.querySelectorAll('#results .fused .card').length === 1")
        page.get_by_role("button", name="Take the filter without picture away").click()
        page.locator(".pop[data-of=price] summary").click()
        page.get_by_label("to", exact=True).fill("0.5")
        page.keyboard.press("Tab")
        page.locator("#results [role=alert]", has_text="No product passes").wait_for()
        page.locator(".chosen button").click()
        page.locator("#results .fused .card").nth(7).wait_for()

        page.set_input_files("#picture", str(tmp_path / "mug.png"))
        page.locator("#results .what", has_text="A picture").wait_for()
        go = page.locator("#go").bounding_box()
        assert go["x"] + go["width"] <= size["width"], "the button is pushed off the page"
        page.set_input_files("#file", mine)
        page.wait_for_function("document.querySelectorAll('#results .fused .card').length === 1")  # of the last query
        search(page, "my mug")
        assert titles(page, "fused") == ["My own mug"]
        page.locator("#yours > summary").click()
        page.locator("#report [role=status]", has_text="1 products are ready").wait_for()
        assert errors == []


def test_hostile_titles_are_shown_as_text(url):
    with open_page(url) as (page, errors):
        search(page, "<b>red</b> ${1+1} {{value}} mug")
        page.locator("#view summary").click()
        page.locator("#view select").select_option("24")
        page.locator("#results .fused .card").nth(11).wait_for()
        assert HOSTILE_TITLE in titles(page, "fused")
        page.locator("#results .fused .card", has_text=HOSTILE_TITLE).click()
        page.locator("#why .similar").click()
        page.locator(".holder", has_text=HOSTILE_TITLE).wait_for()
        assert page.locator("img[src=x]").count() == 0 and errors == []


def test_the_tabs_and_a_bad_picture(url, tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html><script>alert(1)</script></html>")
    with open_page(url) as (page, errors):
        page.set_input_files("#picture", str(tmp_path / "page.png"))
        page.locator("#results [role=alert]", has_text="no picture that can be read").wait_for()
        page.get_by_role("tab", name="Trade-offs").click()
        for storage in ("f16", "i8", "b1"):  # chosen faster than they are measured
            page.get_by_label(storage).check()
        page.locator("#readout", has_text="dimensions as b1").wait_for()
        page.get_by_role("tab", name="API").click()
        page.locator("#api", has_text=f'client = Client("{url.rstrip("/")}")').wait_for()
        assert errors == []


def test_examples_and_the_keyboard(url):
    """A chip is reached and pressed by keyboard; results too."""
    with open_page(url) as (page, errors):
        chip = page.locator(".chip").nth(1)
        chip.focus()
        page.keyboard.press("Enter")
        page.locator("#results .what", has_text=chip.get_attribute("data-text")).wait_for()
        assert page.input_value("#query") == chip.get_attribute("data-text")
        images = page.locator("#results img")
        assert all(images.nth(row).get_attribute("alt") for row in range(images.count()))
        assert errors == []


def test_the_address_is_what_is_asked(url):
    """Sharing, Back and reload show what was asked, with its filters and view; a cleared box stays clear."""
    with open_page(url) as (page, errors):
        opening = page.input_value("#query")
        assert "?" not in page.url and page.locator("#results .fused .card").count() == 8, "it opens without results"
        search(page, "red mug")
        page.locator(".pop[data-of=brand] summary").click()
        page.get_by_label("blue").check()
        page.locator("#view summary").click()
        page.get_by_label("fused only").check()
        page.wait_for_function("document.querySelectorAll('#results:not([aria-busy]) .lane').length === 1")
        shared, ids = page.url, page.locator("#results .card").evaluate_all("all => all.map(one => one.dataset.id)")
        assert "q=red+mug" in shared and "brand=blue" in shared and "show=fused" in shared
        for visit in (lambda: page.reload(), lambda: page.goto(shared)):
            visit()
            page.locator("#results .what", has_text="red mug").wait_for()
            assert page.locator("#results .card").evaluate_all("all => all.map(one => one.dataset.id)") == ids
            assert (
                page.locator("input[data-name=brand][value=blue]").is_checked()
                and page.input_value("#query") == "red mug"
            )
        page.fill("#query", "")
        page.locator("#results .state", has_text="Type what a shopper would").wait_for()
        page.reload()
        page.locator("#results .state", has_text="Type what a shopper would").wait_for()
        page.go_back()
        page.locator("#results .what", has_text="red mug").wait_for()
        for _ in range(3):
            page.go_back()
        page.locator("#results:not([aria-busy]) .what", has_text=opening).wait_for()
        assert page.locator(".chosen").count() == 0 and page.locator("#results .lane").count() == 3 and errors == []
        page.goto(f"{url}?q=mug&brand=nobody&k=1000&low=cheap&where=moon")
        page.locator("#results [role=alert]").wait_for()
        assert errors == []


def test_nothing_fits(url, space, monkeypatch):
    monkeypatch.setattr(space, "least_score", 1.1)
    with open_page(url) as (page, errors):
        search(page, "red mug")
        page.locator("#results .state", has_text="No good match").wait_for()
        assert not page.locator("#results .card").first.is_visible()
        page.get_by_text("Show the nearest products").click()
        page.locator("#results .card").first.click()
        page.locator("#why .similar").click()
        page.locator("#results .what", has_text="Like").wait_for()
        assert page.locator("#results .card").first.is_visible(), "a product is like another one, whatever the scores"
        assert errors == []


def test_what_is_under_way_is_seen(url, space):
    """Old results can't be clicked and make room for the shapes of those to come; a lost server is told."""
    with open_page(url) as (page, errors):
        search(page, "red mug")
        with delayed(space, "search", [1.0]):
            page.fill("#query", "blue mug")
            page.keyboard.press("Enter")
            page.locator("#results[aria-busy] .ghost").first.wait_for()
            assert page.evaluate("document.querySelector('#results').inert")
            page.locator("#results:not([aria-busy]) .what", has_text="blue mug").wait_for()
        page.route("**/component_server/**", lambda route: route.abort())
        page.fill("#query", "green mug")
        page.keyboard.press("Enter")
        page.locator("#results [role=alert]", has_text="did not answer").wait_for()
        page.unroute("**/component_server/**")
        search(page, "green mug")


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(url, size, dark):
    """On every tab, with the drawer, a popover, a message and held things open."""
    playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")

    def check(page, state: str) -> None:
        page.wait_for_timeout(300)  # for what fades in
        found = playwright.Axe().run(page).response["violations"]
        bad = [(one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("serious", "critical")]
        assert not bad, state

    with open_page(url, size, dark=dark) as (page, errors):
        check(page, "opening")
        page.locator("#results .card").first.click()
        page.locator("#why .similar").wait_for()
        page.locator("#why .numbers summary").click()
        check(page, "drawer")
        page.fill("#why input", "green")
        page.keyboard.press("Enter")
        page.locator("#results .what", has_text="but").wait_for()
        for summary in page.locator("details.pop > summary").all():
            summary.click()
            check(page, summary.inner_text())
            page.keyboard.press("Escape")
        page.locator(".pop[data-of=price] summary").click()
        page.get_by_label("from", exact=True).fill("1000")
        page.keyboard.press("Tab")
        page.locator("#results [role=alert]").wait_for()
        check(page, "message")
        for tab in ("Trade-offs", "API"):
            page.get_by_role("tab", name=tab).click()
            check(page, tab)
        assert errors == []


def test_the_keyboard_reaches_everything_and_stays_in_the_drawer(url):
    """Focus is seen on what has it, the drawer keeps it, and Escape gives it back."""
    with open_page(url) as (page, errors):
        page.focus("#query")
        assert page.evaluate("getComputedStyle(document.querySelector('.searchbar')).boxShadow") != "none"
        seen = []
        while len(seen) < 60 and "card" not in seen:
            page.keyboard.press("Tab")
            kind, is_seen = page.evaluate(FOCUS)
            assert is_seen, f"no focus is seen on {kind}"
            seen.append(kind)
        assert {"camera", "chip", "pop", "card"} <= set(seen)
        card = page.evaluate("document.activeElement.dataset.id")
        page.keyboard.press("Enter")
        page.locator("#why .similar").wait_for()
        for _ in range(12):
            page.keyboard.press("Tab")
            inside = "document.activeElement === document.body || Boolean(document.activeElement.closest('#why'))"
            assert page.evaluate(inside), "the keyboard has left the drawer"
        assert page.evaluate("document.querySelector('#why').matches(':modal')")
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.dataset.id") == card
        page.locator("#yours > summary").click()
        page.mouse.click(5, 700)
        assert not page.locator("#yours .panel").is_visible(), "a click elsewhere leaves the popover open"
        page.locator("#results .fused .card").first.hover()
        linked = page.locator("#results .card.linked")
        assert len(set(linked.evaluate_all("all => all.map(one => one.dataset.id)"))) == 1 and errors == []


def test_columns_are_chosen_and_a_sample_is_given(url, tmp_path):
    (tmp_path / "mine.csv").write_text("Was;Wieviel\nroter Krug;9,90\nblaue Lampe;19,90\n", encoding="utf-8")
    with open_page(url) as (page, errors):
        page.locator("#yours > summary").click()
        with page.expect_download() as download:
            page.get_by_text("A sample to fill").click()
        assert download.value.suggested_filename == "products.csv"
        page.set_input_files("#file", str(tmp_path / "mine.csv"))
        page.locator("#report [role=alert]", has_text="no column title").wait_for()
        page.get_by_text("Which column is what").click()
        page.get_by_label("Column of the title").select_option("Was")
        page.get_by_role("button", name="Read it again like this").click()
        page.locator("#report [role=status]", has_text="2 products are ready").wait_for()
        search(page, "lamp")
        assert sorted(titles(page, "fused")) == ["blaue Lampe", "roter Krug"] and errors == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_two_models_side_by_side(shop_of_two, size, monkeypatch):
    """Chosen under View, kept in the address, and each card explained by the model that found it."""
    monkeypatch.setattr(app, "Page", pages.Page)  # in place of the one shop's, which `url` puts there
    blocks = app.lay_out(shop_of_two)
    _, address, _ = blocks.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
    try:
        with open_page(address, size) as (page, errors):
            search(page, "red mug")
            page.locator("#view summary").click()
            page.get_by_label("two models").check()
            page.locator("#results .lane.other .card").nth(7).wait_for()
            page.reload()
            page.locator("#results .lane.other .card").nth(7).wait_for()
            assert page.locator("#results h2").all_inner_texts() == ["run", "before"] and "show=models" in page.url
            edges = page.locator("#results .lane").evaluate_all("all => all.map(one => one.getBoundingClientRect())")
            assert edges[1]["x"] > edges[0]["right"] and edges[1]["right"] > 0.9 * size["width"], "a column is empty"
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            for lane, name in (("fused", "run"), ("other", "before")):
                page.locator(f"#results .{lane} .card").first.click()
                page.locator("#why .numbers summary").click()
                page.locator("#why .numbers", has_text=f"By {name}: #1 fused").wait_for()
                page.keyboard.press("Escape")
            assert errors == []
    finally:
        blocks.close()
