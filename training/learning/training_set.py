"""From a catalogue to the model's inputs for batches: features of frozen encoders, raw inputs of trained ones."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset

from modeling_mmfusion import MMFusionProcessor
from training.catalogue.layout import RetrievalSplit
from training.common.distributed import Share
from training.features.encoder import Encoder, TowerStates, read_pictures
from training.learning.gradient_cache import Chunk
from training.learning.losses import view_weights
from training.learning.options import StageArguments
from training.learning.sampling import Judgments, PairBatch, Pairs, PairSampler


@dataclass
class Inputs:
    """A catalogue's queries or products, as the model takes them.

    Attributes:
        states (`TowerStates` or `None`): what the frozen encoders say.
        texts (`list[str]` or `None`): for a text encoder that is trained.
        pictures (`Dataset` or `None`): rows with `image`, one or a list, for an image encoder that is trained.
    """

    states: TowerStates | None = None
    texts: list[str] | None = None
    pictures: Dataset | None = None

    @property
    def is_cached(self) -> bool:
        """Whether no encoder has to run."""
        return self.texts is None and self.pictures is None

    def in_order_of_length(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `rows`, those of short texts first; as they are where texts don't matter."""
        lengths = np.zeros(len(rows)) if self.texts is None else [len(self.texts[row]) for row in rows]
        return np.argsort(lengths, kind="stable")


@dataclass
class TrainingSet:
    """A catalogue to train on.

    Attributes:
        queries (`Inputs`): N queries.
        products (`Inputs`): M products.
        judgments (`Judgments`): which products are relevant to which query.
        splits (`list[RetrievalSplit]`): where the products come from, one after the other.
    """

    queries: Inputs
    products: Inputs
    judgments: Judgments
    splits: list[RetrievalSplit]

    def add_problem(self, kind: str, row: int, reason: str) -> None:
        """Counts a problem with a product's picture in the split that it comes from."""
        for split in self.splits:
            if row < len(split.product_ids):
                return split.problems.add(kind, f"{split.where(row, 'image')}: {reason}")
            row -= len(split.product_ids)


def trained_encoders(stage: StageArguments) -> set[str]:
    """Those of `text` and `vision` that a stage changes."""
    return {name for name in ("text", "vision") if getattr(stage, name) != "frozen"}


def query_set(
    encoder: Encoder,
    split: RetrievalSplit,
    stage: StageArguments,
    negatives: dict[str, dict[str, float]] | None = None,
    teacher: dict[str, dict[str, float]] | None = None,
) -> TrainingSet:
    """The queries and judgments of a split.

    Args:
        encoder (`Encoder`): model and processor; whose frozen encoders run, or ran in an earlier run.
        split (`RetrievalSplit`): the catalogue.
        stage (`StageArguments`): tells which encoders are frozen.
        negatives (`dict`, *optional*): query id to product id to score of mined hard negatives.
        teacher (`dict`, *optional*): query id to product id to a teacher's score.
    """
    trained, texts = trained_encoders(stage), split.query_texts
    # of an encoder that is trained, what it says before the stage tells which queries are alike
    before = encoder.query_states(texts) if "text" not in trained or stage.topical_share else None
    rows = {product_id: row for row, product_id in enumerate(split.product_ids)}
    judgments = Judgments(
        positives_of(split),
        negatives_of(split, negatives or {}, rows),
        [copies_of(encoder.product_texts(split), split.picture_digests)],
        [_by_row((teacher or {}).get(query["_id"], {}), rows) for query in split.queries] if teacher else [],
        None if before is None else before.arrays["text_features"],
    )
    queries = Inputs(texts=texts) if "text" in trained else Inputs(before)
    return TrainingSet(queries, product_inputs(encoder, split, trained), judgments, [split])


def title_set(encoder: Encoder, split: RetrievalSplit, stage: StageArguments) -> TrainingSet | None:
    """Titles as queries for the products' pictures; of products that share a title each is relevant.

    The products are without text, which the pictures' view does not see. Batches are drawn at random: of like titles
    the pictures are often alike as well.

    Returns:
        [`TrainingSet`], or `None` if no product has both.
    """
    titles = {}
    for row, (title, digest) in enumerate(zip(titles_of(split), split.picture_digests, strict=True)):
        if title and digest:
            titles.setdefault(title, {})[row] = 1.0
    if not titles:
        return None
    trained, texts = trained_encoders(stage), list(titles)
    queries = Inputs(texts=texts) if "text" in trained else Inputs(encoder.query_states(texts))
    judgments = Judgments(list(titles.values()), copies=[same_values(split.picture_digests)], of_titles=True)
    products = product_inputs(encoder, split, trained, with_texts=False)
    return TrainingSet(queries, products, judgments, [split])


