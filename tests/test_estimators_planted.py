"""Does the suite see mistakes in estimators?  Each known one is planted, and a check must turn red."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import pytest
import test_estimators as suite
from plants import planted, replaced

from refquant.conventions import Affine
from refquant.granularity import PerAxis, PerGroup, PerTensor

Check = Callable[[], None]
TILES, LEARNED, PLUS = "refquant.qat._tiles", "refquant.qat.learned", "refquant.qat.lsq_plus"
WHOLE, GROUP = PerTensor(), PerGroup(1, 5)


def over_seeds(check: Callable, package: str, *args: object) -> None:
    for seed in range(6):
        check(package, *args, seed=seed)


def ours(check: Callable, *args: object) -> Check:
    return functools.partial(over_seeds, check, "refquant", *args)


lsq = ours(suite.check_lsq, GROUP, "per_scale", "ratio", "int4")
lsq_whole = ours(suite.check_lsq, WHOLE, "per_scale", "ratio", "int4")
alone = ours(suite.check_lsq, PerAxis((0, 1)), "none", "ratio", "int4")
rounded = ours(suite.check_lsq, GROUP, "per_scale", "rounded", "int4")
features = ours(suite.check_lsq, WHOLE, "features", "ratio", "int4")
plus = ours(suite.check_plus, GROUP, "per_scale", "ratio", "uint8")
layer = ours(suite.check_layer, GROUP, "none", "ratio", "uint8")
inverse = ours(suite.check_layer, GROUP, "none", "ratio", "uint8", Affine(op="inv"))
given = ours(suite.check_layer, GROUP, "none", "ratio", "uint8", Affine(op="given"))
pact = ours(suite.check_pact, PerAxis(1), "uint4")
chance = ours(suite.check_stochastic, GROUP, "int4")
starts = ours(suite.check_initial, GROUP, "int4")

#: what goes wrong: (module, snippet, with the mistake, the check that must see it)
PLANTS = {
    "floor missing": (TILES, "return np.asarray(np.where(size < floor, floor, size))", "return size", lsq),
    "NaN scale becomes the floor": (
        TILES, "np.where(size < floor, floor, size)", "np.where(size >= floor, size, floor)", lsq),
    "sign of the scale forgotten": (TILES, "np.where(np.signbit(learned), -found, found)", "found", lsq),
    "sign of -0 forgotten": (TILES, "np.where(np.signbit(learned), -found, found)",
                             "np.where(learned < 0, -found, found)", lsq),
    "ratio of subnormals": (TILES, "return flush(flush(x.astype(np.float32)) / divisor)",
                            "return x.astype(np.float32) / divisor", alone),
    "ratio by a reciprocal": (TILES, "flush(flush(x.astype(np.float32)) / divisor)",
                              "flush(flush(x.astype(np.float32)) * (np.float32(1) / divisor))", alone),
    "small terms count": (TILES, "np.where(np.abs(values) < SMALLEST, np.float32(0), values)", "values",
                          alone),
    "sum order": (TILES, "tree_sum(blocks, tuple(range(1, blocks.ndim, 2)))",
                  "tree_sum(tree_sum(blocks, 1), 2) if blocks.ndim == 4 else tree_sum(blocks, 1)", lsq_whole),
    "NumPy's sum": (TILES, "tree_sum(blocks, tuple(range(1, blocks.ndim, 2)))",
                    "blocks.sum(tuple(range(1, blocks.ndim, 2)), dtype=np.float32)", lsq_whole),
    "no gradient scale": (TILES, "found = flush(total * np.float32(factor))", "found = flush(total)", lsq),
    "gradient scale a term": (LEARNED, "total = _tiles.summed(_tiles.counted(weight * cotangent.astype(np.float32)),",
                              "total = _tiles.summed(_tiles.counted(weight * cotangent.astype(np.float32) * "
                              "np.float32(plan.factor)) / np.float32(plan.factor),", lsq),
    "features count the batch": (
        "refquant.estimators", 'sizes[1:] if kind == "features" else sizes', "sizes", features),
    "qmax left out": ("refquant.estimators", "return reciprocal_root(max(count, 1) * max(fmt.qmax, 1))",
                      "return reciprocal_root(max(count, 1))", lsq),
    "mask rounds": (LEARNED, "ones, **options, mask=plan.mask) == 1", 'ones, **options, mask="rounded") == 1', lsq),
    "mask does not round": (
        LEARNED, "ones, **options, mask=plan.mask) == 1", 'ones, **options, mask="ratio") == 1', rounded),
    "mask strict": (LEARNED, "mask=plan.mask) == 1  # EST-3",
                    "mask=plan.mask) == 1; inside &= (codes > plan.fmt.qmin) & (codes < plan.fmt.qmax)", lsq),
    "outside the end of the range twice": (
        LEARNED, "weight = np.where(inside, steps - ratio, steps)", "weight = steps - ratio", lsq),
    "zero point not straight through": (
        LEARNED, "outside = np.where(follows, steps + real, steps)", "outside = steps", layer),
    "offset learns inside": (LEARNED, "np.where(~inside & follows, wide, np.float32(0))", "np.where(follows, wide, 0)",
                             layer),
    "offset learns where clamped": (
        LEARNED, "np.where(~inside & follows, wide, np.float32(0))", "np.where(~inside, wide, np.float32(0))", layer),
    "zero point of the other sign": (LEARNED, "_tiles.ratio(-offset, step)", "_tiles.ratio(offset, step)", layer),
    "zero point truncated": (LEARNED, "np.rint(np.clip(", "np.trunc(np.clip(", layer),
    "codes by division": (LEARNED, '"convention": plan.convention}', '"convention": DEFAULT}', inverse),
    "reciprocal not given": (
        LEARNED, 'np.float32(1) / step if plan.convention.op == "given" else step', "step", given),
    "a NaN offset is silent": (
        LEARNED, "step = np.where(np.isnan(real), real, step)", "step = np.asarray(step)", layer),
    "offset added after the rounding": (
        PLUS, "return flush((steps + np.float32(0)) * step + base).astype(x.dtype)",
        "return flush((steps + np.rint(base / step)) * step).astype(x.dtype)", plus),
    "offset's gradient inside": (
        PLUS, "shifts = np.where(inside, np.float32(0), wide)", "shifts = np.where(inside, wide, np.float32(0))", plus),
    "fused sum": (PLUS, "flush((steps + np.float32(0)) * step + base)",
                  "flush(((steps + np.float64(0)) * step + base).astype(np.float32))", plus),
    "PACT passes at its bound": (LEARNED, "(wide >= 0) & (wide < bound)", "(wide >= 0) & (wide <= bound)", pact),
    "PACT stops at zero": (LEARNED, "(wide >= 0) & (wide < bound)", "(wide > 0) & (wide < bound)", pact),
    "PACT learns above its bound only": (LEARNED, "np.where(wide >= bound,", "np.where(wide > bound,", pact),
    "zero point before random rounding": (
        "refquant.qat.stochastic", "+ np.clip(zero, fmt.qmin, fmt.qmax)", "+ zero", chance),
    "random bits of another scale": (
        "refquant.qat.stochastic", "round_stochastic(ratio, bits)", "round_stochastic(ratio, bits << 1)", chance),
    "mean of whole tiles": (
        TILES, "return np.maximum(found, 1).astype(np.float32)",
        "return np.full_like(found, found.max(), np.float32)", starts),
    "sample deviation": (PLUS, "np.sqrt(_tiles.means(distance * distance, granularity))",
                         "np.sqrt(_tiles.means(distance * distance, granularity) * np.float32(1.25))", starts),
}  # fmt: skip


@functools.cache
def green(check: Check) -> bool:
    check()
    return True


@pytest.mark.parametrize("name", list(PLANTS))
def test_planted_bug_is_seen(name):
    """EST-1..EST-6, LSQ-2, LSQ-3, LSP-1..LSP-5, PCT-2, PCT-3, SRD-1: a mistake in the reference is red."""
    module, old, new, check = PLANTS[name]
    assert green(check)
    with planted(module, old, new), pytest.raises(AssertionError):
        check()


def jax_plants() -> dict[str, tuple[str, str, object, Check]]:
    """What goes wrong in jaxquant: (module, attribute, the mistake, check)."""
    import jax.numpy as jnp

    from jaxquant import _exact
    from jaxquant.qat import _tiles

    def theirs(check: Callable, *args: object) -> Check:
        return functools.partial(over_seeds, check, "jaxquant", *args)

    lsq = theirs(suite.check_lsq, PerTensor(), "per_scale", "ratio", "int4")
    return {
        "floor missing": ("jaxquant.qat._tiles", "used", lambda v, steps=1: jnp.abs(v), lsq),
        "XLA's sum": ("jaxquant._exact", "tree_sum", lambda x, axis: jnp.sum(x, axis), lsq),
        "XLA's division": ("jaxquant._exact", "div", lambda x, s: x / s,  # by a constant: by a scale JAX 0.8 divides
                           theirs(suite.check_pact, PerAxis(1), "uint4")),
        "small terms count": ("jaxquant.qat._tiles", "counted", _exact.rounded,
                              theirs(suite.check_lsq, PerAxis((0, 1)), "none", "ratio", "int4")),
        "sign forgotten": ("jaxquant.qat._tiles", "finished",
                           lambda total, factor, learned=None: _exact.flush(total * jnp.float32(factor)), lsq),
        "means of whole tiles": ("jaxquant.qat._tiles", "counts",
                                 lambda shape, tile: jnp.float32(_tiles.math.prod(map(min, shape, tile))),
                                 theirs(suite.check_initial, GROUP, "int4")),
        "root by the library": ("jaxquant._exact", "square_root", lambda x: jnp.exp2(jnp.log2(x) / 2),
                                theirs(suite.check_initial, GROUP, "int4")),
    }  # fmt: skip


HAVE_JAX = importlib.util.find_spec("jax") is not None


@pytest.mark.parametrize("name", list(jax_plants()) if HAVE_JAX else [])
def test_planted_bug_in_jax_is_seen(name):
    """EST-1, EST-2, EST-4, LSQ-3, LSP-5: a mistake in the mirror is red."""
    module, attribute, mistake, check = jax_plants()[name]
    check()
    with replaced(module, attribute, mistake), pytest.raises(AssertionError):
        check()
