"""What visitors brought: their own products, each found again only by the secret key that their page made."""

import time
from collections import OrderedDict
from threading import Lock

from catalogue import Catalogue, VisitorError

KEPT_SECONDS = 3600
MAX_PRODUCTS = 30_000  # of all visitors together


class Visitors:
    """The catalogues of visitors, kept for an hour after they were last searched.

    When there are more than `MAX_PRODUCTS` products of all visitors, those go first that were not searched for
    longest; a visitor whose products went is told so.
    """

    def __init__(self):
        self.kept: OrderedDict[str, tuple[int, Catalogue, float]] = OrderedDict()
        self.lock = Lock()

    def keep(self, visitor: str, number: int, catalogue: Catalogue) -> None:
        """Keeps what a visitor brought, unless what they brought later is there already.

        Args:
            visitor (`str`): the key of their page.
            number (`int`): which of their files it is, from 1.
            catalogue (`Catalogue`): its products.
        """
        with self.lock:
            if visitor in self.kept and self.kept[visitor][0] > number:
                return
            self.kept[visitor] = (number, catalogue, time.monotonic())
            self.kept.move_to_end(visitor)
            self._forget_old()

    def find(self, visitor: str) -> tuple[int, Catalogue]:
        """The number and the products of what a visitor brought last.

        Raises:
            VisitorError: if they brought nothing, or it went.
        """
        with self.lock:
            self._forget_old()
            if visitor not in self.kept:
                raise VisitorError(
                    "Your products are not here: they are kept for an hour, and shorter when many visit. Bring them "
                    "again, under 'Your products', or search the shop."
                )
            number, catalogue, _ = self.kept[visitor]
            self.kept[visitor] = (number, catalogue, time.monotonic())
            self.kept.move_to_end(visitor)
            return number, catalogue

    def forget(self, visitor: str) -> None:
        """Forgets what a visitor brought."""
        with self.lock:
            self.kept.pop(visitor, None)

    def _forget_old(self) -> None:
        now, total = time.monotonic(), sum(len(catalogue) for _, catalogue, _ in self.kept.values())
        while self.kept:
            _, catalogue, used = next(iter(self.kept.values()))
            if total <= MAX_PRODUCTS and now - used < KEPT_SECONDS:
                return
            self.kept.popitem(last=False)
            total -= len(catalogue)
