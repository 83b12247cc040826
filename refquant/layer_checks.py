"""What fits a layer operation: formats, granularities, shapes and dtypes, never values (specs/60-layers.md).

Both packages raise these texts (GEN-5).  Arrays appear only as owners of a shape and a dtype.
"""

from typing import Protocol, cast

from refquant import checks
from refquant.estimators import Estimator, LsqPlus, Ste
from refquant.formats import IntFormat
from refquant.granularity import Granularity, PerAxis, PerBlock, PerGroup, PerTensor, PerToken, Shape
from refquant.spec import QuantSpec


class Shaped(Protocol):
    """An array of either package, as the owner of a shape and a dtype."""

    @property
    def shape(self) -> Shape:
        """A tuple of ints."""
        ...

    @property
    def dtype(self) -> object:
        """Known by its name."""
        ...


class Quantized(Protocol):
    """A QTensor of either package."""

    @property
    def codes(self) -> Shaped:
        """Of the storage dtype of the format."""
        ...

    @property
    def scale(self) -> Shaped:
        """One element a tile."""
        ...

    @property
    def zero_point(self) -> Shaped | None:
        """As scale, or none."""
        ...

    @property
    def spec(self) -> QuantSpec:
        """What decides the bits."""
        ...


def integers(spec: QuantSpec) -> IntFormat:
    """The format of a side of a sum, which `check_layer` has made sure is an integer one (LAY-3)."""
    return cast(IntFormat, spec.fmt)


def magnitude(fmt: IntFormat, centred: bool) -> int:
    """The largest |code|, or |code − zero point| (LAY-8)."""
    return fmt.qmax - fmt.qmin if centred else fmt.max_magnitude


def check_layer(
    function: str,
    spec: QuantSpec,
    inputs: QuantSpec | None,
    rank: int,
    summed: tuple[int, ...],
    x_rank: int,
    x_summed: tuple[int, ...],
) -> None:
    """Both sides have integer codes and integer zero points, and scales that can leave the sum (LAY-2, LAY-3).

    Raises:
      ValueError: another format, granularity or zero point.
    """
    if inputs is None:
        return
    for name, one in (("weight", spec), ("inputs", inputs)):
        if not isinstance(one.fmt, IntFormat) or one.scale.zero == "float":
            raise ValueError(
                f"{function}: {name} has format {one.fmt.name} with zero {one.scale.zero!r}, need integer codes and "
                "integer zero points on both sides (or inputs=None: weights only)"
            )
    _leaves_the_sum(function, "weight", spec.granularity, rank, summed, groups=len(summed) == 1)
    _leaves_the_sum(function, "inputs", inputs.granularity, x_rank, x_summed, groups=False)


def _leaves_the_sum(
    function: str, name: str, grain: Granularity, rank: int, summed: tuple[int, ...], *, groups: bool
) -> None:
    if isinstance(grain, PerGroup) and groups and -rank <= grain.axis < rank and grain.axis % rank == summed[0]:
        return
    kept = _kept(grain, rank)
    if kept is not None and not set(kept) & set(summed):
        return
    outer = tuple(axis for axis in range(rank) if axis not in summed)
    also = f" or PerGroup({summed[0]}, size)" if groups else ""
    raise ValueError(
        f"{function}: {name} of rank {rank} with {grain!r}, need PerTensor(), one scale for indices of axes {outer} "
        f"alone{also} (other scales cannot leave the sum, LAY-2)"
    )


def _kept(grain: Granularity, rank: int) -> tuple[int, ...] | None:
    """The axes along which the scale varies index by index; None for groups and blocks."""
    if isinstance(grain, PerTensor):
        return ()
    if isinstance(grain, PerToken):
        return tuple(range(rank - 1))
    if isinstance(grain, PerAxis) and all(-rank <= axis < rank for axis in grain.axes):
        return tuple(axis % rank for axis in grain.axes)
    return None


def check_sums(function: str, products: int, spec: QuantSpec, inputs: QuantSpec, *, centred: tuple[bool, bool]) -> None:
    """The products of one sum fit int32, whatever the codes are (LAY-8).

    Args:
      function: the caller's name, for the message.
      products: in one sum; at most the group size where weights have groups.
      spec: of the weight.
      inputs: of the inputs.
      centred: whether inputs and weight have a zero point.
    Raises:
      ValueError: they might not.
    """
    if isinstance(spec.granularity, PerGroup):
        products = min(products, spec.granularity.size)
    largest = (magnitude(integers(side), own) for side, own in zip((inputs, spec), centred, strict=True))
    checks.accumulator(function, products, *largest)


def check_fold(epsilon: object, kernel: Shape, **channels: Shaped | None) -> None:
    """All that a batch norm has is one number an output channel (LAY-14).

    Args:
      epsilon: one number.
      kernel: its shape.
      channels: the other arrays by name, None for one that is not there.
    Raises:
      TypeError: epsilon is none.
      ValueError: a shape.
    """
    checks.number("fold", "epsilon", epsilon)
    if not kernel:
        raise ValueError("fold: kernel has shape (), need output channels along its last axis (LAY-14)")
    for name, one in channels.items():
        if one is not None:
            checks.same_shape("fold", name, one.shape, kernel[-1:], "the kernel's last axis")


