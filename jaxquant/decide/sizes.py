"""Sizes of files as decide tells them, in the terminal, in its sentences and in the report."""


def size_text(count: int) -> str:
    """`53.9 MB`, `202.4 kB`, `264 bytes`: 1 MB is 10^6 bytes; files of small models differ by kilobytes."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
