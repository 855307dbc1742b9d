"""Which rows of a batch a process encodes, and how the processes' vectors and gradients come together.

All processes draw the same batch. Each encodes its share of the queries and products, gets the others' vectors, scores
its own queries against all products and its own products against all queries; the gradients of all scores flow back
to the process that encoded a vector. So the loss and the gradients are those of one process with the whole batch.
"""

from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

PATIENCE = timedelta(days=30)  # of a process for the others, while one runs the encoders or ends its own work


@dataclass(frozen=True)
class Share:
    """A process' share of a batch: every `world`-th row, beginning with row `rank`.

    Attributes:
        rank (`int`): the process' number.
        world (`int`): how many processes there are.
    """

    rank: int = 0
    world: int = 1

    def rows(self, count: int) -> slice:
        """The process' rows out of `count`."""
        return slice(self.rank, count, self.world)

    def encoded_rows(self, count: int) -> range:
        """The rows that the process encodes: its own, or row 0, to no effect, if it has none."""
        return range(count)[self.rows(count)] or range(1)

    def gather(self, own: torch.Tensor, count: int) -> torch.Tensor:
        """All processes' vectors `(count, dim)` in the batch's order, from this one's `(rows, dim)`; no gradients."""
        own = own.detach()
        if self.world == 1:
            return own.clone()
        size = -(-count // self.world)
        padded = own.new_zeros(size, *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(found, padded)
        return torch.stack(found, dim=1).flatten(0, 1)[:count]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor
