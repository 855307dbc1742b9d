"""The model, and the catalogues that it searches: vectors, filters, exact search, reasons and judgments.

Search is exact and in numpy: a Space shows some thousand products, and there a scan is faster than any index.

Each product has three vectors, those of the views by which `training.evaluate` measures a model: `fused`, and `text`
and `image` for the product as if it had only that modality. All come from one run of the encoders, so the columns that
the page sets side by side, and their nDCG, are the very ones of the model's report.
"""

import copy
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock

import numpy as np
import torch
from batching import Batched
from pictures import data_address, small_jpeg
from prices import numbers_of_prices
from transformers import AutoModel, AutoProcessor

VIEWS = ("fused", "text", "image")
BATCH_SIZE = 16
THUMBNAIL_SIZE = 224
MAX_QUERY_CHARACTERS = 500
MAX_RESULTS = 50
CUTOFF = 10  # of nDCG
FITTING, NOTHING = 0.6, 0.01  # of scores; see `Catalogue.least_score`
HAS_BFLOAT16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
PRESENCE = ("any", "with picture", "without picture")


class VisitorError(ValueError):
    """Something that a visitor can mend; the message is one sentence for the page."""


@dataclass(eq=False)
class Query:
    """What is searched for.

    Attributes:
        text (`str`): what was typed; may be empty where there is a picture.
        vector (`np.ndarray` of shape `(dim,)`): its unit vector.
        shares (`dict[str, float]`): the weight of each block in it; they sum to 1.
        picture (`bytes` or `None`): the picture that belongs to it, as a small JPEG.
        picture_weight (`float`): share of the picture where there is text as well.
        like (`str` or `None`): id of the product that this query was made from.
    """

    text: str
    vector: np.ndarray
    shares: dict[str, float]
    picture: bytes | None = None
    picture_weight: float = 0.5
    like: str | None = None


