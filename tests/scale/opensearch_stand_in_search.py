"""What the stand-ins of OpenSearch and Elasticsearch find: queries over documents, compared one by one."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WINDOW, CLAUSES, TERMS, KEYWORD_BYTES = 10_000, 1024, 65_536, 32_766


class Refused(Exception):
    """An answer with an error."""

    def __init__(self, status: int, kind: str, reason: str):
        super().__init__(reason)
        self.status, self.body = status, {"error": error_of(kind, reason), "status": status}


def error_of(kind: str, reason: str) -> dict:
    return {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason}


def expect(condition: Any, reason: str, kind: str = "illegal_argument_exception", status: int = 400) -> None:
    if not condition:
        raise Refused(status, kind, reason)


def only(body: Any, *names: str) -> dict:
    """A mapping that has no keys but these."""
    expect(isinstance(body, dict), f"an object is expected, not {body!r:.40}", "parsing_exception")
    expect(not set(body) - set(names), f"unknown key {sorted(set(body) - set(names))}", "parsing_exception")
    return body


def parsed(content: bytes) -> Any:
    def constant(name):
        raise ValueError(name)

    try:
        return json.loads(content, parse_constant=constant)
    except ValueError as error:
        raise Refused(400, "json_parse_exception", f"{error}") from error


def is_a(kind: str, value: Any, facts: dict) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    match kind:
        case "keyword":
            return isinstance(value, str) and len(value.encode()) <= KEYWORD_BYTES
        case "text":
            return isinstance(value, str)
        case "long" | "integer":
            bits = 63 if kind == "long" else 31
            return whole and -(2**bits) <= value < 2**bits
        case "double":
            return whole or (isinstance(value, float) and np.isfinite(value))
        case "boolean":
            return isinstance(value, bool)
    width = facts["dims" if kind == "dense_vector" else "dimension"]
    numbers = isinstance(value, list) and all(isinstance(one, (int, float)) for one in value)
    unit = facts.get("similarity") in ("dot_product", "cosine")
    return numbers and len(value) == width and (any(value) or not unit)


@dataclass
class Index:
    """An index: its mapping, the documents that are found, and those that wait for a refresh."""

    settings: dict
    mappings: dict
    found: dict[str, dict] = field(default_factory=dict)
    written: dict[str, dict] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    def refresh(self) -> None:
        self.found, self.masks = dict(self.written), {}
        self.documents = list(self.found.values())
        self.ids = list(self.found)
        self.vectors = np.array([one["vector"] for one in self.documents], dtype=np.float32)
        self.words = [Counter(re.findall(r"\S{1,255}", one["words"])) for one in self.documents]  # cut, as there


class Search:
    """One search of an index."""

    def __init__(self, elastic: bool, index: Index):
        self.elastic, self.index = elastic, index
        self.count = len(index.documents)

    def run(self, body: dict) -> dict:
        names = ["size", "query", "_source", "sort", "search_after", "docvalue_fields", "track_total_hits", "aggs"]
        only(body, *names, *(["knn", "fields"] if self.elastic else []))
        size = body.get("size", 10)
        expect(0 <= size <= WINDOW, f"Result window is too large, must be less than or equal to: [{WINDOW}]")
        if "knn" in body:
            expect("query" not in body, "the stand-in sums no scores")
            facts = only(body["knn"], "field", "query_vector", "k", "num_candidates", "filter")
            most = facts["num_candidates"]
            expect(1 <= facts["k"] <= most <= WINDOW, "[num_candidates] must be from [k] to [10000]")
            mask, scores = self.nearest(facts["field"], facts["query_vector"], facts["k"], facts.get("filter"))
        else:
            mask, scores = self.scored(body.get("query", {"match_all": {}}))
        rows = np.flatnonzero(mask)
        rows = self.sorted(rows, body) if "sort" in body else rows[np.argsort(-scores[rows], kind="stable")]
        hits = [self.hit(row, float(scores[row]), body) for row in rows[:size]]
        total = {"value": int(mask.sum()), "relation": "eq"}
        if not body.get("track_total_hits") and total["value"] > 10_000:
            total = {"value": 10_000, "relation": "gte"}
        aggregations = {"aggregations": self.aggregate(body["aggs"], mask)} if "aggs" in body else {}
        return {"took": 1, "timed_out": False, "hits": {"total": total, "hits": hits}, **aggregations}

    def hit(self, row: int, score: float, body: dict) -> dict:
        document, wanted = self.index.documents[row], body.get("_source", True)
        hit = {"_index": "i", "_id": self.index.ids[row], "_score": None if "sort" in body else score}
        if wanted is not False:
            hit["_source"] = {name: value for name, value in document.items() if wanted is True or name in wanted}
            if self.elastic:
                hit["_source"].pop("vector", None)  # since 9.2
        if "docvalue_fields" in body:
            hit["fields"] = {name: [document[name]] for name in body["docvalue_fields"]}
        if "fields" in body:
            expect(body["fields"] == ["vector"], "the stand-in gives vectors alone")
            hit["fields"] = {"vector": document["vector"]}
        if "sort" in body:
            hit["sort"] = [document[name] for one in body["sort"] for name in one]
        return hit

    def sorted(self, rows: np.ndarray, body: dict) -> list[int]:
        [(name, order)] = body["sort"][0].items()
        expect(len(body["sort"]) == 1 and order == "asc" and self.kind(name) == "keyword", "the stand-in sorts by ids")
        keys = {row: self.index.documents[row][name].encode() for row in rows}
        if "search_after" in body:
            [after] = body["search_after"]
            rows = [row for row in rows if keys[row] > after.encode()]
        return sorted(rows, key=keys.get)

    def aggregate(self, wanted: dict, mask: np.ndarray) -> dict:
        found = {}
        for name, facts in wanted.items():
            [(kind, options)] = only(facts, "avg", "filters").items()
            if kind == "avg":
                values = [self.value(row, only(options, "field")["field"]) for row in np.flatnonzero(mask)]
                found[name] = {"value": float(np.mean(values)) if values else None}
            else:
                filters = only(options, "filters")["filters"]
                expect(isinstance(filters, list) and len(filters) <= CLAUSES, "too many clauses")
                buckets = [{"doc_count": int((self.passing(one) & mask).sum())} for one in filters]
                found[name] = {"buckets": buckets}
        return found

    def kind(self, name: str) -> str:
        """The type of a field; one that is not mapped matches nothing there, but is a fault of ours."""
        fields, facts = self.index.mappings["properties"], {}
        for part in name.split("."):
            expect(part in fields, f"no field {name}")
            facts = fields[part]
            fields = facts.get("properties", {})
        return facts.get("type", "object")

    def value(self, row: int, name: str) -> Any:
        value = self.index.documents[row]
        for part in name.split("."):
            value = value.get(part) if value is not None else None
        return value

    def passing(self, query: dict) -> np.ndarray:
        key = json.dumps(query, sort_keys=True)
        if key not in self.index.masks:
            self.index.masks[key] = self.scored(query)[0]
        return self.index.masks[key]

    def scored(self, query: dict) -> tuple[np.ndarray, np.ndarray]:
        """Which documents match a query, and their scores, 0 where they don't."""
        expect(isinstance(query, dict) and len(query) == 1, "a query has one name", "parsing_exception")
        [(kind, facts)] = query.items()
        none, score = np.zeros(self.count, dtype=bool), np.ones(self.count, dtype=np.float32)
        match kind:
            case "match_all":
                return ~none, score
            case "match_none":
                return none, score * 0
            case "bool":
                return self.combined(facts)
            case "knn":
                expect(not self.elastic, "[knn] requires [field]", "parsing_exception")
                [(name, wanted)] = facts.items()
                only(wanted, "vector", "k", "filter", "method_parameters")
                only(wanted.get("method_parameters", {}), "ef_search")
                expect(1 <= wanted["k"] <= 10_000, "[knn] requires k in the range (0, 10000]")
                return self.nearest(name, wanted["vector"], wanted["k"], wanted.get("filter"))
            case "exists":
                name = only(facts, "field")["field"]
                self.kind(name)
                return np.array([self.value(row, name) is not None for row in range(self.count)], dtype=bool), score
            case "terms" | "term" | "range":
                [(name, wanted)] = facts.items()
                if kind == "term" and self.kind(name) == "text":
                    return self.bm25(only(wanted, "value")["value"])
                test = self.test(kind, self.kind(name), wanted)
                mask = np.array([test(self.value(row, name)) for row in range(self.count)], dtype=bool)
                return mask, mask.astype(np.float32)
        raise Refused(400, "parsing_exception", f"unknown query [{kind}]")

    def test(self, kind: str, of: str, wanted: Any) -> Any:
        if kind == "range":
            only(wanted, "gte", "lte")
            expect(of in ("long", "double", "integer"), f"a range of {of}")
            low, high = wanted.get("gte", -np.inf), wanted.get("lte", np.inf)
            return lambda value: value is not None and low <= value <= high
        expect(isinstance(wanted, list) and len(wanted) <= TERMS, f"more than [{TERMS}] terms")
        for one in wanted:
            expect(
                is_a("double" if of == "long" else of, one, {}),
                f"{one!r} is no {of}",
                "query_shard_exception",
            )
        terms = set(wanted)
        return lambda value: not terms.isdisjoint(value if isinstance(value, list) else [value])

    def combined(self, facts: dict) -> tuple[np.ndarray, np.ndarray]:
        only(facts, "filter", "must", "should", "minimum_should_match")
        mask, scores = np.ones(self.count, dtype=bool), np.zeros(self.count, dtype=np.float32)
        for name in ("must", "should"):
            expect(len(facts.get(name, [])) <= CLAUSES, "maxClauseCount is set to 1024", "too_many_clauses")
        for one in facts.get("filter", []):
            mask &= self.passing(one)
        for one in facts.get("must", []):
            matching, of_one = self.scored(one)
            mask, scores = mask & matching, scores + of_one
        if facts.get("should"):
            both = [self.scored(one) for one in facts["should"]]
            least = facts.get("minimum_should_match", 0 if "filter" in facts or "must" in facts else 1)
            mask &= sum(matching.astype(int) for matching, _ in both) >= least
            scores = scores + sum(np.where(matching, of_one, 0) for matching, of_one in both)
        return mask, scores

    def bm25(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        """Lucene's BM25 of one word, times `k1 + 1` in Elasticsearch, which has that factor still."""
        counts = np.array([one[word] for one in self.index.words], dtype=np.float64)
        lengths = np.array([sum(one.values()) for one in self.index.words], dtype=np.float64)
        having = (counts > 0).sum()
        idf = np.log1p((self.count - having + 0.5) / (having + 0.5))
        norm = 1.2 * (0.25 + 0.75 * lengths / max(lengths.mean() if self.count else 1, 1e-9))
        scores = idf * counts / (counts + norm) * (2.2 if self.elastic else 1)
        return counts > 0, scores.astype(np.float32)

    def nearest(self, name: str, vector: list, k: int, passing: dict | None) -> tuple[np.ndarray, np.ndarray]:
        fields = self.index.mappings["properties"]
        width = fields.get(name, {}).get("dims" if self.elastic else "dimension")
        expect(width == len(vector), f"the query vector has a different dimension [{len(vector)}] than [{width}]")
        mask = np.zeros(self.count, dtype=bool)
        if not self.count:
            return mask, np.zeros(0, dtype=np.float32)
        products = self.index.vectors @ np.array(vector, dtype=np.float32)
        rows = np.flatnonzero(self.passing(passing)) if passing else np.arange(self.count)
        mask[rows[np.argsort(-products[rows], kind="stable")[:k]]] = True
        with np.errstate(divide="ignore"):
            return mask, np.where(products >= 0, 1 + products, 1 / (1 - products)).astype(np.float32)
