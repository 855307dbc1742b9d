"""The page on which people judge a pool: one HTML file that needs no server, and no network.

What the catalogue says is only ever shown as text, and the page's policy lets no script run but its own.
"""

import base64
import hashlib
import json
from html import escape
from io import BytesIO
from pathlib import Path

from tqdm.auto import tqdm

from modeling_mmfusion.pictures_mmfusion import load_picture, pictures_of
from training.catalogue.layout import RetrievalSplit
from training.common.files import write_bytes, write_text
from training.evaluation.grades import ADVICE, GUIDELINES
from training.evaluation.pooling import Pool

PICTURE_SIZE = 320  # the longer side
MOST_INSIDE = 32 * 2**20  # bytes of pictures that the page itself holds
NOT_SHOWN = ("_id", "title", "image")
PICTURES = "pictures"  # the folder beside the page


def write_page(file: Path, pool: Pool, split: RetrievalSplit, most_inside: int = MOST_INSIDE) -> bool:
    """Writes the page.

    Args:
        file (`Path`): HTML file to write.
        pool (`Pool`): queries and products.
        split (`RetrievalSplit`): the products' listings and pictures; unreadable pictures are counted in its problems.
        most_inside (`int`, *optional*, defaults to 32 MB): bytes of pictures up to which they are in the page. More
            are files in the folder `pictures` beside it.

    Returns:
        `bool`: whether the pictures are in the page.
    """
    row_of = {product: row for row, product in enumerate(split.product_ids)}
    used = dict.fromkeys(product for query in pool for product in query.found)
    pictures = {
        product: picture
        for product in tqdm(used, desc="pictures", unit="picture", leave=False)
        if (picture := small_picture(split, row_of[product]))
    }
    is_whole = sum(map(len, pictures.values())) <= most_inside
    address = _data_url if is_whole else lambda picture: _written(file.parent / PICTURES, picture)
    products = {
        product: listing(split.corpus[row_of[product]])
        | {"image": address(pictures[product]) if product in pictures else ""}
        for product in used
    }
    shown = {
        "digest": pool.digest,
        "pairs": pool.pairs,
        "grades": [[grade, name] for grade, (name, _) in GUIDELINES.items()],
        "queries": [{"id": query.id, "text": query.text, "products": list(query.found)} for query in pool],
        "products": products,
    }
    script = file_beside("judging_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    means = "".join(f"<dt>{grade} {name}</dt><dd>{text}</dd>" for grade, (name, text) in GUIDELINES.items())
    parts = {"script_digest": digest, "title": escape(split.name), "guidelines": means, "advice": ADVICE}
    parts |= {"pool": json_inside(shown), "script": script}
    head, *rest = file_beside("judging_page.html").split("{{")
    for part in rest:
        name, text = part.split("}}", 1)
        head += parts[name] + text
    write_text(file, head)
    return is_whole


def file_beside(name: str) -> str:
    """The text of a file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def json_inside(value) -> str:
    """A value as JSON that may stand in a script element: `<`, `>` and `&` are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def listing(product: dict) -> dict:
    """A product's title and its other fields that are filled, as texts."""
    fields = [
        [name, str(value)] for name, value in product.items() if name not in NOT_SHOWN and value not in (None, "")
    ]
    return {"title": str(product.get("title") or ""), "fields": fields}


def small_picture(split: RetrievalSplit, row: int, size: int = PICTURE_SIZE) -> bytes | None:
    """A product's first picture as a JPEG whose sides have at most `size` pixels; `None` where there is none that can
    be read."""
    if "image" not in split.corpus.column_names or not (pictures := pictures_of(split.corpus[row]["image"])):
        return None
    try:
        picture = load_picture(pictures[0])
    except ValueError:
        split.problems.add("unreadable image (judged without it)", split.where(row, "image"))
        return None
    picture.thumbnail((size, size))
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return stream.getvalue()


def _data_url(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def _written(folder: Path, picture: bytes) -> str:
    """The address of a picture that is written beside the page, by its content, so that no id names a file."""
    name = f"{hashlib.sha256(picture).hexdigest()[:32]}.jpg"
    if not (folder / name).is_file():
        write_bytes(folder / name, picture)
    return f"{folder.name}/{name}"
