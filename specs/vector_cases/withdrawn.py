"""Cases that were wrong.  DATA: file, then id and why.  A withdrawn id is never used again."""

WITHDRAWN: dict[str, dict[str, str]] = {}
