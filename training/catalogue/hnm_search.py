"""Microsoft's H&M search data as catalogues: queries worded from purchases, over H&M's articles."""

from collections.abc import Iterator
from pathlib import Path

from training.catalogue.options import ConvertArguments
from training.catalogue.public_tables import (
    PublicJudgments,
    PublicPictures,
    columns_of,
    corpus_row,
    note_id,
    read_rows,
    table_file,
    wanted_splits,
)
from training.catalogue.query_log import same_text
from training.catalogue.splits import choose_split
from training.common.errors import Problems

HNM_SPLITS = ("train", "dev", "test")
HNM_TEST = 0.1
HNM_NEGATIVES = ("negative_ids", "negatives_ids")
HNM_CATEGORY = ("index_group_name", "garment_group_name", "product_type_name")
HNM_DESCRIPTION = ("colour_group_name", "graphical_appearance_name", "detail_desc")
ID_DIGITS = 10


def convert_hnm_search(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """microsoft/hnm-search-data: what was bought for a query has grade 1, what was retrieved for it and not bought 0.

    The columns of `articles.csv` are those of the set's card and of Kaggle's H&M data, which it copies
    (https://huggingface.co/datasets/microsoft/hnm-search-data). Those of `search/queries.csv` (`query_id`,
    `transaction_id`, `query_text`) and `search/qrels.csv` (`query_id`, `positive_ids`, `negative_ids`, ids with spaces
    between) are those that the card describes, which writes `negatives_ids`, and that
    https://github.com/hopit-ai/Moda reads. The files themselves were not seen here.

    The set has no splits: a tenth of the queries is test, a share of `--dev` dev and the rest train, by a hash of the
    query's text. Every split searches in all articles.
    """
    wanted = wanted_splits(arguments, HNM_SPLITS if arguments.dev else ("train", "test"))
    shares = {"test": HNM_TEST, "dev": (1 - HNM_TEST) * arguments.dev, "train": (1 - HNM_TEST) * (1 - arguments.dev)}
    articles, known = hnm_table(arguments.input, "raw", "articles"), set[str]()
    for place, row in read_rows(articles, ("article_id",), problems, arguments.encoding):
        note_id(article_id(row["article_id"]), known, f"{place}, field article_id", problems)
    texts, judged = read_hnm_texts(arguments, problems), {name: PublicJudgments() for name in HNM_SPLITS}
    for place, query, product, grade in read_hnm_judgments(arguments, set(texts), problems):
        name = choose_split(same_text(texts.get(query, "")), shares, arguments.seed)
        judged[name].add(query, texts.get(query, ""), product, grade, place, problems)
    splits = {}
    for name in wanted:
        kept = judged[name].sample(arguments.queries, arguments.seed).of_products(known, articles.name, problems)
        only = kept.products() if arguments.judged_corpus else known
        corpus = hnm_products(arguments, articles, set(only), problems)
        splits[name] = {"corpus": corpus, "queries": kept.query_rows(), "qrels": kept.qrel_rows()}
    return splits


def hnm_table(folder: str, room: str, name: str) -> Path:
    """A table of the set: in `data/room/` as on the Hub, or in the folder itself."""
    inside = Path(folder, "data", room)
    return table_file(str(inside) if inside.is_dir() else folder, name)


def article_id(text: str) -> str:
    """An article's id with all its digits: a table of numbers has lost the zeros before them."""
    return text.zfill(ID_DIGITS) if text else ""


def read_hnm_texts(arguments: ConvertArguments, problems: Problems) -> dict[str, str]:
    """The text of each query, by its id."""
    texts: dict[str, str] = {}
    table = hnm_table(arguments.input, "search", "queries")
    for place, row in read_rows(table, ("query_id", "query_text"), problems, arguments.encoding):
        query, text = row["query_id"], row["query_text"]
        if not (query and text):
            problems.add(
                "query without an id or a text (left out)", f"{place}, field query_{'text' if query else 'id'}"
            )
        elif texts.setdefault(query, text) != text:
            problems.add("query id with another text (the first one is kept)", f"{place}, query {query!r}")
    return texts


def read_hnm_judgments(
    arguments: ConvertArguments, known: set[str], problems: Problems
) -> Iterator[tuple[str, str, str, int]]:
    """Each judgment as `(place, query, article, grade)`; queries of `known` that have none are counted."""
    table = hnm_table(arguments.input, "search", "qrels")
    there = columns_of(table, arguments.encoding)
    negatives = next((name for name in HNM_NEGATIVES if name in there), HNM_NEGATIVES[0])
    rest = dict.fromkeys(known)
    for place, row in read_rows(table, ("query_id", "positive_ids", negatives), problems, arguments.encoding):
        query = row["query_id"]
        rest.pop(query, None)
        if not row["positive_ids"]:
            problems.add("query of which nothing was bought", f"{place}, field positive_ids, query {query!r}")
        for column, grade in (("positive_ids", 1), (negatives, 0)):
            for product in row[column].split():
                yield f"{place}, field {column}", query, article_id(product), grade
    if rest:
        problems.add("query without a judgment (left out)", f"{table.name}, query {next(iter(rest))!r}", len(rest))


def hnm_products(arguments: ConvertArguments, articles: Path, wanted: set[str], problems: Problems) -> Iterator[dict]:
    """The wanted articles as rows of `corpus`, each once; pictures are at `010/0108775015.jpg` in their folder."""
    pictures = PublicPictures(arguments.images, arguments.image_size, problems)
    columns = ("article_id", "prod_name", *HNM_CATEGORY, *HNM_DESCRIPTION)
    for place, row in read_rows(articles, columns, encoding=arguments.encoding):
        product = article_id(row["article_id"])
        if product not in wanted:
            continue
        wanted.remove(product)
        where, name, picture = f"{place}, article {product!r}", f"{product}.jpg", None
        if arguments.images:
            picture = pictures.from_file([f"{product[:3]}/{name}", name], where)
        category = " > ".join(filter(None, (row[column] for column in HNM_CATEGORY)))
        description = "\n".join(filter(None, (row[column] for column in HNM_DESCRIPTION)))
        texts = {"title": row["prod_name"], "category": category, "description": description}
        yield corpus_row(product, picture, where, problems, **texts)
