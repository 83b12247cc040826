"""Ctrl-C as a wish to stop soon: work that can end early asks for it, what must not be cut in two is finished first."""

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

    def handle(number: int, _: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    with _handled(handle) as before:
        yield lambda: bool(asked)


@contextmanager
def held_back() -> Iterator[None]:
    """Within it Ctrl-C waits, and acts at its end: for imports of compiled code, which crash or lose it, and cleanups.

    Outside of the main thread nothing changes.
    """
    asked: list[int] = []
    try:
        with _handled(lambda number, _: asked.append(number)):
            yield
    finally:
        if asked:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _handled(handle: Callable[[int, Any], None]) -> Iterator[Any]:
    """Within it Ctrl-C calls `handle`; gives what it did before, and does again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield signal.default_int_handler
        return
    before: Any = signal.getsignal(signal.SIGINT) or signal.default_int_handler
    signal.signal(signal.SIGINT, handle)
    try:
        yield before
    finally:
        signal.signal(signal.SIGINT, before)
