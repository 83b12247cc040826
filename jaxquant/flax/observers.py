"""Statistics of a layer's inputs, and the static scale that follows from them: thin over jaxquant.calibration."""

from typing import Any

import jax
import numpy as np

from jaxquant.calibration import ema, entropy, histogram, linear, minmax, mse, percentile
from jaxquant.calibration.ema import EmaState
from jaxquant.calibration.histogram import HistogramState
from jaxquant.calibration.linear import LinearState
from jaxquant.calibration.minmax import MinMaxState
from jaxquant.flax.names import named
from jaxquant.flax.site import LayerSpec
from jaxquant.qat import starting

Stats = MinMaxState | EmaState | HistogramState | LinearState
MODULES = {MinMaxState: minmax, EmaState: ema, HistogramState: histogram, LinearState: linear}


def init(site: LayerSpec) -> Stats:
    """Statistics that have seen nothing, of the kind that the site's calibration needs."""
    name, _, number = site.calibration.partition(":")
    if name == "ema":
        return ema.init(averaging_constant=float(number)) if number else ema.init()
    return {"minmax": minmax, "percentile": histogram, "mse": linear, "entropy": linear}[name].init()


def update(stats: Stats, x: jax.Array) -> Stats:
    """The statistics after one more input, float32, float16 or bfloat16 of any shape."""
    return MODULES[type(stats)].update(stats, x)


def merge(a: Stats, b: Stats) -> Stats:
    """The statistics that have seen what a and b have seen: other batches, another device."""
    return MODULES[type(a)].merge(a, b)


def finalize(stats: Stats | None, site: LayerSpec, *, path: str = "", stacked: int = 0) -> dict[str, jax.Array]:
    """The static leaves of the inputs' quantizer, by the site's `input_names`; checked where values are known.

    Args:
      stats: of one layer, or of layers stacked along leading axes.
      site: what the layer does.
      path: of the layer, for the message.
      stacked: how many leading axes count layers.
    Raises:
      ValueError: the statistics are of another calibration, have seen no data, or NaN or infinities.
    """
    _check_kind(stats, site.calibration, path)
    check(stats, path)

    def one(stats: Stats) -> dict[str, jax.Array]:
        low, high = seen_range(stats, site)
        values = starting.from_range(site.input_estimator, low, high, site.inputs)
        return dict(zip(site.input_names, values, strict=True))

    for _ in range(stacked):
        one = jax.vmap(one)
    return one(stats)


def seen_range(stats: Stats, site: LayerSpec) -> tuple[jax.Array, jax.Array]:
    """The range that the site's calibration makes of the statistics: low and high, float32 ()."""
    name, _, number = site.calibration.partition(":")
    if name == "percentile":
        return percentile.finalize(stats, millionths=int(number)) if number else percentile.finalize(stats)
    if name == "mse":
        spec = site.inputs
        return mse.finalize(stats, fmt=spec.fmt, rule=spec.scale, convention=spec.convention)
    if name == "entropy":
        return entropy.finalize(stats, fmt=site.inputs.fmt)
    return MODULES[type(stats)].finalize(stats)


def _check_kind(stats: Stats | None, calibration: str, path: str) -> None:
    """Refuse statistics that another recipe's calibration observed."""
    name = calibration.partition(":")[0]
    need = {"percentile": HistogramState, "mse": LinearState, "entropy": LinearState}.get(name, MinMaxState | EmaState)
    if stats is not None and not isinstance(stats, need):
        raise ValueError(
            f"calibrate: {named(path)} has statistics of type {type(stats).__name__}, need those of {calibration!r} "
            "(another recipe observed them)"
        )


def check(stats: Stats | None, path: str) -> None:
    """Refuse statistics without data, of zeros alone, or of what is not finite; unknown ones (traced, abstract) pass.

    Raises:
      ValueError: see above; None has no data.
    """
    if stats is None:
        raise ValueError(_no_data(path))
    seen = stats if isinstance(stats, MinMaxState) else stats.seen
    counts: list[Any] = [seen.count, seen.nan, seen.inf]
    if any(isinstance(v, jax.core.Tracer | jax.ShapeDtypeStruct) for v in counts):
        return
    count, nan, inf = (np.asarray(v) for v in counts)
    if ((count == 0) & (nan == 0) & (inf == 0)).any():
        raise ValueError(_no_data(path))
    if nan.any() or inf.any():
        raise ValueError(
            f"calibrate: {named(path)} saw {int(nan.sum())} NaN and {int(inf.sum())} infinite inputs, need finite "
            "data (a range cannot hold them)"
        )
    if not (np.asarray(seen.low).any() or np.asarray(seen.high).any()):
        raise ValueError(
            f"calibrate: {named(path)} saw zeros alone, need data with which it is at work, or a rule that keeps it in "
            "float (the scale of zeros is 2**-100, and clips everything else)"
        )


def _no_data(path: str) -> str:
    return f"calibrate: {named(path)} saw no data, need observe with inputs that reach it"
