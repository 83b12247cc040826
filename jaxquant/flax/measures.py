"""What quantization does to one layer: the error of its output, what is clipped, which codes are in use."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxquant import affine
from jaxquant.flax import layers
from jaxquant.flax.report import table
from jaxquant.flax.site import LayerSpec
from jaxquant.qat import learned
from jaxquant.qat.trained import Trained
from jaxquant.qtensor import spec_convention, step
from refquant.estimators import Ste
from refquant.formats import IntFormat
from refquant.spec import QuantSpec

#: Why there is no error to tell, as the note below a table says it.
WAITS = "with a static input scale that is NaN until observe and calibrate have set it"
IDLE = "not called"
BROKEN = "with an output that is not finite, as behind a scale that is NaN"
ZERO = "with a float output of zeros alone"
HEADER = ("path", "error", "clipped inputs", "clipped weights", "codes in use", "bits in use")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["error", "signal", "inputs_clipped", "inputs", "weights_clipped", "weights", "used", "waits"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Measures:
    """Sums over the calls of one layer.

    Attributes:
      error: float32 (), squared differences of the layer's output from the float layer's on the same input.
      signal: float32 (), squares of the float layer's output.
      inputs_clipped: float32 (), elements of the inputs beyond a static range.
      inputs: float32 (), elements of the inputs.
      weights_clipped: float32 (), elements of the kernel beyond their range.
      weights: float32 (), elements of the kernel, once a call.
      used: bool (codes of the format,), which codes the kernel has.
      waits: bool (), whether its static input scale is not calibrated.
    """

    error: jax.Array
    signal: jax.Array
    inputs_clipped: jax.Array
    inputs: jax.Array
    weights_clipped: jax.Array
    weights: jax.Array
    used: jax.Array
    waits: jax.Array


@dataclass(frozen=True)
class Explanation:
    """One layer, in numbers.

    Attributes:
      path: of the layer; "[i]" behind it counts layers stacked for a scan.  Of an attention's product: that of the
        attention, and its name behind a blank ("attention QKᵀ").
      error: norm of the output's error over the norm of the float output; NaN where `why` says so.
      inputs_clipped: share of the inputs beyond the static range; NaN where that is not calibrated.
      weights_clipped: share of the kernel beyond its range.
      codes: distinct codes of the kernel.
      of: codes the format has; 0 where there is no kernel, as in an attention's products.
      bits: log2 of codes.
      why: there is no error to tell; "" where there is one.
    """

    path: str
    error: float
    inputs_clipped: float
    weights_clipped: float
    codes: int
    of: int
    bits: float
    why: str = ""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Told:
    """One layer's numbers as Flax's tables show them; those of layers stacked for a scan stand side by side."""

    error: str
    clipped_inputs: str
    clipped_weights: str
    codes_in_use: str
    bits_in_use: str


@dataclass(frozen=True)
class Explanations:
    """A row for every quantized layer and product of attention; `str` is a table."""

    rows: tuple[Explanation, ...]

    def told(self, path: str) -> Told | None:
        """What a table says of the layer at `path`; None: it has no row."""
        rows = [_cells(row)[1:] for row in self.rows if row.path.partition("[")[0] == path]
        return Told(*map(", ".join, zip(*rows, strict=True))) if rows else None

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        counts = Counter(row.why for row in self.rows if row.why)
        notes = [f"-: {'1 layer' if count == 1 else f'{count} layers'} {why}" for why, count in counts.items()]
        return "\n".join([table([HEADER, *[_cells(row) for row in self.rows]]), *notes])


def nothing(site: LayerSpec) -> Measures:
    """The sums of no call."""
    return replace(no_product(), used=jnp.zeros(2**site.weights.fmt.bits, bool))


def no_product() -> Measures:
    """The sums of no product of an attention: it has no kernel, and so no codes of one."""
    zero = jnp.float32(0)
    return Measures(zero, zero, zero, zero, zero, zero, jnp.zeros(0, bool), jnp.bool_(False))


def add(a: Measures, b: Measures) -> Measures:
    """The sums of both."""
    return jax.tree.map(lambda x, y: x | y if x.dtype == bool else x + y, a, b)


def measure(site: LayerSpec, kernel: jax.Array, state: layers.State, x: jax.Array, y: jax.Array, plain: jax.Array):
    """The sums of one call.

    Args:
      site: what the layer does.
      kernel: its master parameter.
      state: its leaves beside the kernel.
      x: its input (of any dtype; ids count as not clipped).
      y: its output.
      plain: the float layer's output on the same input.
    """
    wide, plain = y.astype(jnp.float32), plain.astype(jnp.float32)
    weight = layers.weight(site, kernel, state)
    codes = weight.quantized().codes.astype(jnp.int32)
    first = site.weights.fmt.qmin if isinstance(site.weights.fmt, IntFormat) else 0
    used = jnp.zeros(2**site.weights.fmt.bits, bool).at[codes.reshape(-1) - first].set(True)
    return Measures(
        jnp.sum(jnp.square(wide - plain)),
        jnp.sum(jnp.square(plain)),
        _clipped_inputs(site, state, x),
        jnp.float32(x.size),
        _clipped(weight.values, *weight.scale(), site.weights),
        jnp.float32(kernel.size),
        used,
        _waits(site, state, x),
    )


def measure_product(site: LayerSpec, subscripts: str, a: jax.Array, b: jax.Array, y: jax.Array) -> Measures:
    """The sums of one product of an attention, whose operands are both inputs.

    Args:
      site: how both are quantized.
      subscripts: of the product as an einsum.
      a: the left operand.
      b: the right one.
      y: their product on codes.
    """
    wide, plain = y.astype(jnp.float32), jnp.einsum(subscripts, a, b).astype(jnp.float32)
    operands = zip((a, b), layers.attention_specs(site, subscripts, a, b), strict=True)
    trained = [Trained(values, spec=spec) for values, spec in operands]
    sums = no_product()
    return replace(
        sums,
        error=jnp.sum(jnp.square(wide - plain)),
        signal=jnp.sum(jnp.square(plain)),
        inputs_clipped=sum((_clipped(one.values, *one.scale(), one.spec) for one in trained), sums.inputs_clipped),
        inputs=jnp.float32(a.size + b.size),
    )


def explanations(found: list[tuple[str, Measures]]) -> Explanations:
    """Rows from the sums of every layer; leading axes of layers stacked for a scan become rows of their own."""
    rows = []
    for path, sums in found:
        shape = np.shape(sums.error)
        for index in np.ndindex(shape):
            name = path + "".join(f"[{i}]" for i in index)
            rows.append(_row(name, jax.tree.map(lambda v, at=index: np.asarray(v)[at], sums)))
    return Explanations(tuple(rows))


def _row(path: str, sums: Measures) -> Explanation:
    codes = int(sums.used.sum())
    why = _why(sums)
    error = float("nan") if why else float(np.sqrt(sums.error / sums.signal))
    inputs = float(sums.inputs_clipped / sums.inputs) if sums.inputs else 0.0
    inputs = float("nan") if sums.waits else inputs
    weights = float(sums.weights_clipped / sums.weights) if sums.weights else 0.0
    return Explanation(path, error, inputs, weights, codes, len(sums.used), float(np.log2(max(codes, 1))), why)


def _why(sums: Measures) -> str:
    """Why the error has no value, "" where it has one."""
    if sums.waits:
        return WAITS
    if not sums.inputs:
        return IDLE
    if not np.isfinite(sums.signal + sums.error):
        return BROKEN
    return "" if sums.signal else ZERO


def _cells(row: Explanation) -> tuple[str, ...]:
    shares = ["-" if np.isnan(v) else f"{v:.2%}" for v in (row.error, row.inputs_clipped, row.weights_clipped)]
    if row.why == IDLE:
        return (row.path or ".", *["-"] * 3, *["-" if row.of else ""] * 2)
    if not row.of:
        return (row.path, *shares[:2], "", "", "")  # a product has no kernel
    return (row.path or ".", *shares, f"{row.codes} of {row.of}", f"{row.bits:.1f}")


def _by_constants(site: LayerSpec, x: jax.Array) -> bool:
    """Whether the call scales its input by constants: a look-up has ids."""
    return site.static and jnp.issubdtype(x.dtype, jnp.floating)


def _waits(site: LayerSpec, state: layers.State, x: jax.Array) -> jax.Array:
    names = [name for name in site.input_names if name != "inputs_zero_point"]
    return jnp.array([jnp.isnan(state[name]).any() for name in names if _by_constants(site, x)], bool).any()


def _clipped_inputs(site: LayerSpec, state: layers.State, x: jax.Array) -> jax.Array:
    """A scale of the input's own range clips nothing."""
    if not _by_constants(site, x):
        return jnp.float32(0)
    values = tuple(state[name] for name in site.input_names)
    if isinstance(site.input_estimator, Ste):
        return _clipped(x, values[0], values[1] if len(values) > 1 else None, site.inputs)
    return _clipped(x, *learned.effective(site.input_estimator, values, site.inputs.fmt), site.inputs)


def _clipped(x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, spec: QuantSpec) -> jax.Array:
    """How many elements no gradient would reach."""
    options = {"fmt": spec.fmt, "granularity": spec.granularity, "convention": spec_convention(spec)}
    ones = jnp.ones(x.shape, jnp.float32)
    inside = affine.fake_quantize_vjp(x, step(scale, spec), zero_point, ones, **options)
    return jnp.sum(inside == 0, dtype=jnp.int32).astype(jnp.float32)
