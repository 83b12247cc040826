"""How the report writes numbers: one form a quantity, with its unit, a real minus sign, and a word for what is absent.

A no-break space stands between a number and its unit.  None and not-a-number never reach the page as such.
"""

import math
import re
from typing import Any

from jaxquant.sizes import size_text

NBSP, MINUS, NONE = "\u00a0", "−", "–"


def known(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def count(value: Any) -> str:
    """1234 → "1,234"."""
    return f"{value:,}" if known(value) else NONE


def size(value: Any) -> str:
    """Bytes, as the terminal tells them: "54.2 MB" (1 MB is 10^6 bytes)."""
    return size_text(round(value)).replace(" ", NBSP) if known(value) else NONE


def size_tick(value: float) -> str:
    """A size on an axis, without needless digits."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:g}{NBSP}{name}"
    return f"{value:g}{NBSP}bytes"


def fixed(value: Any, digits: int = 1) -> str:
    """A number with so many decimals; no negative zero."""
    if not known(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else MINUS)


def signed(value: Any, digits: int = 1) -> str:
    """A change: "+0.3", "−4.8", "0.0"."""
    text = fixed(value, digits)
    return f"+{text}" if known(value) and float(f"{value:.{digits}f}") > 0 else text


def significant(value: Any, digits: int = 3) -> str:
    """A quantity of any magnitude: "0.0829", "12.3", "1,240"; powers of ten only where it is tiny or huge."""
    if not known(value):
        return NONE
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    digits_after = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits_after}f}".replace("-", MINUS)


def percent(share: Any, digits: int = 1) -> str:
    """A share: 0.98 → "98.0 %"."""
    return f"{fixed(100 * share, digits)}{NBSP}%" if known(share) else NONE


def level(value: Any) -> str:
    """The level of an interval: 0.95 → "95 %"."""
    return f"{100 * value:.3g}{NBSP}%" if known(value) else NONE


def times(ratio: Any) -> str:
    """A ratio: "1.74×"."""
    return f"{significant(ratio)}×" if known(ratio) else NONE


def prose(text: Any) -> str:
    """A sentence made elsewhere, with real minus signs, × and ≤, and numbers kept with their units."""
    text = re.sub(r"(?<![\w.)])-(?=\d)", MINUS, str(text or ""))
    text = re.sub(r"(\d) x (?=float|\()", rf"\1{NBSP}× ", text)
    text = re.sub(r"(?<=\w)<=(?=\d)", f"{NBSP}≤{NBSP}", text)
    text = re.sub(r"(?<=\w)>=(?=\d)", f"{NBSP}≥{NBSP}", text)
    return re.sub(r"(\d) (?=(%|MB|bytes|points)(\W|$))", rf"\1{NBSP}", text)


def clipped(text: Any, most: int = 280) -> str:
    """A long text cut at a word, ending in an ellipsis."""
    text = str(text if text is not None else "")
    if len(text) <= most:
        return text
    return text[:most].rsplit(None, 1)[0].rstrip(" ,.;:") + " …"
