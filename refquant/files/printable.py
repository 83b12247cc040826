"""Names from a file as a terminal may print them: whoever wrote the file does not steer the reader's screen."""

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def printable(text: str) -> str:
    r"""The text with control characters, lone surrogates and invisible marks as escapes; a line stays one line.

    Args:
      text: a name out of a file, or an error that repeats one.
    Returns:
      the same text where every character can be seen.

    Spec: CMD-2 (specs/80-commands.md).
    Example:
      >>> print(printable("a\x1b[31mRED.weight, größe"))
      a\x1b[31mRED.weight, größe
    """
    return "".join(c if c.isprintable() or c == NO_BREAK_SPACE else ascii(c)[1:-1] for c in text)