def check_weight(function: str, weight: Quantized) -> None:
    """A QTensor's codes, scale and zero point are those of its spec.

    Args:
      function: the caller's name, for the message.
      weight: a QTensor of either package; only shapes and dtypes are read.
    Raises:
      TypeError: a dtype.
      ValueError: a shape.
    """
    spec, shape = weight.spec, tuple(weight.codes.shape)
    checks.codes_dtype(function, weight.codes.dtype, spec.fmt)
    checks.scale_dtype(function, weight.scale.dtype)
    checks.scale_shape(function, "scale", weight.scale.shape, shape, spec.granularity)
    if weight.zero_point is not None:
        checks.zero_point(function, weight.zero_point.dtype, {"float": "bias"}.get(spec.scale.zero, "int"), spec.fmt)
        checks.scale_shape(function, "zero_point", weight.zero_point.shape, shape, spec.granularity)


def check_static(function: str, inputs: QuantSpec | None, x: Shape, scale: Shape | None, zero: Shape | None) -> None:
    """A static scale belongs to quantized inputs, and a zero point to a static scale (LAY-4).

    Raises:
      ValueError: one without the other, or another shape.
    """
    if scale is None and zero is not None:
        raise ValueError(f"{function}: input_zero_point without input_scale, need both or neither (LAY-4)")
    if scale is None:
        return
    if inputs is None:
        raise ValueError(f"{function}: input_scale with inputs None, need the QuantSpec of the inputs (LAY-4)")
    for name, shape in (("input_scale", scale), ("input_zero_point", zero)):
        if shape is not None:
            checks.scale_shape(function, name, shape, x, inputs.granularity)


def check_learned(function: str, estimator: Estimator, inputs: QuantSpec | None, scale: bool, zero: bool) -> None:
    """A learned scale is given, and an offset exactly where the estimator learns one (LAY-12).

    Args:
      function: the caller's name, for the message.
      estimator: of the inputs.
      inputs: their spec.
      scale: whether input_scale was given.
      zero: whether input_zero_point was given.
    Raises:
      ValueError: it is not; or scales that are stored rounded.
    """
    if isinstance(estimator, Ste):
        return
    name, offset = type(estimator).__name__, isinstance(estimator, LsqPlus)
    if inputs is None:
        raise ValueError(f"{function}: input_estimator {name} with inputs None, need the QuantSpec of the inputs")
    if not scale or zero != offset:
        need = "input_scale and a float32 input_zero_point (the offset)" if offset else "input_scale alone"
        raise ValueError(f"{function}: input_estimator {name}, need {need}: what it learns (LAY-12)")
    _check_storage(function, "inputs", inputs)


def check_trained(function: str, spec: QuantSpec, shape: Shape, learned: tuple[Shape, ...], need: int) -> None:
    """What a weight in training learns beside its values has the shape of its scales (LAY-12).

    Args:
      function: the caller's name, for the message.
      spec: of the weight.
      shape: of the values.
      learned: shapes of the learned arrays.
      need: how many the estimator learns.
    Raises:
      ValueError: another number of arrays, another shape, or scales that are stored rounded.
    """
    if len(learned) != need:
        raise ValueError(f"{function}: weight has {len(learned)} learned arrays, need {need} (its estimator, LAY-12)")
    for one in learned:
        checks.scale_shape(function, "learned", one, shape, spec.granularity)
    if learned:
        _check_storage(function, "weight", spec)


def _check_storage(function: str, argument: str, spec: QuantSpec) -> None:
    if spec.scale.storage != "float32":
        raise ValueError(
            f"{function}: {argument} has scales in {spec.scale.storage}, need float32 (a learned scale is used as it "
            "is learned, EST-1)"
        )


def check_bias(
    function: str, shape: Shape, dtype: object, need: Shape, spec: QuantSpec, static: bool, *, broadcast: bool = False
) -> None:
    """A float bias, or an int32 one at scale s_x · s_w (LAY-1, LAY-9).

    Raises:
      TypeError: another dtype.
      ValueError: another shape, or an int32 bias without a static scale or beside weights in groups.
    """
    if str(dtype) not in (*checks.REAL, "int32"):
        raise TypeError(f"{function}: bias has dtype {dtype}, need float32, float16, bfloat16, or int32 (LAY-9)")
    fits = len(shape) <= len(need) and all(n in (1, m) for n, m in zip(shape[::-1], need[::-1], strict=False))
    if not (fits if broadcast else tuple(shape) == tuple(need)):
        why = "or a shape that broadcasts to it" if broadcast else "one an output channel"
        raise ValueError(f"{function}: bias has shape {tuple(shape)}, need {tuple(need)} ({why})")
    if str(dtype) == "int32" and (not static or isinstance(spec.granularity, PerGroup)):
        raise ValueError(
            f"{function}: bias has dtype int32, need float32, or a static input_scale and weights without groups (an "
            "integer bias has the one scale s_x * s_w, LAY-9)"
        )


def check_embed(function: str, ids: object, table: Shape) -> None:
    """Integers pick rows of a table of rank 2 (LAY-6).

    Raises:
      TypeError: ids are no integers.
      ValueError: another rank.
    """
    if not str(ids).startswith(("int", "uint")):
        raise TypeError(f"{function}: ids have dtype {ids}, need integers (they number rows, LAY-6)")
    if len(table) != 2:
        raise ValueError(f"{function}: table has shape {tuple(table)}, need (V, F)")


def row_tiles(width: int) -> Granularity:
    """The granularity of picked rows, each with the scales of its own tiles of that width."""
    return PerBlock((1, width))
