"""Takes the screenshots of the Space that README shows: desktop, reasons, phone in the dark.

make screenshots     # after the quickstart; needs Chromium and Playwright
"""

import io
from pathlib import Path

from browser import DESKTOP, PHONE, open_page
from PIL import Image

from training.benchmarks.space_load import BenchSpaceArguments, start_space

FOLDER = Path(__file__).resolve().parents[2] / "hub_card" / "results"
SETTLED_MS = 700  # after this the page has stopped moving


def main() -> None:
    """Starts the Space on the quickstart's run and writes `space-*.webp`."""
    process, url, _, _ = start_space(BenchSpaceArguments())
    try:
        with open_page(url, DESKTOP) as (page, _):
            save(page, "space-compare")
            page.locator("#results .fused .card").first.click()
            page.locator("#why img[alt*='glowing']").wait_for()
            save(page, "space-why")
        with open_page(url, PHONE, dark=True) as (page, _):
            save(page, "space-phone")
    finally:
        process.terminate()
        process.wait(timeout=60)


def save(page, name: str) -> None:
    """Writes what is on the screen as a small WebP, once its pictures are there, and tells where the results begin."""
    page.locator("#results .fused .card img").first.wait_for()
    page.wait_for_timeout(SETTLED_MS)
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.save(FOLDER / f"{name}.webp", quality=80, method=6)
    top = page.locator("#results .card").first.bounding_box()["y"]
    print(f"wrote {FOLDER / name}.webp; the first card begins at {top:.0f} px", flush=True)


if __name__ == "__main__":
    main()
