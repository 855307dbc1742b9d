"""What embeds by way of sentence-transformers gives the model's own vectors: its pool, its precisions, other packages.

LangChain and Haystack call `encode` for queries and for documents, so that both have to be told which are queries, as
with any model that tells them apart.
"""

import numpy as np
import pytest
from haystack import Document
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersDocumentImageEmbedder,
    SentenceTransformersTextEmbedder,
)
from helpers import assert_same, make_parts, product_vectors, query_vectors
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from PIL import Image
from sentence_transformers import SentenceTransformer, quantize_embeddings

QUERIES = ["red mug", "a big soft blue striped cotton shirt of clay", "small lamp", "clay bowl", "soft red shirt"]
TITLES = ["plain red mug", "striped cotton shirt", "big bowl of clay", "small lamp", "soft green shirt", "blue lamp"]
COLOURS = ["red", "green", "blue", None, "white", "black"]
PICTURES = [colour and Image.new("RGB", (40, 48), colour) for colour in COLOURS]
PRODUCTS = [{"title": title, "image": image} for title, image in zip(TITLES, PICTURES, strict=True)]
DOCUMENTS = [{"text": title, "image": image} for title, image in zip(TITLES, PICTURES, strict=True)]
TEXTS = [{"title": title} for title in TITLES]
DIMS = [None, 22]  # all dimensions; some of each block


@pytest.fixture(scope="module")
def parts(towers):
    """Model and processor with a query tower of its own."""
    return make_parts(towers, towers["query"])


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory) -> str:
    """Where they are saved."""
    folder = tmp_path_factory.mktemp("saved")
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(folder) -> SentenceTransformer:
    return SentenceTransformer(folder, trust_remote_code=True, device="cpu")


@pytest.fixture(params=DIMS, ids=["whole", "truncated"])
def dim(request, parts):
    """Dimensions that the model itself truncates its vectors to, and whoever else is told to."""
    parts[0].config.truncate_dim = request.param
    yield request.param
    parts[0].config.truncate_dim = None


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_vectors_of_one(parts, encoder):
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    options = {"pool": pool, "chunk_size": 2, "batch_size": 2}
    try:
        for dim in DIMS:
            parts[0].config.truncate_dim = options["truncate_dim"] = dim
            queries, texts, products = (
                query_vectors(parts, QUERIES),
                product_vectors(parts, TEXTS),
                product_vectors(parts, PRODUCTS),
            )
            assert_same(encoder.encode_query(QUERIES, **options), queries)
            assert_same(encoder.encode(QUERIES, prompt_name="query", **options), queries)
            assert_same(encoder.encode_document(TITLES, **options), texts)
            assert_same(encoder.encode_document(DOCUMENTS, **options), products)
            found = encoder.encode_document(DOCUMENTS, precision="ubinary", **options)
            assert np.array_equal(found, np.packbits(products > 0, axis=1))
    finally:
        parts[0].config.truncate_dim = None
        encoder.stop_multi_process_pool(pool)


def steps(vectors, whole) -> np.ndarray:
    """Each dimension in 255 steps from the least to the greatest that it has in `whole`."""
    least, greatest = whole.min(0), whole.max(0)
    return np.clip(np.floor((vectors - least) / (greatest - least) * 255), 0, 255).astype(int)


QUANTIZED = {
    "int8": lambda vectors, whole: steps(vectors, whole) - 128,
    "uint8": steps,
    "binary": lambda vectors, whole: np.packbits(vectors > 0, axis=1).astype(int) - 128,
    "ubinary": lambda vectors, whole: np.packbits(vectors > 0, axis=1),
}


