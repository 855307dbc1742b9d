"""What `training.prepare` and `training.convert` are told."""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

ALL = "all"  # splits


@dataclass
class ConvertArguments:
    """Which set to convert, and how much of it.

    Args:
        source: Which set the files are of. esci is Amazon's Shopping Queries data; marqo-gs is Marqo-GS-10M, from the
            Hub or from its archive; marqo-products is google-shopping-general-eval or amazon-products-eval;
            marqo-fashion is atlas, deepfashion-inshop, deepfashion-multimodal, fashion200k, KAGL or polyvore;
            hnm-search-data is Microsoft's; glami-1m is GLAMI-1M; lookbench is srpone/look-bench.
        input: Folder of the set's tables, as they were downloaded.
        output: Folder to write the catalogue to; it must be new or empty.
        images: esci and marqo-gs's archive: folder of pictures; for esci they are named by product id, such as
            B000NOTGRC.jpg. hnm-search-data: that of H&M's pictures, such as 010/0108775015.jpg. glami-1m: null is
            images in the input folder.
        image_urls: esci: SQID's product_image_urls.csv; with supp_product_image_urls.csv, a comma between. A picture
            is then missed only where these list one, and placeholders are left out.
        splits: Splits to convert, with commas between; null takes all. esci has train, dev and test; marqo-gs has
            in_domain, novel_query, novel_document and zero_shot; hnm-search-data has train, dev and test; glami-1m
            train and test; lookbench has real_studio_flat, aigen_studio, real_streetlook and aigen_streetlook; the
            others have test.
        locale: esci: which queries and products.
        version: esci: small is the reduced version, which rankings are compared on.
        dev: esci and hnm-search-data: share of the train queries that become the split dev.
        gains: esci: grade of each label, a whole number from 0. It is a hundred times the authors' gain (1, 0.1, 0.01
            and 0), and nDCG, which is a ratio, is the same. Recall and MRR take every grade above 0 for relevant.
        query_column: marqo-products and marqo-fashion: column whose values are the queries, such as query, title,
            text or category2; null is query. If it is the products' text, they keep their pictures alone. glami-1m:
            category_name, which null is, or name.
        ground_truth: marqo-products and marqo-fashion: Marqo's JSON file of the queries that it drew; without it
            every value of the query column is a query. ground_truth_COLUMN-image+text.json tells the column itself.
        queries: Queries to keep in each split, drawn at random; null keeps all.
        judged_corpus: Only keep products that are judged for these queries, as is always done for esci. Published
            numbers are of the whole corpus.
        image_size: Pictures with a longer side are scaled down to it and kept as JPEG.
        seed: Seed of all that is drawn.
        encoding: Encoding of tables of text, such as cp1250 or utf-16; found out and said if not given.
    """

    source: Literal["esci", "marqo-gs", "marqo-products", "marqo-fashion", "hnm-search-data", "glami-1m", "lookbench"]
    input: str
    output: str
    images: str | None = None
    image_urls: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    locale: Literal["us", "es", "jp"] = "us"
    version: Literal["small", "large"] = "small"
    dev: float = 0.05
    gains: dict[str, int] = field(default_factory=lambda: {"E": 100, "S": 10, "C": 1, "I": 0})
    query_column: str | None = None
    ground_truth: str | None = None
    queries: PositiveInt | None = None
    judged_corpus: bool = False
    image_size: PositiveInt = 512
    seed: NonNegativeInt = 0
    encoding: str | None = None


@dataclass
class Columns:
    """What the product table calls its columns; only id and one of title, description and image must be there.

    Args:
        id: A product's id; it is text, so 00123 keeps its zeros.
        title: Its title.
        description: Its description.
        category: Its category; levels have > between.
        brand: Its brand.
        price: Its price, with or without a currency.
        image: Its pictures: names of files in the images folder, or addresses; several with | , or ; between.
        group: What variants of one product share, such as a parent id; they go to the same split.
        attributes: What else is known of it: JSON, color=Red,size=M or color: Red; size: M.
        in_stock: Whether it can be ordered: in stock, yes, 3, out of stock, no, 0 and the like.
    """

    id: str = "id"
    title: str = "title"
    description: str = "description"
    category: str = "category"
    brand: str = "brand"
    price: str = "price"
    image: str = "image"
    group: str = "group"
    attributes: str = "attributes"
    in_stock: str = "in_stock"


@dataclass
class Shares:
    """Shares of the product groups; they add up to 1, and a split with share 0 isn't made.

    Args:
        train: Share to train on.
        dev: Share to choose the best epoch on.
        test: Share to measure on at the end.
    """

    train: float = 0.8
    dev: float = 0.05
    test: float = 0.15


