"""Small files of public sets, with the sets' own names and columns, and what tests read of what became of them."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
from helpers import picture


def write_table(file, rows):
    """A table with the columns of its first row, in the format that its name tells."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file
    if ".csv" in file.suffixes:
        lines = [list(rows[0]), *(row.values() for row in rows)]
        text = "".join(
            ",".join('"' + ("" if cell is None else str(cell)).replace('"', '""') + '"' for cell in line) + "\n"
            for line in lines
        )
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def example(query, product, label, split="train", text=None, locale="us", small=1):
    """A row of ESCI's examples."""
    return {
        "example_id": 0,
        "query": f"query {query}" if text is None else text,
        "query_id": query,
        "product_id": product,
        "product_locale": locale,
        "esci_label": label,
        "small_version": small,
        "large_version": 1,
        "split": split,
    }


def listing(product, title="a lamp", locale="us", **others):
    """A row of ESCI's products."""
    empty = dict.fromkeys(("product_description", "product_bullet_point", "product_brand", "product_color"))
    return {"product_id": product, "product_title": title, **empty, "product_locale": locale} | others


def write_esci(folder, examples, products, ending=".parquet"):
    write_table(folder / f"shopping_queries_dataset_examples{ending}", examples)
    write_table(folder / f"shopping_queries_dataset_products{ending}", products)
    return folder


def row_of(split, product):
    return dict(split.corpus[split.product_ids.index(product)])


def counts(report):
    """The problems of a report, each kind's number."""
    found = (re.fullmatch(r"([\d,]+) x (.*?); first: .+", line) for line in report["problems"])
    return {match[2]: int(match[1]) for match in found}


def offer(query, product, score, title="a boot", **others):
    """A row of Marqo-GS-10M."""
    row = {"query": f"query {query}", "product_id": product, "position": 101 - score if isinstance(score, int) else 1}
    row |= {"title": title, "pair_id": f"{query}-{product}", "score_linear": score, "score_reciprocal": 0.5}
    return row | {"no_score": 1, "query_id": f"id-{query}"} | others


GS_ROWS = {
    "in_domain": [offer("a", "p1", 100, "boots"), offer("a", "p2", 99), offer("b", "p1", 1, "boots")],
    "novel_query": [offer("c", "p2", 100), offer("c", "p3", 98)],
    "novel_document": [offer("a", "p4", 100)],
    "zero_shot": [offer("d", "p5", 97)],
}
GS_ARCHIVE = {
    "in_domain": "query_0_product_id_0",
    "novel_query": "query_1_product_id_0",
    "novel_document": "query_0_product_id_1",
    "zero_shot": "query_1_product_id_1",
}


def write_gs(folder, archive, rows=GS_ROWS):
    """Marqo-GS-10M as it is on the Hub, or as its archive with a folder of pictures beside."""
    for split, offers in rows.items():
        contents = [picture("red" if row["product_id"] == "p1" else "blue") for row in offers]
        names = [f"{row['product_id']}.png" for row in offers]
        if archive:
            (folder.parent / "images").mkdir(exist_ok=True, parents=True)
            for name, content in zip(names, contents, strict=True):
                (folder.parent / "images" / name).write_bytes(content)
            offers = [{**row, "image_local": f"images/{name}"} for row, name in zip(offers, names, strict=True)]
            write_table(folder / f"{GS_ARCHIVE[split]}.csv", offers)
        else:
            cells = [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
            offers = [{**row, "image": cell} for row, cell in zip(offers, cells, strict=True)]
            for number, row in enumerate(offers):
                write_table(folder / "data" / f"{split}-{number:05}-of-{len(offers):05}.parquet", [row])
    return str(folder)


def item(number, query, title, **others):
    """A row of google-shopping-general-eval."""
    image = {"bytes": picture("green", (number + 1, 8)), "path": None}
    return {"image": image, "item_ID": f"id-{number}", "query": query, "title": title, "position": 1} | others


SHOPPING = [
    item(1, "boots", "Red boot"),
    item(2, "boots", "Blue boot"),
    item(3, "lamps", "Red boot"),
    item(4, "", "Lamp"),
]


def write_items(folder, rows, license=None):
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "half.parquet").write_bytes(b"PAR1")
    for number, row in enumerate(rows):
        write_table(folder / "data" / f"data-{number:05}-of-{len(rows):05}.parquet", [row])
    front = f"---\nlicense: {license}\n---\n" if license else "no front matter"
    (folder / "README.md").write_text(front)
    return str(folder)


HNM_NUMBERS = ("product_type_no", "graphical_appearance_no", "colour_group_code", "department_no", "section_no")


def article(number, name="Strap top", **others):
    """A row of H&M's articles, as Kaggle has them; columns that aren't read have numbers."""
    row = {"article_id": number, "product_code": number[:7], "prod_name": name, **dict.fromkeys(HNM_NUMBERS, 1)}
    row |= {"product_type_name": "Vest top", "product_group_name": "Garment Upper body", "index_name": "Ladieswear"}
    row |= {"graphical_appearance_name": "Solid", "colour_group_name": "Black", "index_group_name": "Ladieswear"}
    return row | {"garment_group_name": "Jersey Basic", "detail_desc": "Jersey top, with straps."} | others


def write_hnm(folder, articles, queries, qrels, columns=("query_id", "positive_ids", "negative_ids"), ending=".csv"):
    """Microsoft's H&M search data as it is on the Hub; queries are `(id, text)`, qrels lists of cells."""
    write_table(folder / "data" / "raw" / f"articles{ending}", articles)
    asked = [{"query_id": query, "transaction_id": 7, "query_text": text} for query, text in queries]
    write_table(folder / "data" / "search" / f"queries{ending}", asked)
    judged = [dict(zip(columns, cells, strict=True)) for cells in qrels]
    write_table(folder / "data" / "search" / f"qrels{ending}", judged)
    return str(folder)


def glami_item(number, name, category="womens-dresses", geo="cz", **others):
    """A row of GLAMI-1M."""
    row = {"item_id": number, "image_id": f"10{number}", "geo": geo, "name": name, "description": f"popis {number}"}
    return row | {"category": 7, "category_name": category, "label_source": "human"} | others


def write_glami(folder, **splits):
    """GLAMI-1M's archive; every picture but those of items from 90 on is there."""
    (folder / "images").mkdir(parents=True)
    for split, rows in splits.items():
        write_table(folder / f"GLAMI-1M-{split}.csv", rows)
        for row in rows:
            if row["item_id"] and int(row["item_id"]) < 90:
                (folder / "images" / f"{row['image_id']}.jpg").write_bytes(picture("red", (9, 9), "JPEG"))
    return str(folder)


def look(colour, category="Dress", attribute="Red", **others):
    """A row of LookBench, of its queries or of a gallery."""
    image = {"bytes": picture(colour, (20, 20)), "path": None}
    row = {"image": image, "category": category, "main_attribute": attribute, "other_attributes": ["Long"]}
    return row | {"bbox": [0, 0, 9, 9], "item_ID": "i1", "task": "single", "difficulty": "easy"} | others


def write_look(folder, noise=True, **subsets):
    """LookBench as it is on the Hub; a subset is its queries and its gallery."""
    for name, parts in subsets.items():
        for part, rows in zip(("query", "gallery"), parts, strict=True):
            write_table(folder / name / f"{part}.parquet", rows)
    if noise:
        row = look("gray", "Noise Data", None, item_ID="n")
        write_table(folder / "noise" / "gallery.parquet", [row])
    return str(folder)
