"""One kind of error apart: an input that cannot be read, which commands answer with exit code 4 (CMD-1)."""


class UnreadableFile(ValueError):
    """A file that is missing, cut off, or not what its name or header says."""
