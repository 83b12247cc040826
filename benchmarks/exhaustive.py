"""All 2^32 binary32 inputs: refquant, jaxquant and the exact third opinion on every one, job by job.

  python benchmarks/exhaustive.py                      every job; interrupt it and run it again to go on
  python benchmarks/exhaustive.py --job encode:e4m3fn --job quantize:int8:0x3dcccccd
  python benchmarks/exhaustive.py --sample 64          64 runs of 65,536 neighbouring inputs a job (what .ci/run does)
  python benchmarks/exhaustive.py --since 2026-11-29   those again that were begun before that day: arithmetic changed
  python benchmarks/exhaustive.py --list

The third opinion is tests/exact.py: its codes are found as steps on the ordered keys by bisection, so that it speaks
about every input at the price of a few thousand.  Results: benchmarks/results/exhaustive.json.
Exit code 5: a bit differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import exact  # noqa: E402
import exact_affine  # noqa: E402

import jaxquant  # noqa: E402
import refquant  # noqa: E402
from refquant.files import atomic_path  # noqa: E402
from refquant.formats import ALL  # noqa: E402

CHUNK = 1 << 20  # what stays in the caches: half the time of larger ones
SAVED = 1 << 26  # inputs between two savings of the state
RUN = 1 << 16
TOP = 1 << 32
INFINITY = 0x7F800000
SCALES = (0x3DCCCCCD, 0x3C000000, 0x3EAAAAAB, 0x42F6E979, 0x0D800000)  # 0.1, 2^-7, 1/3, 123.456, 2^-100
RESULTS = HERE / "results" / "exhaustive.json"


@dataclass(frozen=True)
class Job:
    """One function of one binary32 pattern: three authors of it, and its name."""

    name: str
    opinion: Callable[[int], int]
    reference: Callable[[np.ndarray], np.ndarray]
    backend: Callable[[np.ndarray], np.ndarray]


def encode_job(name: str) -> Job:
    fmt = ALL[name]
    return Job(
        f"encode:{name}",
        lambda bits: exact.encode(bits, fmt),
        lambda x: refquant.encode(x, fmt=fmt),
        lambda x: np.asarray(jaxquant.encode(x, fmt=fmt)),
    )


def quantize_job(name: str, scale_bits: int, zero_point: int | None) -> Job:
    fmt, scale = ALL[name], np.uint32(scale_bits).view(np.float32)
    zero = None if zero_point is None else np.int32(zero_point)
    suffix = "" if zero_point is None else f":{zero_point}"
    return Job(
        f"quantize:{name}:0x{scale_bits:08x}{suffix}",
        lambda bits: exact_affine.quantize(bits, scale_bits, zero_point, fmt=fmt),
        lambda x: refquant.quantize(x, scale, zero, fmt=fmt),
        lambda x: np.asarray(jaxquant.quantize(x, scale, zero, fmt=fmt)),
    )


def jobs() -> list[Job]:
    made = [encode_job(name) for name in ALL]
    for bits in SCALES:
        made += [quantize_job(name, bits, None) for name in ("int8", "int4", "e4m3fn", "nf4")]
        made.append(quantize_job("uint8", bits, 3))
    return made


@dataclass(frozen=True)
class Steps:
    """The third opinion as a whole: code of key k is the code of the last start at or below it."""

    starts: np.ndarray
    codes: np.ndarray
    minus_zero: int
    nan: tuple[int, int]

    def expected(self, first: int, count: int) -> np.ndarray:
        """Codes of the patterns first .. first + count − 1, all of one sign."""
        negative, low = first >> 31, first & 0x7FFFFFFF
        finite = max(0, min(count, INFINITY + 1 - low))
        keys = (-(low + finite - 1), -low + 1) if negative else (low, low + finite)
        found = self._ascending(*keys) if finite else self.codes[:0]
        found = found[::-1] if negative else found
        whole = np.concatenate([found, np.full(count - finite, self.nan[negative], self.codes.dtype)])
        if negative and low == 0:
            whole[0] = self.minus_zero
        return whole

    def _ascending(self, low: int, high: int) -> np.ndarray:
        a = int(np.searchsorted(self.starts, low, "right")) - 1
        b = int(np.searchsorted(self.starts, high - 1, "right")) - 1
        edges = np.concatenate([[low], self.starts[a + 1 : b + 1], [high]])
        return np.repeat(self.codes[a : b + 1], np.diff(edges))


def steps_of(job: Job, dtype: str) -> Steps:
    """By bisection: between two keys with one code there is no other code, because the function is monotone."""
    found: list[tuple[int, int]] = []

    def at(key: int) -> int:
        return job.opinion(key if key >= 0 else 0x80000000 | -key)

    stack = [(-INFINITY, INFINITY, at(-INFINITY), at(INFINITY))]
    while stack:
        low, high, code_low, code_high = stack.pop()
        if code_low == code_high:
            continue
        if high - low == 1:
            found.append((high, code_high))
            continue
        middle = (low + high) // 2
        code = at(middle)
        stack += [(low, middle, code_low, code), (middle, high, code, code_high)]
    found.sort()
    starts = np.array([-INFINITY, *(key for key, _ in found)], np.int64)
    codes = np.array([at(-INFINITY), *(code for _, code in found)]).astype(dtype)
    return Steps(starts, codes, job.opinion(0x80000000), (job.opinion(0x7FC00000), job.opinion(0xFFC00000)))


def compare(job: Job, steps: Steps, first: int, count: int) -> tuple[int, int, str | None]:
    """(refquant's, jaxquant's differences from the third opinion, the first differing input)."""
    x = np.arange(first, first + count, dtype=np.uint64).astype(np.uint32).view(np.float32)
    want = steps.expected(first, count)
    with np.errstate(all="ignore"):
        wrong = [np.asarray(f(x)) != want for f in (job.reference, job.backend)]
    where = np.flatnonzero(wrong[0] | wrong[1])
    return int(wrong[0].sum()), int(wrong[1].sum()), f"0x{first + int(where[0]):08x}" if where.size else None


def runs(sample: int | None, seed: int, steps: Steps) -> Iterator[tuple[int, int]]:
    """Every chunk of all patterns, or `sample` runs: half of them around steps, where a mistake is most likely."""
    if sample is None:
        yield from ((first, CHUNK) for first in range(0, TOP, CHUNK))
        return
    random = np.random.Generator(np.random.PCG64(seed))
    wide = random.integers(0, TOP // RUN, sample - sample // 2)
    keys = random.choice(steps.starts, sample // 2)
    near = np.where(keys < 0, (TOP >> 1) - keys, keys) // RUN
    for block in [0, TOP // RUN // 2, *wide.tolist(), *near.tolist()]:
        yield int(block) * RUN, RUN


def load(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def save(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(state, indent=1) + "\n")


def run_job(job: Job, state: dict, path: Path | None, sample: int | None) -> dict:
    """One job from where it stopped; the state of a whole run is saved as it goes."""
    fmt = ALL[job.name.split(":")[1]]
    steps = steps_of(job, fmt.storage)
    new = {"inputs": 0, "refquant": 0, "jaxquant": 0, "first": None, "seconds": 0.0, "begun": f"{date.today()}"}
    entry = state.setdefault(job.name, new)
    for first, count in runs(sample, sum(job.name.encode()), steps):
        if sample is None and first < entry["inputs"]:
            continue
        started = time.perf_counter()
        ref, jax_, where = compare(job, steps, first, count)
        entry["inputs"] += count
        entry["refquant"] += ref
        entry["jaxquant"] += jax_
        entry["first"] = entry["first"] or where
        entry["seconds"] = round(entry["seconds"] + time.perf_counter() - started, 3)
        if path is not None and entry["inputs"] % SAVED == 0:
            save(path, state)
        if sample is None and sys.stderr.isatty():
            print(f"\r{job.name:<36} {100 * entry['inputs'] / TOP:6.2f} %", end="", file=sys.stderr)
    entry["steps"] = len(steps.starts)
    entry["versions"] = f"numpy {np.__version__}, jax {jax.__version__} on {jax.default_backend()}"
    return entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", action="append", help="only this one; repeatable")
    parser.add_argument("--sample", type=int, help="runs of 65,536 inputs a job instead of all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where a whole run is recorded and resumed")
    parser.add_argument("--since", default="", help="run again what was begun before this day, such as 2026-11-29")
    parser.add_argument("--list", action="store_true", help="the names of the jobs")
    options = parser.parse_args()
    known = {job.name: job for job in jobs()}
    if options.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in options.job or () if name not in known]
    if unknown:
        parser.error(f"no job {unknown[0]!r}; --list names them")
    state = {} if options.sample else load(options.results)
    path = None if options.sample else options.results
    different = 0
    for name in options.job or known:
        if name in state and state[name]["begun"] < options.since:
            del state[name]
        entry = run_job(known[name], state, path, options.sample)
        if path is not None:
            save(path, state)
        different += entry["refquant"] + entry["jaxquant"]
        told = f"refquant {entry['refquant']}  jaxquant {entry['jaxquant']} differ  {entry['first'] or ''}"
        told = f"begun {entry['begun']}  {told}"
        print(f"{name:<36} {entry['inputs']:>13,} inputs  {entry['steps']} steps  {entry['seconds']:.0f} s  {told}")
    return 5 if different else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("exhaustive: stopped; the same command goes on where a recorded run was left", file=sys.stderr)
        sys.exit(130)
