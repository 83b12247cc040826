"""How errors name layers."""


def named(path: str) -> str:
    """A layer as an error names it; the model itself is ".", as in a report."""
    return f"layer {path or '.'!r}"
