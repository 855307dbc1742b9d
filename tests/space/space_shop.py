"""What the tests of the Space show and upload."""

import zipfile

from helpers import shop_rows

HOSTILE_TITLE = "<img src=x onerror=alert(1)> ${document.title} {{value}} mug"


def space_rows() -> tuple[list[dict], list[dict], list[dict]]:
    """The tiny shop with brands, categories and prices, a hostile title and a product without a picture."""
    corpus, queries, qrels = shop_rows()
    for number, row in enumerate(corpus):
        row |= {
            "brand": ("red", "blue")[number % 2],
            "category": row["title"].split()[-1],
            "price": f"{number + 1}.50",
        }
    corpus[0]["title"] = HOSTILE_TITLE
    corpus[1] |= {"image": None, "price": ""}
    return corpus, queries, qrels


def make_zip(path, members: dict) -> str:
    """Writes a ZIP of names to contents; returns its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)
