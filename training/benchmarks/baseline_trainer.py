"""What sentence-transformers makes of the same encoders and query-product pairs, with its own trainer and loss.

    python -m training.benchmarks.baseline_trainer --data data/hm --output runs/baseline_hm
    python -m training.benchmarks.baseline_trainer --data data/fashion,data/hm --output runs/baseline

It trains two two-tower models with MultipleNegativesRankingLoss: queries against listings, and queries against
pictures. The whole text encoder is trained, and a linear layer over the frozen image encoder's pooled output. The
report has each catalogue's `text`, `image` and `averaged`, the mean of both models' cosines.

Batches are of one catalogue each and hold no text twice, as that library advises; nothing else is masked. A model
that is trained is kept, and the same command goes on from there. It needs sentence-transformers, which `pip install
-e '.[test]'` brings.
"""

from training.benchmarks.options import BaselineArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.baseline_trainer", BaselineArguments, __doc__)


from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_model, save_model
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Dense, InputModule, Router
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from modeling_mmfusion.model_folder import prepare_for_inference
from training.catalogue.layout import RetrievalSplit, load_split
from training.common.environment import digest, environment
from training.common.files import check_output_file, claim_folder, new_file, write_json
from training.evaluation.measuring import measure_rankings
from training.evaluation.product_retrieval.metrics import DEFAULT_METRICS
from training.evaluation.rankers import best_rows, listing_texts
from training.evaluation.report import format_report, make_report, write_per_query
from training.features.encoder import Encoder
from training.features.pretrained import resolve_tower
from training.learning.options import ModelArguments
from training.learning.sampling import Judgments, PairSampler
from training.learning.starting import new_model
from training.learning.training_set import positives_of

DEPTH = 100
NO_PICTURE = ""
PICTURE_LAYERS = r"sub_modules\.document"
UNRELATED = (
    "data",
    "tests",
    "output",
    "report",
    "picture_learning_rate",
)  # options that leave a model of the same pairs as it is


class PictureDataset(InputModule):
    """Pictures by a name, as features that an image encoder gave before.

    Args:
        features (`dict[str, np.ndarray]`): the pooled features `(dim,)` of each picture.
    """

    def __init__(self, features: dict[str, np.ndarray]):
        super().__init__()
        self.features = features
        self.norm = torch.nn.LayerNorm(len(next(iter(features.values()))))

    def preprocess(self, inputs, prompt=None, **kwargs) -> dict[str, torch.Tensor]:
        """Names to features `(batch, dim)`."""
        return {"sentence_embedding": torch.from_numpy(np.stack([self.features[name] for name in inputs]))}

    def forward(self, features: dict, **kwargs) -> dict:
        """Normalises them."""
        return {**features, "sentence_embedding": self.norm(features["sentence_embedding"])}

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Writes the layer's weights; the features are not a part of the model."""
        self.save_torch_weights(output_path)


def main(arguments: BaselineArguments) -> dict[str, dict]:
    """Trains both models, measures them, writes the report and returns it."""
    claim_folder(arguments.output, "training.benchmarks.baseline_trainer")
    report = check_output_file(arguments.report or f"{arguments.output}/report.json", ".json")
    paths = arguments.data
    tests = arguments.tests or paths
    train = [load_split(path, "train") for path in paths]
    held_out = [load_split(path, "test") for path in tests]
    pictures = pooled_pictures(arguments, [*train, *held_out])
    set_seed(arguments.seed)  # of the layer behind the pictures
    text_model = SentenceTransformer(resolve_tower(arguments.text))
    image_model = with_pictures(SentenceTransformer(resolve_tower(arguments.text)), pictures)
    fit_baseline(text_model, text_pairs(arguments, train), arguments, {})
    fit_baseline(
        image_model, picture_pairs(arguments, train), arguments, {PICTURE_LAYERS: arguments.picture_learning_rate}
    )
    reports = {
        split.name: measure_baseline(arguments, text_model, image_model, split, path)
        for path, split in zip(tests, held_out, strict=True)
    }
    found = {"baseline": "sentence-transformers", "options": asdict(arguments), "catalogues": reports}
    write_json(report, found | {"environment": environment()})
    return found


def pooled_pictures(arguments: BaselineArguments, splits: list[RetrievalSplit]) -> dict[str, np.ndarray]:
    """The image encoder's pooled output of each product with a picture, by [`picture_name`]."""
    encoder = Encoder(*new_model(ModelArguments(arguments.text, arguments.vision)))
    prepare_for_inference(encoder.model)
    width, found = encoder.model.product_heads.image_norm.sizes[0], {}
    for split in splits:
        arrays = encoder.picture_states(split).arrays
        for row in np.flatnonzero(arrays["image_mask"][:, 0]).tolist():
            found[picture_name(split, row)] = arrays["image_features"][row, 0, :width]
    return found


def picture_name(split: RetrievalSplit, row: int) -> str:
    """A name of a product's picture that is equal for equal pictures; `""` if it has none."""
    return split.picture_digests[row] or NO_PICTURE


def with_pictures(encoder: SentenceTransformer, pictures: dict[str, np.ndarray]) -> SentenceTransformer:
    """A model that embeds queries with a text encoder and documents, by name, from their pictures."""
    module = PictureDataset(pictures)
    width = encoder.get_embedding_dimension()
    dense = Dense(len(module.norm.weight), width, activation_function=torch.nn.Identity())
    router = Router.for_query_document(query_modules=list(encoder), document_modules=[module, dense])
    return SentenceTransformer(modules=[router])


