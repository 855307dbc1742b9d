"""What the fusion network learns of a catalogue before and after its training, without a training loop of its own."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional as F

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.fusion_mmfusion import cosine_quantiles
from training.catalogue.layout import RetrievalSplit
from training.features.encoder import Encoder, TowerStates, aligned_pictures
from training.learning.losses import info_nce
from training.learning.options import StageArguments
from training.learning.sampling import Judgments, PairSampler, epoch_batches

STEPS, RATE = 60, 0.03
DIRECTIONS, PENALTY = 4, 0.01  # of the queries' texts, along which the dev splits may turn the weights of blocks
LEAST_SPREAD = 1e-4  # of unit features along a direction; few queries have fewer directions
PICTURES = 512  # that stand for a catalogue's where an image encoder would have to run over all
UNFAMILIAR_QUERIES, UNFAMILIAR_PRODUCTS, TEXTS_A_PROTOTYPE = 0.05, 0.01, 4
LOOSER, FEW = (0.0, 0.25, 0.5, 0.75, 1.0), 8
SAMPLE = 2048  # texts of each side that stand for a catalogue's where an encoder would have to run over all


def start_alignment(model: MMFusionModel, texts: list[TowerStates], pictures: list[TowerStates]) -> None:
    """Centres the aligned dual encoder's texts and pictures and finds the principal axes of its space; of a model that
    has none nothing changes.

    Args:
        model (`MMFusionModel`): whose heads are new.
        texts (`list[TowerStates]`): of queries and of products.
        pictures (`list[TowerStates]`): of products.
    """
    if model.alignment is not None:
        found = [aligned_pictures(model, part)[part.arrays["image_mask"].any(axis=1)] for part in pictures]
        aligned = joined_texts(texts, "aligned_features")
        model.alignment.start(aligned.to(model.device), torch.from_numpy(np.concatenate(found)).to(model.device))


def start_text_head(model: MMFusionModel, states: list[TowerStates]) -> None:
    """Turns the text block to the principal axes of the catalogues' texts, so that its first dimensions tell most.

    Where query and product have encoders, and so spaces, of their own they keep their axes.

    Args:
        model (`MMFusionModel`): whose text head is new.
        states (`list[TowerStates]`): of queries and of products.
    """
    if model.text_head is not None and model.query_text_head is None:
        texts = joined_texts(states).to(model.device)
        if model.alignment is not None and model.alignment.is_text_space:
            texts = model.alignment.texts(texts)
        model.text_head.set_basis(texts)


def forget_familiar_texts(model: MMFusionModel) -> None:
    """Takes all texts for familiar, for a training on other ones."""
    if model.text_head is not None:
        model.query_heads.familiarity.forget()
        model.product_heads.familiarity.forget()


def learn_familiar_texts(model: MMFusionModel, queries: list[TowerStates], products: list[TowerStates]) -> None:
    """Shows the trained model which texts it was trained on.

    A model that has an aligned block to fall back on takes fewer texts for familiar: of the training's own queries one
    in twenty is less than half familiar, and queries are compared with queries alone.

    Args:
        model (`MMFusionModel`): the trained model.
        queries (`list[TowerStates]`): of each catalogue's training queries, or of a sample of them.
        products (`list[TowerStates]`): likewise.
    """
    if model.text_head is None:
        return
    of_queries, of_products = (joined_texts(states).to(model.device) for states in (queries, products))
    if model.alignment is not None:
        both = torch.cat([of_queries, of_products])
        model.query_heads.familiarity.fit(of_queries, low=UNFAMILIAR_QUERIES, least=TEXTS_A_PROTOTYPE)
        model.product_heads.familiarity.fit(both, low=UNFAMILIAR_PRODUCTS, least=TEXTS_A_PROTOTYPE)
        return
    if model.query_text_head is None:
        of_queries = of_products = torch.cat([of_queries, of_products])
    model.query_heads.familiarity.fit(of_queries)
    if len(of_products):  # a catalogue may have pictures only
        model.product_heads.familiarity.fit(of_products)


def loosen_familiar_texts(
    model: MMFusionModel, queries: list[TowerStates], products: list[TowerStates], measure: Callable[[], np.ndarray]
) -> float:
    """Takes more texts for familiar, as far as the shops that were trained on need it.

    Prototypes lie nearer to the texts that they were made of than to new ones of the same shop, the more so the fewer
    texts there were. So the thresholds move towards those of held-out texts, as little as is no worse on the dev
    splits than any other move, give or take a standard error of the paired difference.

    Args:
        model (`MMFusionModel`): after [`learn_familiar_texts`], with an aligned block to fall back on; others stay as
            they are.
        queries, products (`list[TowerStates]`): as there.
        measure (`Callable`): gives the quality of each query of the dev splits.

    Returns:
        How far the thresholds were moved, from 0 to 1.
    """
    if model.alignment is None or model.text_head is None:
        return 0.0
    of_queries, of_products = (joined_texts(states).to(model.device) for states in (queries, products))
    if len(of_queries) < FEW:
        return 0.0
    ranges = []
    for heads, texts, low in (
        (model.query_heads, of_queries, UNFAMILIAR_QUERIES),
        (model.product_heads, torch.cat([of_queries, of_products]), UNFAMILIAR_PRODUCTS),
    ):
        part = heads.familiarity
        strict = cosine_quantiles(texts, part.prototypes.weight, low)
        ranges.append((part, strict, part.held_out_cosines(texts, low=low, least=TEXTS_A_PROTOTYPE)))

    def move(share: float) -> None:
        for part, strict, loose in ranges:
            part.set_cosines(*((1 - share) * one + share * other for one, other in zip(strict, loose, strict=True)))

    scores = []
    for share in LOOSER:
        move(share)
        scores.append(measure())
    best = max(scores, key=np.mean)
    errors = [np.std(best - found) / np.sqrt(len(best)) for found in scores]
    chosen = next(s for s, found, error in zip(LOOSER, scores, errors, strict=True) if np.mean(best - found) <= error)
    move(chosen)
    return chosen


def picture_sample(encoder: Encoder, split: RetrievalSplit, seed: int, cached: bool) -> TowerStates:
    """What the image encoder says of a sample of a split's pictures.

    Args:
        encoder (`Encoder`): model and processor.
        split (`RetrievalSplit`): the catalogue.
        seed (`int`): of the sample.
        cached (`bool`): whether all pictures' features are kept anyhow, as those of a frozen encoder; else the encoder
            runs over at most 512.
    """
    rows = sample_rows(len(split.product_ids), seed)
    if not cached:
        return encoder.picture_states(split.take(rows[:PICTURES]), cache=False)
    arrays = encoder.picture_states(split).arrays
    return TowerStates({name: arrays[name][rows] for name in ("image_features", "image_mask")})


def calibrate_routers(
    model: MMFusionModel,
    data: list[tuple[Judgments, TowerStates, TowerStates]],
    stage: StageArguments,
    seed: int,
) -> None:
    """Fits each router's biases and the scale of its weights to the dev splits; nothing else changes.

    The heads know the training's products better than new ones, the image and cross heads most of all, so routers
    that were trained along with them trust these blocks too much.

    Args:
        model (`MMFusionModel`): the trained model.
        data (`list`): judgments, queries and products of each dev split.
        stage (`StageArguments`): for the batches.
        seed (`int`): seed of the batches.
    """
    if model.text_head is None:
        return
    routers = [model.query_heads.router, model.product_heads.router]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = [router.weight.detach().clone() for router in routers]
    gains = [torch.ones((), device=model.device, requires_grad=True) for _ in routers]
    biases = [router.bias.detach().clone().requires_grad_() for router in routers]
    optimizer = torch.optim.Adam([*gains, *biases], lr=RATE)
    samplers = [PairSampler(found, stage.positives_per_query, stage.batch_size, seed) for found, _, _ in data]
    batches = (batch for number in itertools.count() for batch in epoch_batches(samplers, number, seed))
    for source, pairs in itertools.islice(batches, STEPS):
        batch, (_, queries, products) = samplers[source].collate(pairs), data[source]
        changed = {}
        for router, weight, gain, bias in zip(routers, weights, gains, biases, strict=True):
            changed |= {names[id(router.weight)]: gain * weight, names[id(router.bias)]: bias}
        inputs = {"query_states": queries.states(batch.queries, model.device)}
        inputs |= {"product_states": products.states(batch.products, model.device)}
        logits = functional_call(model, changed, kwargs=inputs).logits_per_query
        relevance, ignored, _, _ = batch.tensors(model.device)
        loss = info_nce(logits, relevance, ignored).mean() + info_nce(logits.T, relevance.T, ignored.T).mean()
        optimizer.zero_grad()
        loss.backward(inputs=[*gains, *biases])
        optimizer.step()
    with torch.no_grad():
        for router, weight, gain, bias in zip(routers, weights, gains, biases, strict=True):
            router.weight.copy_(gain * weight)
            router.bias.copy_(bias)


def calibrate_query_router(
    model: MMFusionModel, data: list[tuple[Judgments, TowerStates, TowerStates]], seed: int
) -> None:
    """Fits how queries weigh the blocks to the dev splits' whole corpora; nothing else changes.

    A batch of a few hundred products is easier to search than a corpus, so [`calibrate_routers`] still trusts the
    learned blocks too much. And a router that is free to learn knows a few hundred dev queries by heart: only its
    biases and its weights along the four main directions of the queries' texts are fitted here, to whole corpora or,
    of a large one, some thousand products. The scores' scale is free meanwhile.

    Args:
        model (`MMFusionModel`): the trained model, to which the training's texts are familiar.
        data (`list`): judgments, queries and products of each dev split.
        seed (`int`): seed of the samples of large splits.
    """
    if model.text_head is None:
        return
    router = model.query_heads.router
    catalogues = [_dev_scores(model, *found, seed) for found in data]
    texts = torch.cat([texts for _, (texts, _), _, _ in catalogues])
    centred = texts - texts.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:DIRECTIONS]
    spread = (centred @ axes.T).std(dim=0, correction=0)
    axes = axes[spread > LEAST_SPREAD] / spread[spread > LEAST_SPREAD, None]
    turns = torch.zeros(len(router.bias), len(axes), device=model.device, requires_grad=True)
    bias = router.bias.detach().clone().requires_grad_()
    log_scale = torch.zeros((), device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([turns, bias, log_scale], lr=RATE)

    def changed() -> dict[str, torch.Tensor]:
        turn = turns @ axes
        return {"weight": router.weight.detach() + turn, "bias": bias - turn @ texts.mean(dim=0)}

    for _ in range(STEPS):
        loss = PENALTY * turns.square().sum()
        for scores, inputs, relevance, ignored in catalogues:
            logits = torch.einsum("qpb,qb->qp", scores, functional_call(router, changed(), inputs)) * log_scale.exp()
            loss = loss + info_nce(logits, relevance, ignored).mean() / len(catalogues)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = changed()
        router.weight.copy_(found["weight"])
        router.bias.copy_(found["bias"])


@torch.no_grad()
def _dev_scores(
    model: MMFusionModel, judgments: Judgments, queries: TowerStates, products: TowerStates, seed: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Each block's part of each pair's logit `(queries, products, blocks)` before the query's weights, what the query
    router looks at, and the relevant and ignored pairs."""
    asked = sample_rows(len(queries), seed)
    pairs = [(query, next(iter(judgments.positives[query]))) for query in asked.tolist()]
    pairs += [(pairs[0][0], product) for product in sample_rows(len(products), seed).tolist()]
    batch = PairSampler(judgments, 1, len(pairs), seed).collate(pairs)
    of_queries = queries.states(batch.queries, model.device)
    query_blocks, _ = model.query_heads(of_queries, model.query_text_head or model.text_head, model.alignment)
    of_products = products.states(batch.products, model.device)
    [(product_blocks, lengths)] = model.product_heads(of_products, model.text_head, alignment=model.alignment)
    parts = [
        F.normalize(block, dim=-1) @ F.normalize(product_blocks[name], dim=-1).T
        for name, block in query_blocks.items()
    ]
    scores = torch.stack(parts, dim=-1) * lengths * model.logit_scale()[0]
    heads, texts = model.query_heads, of_queries.text_features
    relevance, ignored, _, _ = batch.tensors(model.device)
    return scores, (heads.norm(texts), heads.familiarity(texts)), relevance, ignored


def joined_texts(states: list[TowerStates], name: str = "text_features") -> torch.Tensor:
    """The unit features of all texts, `(texts, hidden_size)`."""
    found = [part.arrays[name][part.arrays.get("text_mask", slice(None))] for part in states]
    return torch.from_numpy(np.concatenate(found))


def sample_rows(count: int, seed: int) -> np.ndarray:
    """At most 2,048 of `count` rows, drawn with `seed`."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE])
