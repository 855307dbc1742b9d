"""A headless Chromium for the tests of pages and the screenshots of the Space, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--disable-component-update", "--no-first-run", "--use-fake-device-for-media-stream"]
DESKTOP, PHONE = {"width": 1360, "height": 1000}, {"width": 390, "height": 844}


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or `None`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def open_page(url: str, size: dict = DESKTOP, dark: bool = False, ready: str = "#query") -> Iterator[tuple]:
    """A page in a new browser, and the list that its console errors go to.

    What is elsewhere is not asked for: requests to other hosts, or of a file to other folders, get an empty answer.

    Args:
        url (`str`): where to go.
        size (`dict`, *optional*): `DESKTOP` or `PHONE`.
        dark (`bool`, *optional*, defaults to `False`): as a visitor who prefers dark pages.
        ready (`str`, *optional*): selector of what is there once the page is; by default the Space's query.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(
            viewport=size, is_mobile=size is PHONE, has_touch=size is PHONE, color_scheme="dark" if dark else "light"
        )
        here = url.rpartition("/")[0] if url.startswith("file:") else url
        context.route(lambda address: not address.startswith(here), lambda route: route.fulfill(body=""))
        page, errors = context.new_page(), []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector(ready)
        try:
            yield page, errors
        finally:
            browser.close()
