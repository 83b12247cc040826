"""Bounds of options, with the error text both packages share (GEN-5)."""


def within(function: str, argument: str, value: float, low: float, high: float, why: str) -> None:
    """An option lies in low..high (an integer where both bounds are).

    Raises:
      ValueError: it does not.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    if not isinstance(value, int if whole else int | float) or not low <= value <= high:
        kind = "an integer" if whole else "a number"
        raise ValueError(f"{function}: {argument} is {value!r}, need {kind} from {low} to {high} ({why})")
