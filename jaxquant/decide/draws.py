"""Batches drawn from the examples to train on, in an order that a seed fixes."""

from collections.abc import Iterator

import numpy as np

from jaxquant.decide.workloads import Batch, Material

POOLS = 4  # shapes that are trained on; each is a program to compile


class Draws:
    """Batches of one shape a pool; every example of a pool comes before one comes twice.

    Attributes:
      count: examples that are drawn from.
      rows: examples of the largest batch.
      probe: one batch to measure progress on, set aside where its pool has four batches or more.
    """

    def __init__(self, material: Material, rows: int, seed: int):
        """Of the pools with most examples, at most four.

        Args:
          material: with at least one pool.
          rows: examples a batch at most.
          seed: of the order.
        """
        pools = sorted(material.pools, key=lambda pool: -len(pool[0]))[:POOLS]
        self._seed = seed
        order = np.random.default_rng(seed).permutation(len(pools[0][0]))
        first = tuple(array[order] for array in pools[0])
        self.rows = min(rows, len(first[0]))
        self.probe = tuple(array[: self.rows] for array in first)
        kept = self.rows if len(first[0]) >= 4 * self.rows else 0
        self._pools = [tuple(array[kept:] for array in first), *pools[1:]]
        sizes = [len(pool[0]) for pool in self._pools]
        self.count = sum(sizes)
        self._rows = [min(self.rows, size) for size in sizes]
        self._shares = np.array(sizes) / self.count

    def samples(self) -> list[tuple[float, Batch]]:
        """The share of each pool in the batches, and its first batch."""
        pairs = zip(self._pools, self._rows, strict=True)
        parts = [tuple(array[:rows] for array in pool) for pool, rows in pairs]
        return [(float(share), part) for share, part in zip(self._shares, parts, strict=True)]

    def batches(self, count: int) -> Iterator[Batch]:
        """So many batches, the same ones at every call."""
        rng = np.random.default_rng(self._seed + 1)
        orders = [_endless(len(pool[0]), rng) for pool in self._pools]
        for _ in range(count):
            at = int(rng.choice(len(self._pools), p=self._shares))
            picked = np.fromiter(orders[at], np.int64, self._rows[at])
            yield tuple(array[picked] for array in self._pools[at])


def _endless(size: int, rng: np.random.Generator) -> Iterator[int]:
    """Each index once in random order, then again in another."""
    while True:
        yield from rng.permutation(size)
