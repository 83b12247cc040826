"""From the options of `encode` to a function: which format, which cast, which convention."""

import difflib
from argparse import Namespace
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from refquant import formats
from refquant.affine import dequantize, quantize
from refquant.cli.numbers import bits_of, parse_real, short
from refquant.codec import decode, encode
from refquant.conventions import CAST, DEFAULT, Affine, Cast, Lanes
from refquant.formats import Format, IntFormat
from refquant.options import options

INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True)
class Choice:
    """What is asked for; `scale` None means encode and decode, without a scale.

    Attributes:
      fmt: the format.
      scale: binary32, or None.
      zero_point: int32, float32 under zero "bias", or None.
      affine: the convention of quantize.
      cast: the cast of encode, and of quantize to floats and codebooks.
    """

    fmt: Format
    scale: np.float32 | None
    zero_point: np.int32 | np.float32 | None
    affine: Affine | Lanes = DEFAULT
    cast: Cast = CAST

    def codes(self, x: np.ndarray, place: np.ndarray | None = None, size: int = 0) -> np.ndarray:
        """The codes of a flat float32 array; `place` says where each stood among `size` (Lanes need it)."""
        if self.scale is None:
            return encode(x, fmt=self.fmt, cast=self.cast)
        if not isinstance(self.affine, Lanes):
            return self._quantized(x, self.affine)
        place, size = (np.arange(x.size), x.size) if place is None else (place, size)
        body, tail = self._quantized(x, self.affine.body), self._quantized(x, self.affine.tail)
        return np.where(place < self.affine.body_size(size), body, tail)

    def _quantized(self, x: np.ndarray, affine: Affine) -> np.ndarray:
        scale, zero_point = np.asarray(self.scale), self._zero_point()
        return quantize(x, scale, zero_point, fmt=self.fmt, convention=affine, cast=self.cast)

    def _zero_point(self) -> np.ndarray | None:
        return None if self.zero_point is None else np.asarray(self.zero_point)

    @np.errstate(all="ignore")
    def values(self, codes: np.ndarray) -> np.ndarray:
        """What the codes stand for; under op "given" the argument is turned over first."""
        if self.scale is None:
            return decode(codes, fmt=self.fmt)
        given = isinstance(self.affine, Affine) and self.affine.op == "given"
        scale = np.float32(1) / self.scale if given else self.scale
        return dequantize(codes, np.asarray(scale), self._zero_point(), fmt=self.fmt)

    def named(self) -> dict[str, Any]:
        """The choice for JSON."""
        return {
            "fmt": self.fmt.name,
            "scale_bits": None if self.scale is None else bits_of(self.scale),
            "zero_point": None if self.zero_point is None else self.zero_point.item(),
            "convention": None if self.scale is None or not isinstance(self.fmt, IntFormat) else _text(self.affine),
            "cast": {f.name: getattr(self.cast, f.name) for f in fields(Cast)},
        }

    def note(self) -> str:
        """What the rules let pass and a person who types it hardly means; "" where there is nothing to say."""
        told = [text for text in (self._scale_note(), self._zero_point_note()) if text]
        return f"note: {'; '.join(told)}" if told else ""

    def _scale_note(self) -> str:
        if self.scale is None or 0 < self.scale < np.inf:
            return ""
        if -np.inf < self.scale < 0:
            return f"a scale of {short(self.scale)} is no error, but codes fall where x rises (AFF-8)"
        return f"a scale of {short(self.scale)} is no error, but no code gives its number back (AFF-8)"

    def _zero_point_note(self) -> str:
        if not isinstance(self.fmt, IntFormat) or self.zero_point is None or self.zero_point.dtype != np.int32:
            return ""
        low, high = self.fmt.qmin, self.fmt.qmax
        if low <= self.zero_point <= high:
            return ""
        return f"a zero point of {self.zero_point} is no error, but outside {low}..{high}: no code gives 0 back (AFF-9)"

    def __str__(self) -> str:
        if self.scale is None:
            return f"encode to {self.fmt.name}"
        zero = f", zero point {short(self.zero_point)}" if self.zero_point is not None else ""
        convention = f", {_text(self.affine)}" if isinstance(self.fmt, IntFormat) else ""
        return f"quantize to {self.fmt.name} with scale {short(self.scale)}{zero}{convention}"


def _text(affine: Affine | Lanes) -> str:
    return f"{affine.body}; last n % {affine.n}: {affine.tail}" if isinstance(affine, Lanes) else str(affine)