@dataclass
class LogColumns:
    """What the search log calls its columns; query, product and one of event and grade must be there.

    Args:
        query: What was searched for.
        product: Id of a product that was shown for it.
        event: What the shopper did with it, one of --events.
        grade: How relevant the product is, a whole number from 0, or one of ESCI's labels as a letter or a word
            (Exact 100, Substitute 10, Complement 1, Irrelevant 0, as training.convert has them). Where this column
            is, event isn't read.
        position: At which place of the results it was shown, from 1; where this column is, grades are corrected for
            shoppers not looking far down.
        visitor: Who searched: a session, cookie or customer id. Where this column is, a visitor counts once a pair.
        session: A session's id; it stands for the visitor where that column isn't there or is empty.
        time: When it happened, read with --engagement.half_life_days alone: ISO 8601, 28.11.2026 10:00, 11/28/2026
            10:00 AM, or seconds, milliseconds or microseconds since 1970. Without a zone it is UTC.
    """

    query: str = "query"
    product: str = "product"
    event: str = "event"
    grade: str = "grade"
    position: str = "position"
    visitor: str = "visitor"
    session: str = "session"
    time: str = "time"


@dataclass
class Engagement:
    """How events become grades, see [`training.catalogue.query_log`].

    Args:
        power: A product at position k is looked at with probability 1 / k ** power.
        prior: Weight of the log's mean value, in views.
        min_visitors: Fewer visitors than this who engaged with a pair are noise: the pair is left out.
        max_events: A visitor with more rows than this in the log is a bot: its rows are left out.
        half_life_days: An event counts half as much after so many days before the newest one; null counts all alike.
            An event whose time can't be read counts as much as the oldest one.
        day_first: Whether the day comes first in dates such as 03/04/2026; null lets the days above 12 tell.
    """

    power: NonNegativeFloat = 1.0
    prior: NonNegativeFloat = 5.0
    min_visitors: NonNegativeInt = 1
    max_events: PositiveInt = 1000
    half_life_days: PositiveFloat | None = None
    day_first: bool | None = None


@dataclass
class PrepareArguments:
    """What to read, how to split it and where to write it.

    Args:
        products: Product table: .csv, .tsv, .tab, .psv, .txt, .jsonl, .parquet, or a Google feed in .xml.
        output: Folder to write the catalogue to.
        images: Folder of the pictures, with its sub-folders; without it products have none, but for --download.
        log: Search log, one row an event, in a file of these kinds. Without it only products are written.
        format: Whose export the table is: shopify, woocommerce, google, magento, or table, any other one by --columns;
            auto tells by its header.
        log_format: events is such a log; ga4 is an export of Google Analytics 4 (BigQuery's, or a flat table with a
            row an item), whose names are known; auto tells them by their columns.
        encoding: Encoding of both tables, such as cp1250 or utf-16; found out and said if not given.
        separator: What separates the cells of both tables, such as ; or tab; found out and said if not given.
        columns: Columns of the product table.
        keep: Of the table's other columns those to keep, to show and filter by, with commas between; null keeps all.
        variants: group makes one product of a product's variants, each makes each a product.
        drafts: Keep products that customers can't see.
        decimal_mark: What prices have before the cents, . or , where they don't tell themselves (1.299).
        max_pictures: Pictures of a product to keep at most.
        download: Folder to fetch pictures to that the table gives by address; null fetches none. Another run fetches
            what is not there yet.
        log_columns: Columns of the log.
        events: Grade of each event; --events.wishlist 2 adds one. 0 is not relevant, higher is better.
        engagement: How events become grades where the log tells positions and visitors.
        synthesise: Queries to word for each product from titles and brands where there is no log; none for test.
        shares: Shares of the splits.
        seed: Another seed gives another split; the same seed and products always give the same.
        image_size: Pictures with a longer side are scaled down to it and kept as JPEG.
        license: Licence of the catalogue, an id of the Hub such as cc-by-4.0.
        overwrite: Replace the catalogue that an earlier run wrote to the output folder.
    """

    products: str
    output: str
    images: str | None = None
    log: str | None = None
    format: Literal["auto", "shopify", "woocommerce", "google", "magento", "table"] = "auto"
    log_format: Literal["auto", "events", "ga4"] = "auto"
    encoding: str | None = None
    separator: str | None = None
    columns: Columns = field(default_factory=Columns)
    keep: list[str] | None = None
    variants: Literal["group", "each"] = "group"
    drafts: bool = False
    decimal_mark: Literal[".", ","] | None = None
    max_pictures: PositiveInt = 16
    download: str | None = None
    log_columns: LogColumns = field(default_factory=LogColumns)
    events: dict[str, int] = field(default_factory=lambda: {"impression": 0, "click": 1, "cart": 2, "purchase": 3})
    engagement: Engagement = field(default_factory=Engagement)
    synthesise: NonNegativeInt = 0
    shares: Shares = field(default_factory=Shares)
    seed: NonNegativeInt = 0
    image_size: PositiveInt = 512
    license: str = "unknown"
    overwrite: bool = False