def drawn_pairs(arguments: BaselineArguments, split: RetrievalSplit) -> list[tuple[int, int]]:
    """Rows of queries and products: those that [`PairSampler`] draws for a stage of as many epochs."""
    sampler = PairSampler(Judgments(positives_of(split)), 1, arguments.batch_size, arguments.seed)
    return [pair for number in range(arguments.epochs) for batch in sampler.epoch(1 + number) for pair in batch]


def text_pairs(arguments: BaselineArguments, splits: list[RetrievalSplit]) -> dict[str, datasets.Dataset]:
    """Queries and listings of each catalogue."""
    found = {}
    for split in splits:
        texts, queries = listing_texts(split), split.query_texts
        rows = [(queries[query], texts[product]) for query, product in drawn_pairs(arguments, split)]
        found[dataset_name(split)] = as_dataset(rows)
    return found


def picture_pairs(arguments: BaselineArguments, splits: list[RetrievalSplit]) -> dict[str, datasets.Dataset]:
    """Queries and names of pictures of each catalogue."""
    found = {}
    for split in splits:
        queries, pairs = split.query_texts, drawn_pairs(arguments, split)
        rows = [(queries[query], picture_name(split, product)) for query, product in pairs]
        found[dataset_name(split)] = as_dataset([row for row in rows if row[1] != NO_PICTURE])
    return found


def dataset_name(split: RetrievalSplit) -> str:
    """A catalogue's name without dots and slashes."""
    return "".join(letter if letter.isalnum() else "_" for letter in split.name)


def as_dataset(pairs: list[tuple[str, str]]) -> datasets.Dataset:
    """Pairs as sentence-transformers takes them."""
    anchors, positives = zip(*pairs, strict=True)
    return datasets.Dataset.from_dict({"anchor": list(anchors), "positive": list(positives)})


def fit_baseline(
    encoder: SentenceTransformer,
    pairs: dict[str, datasets.Dataset],
    arguments: BaselineArguments,
    learning_rates: dict[str, float],
) -> None:
    """Trains a model, unless an earlier call has done so with the same options and pairs.

    Args:
        encoder (`SentenceTransformer`): the model.
        pairs (`dict[str, Dataset]`): those of all epochs, by catalogue.
        arguments (`BaselineArguments`): see there.
        learning_rates (`dict[str, float]`): rates of parameters that have their own, by a pattern of their names;
            there are some in the model that takes pictures.
    """
    file = Path(arguments.output) / f"{model_key(pairs, arguments, learning_rates)}.safetensors"
    if file.is_file():
        load_model(encoder, file)
        encoder.eval()
        return
    options = SentenceTransformerTrainingArguments(
        output_dir=arguments.output,
        num_train_epochs=1,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        learning_rate_mapping=learning_rates,
        router_mapping={"anchor": "query", "positive": "document"} if learning_rates else {},
        save_strategy="no",
        report_to="none",
        seed=arguments.seed,
        use_cpu=not torch.cuda.is_available(),
    )
    loss = {dataset: MultipleNegativesRankingLoss(encoder) for dataset in pairs}
    SentenceTransformerTrainer(model=encoder, args=options, train_dataset=pairs, loss=loss).train()
    encoder.eval()
    with new_file(file) as partial:
        save_model(encoder, partial)


def model_key(
    pairs: dict[str, datasets.Dataset], arguments: BaselineArguments, learning_rates: dict[str, float]
) -> str:
    """A digest of all that decides what training makes of a model."""
    options = {name: value for name, value in asdict(arguments).items() if name not in UNRELATED}
    rows = {name: sha256(repr(table[:]).encode()).hexdigest() for name, table in pairs.items()}
    return digest(repr(options), repr(rows), repr(learning_rates))


def measure_baseline(
    arguments: BaselineArguments,
    text_model: SentenceTransformer,
    image_model: SentenceTransformer,
    split: RetrievalSplit,
    path: str,
) -> dict:
    """A report of both models and of their averaged scores; products without a picture score 0 for it.

    Each query's values go into a file beside it, which the report names as `per_query`.
    """
    scores = {
        "text": cosines(text_model, split.query_texts, listing_texts(split)),
        "image": np.zeros((len(split.query_texts), len(split.product_ids)), dtype=np.float32),
    }
    shown = [row for row in range(len(split.product_ids)) if picture_name(split, row) != NO_PICTURE]
    if shown:
        names = [picture_name(split, row) for row in shown]
        scores["image"][:, shown] = cosines(image_model, split.query_texts, names)
    scores["averaged"] = (scores["text"] + scores["image"]) / 2
    rankings = {view: [best_rows(row, DEPTH) for row in found] for view, found in scores.items()}
    values = {view: measure_rankings(split, found, DEFAULT_METRICS) for view, found in rankings.items()}
    report = {"model": "sentence-transformers", "data": path, "split": "test"} | make_report(values, split)
    report["per_query"] = f"{arguments.output}/{dataset_name(split)}.parquet"
    write_per_query(Path(report["per_query"]), split, rankings, values)
    print(format_report(report), flush=True)
    return report


def cosines(encoder: SentenceTransformer, queries: list[str], documents: list[str]) -> np.ndarray:
    """Scores `(queries, documents)`."""
    options = {"normalize_embeddings": True, "show_progress_bar": False}
    return encoder.encode_query(queries, **options) @ encoder.encode_document(documents, **options).T