def product_inputs(
    encoder: Encoder,
    split: RetrievalSplit,
    trained: set[str],
    with_texts: bool = True,
) -> Inputs:
    """The products of a split, with or without their texts, as the model takes them while the encoders in `trained`
    are trained."""
    arrays, texts, pictures = {}, None, None
    if not with_texts:
        arrays |= without_text(encoder, len(split.product_ids))
    elif "text" in trained:
        texts = encoder.product_texts(split)
    else:
        arrays |= encoder.text_states(encoder.product_texts(split)).arrays
    if "vision" in trained and "image" in split.corpus.column_names:
        pictures = split.corpus.select_columns(["image"])
    else:
        arrays |= encoder.picture_states(split).arrays
    return Inputs(TowerStates(arrays) if arrays else None, texts, pictures)


@torch.no_grad()
def without_text(encoder: Encoder, count: int) -> dict[str, np.ndarray]:
    """The text's part of the states of `count` products that have none; one row, seen `count` times."""
    states = encoder.model.encode_products(**encoder.processor.process_products([{}]).to(encoder.model.device))
    found = {name: tensor.cpu().numpy() for name, tensor in states.items() if not name.startswith("image_")}
    return {name: np.broadcast_to(array, (count, *array.shape[1:])) for name, array in found.items()}


def measured_states(encoder: Encoder, split: RetrievalSplit, trained: set[str]) -> tuple[TowerStates, TowerStates]:
    """What the encoders now say of a split's products and queries; of those that change nothing is kept on disk."""
    keep_texts = "text" not in trained
    products = encoder.product_states(split, keep_texts=keep_texts, keep_pictures="vision" not in trained)
    return products, encoder.query_states(split.query_texts, cache=keep_texts)


def join_sets(sets: list[TrainingSet]) -> TrainingSet:
    """Several catalogues as one, so that batches mix them; a catalogue's products are never relevant to another's
    queries."""
    product_starts = np.cumsum([0, *(len(data.splits[0].product_ids) for data in sets)]).tolist()
    judgments = Judgments([], of_titles=sets[0].judgments.of_titles)
    copies = []
    for data, start in zip(sets, product_starts, strict=False):
        found = data.judgments
        judgments.positives += [{row + start: grade for row, grade in some.items()} for some in found.positives]
        negatives = found.negatives or [[]] * len(found.positives)
        judgments.negatives += [[row + start for row in some] for some in negatives]
        teacher = found.teacher or [{}] * len(found.positives)
        judgments.teacher += [{row + start: score for row, score in some.items()} for some in teacher]
        copies.append([np.where(numbers >= 0, numbers + start, -1) for numbers in found.copies])
    judgments.copies = [np.concatenate(numbers) for numbers in zip(*copies, strict=True)]
    if sets[0].judgments.query_features is not None:
        judgments.query_features = np.concatenate([data.judgments.query_features for data in sets])
    queries = _join_inputs([data.queries for data in sets])
    return TrainingSet(
        queries, _join_inputs([data.products for data in sets]), judgments, [data.splits[0] for data in sets]
    )


def _join_inputs(parts: list[Inputs]) -> Inputs:
    texts = None if parts[0].texts is None else [text for part in parts for text in part.texts]
    pictures = None if parts[0].pictures is None else ConcatDataset([part.pictures for part in parts])
    if parts[0].states is None:
        return Inputs(None, texts, pictures)
    arrays = {}
    for name in parts[0].states.arrays:
        found = [part.states.arrays[name] for part in parts]
        shape = np.max([array.shape[1:] for array in found], axis=0).astype(int)
        arrays[name] = np.zeros((sum(map(len, found)), *shape), dtype=found[0].dtype)
        start = 0
        for array in found:
            arrays[name][(slice(start, start + len(array)), *map(slice, array.shape[1:]))] = array
            start += len(array)
    return Inputs(TowerStates(arrays), texts, pictures)


def positives_of(split: RetrievalSplit) -> list[dict[int, float]]:
    """For each query of a split, the grade of each relevant product by its row."""
    rows = {product_id: row for row, product_id in enumerate(split.product_ids)}
    return [
        {rows[product]: score for product, score in split.qrels[query["_id"]].items() if score > 0}
        for query in split.queries
    ]


def negatives_of(split: RetrievalSplit, mined: dict[str, dict[str, float]], rows: dict[str, int]) -> list[list[int]]:
    """For each query of a split, the rows of its hard negatives: judged 0 (shown but left alone) or mined."""
    found = []
    for query in split.queries:
        qrels = split.qrels[query["_id"]]
        judged = [product for product, score in qrels.items() if score <= 0]
        others = [product for product in mined.get(query["_id"], {}) if product in rows and product not in qrels]
        found.append([rows[product] for product in [*judged, *others]])
    return found


