"""Sizes of files as the commands tell them, in the terminal, in sentences and in the report."""


def size_text(count: int, *, decimals: int = 1) -> str:
    """`53.9 MB`, `202.4 kB`, `264 bytes`: 1 MB is 10^6 bytes; files of small models differ by kilobytes.

    Args:
      count: of bytes.
      decimals: 1 beside a score, whose interval is wider than a tenth; 2 where the size itself is the answer, as in
        `look`: a file of 8.04 GB does not fit in 8.
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.{decimals}f} {unit}"
    return f"{count} bytes"
