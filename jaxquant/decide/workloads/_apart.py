"""Which token rows are unlike all judged ones, so that a model can be trained on them and judged on the others."""

from collections import Counter, defaultdict

import numpy as np

MOST_SHARED = 0.5  # of the tokens of the smaller text


def apart(rows: np.ndarray, judged: np.ndarray, ignored: frozenset[int] = frozenset()) -> np.ndarray:
    """Where a row shares at most half of its distinct tokens, or of the other's, with every judged row: bool [n].

    Args:
      rows: int [n, tokens].
      judged: int [m, any tokens].
      ignored: tokens that count for nothing (padding, marks).
    """
    others = [set(map(int, row)) - ignored for row in judged]
    holders: dict[int, list[int]] = defaultdict(list)
    for index, tokens in enumerate(others):
        for token in tokens:
            holders[token].append(index)
    return np.array([_unlike(set(map(int, row)) - ignored, others, holders) for row in rows], bool)


def _unlike(tokens: set[int], others: list[set[int]], holders: dict[int, list[int]]) -> bool:
    shared = Counter(index for token in tokens for index in holders.get(token, ()))
    return all(count <= MOST_SHARED * min(len(tokens), len(others[index])) for index, count in shared.items())
