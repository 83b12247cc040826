"""Ctrl-C as a wish to stop soon: work that can end early asks, and what it has made so far is kept."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C only sets what the given function returns; the next one acts as ever.

    Outside of the main thread, which alone is given signals, nothing changes.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before: Any = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def handle(number: int, _: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
