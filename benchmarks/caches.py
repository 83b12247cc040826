"""What refquant keeps between two calls, and how a trial of a mutant starts without it."""

import functools
import sys
from collections.abc import Mapping


def forget() -> None:
    """Drop what refquant computed: caches of functions, and cached properties of the rows of its tables."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "refquant":
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
                for row in value.values() if isinstance(value, Mapping) else ():
                    for key, kept in vars(type(row)).items():
                        if isinstance(kept, functools.cached_property):
                            vars(row).pop(key, None)
