"""Where learned and static scales start: from the values of a weight, or from a calibrated range."""

import jax
import jax.numpy as jnp

from jaxquant import scales
from jaxquant.bits import key_of, value_of
from jaxquant.qat.lsq import lsq_init
from jaxquant.qat.lsq_plus import lsq_plus_from_range, lsq_plus_init
from refquant.estimators import Estimator, Lsq, LsqPlus, Pact
from refquant.spec import QuantSpec


def from_values(estimator: Estimator, values: jax.Array, spec: QuantSpec) -> tuple[jax.Array, ...]:
    """What an estimator of a weight learns, at its start; () for Ste.

    Args:
      estimator: Ste, Lsq or LsqPlus.
      values: float32, float16 or bfloat16.
      spec: what the codes mean.
    Returns:
      float32 arrays of shape `spec.granularity.scale_shape(values.shape)`: (scale,), (scale, offset) or ().

    Spec: LSQ-3, LSP-5 (specs/62-estimators.md).  Class: exact.
    """
    options = {"fmt": spec.fmt, "granularity": spec.granularity}
    if isinstance(estimator, LsqPlus):
        return tuple(lsq_plus_init(values, **options))
    return (lsq_init(values, **options),) if isinstance(estimator, Lsq) else ()


def from_range(estimator: Estimator, low: jax.Array, high: jax.Array, spec: QuantSpec) -> tuple[jax.Array, ...]:
    """The static or learned numbers of an input quantizer whose range is known.

    Args:
      estimator: Ste, Lsq, LsqPlus or Pact.
      low: float32, at most 0; from an observer.
      high: float32, shape of low, at least 0.
      spec: what the codes mean.
    Returns:
      Ste: (scale,) or (scale, zero_point); Lsq: (scale,); LsqPlus: (scale, offset); Pact: (bound,).

    Spec: SCL-1..SCL-8 (specs/30-scales.md), LSP-6 (specs/62-estimators.md).  Class: exact.
    """
    if isinstance(estimator, Pact):
        return (high,)
    if isinstance(estimator, LsqPlus):
        return tuple(lsq_plus_from_range(low, high, fmt=spec.fmt))
    if isinstance(estimator, Lsq) and not spec.fmt.signed:
        low = value_of(jnp.maximum(key_of(low), 0))  # no zero point: the codes start at 0
    scale, zero_point = scales.choose_scale(low, high, fmt=spec.fmt, rule=spec.scale)
    return (scale,) if zero_point is None or isinstance(estimator, Lsq) else (scale, zero_point)
