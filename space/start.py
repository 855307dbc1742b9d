"""Where the model and the catalogue come from, and the vectors that are kept between starts.

    MMFUSION_MODEL, MMFUSION_DATA   Hub ids or folders of a model and of a catalogue in the retrieval layout
    MMFUSION_MODEL_B                Hub id or folder of a second model, which the page can set beside the first
    MMFUSION_SPLIT                  a split of the catalogue; all of it if not given
    MMFUSION_RUN                    a run folder of the quickstart, in place of MMFUSION_MODEL
    MMFUSION_PREPARED               folder for prepared vectors, `prepared/` beside this file if not given

Without a model the quickstart's run is taken, and trained first if it is not there (in a checkout of mmfusion; it
takes some minutes). Without a catalogue it is the small shop in `shop/`.

The first start embeds the catalogue and writes its vectors to the prepared folder; later ones read them, and make them
again if they are damaged. A Space that was started once with its model and catalogue and then pushed starts quickly
everywhere.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
from catalogue import VIEWS, Catalogue, ShopEncoder, normalised
from prepared import PreparedVectors, check_arrays
from prices import price_text
from tqdm.auto import tqdm

HERE = Path(__file__).resolve().parent
SHOP = HERE / "shop"
CHECKOUT = HERE.parent
MAX_PRODUCTS = 10_000
MAX_JUDGED = 1_000
COLUMNS = ("title", "description", "category", "brand", "price")


class SetupError(RuntimeError):
    """The Space can't start; the message says what to set."""


def start() -> Catalogue:
    """Loads or prepares the model and the catalogue that the environment names, and by a second model as its `other`.

    Raises:
        SetupError: if there is no model, one of them can't be read, or both are the same.
    """
    started = time.perf_counter()
    model, data, split = model_name(), data_name(), os.environ.get("MMFUSION_SPLIT")
    other = os.environ.get("MMFUSION_MODEL_B")
    print(f"mmfusion: model {model}{f' beside {other}' if other else ''}, catalogue {data}", flush=True)
    with named_in_errors(model):
        encoder = ShopEncoder(model)
    if other:
        with named_in_errors(f"MMFUSION_MODEL_B={other}"):
            if whole_name(other) == whole_name(model):
                raise SetupError(f"MMFUSION_MODEL_B={other} is the first model; name another one, or leave it out.")
            beside = ShopEncoder(other)
    with named_in_errors(data):
        catalogue = load_catalogue(data, split, encoder)
    if other:
        with named_in_errors(f"MMFUSION_MODEL_B={other}"):
            catalogue.other = load_catalogue(data, split, beside)
    print(f"mmfusion: {len(catalogue):,} products, ready in {time.perf_counter() - started:.0f} s", flush=True)
    return catalogue


def model_name() -> str:
    """The model's folder or Hub id; see the module.

    Raises:
        SetupError: if a run has no model, or there is neither a model nor a checkout to train one in.
    """
    if name := os.environ.get("MMFUSION_MODEL"):
        return name
    run = Path(os.environ.get("MMFUSION_RUN") or CHECKOUT / "runs" / "quickstart")
    if (run / "model" / "config.json").is_file():
        return str(run / "model")
    if "MMFUSION_RUN" in os.environ:
        raise SetupError(f"{run}: no model there yet; run: make quickstart")
    if not (CHECKOUT / "training" / "quickstart.py").is_file():
        raise SetupError("Set the variable MMFUSION_MODEL to the Hub id of an mmfusion model, and start again.")
    print("mmfusion: no model yet: the demo shop is drawn and a model trained on it, about three minutes", flush=True)
    if subprocess.run([sys.executable, "-m", "training.quickstart"], cwd=CHECKOUT, check=False).returncode:
        raise SetupError("The quickstart failed, see above; or set MMFUSION_MODEL to the Hub id of a model.")
    return str(run / "model")


def whole_name(name: str) -> str:
    """A Hub id, or a folder's whole path."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def data_name() -> str:
    """The catalogue's folder or Hub id; see the module."""
    return os.environ.get("MMFUSION_DATA") or str(SHOP)


