"""Which products could give each other away, the split that they all go to, and the judgments that follow them."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping

from training.catalogue.query_log import Judged, same_text


class Groups:
    """Groups of products that share a group, a title or a picture file, directly or through others.

    Products are known by their ids; a group is named by the smallest id in it, whatever the order of the products.
    """

    def __init__(self) -> None:
        self.root: dict[str, str] = {}
        self.first: dict[int, str] = {}  # product that first had a key, by the key's hash

    def add(self, product: Mapping[str, str], pictures: Iterable[str]) -> None:
        """Adds a product.

        Args:
            product (`Mapping[str, str]`): `id`, `title` and `group`; the last two may be missing or empty.
            pictures (`Iterable[str]`): digests of its picture files.
        """
        item = self.root.setdefault(product["id"], product["id"])
        title = product.get("title") or ""
        title = same_text(title if title.isascii() else unicodedata.normalize("NFKC", title))
        keys = [("group", product.get("group")), ("title", title), *(("picture", digest) for digest in pictures)]
        for key in keys:
            if key[1]:
                smaller, larger = sorted((self.of(item), self.of(self.first.setdefault(hash(key), item))))
                self.root[larger] = smaller

    def of(self, item: str) -> str:
        """The name of a product's group."""
        root = self.root
        while root[item] != item:
            root[item] = item = root[root[item]]
        return item

    def all(self) -> dict[str, str]:
        """The group of each product."""
        return {item: self.of(item) for item in self.root}


def choose_split(key: str, shares: dict[str, float], seed: int) -> str:
    """The split of a group: a hash of the seed and the group's key picks a point along the shares."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    *others, last = shares
    for split in others:
        point -= shares[split]
        if point < 0:
            return split
    return last


def split_judgments(splits: Iterable[str], judged: Judged, split_of: Mapping[str, str]) -> dict[str, dict[str, list]]:
    """The `queries` and `qrels` rows of each split, sorted; a query is in each where a product is relevant to it.

    Args:
        splits (`Iterable[str]`): the splits' names.
        judged (`Judged`): what the log says.
        split_of (`Mapping[str, str]`): the split of each product.
    """
    rows = {split: {"queries": [], "qrels": []} for split in splits}
    relevant = {(split_of[product], query) for (query, product), grade in judged.grades.items() if grade > 0}
    ids = {pair: f"{pair[0]}-q-{hashlib.sha256(pair[1].encode()).hexdigest()[:16]}" for pair in sorted(relevant)}
    for (split, query), query_id in ids.items():
        novel = split != "train" and ("train", query) not in ids
        row = {"_id": query_id, "text": judged.texts[query], "slice": "", "novel": novel, "attributes": ""}
        rows[split]["queries"].append(row | {"frequency": judged.frequencies[query]})
    for (query, product), grade in sorted(judged.grades.items()):
        split = split_of[product]
        if query_id := ids.get((split, query)):
            rows[split]["qrels"].append({"query-id": query_id, "corpus-id": product, "score": grade})
    return rows
