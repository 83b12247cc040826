"""What Flax's transforms refuse of leaves beside kernels, in words of this library."""

import traceback
from contextlib import contextmanager
from typing import Any


class NoPlace(ValueError):
    """A leaf has no place in the loop that its layer stands in."""


@contextmanager
def plain_words() -> Any:
    """Around a run that puts leaves beside kernels.

    Raises:
      NoPlace: a leaf has no place in the loop that its layer stands in.
    """
    try:
        yield
    except ValueError as error:
        if "data dependency on the scan body" not in str(error):
            raise
        raise NoPlace(
            "a layer inside nn.scan with variable_broadcast='params' can be neither observed nor explained, need "
            "dynamic input scales or a rule that keeps it (what its steps see has no place beside what they share)"
        ) from error
    except AssertionError as error:
        if not any(frame.name == "transpose_from_front" for frame in traceback.extract_tb(error.__traceback__)):
            raise
        raise NoPlace(
            "a layer inside nn.scan with its parameters stacked along an axis other than 0 has a leaf with fewer axes "
            "than that, need variable_axes={'params': 0}, or a rule without scalars (per-tensor learned or static "
            "scales, a schedule)"
        ) from error