class ShopEncoder:
    """The model: from words, pictures and products to vectors.

    Args:
        name (`str`): folder or Hub id of a saved model; it brings its own code.

    Raises:
        ValueError: if weights are missing or damaged; the libraries raise other kinds, too.

    Attributes:
        blocks (`tuple[str, ...]`): names of the blocks of a vector, such as `text`, `lexical`, `image` and `cross`.
        dim (`int`): length of the vectors.
    """

    def __init__(self, name: str):
        self.name = name
        model, loading = AutoModel.from_pretrained(name, trust_remote_code=True, output_loading_info=True)
        check_weights(model, loading["missing_keys"])
        self.model = model.eval().requires_grad_(False)
        self.model.vision_model.to(memory_format=torch.channels_last)  # 1.5 to 4 times faster on a CPU
        self.processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
        self.blocks = tuple(self.model.config.blocks)
        self.dim = self.model.config.projection_dim
        self.words = Batched(self._words)
        self.reader = copy.deepcopy(self.processor)  # of products: a tokenizer serves one thread at a time
        self.reading = Lock()

    def products(
        self, products: list[dict], progress: Callable[[Iterable], Iterable] = iter, fast: bool = False
    ) -> dict[str, np.ndarray]:
        """Embeds products, as many batches beside each other as there are cores.

        Args:
            products (`list[dict]`): fields as the processor takes them; `image` may be bytes or missing.
            progress (`Callable`, *optional*): wraps the batches, such as `tqdm`.
            fast (`bool`, *optional*, defaults to `False`): where the processor can, compute with bfloat16, which takes
                half the time; vectors then differ a little from the model's (their cosine is above 0.99).

        Returns:
            `dict`: each of `VIEWS` to unit vectors of shape `(N, dim)`, float32.
        """
        batches = [products[start : start + BATCH_SIZE] for start in range(0, len(products), BATCH_SIZE)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = [pool.submit(self._products, batch, fast and HAS_BFLOAT16) for batch in batches]
            found = [done.result() for done in progress(running)]
        return {view: np.concatenate([of[view] for of in found]) for view in VIEWS}

    @torch.inference_mode()
    def _products(self, batch: list[dict], in_bfloat16: bool) -> dict[str, np.ndarray]:
        with self.reading:
            inputs = self.reader.process_products(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            states = self.model.encode_products(**inputs)
            features = {view: self.model.get_product_features(states=states, view=view) for view in VIEWS}
        vectors = {view: of.pooler_output.float() for view, of in features.items()}
        if in_bfloat16:
            vectors = {view: torch.nn.functional.normalize(of, dim=-1) for view, of in vectors.items()}
        return {view: of.numpy() for view, of in vectors.items()}

    def texts(self, texts: list[str]) -> np.ndarray:
        """Unit vectors `(N, dim)` of queries, float32."""
        batches = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
        vectors = [query.vector for batch in batches for query in self._words(batch)]
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    @torch.inference_mode()
    def _words(self, texts: list[str]) -> list[Query]:
        """A batch of queries of words alone; `words` takes one and batches it with those of other threads."""
        features = self.model.get_query_features(**self.processor.process_queries(texts))
        shares = features.block_weights.square().tolist()
        rows = zip(texts, features.pooler_output.float().numpy(), shares, strict=True)
        return [Query(text, vector, dict(zip(self.blocks, row, strict=True))) for text, vector, row in rows]

    def inputs(self, text: str, picture: bytes | None, picture_weight: float) -> dict:
        """What the model's query tower takes for a text, a picture (as bytes) or both."""
        inputs = dict(self.processor.process_queries([text])) if text else {}
        if picture is not None:
            found = self.processor.process_products([{"image": picture}])
            inputs |= {name: found[name] for name in found if name not in ("input_ids", "attention_mask", "text_mask")}
            inputs["image_weight"] = picture_weight
        return inputs

    @torch.inference_mode()
    def query(self, text: str, picture: bytes | None = None, picture_weight: float = 0.5) -> Query:
        """A query of words, of a picture or of both. None is remembered: who asks next could tell by the time."""
        if picture is None:
            return self.words(text)
        features = self.model.get_query_features(**self.inputs(text, picture, picture_weight))
        shares = features.block_weights[0].square().tolist()
        vector = features.pooler_output[0].float().numpy()
        return Query(text, vector, dict(zip(self.blocks, shares, strict=True)), picture, picture_weight)

    def query_from(self, vector: np.ndarray, **fields) -> Query:
        """A query that is a vector `(dim,)` already, such as a product's."""
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return Query(vector=vector, shares=self.contributions(vector, vector[None])[0], **fields)

    def contributions(self, query: np.ndarray, products: np.ndarray) -> list[dict[str, float]]:
        """What each block adds to the inner products of a vector `(dim,)` with others `(N, dim)`; the same as the
        model's `explain`."""
        sums = self.model.contributions(torch.from_numpy(query), torch.from_numpy(products)).tolist()
        return [dict(zip(self.blocks, row, strict=True)) for row in sums]

    def truncated(self, vectors: np.ndarray, dim: int) -> np.ndarray:
        """Vectors `(N, dim)` cut to a shorter `dim`, as the model makes them with `truncate_dim`."""
        return self.model.truncate(torch.from_numpy(vectors), dim).numpy()

    def picture_map(self, query: Query, product: dict) -> tuple[np.ndarray, np.ndarray] | None:
        """What the image encoder sees of a product and where the score comes from.

        Args:
            query (`Query`): with text or picture.
            product (`dict`): with `image`.

        Returns:
            The picture as cut and scaled for the encoder, `(height, width, 3)` from 0 to 255, and how much each of
            its cells adds to the score, from 0 to 1; `None` if there is no picture or no query to make it from.
        """
        asked = self.inputs(query.text, query.picture, query.picture_weight)
        if not product.get("image") or not asked:
            return None
        inputs = dict(self.processor.process_products([product]))
        maps = self.model.explain(asked, inputs).image_maps
        settings = self.processor.image_processor
        pixels = inputs["pixel_values"][0, 0].permute(1, 2, 0).numpy()
        pixels = 255 * (pixels * np.array(settings.image_std) + np.array(settings.image_mean))
        return pixels.clip(0, 255), maps[0, 0].numpy()


def check_weights(model: torch.nn.Module, missing: Iterable[str]) -> None:
    """Sees to it that a model's weights are all there and numbers.

    Raises:
        ValueError: naming one that is not.
    """
    if missing := sorted(missing):
        raise ValueError(
            f"the checkpoint lacks {len(missing):,} weights, such as {missing[0]}; save or fetch it again"
        )
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"the weight {name} holds what is no number; save or fetch the model again")


@dataclass
class Filters:
    """Which products may be found.

    Attributes:
        categories (`list[str]`): only these; all if empty.
        brands (`list[str]`): only these; all if empty.
        price_from (`float` or `None`): the least price. A bound that leaves out some price leaves out products without
            a price as well.
        price_to (`float` or `None`): the highest.
        presence (`str`): `any`, `with picture` or `without picture`.
    """

    categories: list[str] = field(default_factory=list)
    brands: list[str] = field(default_factory=list)
    price_from: float | None = None
    price_to: float | None = None
    presence: str = "any"


@dataclass
class Hit:
    """One product that was found.

    Attributes:
        row (`int`): its row in the catalogue.
        rank (`int`): from 1.
        score (`float`): inner product of the query's and the product's vector.
        contributions (`dict[str, float]`): what each block adds to the score.
        grade (`int` or `None`): its judgment for this query; `None` if the query is not judged.
        ranks (`dict[str, int]`): its rank in each view.
    """

    row: int
    rank: int
    score: float
    contributions: dict[str, float]
    grade: int | None
    ranks: dict[str, int]


@dataclass
class Found:
    """What a query finds in one view.

    Attributes:
        hits (`list[Hit]`): best first.
        ndcg (`float` or `None`): nDCG@10; `None` if the query is not judged. With filters, of what passes them.
    """

    hits: list[Hit]
    ndcg: float | None


class Catalogue:
    """Products with their vectors.

    Args:
        name (`str`): shown on the page.
        products (`list[dict]`): `_id`, `title`, `description`, `category`, `brand`, `price` (text).
        pictures (`Callable[[int], bytes | None]`): gives a row's picture.
        vectors (`dict[str, np.ndarray]`): each of `VIEWS` to `(N, dim)`.
        encoder (`ShopEncoder`): the model that made the vectors.
        judged (`dict[str, dict[str, int]]`, *optional*): query text to product id to grade.
        judged_vectors (`np.ndarray`, *optional*): the judged queries' vectors `(Q, dim)`.
        measured (`int`, *optional*): how many of the first products the judgments are of; all if not given. Others are
            shown, and left out where queries are measured.
    """

    def __init__(
        self, name, products, pictures, vectors, encoder, judged=None, judged_vectors=None, measured: int | None = None
    ):
        self.name = name
        self.products = products
        self.picture = pictures
        self.vectors = vectors
        self.encoder = encoder
        self.rows = {product["_id"]: row for row, product in enumerate(products)}
        self.judged = {normalised(text): grades for text, grades in (judged or {}).items()}
        self.judged_texts = list(judged or {})
        self.judged_vectors = judged_vectors
        self.measured = np.arange(len(products)) < (len(products) if measured is None else measured)
        self.prices = np.array(numbers_of_prices([str(product.get("price") or "") for product in products]))
        self.pictured = np.array([bool(product.get("pictured")) for product in products])
        self.thumbnail = lru_cache(maxsize=2000)(self._thumbnail)

    def __len__(self) -> int:
        return len(self.products)

    def values(self, column: str) -> dict[str, int]:
        """The different values of `category` or `brand`, sorted, with the number of products of each."""
        return dict(sorted(Counter(str(product[column]) for product in self.products if product.get(column)).items()))

    @property
    def highest_price(self) -> int:
        """The highest price, rounded up; 0 if there are no prices."""
        known = self.prices[~np.isnan(self.prices)]
        return math.ceil(known.max()) if len(known) else 0

    def row(self, product_id: str) -> int:
        """The row of a product.

        Raises:
            VisitorError: if there is none with this id.
        """
        if product_id not in self.rows:
            raise VisitorError(f"There is no product with the id {str(product_id)[:80]!r} in {self.name}.")
        return self.rows[product_id]

    def mask(self, filters: Filters) -> np.ndarray:
        """True for the products that pass, `(N,)`.

        Raises:
            VisitorError: if a choice is none of the catalogue's, or no product passes.
        """
        kept = np.ones(len(self), dtype=bool)
        for column, wanted in (("category", filters.categories), ("brand", filters.brands)):
            if unknown := sorted(set(wanted or []) - set(self.values(column))):
                raise VisitorError(f"No product has the {column} {str(unknown[0])[:80]!r}; choose one of the list.")
            if wanted:
                kept &= np.array([product.get(column) in wanted for product in self.products])
        # not-a-number, which stands where there is no price, passes no comparison
        if filters.price_from is not None and (self.prices < filters.price_from).any():
            kept &= self.prices >= filters.price_from
        if filters.price_to is not None and (self.prices > filters.price_to).any():
            kept &= self.prices <= filters.price_to
        if filters.presence not in PRESENCE:
            raise VisitorError(f"The picture filter is one of {', '.join(PRESENCE)}.")
        if filters.presence != "any":
            kept &= self.pictured == (filters.presence == "with picture")
        if not kept.any():
            raise VisitorError("No product passes all filters; widen the price or take a filter away.")
        return kept

    def search(
        self, query: Query, filters: Filters | None = None, k: int = 12, views: tuple[str, ...] = VIEWS
    ) -> dict[str, Found]:
        """The best `k` products in each view, best first; ties go to the product that comes first.

        A product that the query was made from is left out.
        """
        kept = self.mask(filters or Filters())
        if query.like in self.rows:
            kept[self.rows[query.like]] = False
        scores = {view: np.where(kept, self.vectors[view] @ query.vector, -np.inf) for view in VIEWS}
        grades = self.grades(query)
        count = min(clamp(k, 1, MAX_RESULTS), int(kept.sum()))
        found = {}
        for view in views:
            hits = self._hits(query, view, scores, best_rows(scores[view], count), grades)
            found[view] = Found(hits, self._ndcg(scores[view], grades, kept))
        return found

    def hit(self, query: Query, row: int) -> Hit:
        """One product as a fused result of a query, wherever it ranks among all products."""
        scores = {view: vectors @ query.vector for view, vectors in self.vectors.items()}
        found = self._hits(query, "fused", scores, np.array([row]), self.grades(query))[0]
        found.rank = found.ranks["fused"]
        return found

    def grades(self, query: Query) -> dict[str, int] | None:
        """Product id to grade for a query of words alone that is judged, else `None`."""
        return self.judged.get(normalised(query.text)) if query.picture is None and query.like is None else None

    @property
    def right(self) -> int:
        """The least grade of a right result: 2, or 1 where no product has a higher one; 1 is near where 2 is given."""
        return min(2, max((grade for grades in self.judged.values() for grade in grades.values()), default=2))

    def least_score(self) -> float:
        """The least fused score of a first result that fits a query of words: `FITTING` of what nearly all judged
        queries find in this catalogue, and where there are none a score that says nothing at all."""
        if not self.judged_texts:
            return NOTHING
        best = (self.judged_vectors @ self.vectors["fused"].T).max(axis=1)
        return max(FITTING * float(np.quantile(best, 0.05)), NOTHING)

    def judged_values(self) -> dict[str, np.ndarray]:
        """nDCG@10 of each judged query `(Q,)` in each view."""
        judged = [list(grades.values()) for grades in self.judged.values()]
        return {
            view: np.array([ndcg(found, grades) for found, grades in zip(of, judged, strict=True)])
            for view, of in self._judged_grades().items()
        }

    def judged_firsts(self) -> dict[str, float]:
        """The share of judged queries whose first result is right, in each view."""
        graded = self._judged_grades().items()
        return {view: float(np.mean([first[0] >= self.right for first in of])) for view, of in graded}

    def _judged_grades(self) -> dict[str, list[list[int]]]:
        """The grades of each judged query's first ten results in each view."""
        ids, judged, found = [product["_id"] for product in self.products], list(self.judged.values()), {}
        for view, vectors in self.vectors.items():
            rows = [best_rows(vectors[self.measured] @ query, CUTOFF).tolist() for query in self.judged_vectors]
            pairs = zip(rows, judged, strict=True)
            found[view] = [[grades.get(ids[row], 0) for row in first] for first, grades in pairs]
        return found

    def _ndcg(self, scores: np.ndarray, grades: dict[str, int] | None, kept: np.ndarray) -> float | None:
        kept = kept & self.measured
        if grades is None or not kept.any():
            return None
        rows = best_rows(np.where(kept, scores, -np.inf), min(CUTOFF, int(kept.sum())))
        usable = {
            self.rows[name]: grade for name, grade in grades.items() if name in self.rows and kept[self.rows[name]]
        }
        return ndcg([usable.get(row, 0) for row in rows.tolist()], list(usable.values()))

    def _hits(self, query, view, scores, rows, grades) -> list[Hit]:
        contributions = self.encoder.contributions(query.vector, self.vectors[view][rows])
        hits = []
        for rank, (row, parts) in enumerate(zip(rows.tolist(), contributions, strict=True), start=1):
            is_judged = grades is not None and self.measured[row]
            grade = grades.get(self.products[row]["_id"], 0) if is_judged else None
            ranks = {name: int((found > found[row]).sum()) + 1 for name, found in scores.items()}
            hits.append(Hit(row, rank, float(scores[view][row]), parts, grade, ranks))
        return hits

    def like(self, product_id: str, text: str | None = None, weight: float = 0.5) -> Query:
        """A query for products like one of the catalogue, or "like this, but ...".

        Args:
            product_id (`str`): the product.
            text (`str`, *optional*): what should be different; mixed with the product's picture (its text if it has
                none) just as the model mixes a query of picture and text.
            weight (`float`, *optional*, defaults to 0.5): share of the product where there is text.
        """
        row, text = self.row(product_id), checked_text(text)
        fields = {"text": text, "picture": self.picture(row), "picture_weight": weight, "like": product_id}
        if not text:
            return self.encoder.query_from(self.vectors["fused"][row], **fields)
        product = self.vectors["image" if self.pictured[row] else "text"][row]
        return self.encoder.query_from((1 - weight) * self.encoder.query(text).vector + weight * product, **fields)

    def product_inputs(self, row: int) -> dict:
        """A product as the processor takes it, with its picture."""
        return {**self.products[row], "image": self.picture(row)}

    def _thumbnail(self, row: int) -> str | None:
        """A product's picture as a `data:` address; `None` if there is none that can be read."""
        picture = self.picture(row)
        try:
            return None if picture is None else data_address(small_jpeg(picture, THUMBNAIL_SIZE))
        except ValueError:
            return None


def checked_text(text: str | None) -> str:
    """A query's text without the spaces around it.

    Raises:
        VisitorError: if it is too long.
    """
    text = " ".join((text or "").split())
    if len(text) > MAX_QUERY_CHARACTERS:
        raise VisitorError(f"A query has at most {MAX_QUERY_CHARACTERS} characters; shorten it to what you look for.")
    return text


def best_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the `k` highest scores `(N,)`, best first; equal to six decimals, the lower row is first."""
    return np.argsort(-np.round(scores, 6), kind="stable")[:k]


def ndcg(found: list[int], judged: list[int]) -> float:
    """nDCG@10: grades of a result list against all grades that were given; gains are linear."""

    def dcg(grades: list[int]) -> float:
        return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades[:CUTOFF]))

    best = dcg(sorted(judged, reverse=True))
    return dcg(found) / best if best else 0.0


def normalised(text: str) -> str:
    """A query's text as judged queries are looked up by."""
    return " ".join(text.lower().split())


def clamp(value, low: int, high: int) -> int:
    """A number as an integer between two others."""
    return max(low, min(high, int(value)))
