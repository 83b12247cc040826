"""Answers against expectations: any_of, unspecified and open NaNs included (specs/80-commands.md, CMD-6)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WIDTH = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}
NAN_ABOVE = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}
KEYS = ("codes", "bits", "results")


@dataclass(frozen=True)
class Difference:
    """A case that is answered wrongly: which result, where first, what was expected and what came."""

    case: dict[str, Any]
    why: str
    count: int = 0


def judge(case: dict[str, Any], answer: dict[str, Any]) -> Difference | None:
    """The difference between an answer and its case; None where they agree or the rule leaves the result open."""
    expect = case["expect"]
    if "unspecified" in expect:
        return None
    wanted = expect.get("any_of", [expect])
    given = next((answer[key] for key in KEYS if key in answer), None)
    if given is None:
        return Difference(case, f"the answer has neither {', '.join(KEYS[:-1])} nor {KEYS[-1]}")
    reasons = [_against(one, given) for one in wanted]
    if any(reason is None for reason in reasons):
        return None
    why, count = min((r for r in reasons if r is not None), key=lambda reason: reason[1])
    return Difference(case, why, count)


def _against(expect: dict[str, Any], given: Any) -> tuple[str, int] | None:
    """The first difference in words, and how many elements differ."""
    if not isinstance(given, dict):
        if len(expect) != 1:
            return f"{len(expect)} results are expected, need 'results': an object with {', '.join(expect)}", 1 << 30
        given = {next(iter(expect)): given}
    missing = [name for name in expect if name not in given]
    if missing:
        return f"the answer lacks {', '.join(missing)}", 1 << 30
    found = [(name, wrong) for name, array in expect.items() if (wrong := _array(array, given[name])) is not None]
    if not found:
        return None
    name, (why, _) = found[0]
    return (f"{name}: " if len(expect) > 1 else "") + why, sum(wrong[1] for _, wrong in found)


def _array(array: dict[str, Any], given: Any) -> tuple[str, int] | None:
    given = given.get("bits", given) if isinstance(given, dict) else given
    want, got = list(_flat(array["bits"])), list(_flat(given))
    if len(want) != len(got):
        return f"{len(got)} elements, need {len(want)}", max(len(want), 1)
    dtype = array.get("dtype", "")
    wrong = [k for k, (a, b) in enumerate(zip(want, got, strict=True)) if not _same(a, b, dtype)]
    if not wrong:
        return None
    first = wrong[0]
    return f"element {first}: expected {_word(want[first], dtype)}, got {_word(got[first], dtype)}", len(wrong)


def _flat(value: Any) -> Iterable[Any]:
    if not isinstance(value, list):
        return [value]
    return (leaf for part in value for leaf in _flat(part))


def _same(want: Any, got: Any, dtype: str) -> bool:
    """Equal bits; where any NaN is right ("nan"), any NaN pattern of the dtype."""
    if want == "nan":
        return got == "nan" or _is_nan(_pattern(got, dtype), dtype)
    pattern = _pattern(want, dtype)
    return pattern is not None and pattern == _pattern(got, dtype)


def _pattern(word: Any, dtype: str) -> int | None:
    """An element as an integer: hexadecimal text of a float's bits (0x or not), or an int."""
    if isinstance(word, bool) or not isinstance(word, int | str):
        return None
    if isinstance(word, int):
        return word
    try:
        return int(word, 16 if dtype in WIDTH or word.lower().startswith("0x") else 10)
    except ValueError:
        return None


def _is_nan(pattern: int | None, dtype: str) -> bool:
    return pattern is not None and dtype in WIDTH and pattern & ((1 << (WIDTH[dtype] - 1)) - 1) > NAN_ABOVE[dtype]


def _word(word: Any, dtype: str) -> str:
    text = str(word)[:40]
    return f"0x{text}" if dtype in WIDTH and isinstance(word, str) and word != "nan" and text[:2] != "0x" else text


def suspects(cases: Iterable[dict[str, Any]], wrong: set[str]) -> list[tuple[str, int, int]]:
    """Flags by how many of their cases are wrong: (flag, wrong, all), the most telling first."""
    counts: dict[str, list[int]] = {}
    for case in cases:
        for flag in case.get("flags", ()):
            told = counts.setdefault(flag, [0, 0])
            told[0] += case["id"] in wrong
            told[1] += 1
    rows = [(flag, bad, every) for flag, (bad, every) in counts.items() if bad]
    return sorted(rows, key=lambda row: (-row[1] / row[2], -row[1], row[0]))
