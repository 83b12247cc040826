"""Which axes of two operands are summed: subscripts as ints, without arrays (specs/60-layers.md, LAY-10)."""

import math
from dataclasses import dataclass

from refquant.granularity import Shape
from refquant.options import told

FREE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Contraction:
    """A product of two operands as one of matrices: (batch, rows, depth) times (batch, depth, columns) (LAY-10).

    Attributes:
      x: the axes of x in the order batch, rows, depth.
      weight: the axes of the weight in the order batch, depth, columns.
      out: the axes of (batch, rows, columns) in the order of the result.
      batch: how many axes are in both operands and in the result.
      depth: how many axes are summed.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, ...]
    batch: int
    depth: int

    @property
    def rows(self) -> int:
        """How many axes only x and the result have."""
        return len(self.x) - self.batch - self.depth

    @property
    def columns(self) -> int:
        """How many axes only the weight and the result have."""
        return len(self.weight) - self.batch - self.depth

    @property
    def x_summed(self) -> tuple[int, ...]:
        """The summed axes of x."""
        return self.x[self.batch + self.rows :]

    @property
    def weight_summed(self) -> tuple[int, ...]:
        """The summed axes of the weight."""
        return self.weight[self.batch : self.batch + self.depth]

    def products(self, weight: Shape) -> int:
        """How many products one sum has."""
        return math.prod(weight[axis] for axis in self.weight_summed)

    def out_shape(self, x: Shape, weight: Shape) -> Shape:
        """The shape of the result."""
        sizes = [x[a] for a in self.x[: self.batch + self.rows]]
        sizes += [weight[a] for a in self.weight[self.batch + self.depth :]]
        return tuple(sizes[axis] for axis in self.out)


def contraction(function: str, subscripts: str, x: Shape, weight: Shape) -> Contraction:
    """The axes that subscripts such as "bqd,dhe->bqhe" or "...d,df->...f" name.

    Args:
      function: the caller's name, for the message.
      subscripts: letters of x, of the weight and, after "->", of the result; "..." may stand in x and the result.
      x: its shape.
      weight: its shape.
    Raises:
      TypeError: subscripts are no text.
      ValueError: another form, a repeated letter, a letter that is summed over one operand alone, sizes that differ.

    Spec: LAY-10 (specs/60-layers.md).
    Example:
      >>> contraction("einsum", "bd,df->bf", (2, 3), (3, 4)).out_shape((2, 3), (3, 4))
      (2, 4)
    """
    left, right, out = _letters(function, subscripts, x, weight)
    sizes = dict(zip(left, x, strict=True))
    for letter, size in zip(right, weight, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(
                f"{function}: weight has shape {weight}, need {sizes[letter]} for {letter!r} of {subscripts!r} "
                f"(x has shape {x})"
            )
    batch = [c for c in left if c in right and c in out]
    rows = [c for c in left if c not in right]
    depth = [c for c in right if c in left and c not in out]
    columns = [c for c in right if c not in left]
    return Contraction(
        tuple(left.index(c) for c in batch + rows + depth),
        tuple(right.index(c) for c in batch + depth + columns),
        tuple((batch + rows + columns).index(c) for c in out),
        len(batch),
        len(depth),
    )


def _letters(function: str, subscripts: str, x: Shape, weight: Shape) -> tuple[str, str, str]:
    """The three terms, the ellipsis written out, each letter at most once in a term."""
    if not isinstance(subscripts, str):
        raise TypeError(f"{function}: subscripts are {told(subscripts)}, need 'x,weight->result' (LAY-10)")
    inputs, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or len(terms) != 2:
        raise ValueError(f"{function}: subscripts are {subscripts!r}, need 'x,weight->result' (two operands, LAY-10)")
    free = "".join(c for c in FREE if c not in subscripts)
    hidden = free[: max(0, len(x) - len(terms[0].replace("...", "")))] if "..." in terms[0] else ""
    left, right = terms[0].replace("...", hidden, 1), terms[1]
    out = out.replace("...", hidden, 1) if "..." in terms[0] else out
    for term in (left, right, out):
        if not all(c.isalpha() and c.isascii() for c in term) or len(set(term)) < len(term):
            raise ValueError(
                f"{function}: subscripts are {subscripts!r}, need each letter at most once in a term and '...' only in "
                "x and the result (LAY-10)"
            )
    for name, term, shape in (("x", left, x), ("weight", right, weight)):
        if len(term) != len(shape):
            raise ValueError(f"{function}: {name} has shape {shape}, need rank {len(term)} for {subscripts!r}")
    alone = (set(left) ^ set(right)) - set(out)
    if alone or set(out) - set(left) - set(right):
        raise ValueError(
            f"{function}: subscripts are {subscripts!r}, need every letter of one operand alone in the result, and "
            "none that no operand has (LAY-10)"
        )
    return left, right, out


def dense(function: str, x: Shape, weight: Shape) -> Contraction:
    """The axes of x · weight, the last of x against the first of the weight.

    Raises:
      ValueError: the shapes do not fit.
    """
    if len(weight) != 2 or not x or x[-1] != weight[0]:
        raise ValueError(f"{function}: x has shape {x} and weight {weight}, need (..., K) and (K, N)")
    last = len(x) - 1
    return Contraction(tuple(range(last + 1)), (0, 1), tuple(range(last + 1)), 0, 1)


def attend(function: str, x: Shape, table: Shape) -> Contraction:
    """The axes of x · transposed table, the last of each.

    Raises:
      ValueError: the shapes do not fit.
    """
    if len(table) != 2 or not x or x[-1] != table[1]:
        raise ValueError(f"{function}: x has shape {x} and table {table}, need (..., F) and (V, F)")
    last = len(x) - 1
    return Contraction(tuple(range(last + 1)), (1, 0), tuple(range(last + 1)), 0, 1)
