"""What the commands of this room are told; see each one's `--help`."""

from dataclasses import dataclass


@dataclass
class DemoShopArguments:
    """How large a shop, and where.

    Args:
        output: Folder to write; files of an earlier run are replaced.
        products: Products in all splits; 2,400 take about a minute and 20 MB.
        queries: Queries in all splits.
        seed: Another seed, another shop.
    """

    output: str = "data/demo_shop"
    products: int = 2400
    queries: int = 1600
    seed: int = 0


@dataclass
class SpaceShopArguments:
    """What to sample, and where to write it.

    Args:
        data: The demo shop's folder.
        output: Folder to write, in the Hub's retrieval layout.
        products: How many products to keep; the first ones, so that all colours of a model stay together.
        queries: How many queries to keep at most.
    """

    data: str = "data/demo_shop"
    output: str = "space/shop"
    products: int = 200
    queries: int = 120