@contextmanager
def named_in_errors(name: str) -> Iterator[None]:
    """Turns errors of the loaders into one sentence that names what was loaded.

    Raises:
        SetupError: in place of them.
    """
    try:
        yield
    except SetupError:
        raise
    except Exception as error:  # the libraries raise any kind, tokenizers plain Exception, for damaged files
        reason = " ".join(str(error).split())[:300]
        raise SetupError(f"{name} can't be read: {type(error).__name__}: {reason}") from error


def load_catalogue(data: str, split: str | None, encoder: ShopEncoder) -> Catalogue:
    """Reads a catalogue in the retrieval layout, with the judged queries if it has them, and its vectors.

    All products are shown. Judgments are of the products of one split, `test` if there is one, so queries are measured
    among those, which come first.

    Args:
        data (`str`): folder or Hub dataset id.
        split (`str` or `None`): show this split alone.
        encoder (`ShopEncoder`): the model.
    """
    cache = cache_of(data)
    splits = [split] if split else datasets.get_dataset_split_names(data, "corpus", cache_dir=cache)
    judged_split = "test" if "test" in splits else splits[-1]
    splits = sorted(splits, key=lambda name: name != judged_split)
    tables = [load_table(data, "corpus", name, cache) for name in splits]
    corpus = without_copies(datasets.concatenate_datasets(tables))
    total, corpus = len(corpus), corpus.select(range(min(len(corpus), MAX_PRODUCTS)))
    pictures = CataloguePictures(corpus)
    columns = {name: corpus[name][:] for name in COLUMNS if name in corpus.column_names}
    columns["price"] = [price and price_text(price) for price in columns.get("price", [None] * len(corpus))]
    products = [
        {"_id": str(product_id), **{name: values[row] for name, values in columns.items()}}
        for row, product_id in enumerate(corpus["_id"])
    ]
    judged = {} if len(tables[0]) > MAX_PRODUCTS else load_judged(data, judged_split, cache)
    vectors = prepared_vectors(encoder, products, pictures, list(judged), data)
    queries, pictures.usable = vectors.pop("queries"), vectors.pop("pictured")
    for product, pictured in zip(products, pictures.usable.tolist(), strict=True):
        product["pictured"] = pictured
    name = Path(data).name if Path(data).is_dir() else data
    if total > MAX_PRODUCTS:
        print(f"mmfusion: {data}: the first {MAX_PRODUCTS:,} of {total:,} products are shown", flush=True)
        name = f"{name} (first {MAX_PRODUCTS:,} of {total:,} products)"
    measured = min(len(without_copies(tables[0])), len(products))
    return Catalogue(name, products, pictures, vectors, encoder, judged, queries, measured)


def without_copies(corpus: datasets.Dataset) -> datasets.Dataset:
    """A table without products whose id came before, as of a catalogue whose splits share products."""
    places: dict[str, int] = {}
    for row, product_id in enumerate(corpus["_id"][:]):
        places.setdefault(str(product_id), row)
    return corpus.select(list(places.values())) if len(places) < len(corpus) else corpus