def copies_of(texts: list[str], digests: list[str]) -> np.ndarray:
    """Numbers that are equal for copies: products with the same picture, or without pictures and with the same text.

    Products with the same text and different pictures are no copies: often only the picture tells their colours apart.
    """
    return same_values([digest or text for text, digest in zip(texts, digests, strict=True)])


def same_values(values: list[str]) -> np.ndarray:
    """Numbers `(values,)` that are equal where values are; -1 for empty ones and those that occur once."""
    numbers, counts = {}, {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    repeated = [value if value and counts[value] > 1 else None for value in values]
    return np.array([-1 if value is None else numbers.setdefault(value, len(numbers)) for value in repeated])


def titles_of(split: RetrievalSplit) -> list[str]:
    """The title of each product, `""` where there is none."""
    if "title" not in split.corpus.column_names:
        return [""] * len(split.product_ids)
    return [" ".join(str(title or "").split()) for title in split.corpus["title"]]


def _by_row(scores: dict[str, float], rows: dict[str, int]) -> dict[int, float]:
    return {rows[product]: score for product, score in scores.items() if product in rows}


class BatchInputs(Dataset):
    """The batches of an epoch with their chunks of inputs for this process, made when they are asked for.

    Args:
        sets (`list[TrainingSet]`): the catalogues.
        samplers (`list[PairSampler]`): one for each.
        batches (`list[tuple[int, Pairs]]`): the number of the catalogue and the pairs of each batch.
        processor (`MMFusionProcessor`): the model's.
        stage (`StageArguments`): for the size of chunks and the views.
        share (`Share`): which rows this process encodes.
    """

    def __init__(
        self,
        sets: list[TrainingSet],
        samplers: list[PairSampler],
        batches: list[tuple[int, Pairs]],
        processor: MMFusionProcessor,
        stage: StageArguments,
        share: Share,
    ):
        self.sets, self.samplers, self.batches = sets, samplers, batches
        self.processor, self.stage, self.share = processor, stage, share

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[int, PairBatch, list[Chunk]]:
        source, pairs = self.batches[number]
        data, batch = self.sets[source], self.samplers[source].collate(pairs)
        query_rows = batch.queries[self.share.encoded_rows(len(batch.queries))]
        product_rows = batch.products[self.share.encoded_rows(len(batch.products))]
        count = 1
        if self.stage.gradient_cache or not (data.queries.is_cached and data.products.is_cached):
            count = min(len(query_rows), len(product_rows), -(-len(product_rows) // self.stage.chunk_size))
        queries = np.array_split(data.queries.in_order_of_length(query_rows), count)
        products = np.array_split(data.products.in_order_of_length(product_rows), count)
        views = tuple(view_weights(self.stage, batch.of_titles))
        chunks = []
        for some_queries, some_products in zip(queries, products, strict=True):
            inputs, bad_rows = chunk_inputs(
                data, self.processor, query_rows[some_queries], product_rows[some_products]
            )
            chunks.append(Chunk({**inputs, "views": views}, some_queries, some_products, bad_rows))
        return source, batch, chunks


def chunk_inputs(
    data: TrainingSet, processor: MMFusionProcessor, query_rows: np.ndarray, product_rows: np.ndarray
) -> tuple[dict, list[tuple[int, str]]]:
    """Arguments of [`MMFusionModel.forward`] for some queries and products, and the reasons of unreadable pictures."""
    inputs, bad_rows = {}, []
    if data.queries.texts is None:
        inputs["query_states"] = data.queries.states.states(query_rows)
    else:
        found = processor.process_queries([data.queries.texts[row] for row in query_rows])
        inputs |= {f"query_{name}": tensor for name, tensor in found.items()}
    if data.products.states is not None:
        inputs["product_states"] = data.products.states.states(product_rows)
    if not data.products.is_cached:
        inputs |= _product_inputs(data.products, processor, product_rows.tolist(), bad_rows)
    return inputs, bad_rows


def _product_inputs(products: Inputs, processor: MMFusionProcessor, rows: list[int], bad_rows) -> dict:
    documents = [{} for _ in rows]
    for document, row in zip(documents, rows, strict=True):
        if products.texts is not None:
            document["text"] = products.texts[row]
        if products.pictures is not None:
            document["image"] = read_pictures(products.pictures[row]["image"], row, bad_rows, processor.min_side)
    inputs = dict(processor.process_products(documents))
    if products.texts is None:  # the text's features are cached
        inputs = {name: tensor for name, tensor in inputs.items() if name not in TEXT_INPUTS}
    return inputs


TEXT_INPUTS = ("input_ids", "attention_mask", "text_mask")


def to_device(value, device: torch.device):
    """Tensors in dictionaries, such as a chunk's inputs, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return type(value)(**{name: to_device(item, device) for name, item in value.items()})
    return value