def choose(arguments: Namespace) -> Choice:
    """The choice that the options make.

    Raises:
      ValueError: an option without meaning here; the message says what would have one.
    """
    fmt = formats.get(arguments.fmt)
    scale = None if arguments.scale is None else parse_real(arguments.scale.strip())
    convention = getattr(arguments, "convention", None)
    preset, changes = _convention(convention)
    if scale is None and (preset is not None or arguments.zero_point is not None):
        scale = np.float32(1)
    affine, cast = preset or DEFAULT, CAST
    for key in ("overflow", "ties", "nan"):
        if getattr(arguments, key, None) is not None:
            changes[key] = getattr(arguments, key)
    for key, value in changes.items():
        _check_key(key, fmt, scale)
        if _is_affine(key, fmt, scale):
            affine = _changed(affine, key, value)
        else:
            cast = _changed(cast, key, value)
    real = (
        convention is None and "convention" not in arguments and not _is_integer(arguments.zero_point)
    )  # decode: DEQ-2
    bias = real or (isinstance(affine, Affine) and affine.zero == "bias")
    return Choice(fmt, scale, _zero_point(arguments.zero_point, fmt, bias), affine, cast)


def _is_integer(text: str | None) -> bool:
    try:
        return text is None or int(text, 0) is not None
    except ValueError:
        return False


def _check_key(key: str, fmt: Format, scale: np.float32 | None) -> None:
    """Refuses a key that no convention and no cast has; names those that have a meaning here."""
    known = dict.fromkeys(field.name for point in (Affine, Cast) for field in fields(point))
    if key not in known:
        here = ", ".join(name for name in known if _has_meaning(name, fmt, scale))
        more = " (more with --scale)" if scale is None else ""
        raise ValueError(f"there is no {key!r} for {fmt.name}, need one of {here}{more}")


def _has_meaning(key: str, fmt: Format, scale: np.float32 | None) -> bool:
    try:
        _is_affine(key, fmt, scale)
    except ValueError:
        return False
    return True


def _is_affine(key: str, fmt: Format, scale: np.float32 | None) -> bool:
    """Whether a key belongs to quantize (AFF) or to a cast (ENC); refuses what would change nothing."""
    if key in ("op", "prec") or (
        key in ("zero", "overflow", "ties", "nan") and isinstance(fmt, IntFormat) and scale is not None
    ):
        if scale is None:
            raise ValueError(f"{key} is given without --scale, need one ({key} is part of the division by it)")
        return True
    if isinstance(fmt, IntFormat) and key in ("overflow", "zero"):
        raise ValueError(f"{key} has no meaning for {fmt.name} without --scale (integers saturate, ENC-1)")
    return False


def _changed(point: Any, key: str, value: str) -> Any:
    if isinstance(point, Lanes):
        raise ValueError(f"{key}={value} cannot change a convention that depends on the position, need the name alone")
    need = [word for word in options(type(point))[key] if word]
    if value not in need:
        raise ValueError(f"{key} is {value!r}, need one of {', '.join(need)}")
    return replace(point, **{key: value})


def _convention(text: str | None) -> tuple[Affine | Lanes | None, dict[str, str]]:
    """A preset's name and KEY=VALUE changes, separated by commas."""
    preset, changes = None, {}
    for part in (text or "").split(",") if text is not None else ():
        key, equals, value = part.strip().partition("=")
        if equals:
            changes[key] = value
        else:
            preset = _preset(key)
    return preset, changes


def _preset(name: str) -> Affine | Lanes:
    from refquant.conventions.presets import PRESETS

    if name in PRESETS:
        return PRESETS[name].affine
    near = ", ".join(difflib.get_close_matches(name, PRESETS, 3, 0.4)) or ", ".join(PRESETS)
    raise ValueError(f"convention is {name!r}, need a name of `refquant show conventions`; nearest: {near}")


def _zero_point(text: str | None, fmt: Format, bias: bool) -> np.int32 | np.float32 | None:
    if text is None:
        return None
    text = text.strip()
    if not isinstance(fmt, IntFormat):
        raise ValueError(f"--zero-point is given for {fmt.name}, need none (only integer formats have one)")
    if bias:
        return parse_real(text)
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(f"--zero-point is {text!r}, need an integer (a real one belongs to zero=bias)") from None
    if value not in INT32:
        raise ValueError(f"--zero-point is {text}, need an int32: {INT32[0]}..{INT32[-1]}")
    return np.int32(value)
