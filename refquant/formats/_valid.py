"""What a row may hold (FMT-9), in the words of `refquant.checks`, which knows the formats and comes after them."""


def whole(row: str, field: str, value: object, low: int, high: int, why: str) -> None:
    """A field is an integer from low to high.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{row}: {field} is {value!r}, need an integer from {low} to {high} ({why})")


def one_of(row: str, field: str, value: object, allowed: tuple[object, ...], why: str) -> None:
    """A field is one of a few values.

    Raises:
      ValueError: it is not.
    """
    if value not in allowed:
        raise ValueError(f"{row}: {field} is {value!r}, need {', '.join(map(repr, allowed))} ({why})")