def cache_of(data: str) -> str | None:
    """Where `datasets` keeps what it reads of a catalogue; `None` is its usual folder.

    There it would take the rows, columns and splits of another folder of the same name, or of the same folder before
    it was written again, for a folder's own. So each state of a folder has a place of its own.
    """
    folder = Path(data).resolve()
    if not folder.is_dir():
        return None
    files = [(str(file), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    state = "".join(f"{name} {facts.st_size} {facts.st_mtime_ns}\n" for name, facts in files)
    return str(Path(datasets.config.HF_DATASETS_CACHE, f"mmfusion-{hashlib.sha256(state.encode()).hexdigest()[:32]}"))


def load_table(data: str, config: str, split: str, cache: str | None) -> datasets.Dataset:
    """One table of the retrieval layout; `cache` is that of [`cache_of`]."""
    return datasets.load_dataset(data, config, split=split, cache_dir=cache)


def load_judged(data: str, split: str, cache: str | None) -> dict[str, dict[str, int]]:
    """Query text to product id to grade, of at most 1,000 queries; nothing if the catalogue has no judgments."""
    try:
        queries, qrels = (load_table(data, name, split, cache) for name in ("queries", "qrels"))
    except (OSError, ValueError, KeyError):  # a catalogue without queries is a catalogue still
        print(f"mmfusion: {data} has no judged queries, so no nDCG is shown", flush=True)
        return {}
    grades: dict[str, dict[str, int]] = {}
    rows = zip(qrels["query-id"], qrels["corpus-id"], qrels["score"], strict=True)
    for query_id, product_id, score in rows:
        grades.setdefault(str(query_id), {})[str(product_id)] = int(score)
    judged, seen = {}, set()
    for query_id, text in zip(queries["_id"], queries["text"], strict=True):
        found = grades.get(str(query_id), {})
        if text and max(found.values(), default=0) > 0 and normalised(text) not in seen and len(judged) < MAX_JUDGED:
            judged[text] = found
            seen.add(normalised(text))
    return judged


class CataloguePictures:
    """The pictures of a catalogue's rows, read when they are asked for.

    Args:
        corpus (`datasets.Dataset`): with a column `image` or without; of several pictures the first is shown.

    Attributes:
        usable (`np.ndarray` of shape `(N,)`, *optional*): False for pictures that can't be read, which are taken for
            none.
    """

    def __init__(self, corpus: datasets.Dataset):
        self.table, self.usable = None, None
        if "image" in corpus.column_names:
            feature = corpus.features["image"]
            plain = datasets.Image(decode=False)
            several = isinstance(feature, (datasets.List, datasets.LargeList))  # one may be a plain struct
            kind = datasets.List(plain) if several else plain
            self.table = corpus.select_columns(["image"]).cast_column("image", kind)

    def __call__(self, row: int) -> bytes | None:
        """A row's picture file, or `None`."""
        is_usable = self.table is not None and (self.usable is None or self.usable[row])
        stored = self.table[row]["image"] if is_usable else None
        if isinstance(stored, list):
            stored = stored[0] if stored else None
        return (stored or {}).get("bytes") or None


def prepared_vectors(
    encoder: ShopEncoder, products: list[dict], pictures: CataloguePictures, queries: list[str], data: str
) -> dict[str, np.ndarray]:
    """The vectors of products in each view and of judged `queries`, and which products are `pictured` `(N,)`; made now
    if they are not in the prepared folder.

    Pictures that can't be read are counted, and their products embedded by their text.

    Raises:
        ValueError: if the model's vectors are no numbers.
    """
    folder = Path(os.environ.get("MMFUSION_PREPARED") or HERE / "prepared")
    of = f"{whole_name(encoder.name)}\0{whole_name(data)}"
    kept = PreparedVectors(folder, of, fingerprint(encoder, products, pictures, queries))
    shapes = {view: (len(products), encoder.dim) for view in VIEWS}
    shapes |= {"queries": (len(queries), encoder.dim), "pictured": (len(products),)}
    if vectors := kept.read(shapes):
        return vectors
    readable = [{**product, "image": usable_picture(encoder, pictures(row))} for row, product in enumerate(products)]
    vectors = encoder.products(readable, lambda batches: tqdm(batches, desc="embedding", unit="batch"))
    vectors["queries"] = encoder.texts(queries)
    vectors["pictured"] = np.array([product["image"] is not None for product in readable], dtype=bool)
    try:
        check_arrays(vectors, shapes)
    except ValueError as error:
        raise ValueError(f"{encoder.name}: {error}; its weights are damaged") from error
    if bad := sum(pictures(row) is not None for row in np.flatnonzero(~vectors["pictured"]).tolist()):
        print(f"mmfusion: {bad:,} pictures can't be read; their products are embedded by their text", flush=True)
    kept.write(vectors)
    return vectors


def usable_picture(encoder: ShopEncoder, picture: bytes | None) -> bytes | None:
    """A picture file, or `None` if the model's processor can't read it."""
    try:
        if picture is not None:
            encoder.processor.process_products([{"image": picture}])
    except Exception:  # Pillow raises many kinds for damaged files
        return None
    return picture


def fingerprint(encoder: ShopEncoder, products: list[dict], pictures: CataloguePictures, queries: list[str]) -> str:
    """A digest of the model's weights, tokenizer and blocks, the products, their pictures and the judged queries."""
    processor = encoder.processor
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    digest = hashlib.sha256(f"{processor.to_json_string()} {vocabulary} {encoder.model.output_dims}".encode())
    for name, tensor in encoder.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    for row, product in enumerate(products):
        digest.update(repr(sorted(product.items())).encode())
        digest.update(pictures(row) or b"")
    digest.update("\0".join(queries).encode())
    return digest.hexdigest()[:32]