@pytest.mark.parametrize("precision", QUANTIZED)
def test_precisions_are_of_the_models_vectors(parts, encoder, dim, precision):
    queries, products = query_vectors(parts, QUERIES), product_vectors(parts, PRODUCTS)
    options, expected = {"truncate_dim": dim, "precision": precision}, QUANTIZED[precision]
    rounding = 0 if "binary" in precision else 1
    for found, vectors in (
        (encoder.encode_query(QUERIES, **options), queries),
        (encoder.encode(QUERIES, prompt_name="query", **options), queries),
        (encoder.encode_document(DOCUMENTS, **options), products),
    ):
        assert str(found.dtype) == precision.replace("ubinary", "uint8").replace("binary", "int8")
        np.testing.assert_allclose(found.astype(int), expected(vectors, vectors), atol=rounding, rtol=0)
    found = encoder.encode_query(QUERIES, truncate_dim=dim, convert_to_tensor=True)
    found = quantize_embeddings(found, precision, calibration_embeddings=products)
    np.testing.assert_allclose(found.astype(int), expected(queries, products), atol=rounding, rtol=0)


def test_langchain(parts, folder, dim):
    options = {"model_kwargs": {"trust_remote_code": True, "device": "cpu", "truncate_dim": dim}}
    embeddings = HuggingFaceEmbeddings(model_name=folder, query_encode_kwargs={"prompt_name": "query"}, **options)
    queries, products = query_vectors(parts, QUERIES), product_vectors(parts, TEXTS)
    assert_same(embeddings.embed_documents(TITLES), products)
    assert_same([embeddings.embed_query(text) for text in QUERIES], queries)
    by_task = HuggingFaceEmbeddings(model_name=folder, query_encode_kwargs={"task": "query"}, **options)
    assert_same(by_task.embed_query(QUERIES[0]), queries[0])

    store = InMemoryVectorStore.from_texts(TITLES, embeddings)
    for text, scores in zip(QUERIES, queries @ products.T, strict=True):
        found = store.similarity_search_with_score(text, k=len(TITLES))
        assert [document.page_content for document, _ in found] == [TITLES[row] for row in np.argsort(-scores)]
        assert_same([score for _, score in found], np.sort(scores)[::-1])


def test_haystack(parts, folder, dim):
    options = {"model": folder, "trust_remote_code": True, "truncate_dim": dim, "progress_bar": False}
    options["device"] = ComponentDevice.from_str("cpu")
    embed_documents = SentenceTransformersDocumentEmbedder(**options)
    embed_query = SentenceTransformersTextEmbedder(encode_kwargs={"prompt_name": "query"}, **options)
    queries, products = query_vectors(parts, QUERIES), product_vectors(parts, TEXTS)
    documents = embed_documents.run([Document(content=title) for title in TITLES])["documents"]
    assert_same([document.embedding for document in documents], products)
    found = [embed_query.run(text)["embedding"] for text in QUERIES]
    assert_same(found, queries)
    by_task = SentenceTransformersTextEmbedder(encode_kwargs={"task": "query"}, **options)
    assert_same(by_task.run(QUERIES[0])["embedding"], queries[0])

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    store.write_documents(documents)
    retriever = InMemoryEmbeddingRetriever(store, top_k=len(TITLES))
    for vector, scores in zip(found, queries @ products.T, strict=True):
        hits = retriever.run(query_embedding=vector)["documents"]
        assert [hit.content for hit in hits] == [TITLES[row] for row in np.argsort(-scores)]


def test_haystack_embeds_pictures(parts, folder, tmp_path):
    names = [f"{colour}.png" for colour in COLOURS if colour]
    pictures = [image for image in PICTURES if image]
    for name, image in zip(names, pictures, strict=True):
        image.save(tmp_path / name)
    embed = SentenceTransformersDocumentImageEmbedder(
        model=folder,
        root_path=str(tmp_path),
        trust_remote_code=True,
        progress_bar=False,
        device=ComponentDevice.from_str("cpu"),
    )
    found = embed.run([Document(content="mug", meta={"file_path": name}) for name in names])["documents"]
    assert_same([document.embedding for document in found], product_vectors(parts, [{"image": i} for i in pictures]))
