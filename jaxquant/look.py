"""What a checkpoint would weigh and where it would hurt: sizes from headers, errors from data.  NumPy alone, no JAX."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import refquant
from jaxquant.distances import Distance, by_distance, json_row
from jaxquant.sizes import size_text
from jaxquant.streams import quantized_runs
from refquant import files, qtensor, scales
from refquant.files.printable import printable
from refquant.files.quantized import Plan, entries, plan, predicted_bytes, stored_plans
from refquant.schemes import Scheme, parse

GIGABYTES = (8, 16, 24)
SCHEMES = (
    "int8:channel",
    "w=int8:channel,e=int8:channel",
    "e4m3fn:channel",
    "int4:g128:sf16",
    "w=int4:g128:sf16,e=int4:g128:sf16",
    "w=nf4:g64:sf16,e=int8:channel",
    "w=int3:g32:sf16,e=int8:channel",
    "w=int2:g32:sf16,e=int8:channel",
)


@dataclass(frozen=True)
class Size:
    """A checkpoint under one scheme.

    Attributes:
      scheme: its text, "as it is" for the source.
      classes: class → bytes (linear, embedding, conv, other).
      total: bytes of the file or files, headers included.
      bits_per_weight: total bits over elements.
      fits: gigabytes (10^9 bytes) of memory → bytes left beside the weights; negative where they do not fit.
    """

    scheme: str
    classes: dict[str, int]
    total: int
    bits_per_weight: float
    fits: dict[int, int]


def sizes(headers: list[files.Header], schemes: tuple[str, ...] = SCHEMES) -> list[Size]:
    """The source and every scheme, from headers alone; of a quantized source itself alone.

    Raises:
      ValueError: a scheme that cannot be parsed, or metadata of a quantized file that does not fit its tensors.
    """
    total = sum(header.file_size for header in headers)
    as_it_is = _size("as it is", [stored_plans(header) for header in headers], total)
    return [as_it_is, *(_planned(text, headers) for text in schemes if not any(map(entries, headers)))]


def _planned(text: str, headers: list[files.Header]) -> Size:
    plans = [plan(header.tensors, parse(text)) for header in headers]
    total = sum(predicted_bytes(part, header.metadata) for part, header in zip(plans, headers, strict=True))
    return _size(text, plans, total)


def _size(text: str, plans: list[tuple[Plan, ...]], total: int) -> Size:
    classes: dict[str, int] = {}
    for one in (p for part in plans for p in part):
        classes[one.kind] = classes.get(one.kind, 0) + one.bits // 8
    weights = sum(one.info.size for part in plans for one in part)
    fits = {gb: gb * 10**9 - total for gb in GIGABYTES}
    return Size(text, classes, total, 8 * total / max(weights, 1), fits)


def tensor_errors(header: files.Header, scheme: Scheme) -> list[dict[str, Any]]:
    """Error of every tensor that the scheme quantizes, worst first; one run of rows in memory at a time (FIL-9).

    Returns:
      dicts with name, kind, shape, error (‖x − x̂‖ / ‖x‖), sqnr_db (None: exact), worst (largest |x − x̂|), not_finite
      (elements of x).  A tensor with any of those has error, sqnr_db and worst NaN and comes before all others.
    """
    rows = [_error(header, one) for one in plan(header.tensors, scheme) if one.scheme]
    return sorted(rows, key=by_distance)


def _runs(header: files.Header, one: Plan) -> Iterator[tuple[np.ndarray, Any]]:
    """The tensor run by run: float32, with the QTensor."""
    info = one.info

    def read(start: int, stop: int) -> np.ndarray:
        rows = files.read_rows(header, info.name, start, stop)  # bfloat16 is widened by its bits
        return (rows.astype(np.uint32) << 16).view(np.float32) if info.dtype == "BF16" else rows.astype(np.float32)

    return quantized_runs(qtensor, scales, read, info.shape, one.spec)


def _error(header: files.Header, one: Plan) -> dict[str, Any]:
    distance, bad = Distance(), 0
    for x, q in _runs(header, one):
        bad += int(np.count_nonzero(~np.isfinite(x)))
        distance.add(x, refquant.dequantize_tensor(q))
    far = dict.fromkeys(("error", "worst"), float("nan")) if bad else distance.found()
    with np.errstate(divide="ignore"):
        decibel = float(-20 * np.log10(far["error"])) if far["error"] else None
    named = {"name": one.info.name, "kind": one.kind, "shape": list(one.info.shape)}
    return named | {"error": far["error"], "sqnr_db": decibel, "worst": far["worst"], "not_finite": bad}


def look_command(
    path: Path, *, errors: str | None, schemes: tuple[str, ...] = (), picture: Path | None, top: int, as_json: bool
) -> int:
    """Runs the verb; returns its exit code.

    Args:
      path: a file, a folder of shards or their index.json.
      errors: the scheme of which errors are measured; None: the data are not read.
      schemes: more rows of the table of sizes; `errors` has one too.
      picture: where the worst tensor is drawn.
      top: how many tensors are printed.
      as_json: one JSON document instead of text.
    Raises:
      ValueError: a bad file or scheme, a picture without --errors, a picture that exists.
      OSError: the picture cannot be written, which is tried.
    """
    if picture is not None:
        if errors is None:
            raise ValueError("look: --picture is given without --errors, need a scheme to draw the grid of")
        files.refuse_existing(picture, way="")
        files.refuse_unwritable(picture, "look")
    headers, own = files.read_headers(path), tuple(str(parse(text)) for text in (errors, *schemes) if text is not None)
    found: dict[str, Any] = {"path": str(path), "quantized": _schemes(headers)}
    if own and found["quantized"]:
        option = "--errors" if errors is not None else "--scheme"
        raise ValueError(f"look: {path} is quantized already, need the float source for {option}")
    found["sizes"] = [vars(size) for size in sizes(headers, tuple(dict.fromkeys(SCHEMES + own)))]
    if errors is not None:
        scheme = parse(errors)
        rows = [row | {"file": str(h.path)} for h in headers for row in tensor_errors(h, scheme)]
        if not rows:
            raise ValueError(f"look: scheme '{errors}' fits no tensor of {path}, need a matrix or a convolution kernel")
        found["errors"] = sorted(rows, key=by_distance)
        found["worst"] = _worst(found["errors"][0], scheme, picture)
    if as_json:
        found |= {"errors": [json_row(row) for row in found["errors"]]} if "errors" in found else {}
        print(json.dumps(found, indent=1))
    else:
        _print(headers, found, top, errors, picture)
    return 0


def _schemes(headers: list[files.Header]) -> dict[str, int]:
    """Scheme → tensors, of what is quantized already."""
    return dict(Counter(str(one.scheme) for header in headers for one in stored_plans(header) if one.scheme))


def _worst(row: dict[str, Any], scheme: Scheme, picture: Path | None) -> dict[str, Any]:
    from jaxquant.grids import against_grid

    header = files.read_header(row["file"])
    one = next(p for p in plan(header.tensors, scheme) if p.info.name == row["name"])
    drawn = {"name": row["name"], "scheme": str(one.scheme)} | against_grid(_runs(header, one), one.spec)
    if picture is not None:
        from jaxquant.pictures import draw_grid

        draw_grid(drawn, picture)
    return drawn


def _print(headers: list[files.Header], found: dict[str, Any], top: int, errors: str | None, picture: Any) -> None:
    tensors = [one.info for header in headers for one in stored_plans(header)]
    weights = sum(info.size for info in tensors)
    path = printable(found["path"])
    source = "from the header alone" if errors is None else "sizes from the header, errors from the data"
    print(f"{path}: {weights:,} elements in {len(tensors)} tensors, {len(headers)} file(s), {source}")
    if found["quantized"]:
        made = ", ".join(f"{count} as {scheme}" for scheme, count in found["quantized"].items())
        print(f"quantized already: {made}; other schemes need the float source")
    print()
    print(f"{'scheme':<38} {'linear':>10} {'embed':>10} {'other':>10} {'total':>10}  bits/el  fits in {GIGABYTES} GB")
    for size in found["sizes"]:
        part = {k: size["classes"].get(k, 0) for k in ("linear", "conv", "embedding", "other")}
        columns = (part["linear"] + part["conv"], part["embedding"], part["other"], size["total"])
        fits = " ".join(f"{'yes' if left >= 0 else 'no':>4}" for left in size["fits"].values())
        parts = " ".join(f"{size_text(c, decimals=2):>10}" for c in columns)
        print(f"{size['scheme']:<38} {parts}  {size['bits_per_weight']:>7.2f}  {fits}")
    print()
    print("'fits' counts the weights alone: activations and caches need room of their own.  Scales are counted.")
    if errors is None and not found["quantized"]:
        print("Errors of each tensor: add --errors SCHEME.  Accuracy needs the model itself: jaxquant decide --help")
    if errors is not None:
        _print_errors(found, top, picture)


def _print_errors(found: dict[str, Any], top: int, picture: Any) -> None:
    from jaxquant.grids import terminal_histogram

    scheme = found["worst"]["scheme"]
    print(f"\nerror of each tensor under {scheme}, worst first (its length over the tensor's; no accuracy)")
    for row in found["errors"][:top]:
        decibel = "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:6.2f} dB"
        bad = f"  {row['not_finite']:,} NaN or infinite" if row["not_finite"] else ""
        print(f"  {row['error']:8.5f}  {decibel}  {row['kind']:<9} {printable(row['name'])} {tuple(row['shape'])}{bad}")
    print(f"\n{printable(found['worst']['name'])} in units of its scales, with the grid below it")
    print(terminal_histogram(found["worst"]))
    if picture is not None:
        print(f"picture: {picture}")
