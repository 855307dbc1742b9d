"""The Space's page in a real browser, on a desktop and on a phone: what a visitor does, without a console error."""

import pytest
from browser import DESKTOP, PHONE, chromium, open_page
from helpers import picture
from space_shop import HOSTILE_TITLE, make_zip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None,
        reason="no Chromium is installed (Debian: apt-get install chromium), so the page is not tried",
    ),
]


def search(page, text: str) -> None:
    """Types a query and waits for its results."""
    page.fill("#query textarea, #query input", text)
    page.keyboard.press("Enter")
    page.locator("#results .what", has_text=text).wait_for()


def titles(page, view: str) -> list[str]:
    """The titles of a view's results."""
    return page.locator(f"#results .{view} .title").all_inner_texts()


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_visit(url, size, tmp_path):
    """Type a query, click a result, go on from it, change a filter, give a picture, bring products."""
    (tmp_path / "mug.png").write_bytes(picture("red"))
    mine = make_zip(tmp_path / "mine.zip", {"a.csv": "title,image\nMy own mug,mug.png", "mug.png": picture("red")})
    with open_page(url, size, dark=size is PHONE) as (page, errors):
        search(page, "red mug")
        assert [page.locator(f"#results .{view} .card").count() for view in ("fused", "text", "image")] == [8, 8, 8]
        assert page.locator("#results .fused .score").inner_text().startswith("nDCG")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"

        page.locator("#results .image .card:not(:has(.none))").first.click()
        page.locator(".drawer img[alt*='glowing']").wait_for()
        assert page.evaluate("document.activeElement.className") == "close", "the keyboard is not in the drawer"
        page.keyboard.press("Escape")
        page.locator(".drawer").wait_for(state="detached")
        assert page.evaluate("document.activeElement.className").startswith("card"), "the keyboard has lost its place"

        page.keyboard.press("Enter")
        page.locator(".drawer input").fill("green")
        page.keyboard.press("Enter")
        page.locator("#results .what", has_text="but").wait_for()
        assert "green" in page.locator("#results .what").inner_text() and not page.locator(".drawer").count()

        search(page, "blue mug")
        page.get_by_role("button", name="Filters").click()
        page.get_by_label("without picture").check()
        page.wait_for_function("document.querySelectorAll('#results .fused .card').length === 1")
        page.get_by_label("any", exact=True).check()
        page.fill("#high input", "0.5")
        page.locator("#high input").blur()
        page.locator("#results [role=alert]", has_text="No product passes").wait_for()
        page.fill("#high input", "100")
        page.locator("#high input").blur()
        page.locator("#results .fused .card").first.wait_for()

        page.get_by_role("button", name="Search by picture").click()
        page.set_input_files("#picture input[type=file]", str(tmp_path / "mug.png"))
        page.locator("#results .what", has_text="A picture").wait_for()

        page.get_by_role("button", name="Your products").click()
        page.set_input_files("#file input[type=file]", mine)
        page.locator("#yours [role=status]", has_text="1 products are ready").wait_for()
        page.wait_for_function("document.querySelectorAll('#results .fused .card').length === 1")  # of the last query
        search(page, "my mug")
        assert titles(page, "fused") == ["My own mug"]
        assert errors == []


def test_hostile_titles_are_shown_as_text(url):
    with open_page(url) as (page, errors):
        search(page, "<b>red</b> ${1+1} {{value}} mug")
        page.get_by_role("button", name="View").click()
        page.locator("#count input[type=number]").fill("24")
        page.locator("#count input[type=number]").press("Enter")
        page.locator("#results .fused .card").nth(11).wait_for()
        assert HOSTILE_TITLE in titles(page, "fused")
        assert page.locator("#results img[src=x]").count() == 0 and errors == []


def test_the_tabs_and_a_bad_picture(url, tmp_path):
    (tmp_path / "page.png").write_bytes(b"<html><script>alert(1)</script></html>")
    with open_page(url) as (page, errors):
        page.get_by_role("button", name="Search by picture").click()
        page.set_input_files("#picture input[type=file]", str(tmp_path / "page.png"))
        page.locator("#results [role=alert]", has_text="no picture that can be read").wait_for()
        page.get_by_role("tab", name="Trade-offs").click()
        page.get_by_label("b1").check()
        page.locator("#readout .gauge").nth(3).wait_for()
        page.get_by_role("tab", name="API").click()
        page.get_by_text("gradio_client").first.wait_for()
        assert errors == []


def test_examples_and_the_keyboard(url):
    """A chip is reached and pressed by keyboard; results too."""
    with open_page(url) as (page, errors):
        chip = page.locator(".chip").first
        chip.focus()
        page.keyboard.press("Enter")
        page.locator("#results .what", has_text=chip.inner_text()).wait_for()
        assert page.input_value("#query textarea, #query input") == chip.inner_text()
        images = page.locator("#results img")
        assert all(images.nth(row).get_attribute("alt") for row in range(images.count()))
        assert errors == []
