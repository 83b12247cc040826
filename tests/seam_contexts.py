"""Every context in which XLA might undo a guard of jaxquant/_exact.py, and how its bits are compared there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

BF16 = ml_dtypes.bfloat16


def f32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


def contexts(f: Callable, args: tuple, want: np.ndarray, *, eager: bool = True) -> Iterator[tuple[str, object]]:
    """(name, result) of f(*args) wherever a user may put it; several at once in one program, for compile time."""
    dev = [jnp.asarray(a) for a in args]
    axes = tuple(0 if np.ndim(a) else None for a in args)
    rows = [d if a is None else jnp.reshape(d, (8, -1, *d.shape[1:])) for d, a in zip(dev, axes, strict=True)]
    stacked = [jnp.stack([d] * 3) for d in dev]
    if eager:  # one program a primitive, so a long function needs it least and pays for it most
        yield "eager", f(*dev)
        yield "vmap eager", jax.vmap(f, axes)(*dev)
    yield "jit", jax.jit(f)(*dev)
    yield from jax.jit(lambda: {"all constant": f(*_constants(args))})().items()
    yield from jax.jit(lambda *d: dict(_partly_constant(f, args, d)))(*dev).items()
    yield from jax.jit(lambda d, r, s: dict(_batched(f, args, axes, (d, r, s), want)))(dev, rows, stacked).items()
    yield from jax.jit(lambda d, r, go: dict(_controlled(f, args, axes, (d, r), want, go)))(dev, rows, True).items()


def _constants(args: tuple) -> list[jax.Array]:
    return [jnp.asarray(a) for a in args]


def _partly_constant(f: Callable, args: tuple, dev: tuple) -> Iterator[tuple[str, object]]:
    for i in range(len(args)):
        yield (
            f"argument {i} constant",
            f(*[c if j == i else d for j, (c, d) in enumerate(zip(_constants(args), dev, strict=True))]),
        )
        yield (
            f"argument {i} alone",
            f(*[d if j == i else c for j, (c, d) in enumerate(zip(_constants(args), dev, strict=True))]),
        )


def _batched(f: Callable, args: tuple, axes: tuple, arrays: tuple, want: np.ndarray) -> Iterator[tuple[str, object]]:
    dev, rows, stacked = arrays
    yield "vmap", jax.vmap(f, axes)(*dev)
    yield "vmap of rows", jnp.reshape(jax.vmap(f, axes)(*rows), want.shape)
    for i in range(len(args)):
        one = tuple(0 if j == i else None for j in range(len(args)))
        for name, rest in (("alone", dev), ("over constants", _constants(args))):
            mixed = [stacked[i] if j == i else d for j, d in enumerate(rest)]
            yield f"vmap of argument {i} {name}", jax.vmap(f, one)(*mixed)[1]


def _controlled(
    f: Callable, args: tuple, axes: tuple, arrays: tuple, want: np.ndarray, go: jax.Array
) -> Iterator[tuple[str, object]]:
    (dev, rows), mapped = arrays, [a is not None for a in axes]
    zeros = jnp.zeros(want.shape, want.dtype)
    yield (
        "scan",
        jnp.reshape(lax.scan(lambda c, xs: (c, f(*_merge(xs, c, mapped))), *_carry(rows, mapped))[1], want.shape),
    )
    yield "scan of constants", lax.scan(lambda c, _: (c, f(*_constants(args))), 0, None, length=2)[1][1]
    yield "while", lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, f(*dev)), (0, zeros))[1]
    yield "cond", lax.cond(go, lambda: f(*dev), lambda: zeros)
    yield "remat", jax.checkpoint(f)(*dev)
    yield "grad", jax.grad(lambda y, a: (y * 2, f(*a)), has_aux=True)(1.0, dev)[1]


def _carry(rows: list, mapped: list[bool]) -> tuple[tuple, tuple]:
    pairs = list(zip(rows, mapped, strict=True))
    return tuple(r for r, m in pairs if not m), tuple(r for r, m in pairs if m)


def _merge(xs: tuple, carry: tuple, mapped: list[bool]) -> list:
    xs, carry = iter(xs), iter(carry)
    return [next(xs) if m else next(carry) for m in mapped]


def wrong(got: object, want: np.ndarray) -> int:
    got = np.asarray(got)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32}[want.dtype.itemsize]
    differs = got.view(unsigned) != want.view(unsigned)
    if want.dtype.kind == "f" or want.dtype == BF16:
        differs &= ~(np.isnan(f32(got)) & np.isnan(f32(want)))
    return int(differs.sum())


def check(f: Callable, args: tuple, want: np.ndarray, *, eager: bool = True) -> None:
    failures = {name: count for name, got in contexts(f, args, want, eager=eager) if (count := wrong(got, want))}
    assert not failures, f"elements that differ, of {want.size}, by context: {failures}"
