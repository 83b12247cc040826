"""Trials of mutants: one pytest session collects everything, and forks a child for each mutant.

A child swaps the code of the changed function and runs the tests that call it: known killers first, then the cheap
ones.  A mutant of what an import runs gets a child that has not imported refquant yet, and test files of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy
import hypothesis.internal.conjecture.engine  # noqa: F401
import ml_dtypes  # noqa: F401
import numpy  # noqa: F401
import pytest
from caches import forget
from mutants import ROOT, Finder, Mutant, changed_function, function_of

MEMORY = 6 << 30  # bytes: a mutated size must not take the machine with it
BUDGET = 6.0  # seconds of tests that a mutant may cost; the dearest tests are left out
SESSION = (
    "affine blocks calibration calibration_entropy calibration_mse calibration_percentile codec conventions errors "
    "estimators formats layers layers_exact packing qtensor refquant_smoke requantize rounding scales schemes shapes "
    "sums thresholds vectors"
)
OPTIONS = ["-x", "-s", "--assert=plain", "-p", "no:terminal"]
Key = tuple[str, str]  # file and qualified name of a function


def files(names: str) -> list[str]:
    return [f"tests/test_{name}.py" for name in names.split()]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed (by which test), timeout, survived, or that it needs the other way."""

    word: str
    by: str = ""


class Children:
    """At most `jobs` of them; each writes what it has to say into a file."""

    def __init__(self, jobs: int, take: Callable[[Mutant, Outcome], None]):
        self.jobs, self.take = jobs, take
        self.running: dict[int, tuple[Mutant, Path]] = {}

    def start(self, mutant: Mutant, work: Callable[[], str], seconds: float) -> None:
        """Fork; the child runs `work`, which gives the name of the failed test, and may take so much CPU time."""
        while len(self.running) >= self.jobs:
            self.wait()
        handle, name = tempfile.mkstemp(prefix="mutant-")
        os.close(handle)
        process = os.fork()
        if process == 0:
            with contextlib.suppress(BaseException):
                limits(seconds)
                Path(name).write_text(work() or "none")
            os._exit(0)
        self.running[process] = mutant, Path(name)

    def wait(self) -> None:
        process, status = os.wait()
        mutant, path = self.running.pop(process)
        by = path.read_text()
        path.unlink()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            self.take(mutant, Outcome("timeout"))
        elif by == "none":
            self.take(mutant, Outcome("survived"))
        else:
            self.take(mutant, Outcome("killed", by or "an error outside a test"))

    def drain(self) -> None:
        while self.running:
            self.wait()


def limits(seconds: float) -> None:
    cpu = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def quiet_hypothesis() -> None:
    """Without chance, and without the search for a smaller example."""
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    base = hypothesis.settings.get_profile("ci")
    hypothesis.settings.register_profile("mutation", parent=base, phases=phases, database=None)
    hypothesis.settings.load_profile("mutation")


class First:
    """A pytest plugin that notes the first failure."""

    failed = ""

    def pytest_collection(self) -> None:
        quiet_hypothesis()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (f"collecting {report.nodeid}" if report.failed else "")


def prepare() -> None:
    """What every child may inherit; refquant itself is not imported yet."""
    os.environ["CI"] = "1"
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    assert "refquant" not in sys.modules


def fresh(mutant: Mutant | None, tests: list[str]) -> str:
    """Import the mutant's text and run the tests; the failed one, or nothing."""
    first = First()
    if mutant:
        sys.meta_path.insert(0, Finder(mutant))
    code = pytest.main([*OPTIONS, *tests], plugins=[first])
    return first.failed if first.failed or code == 0 else f"pytest's exit code {int(code)}"


class Session(First):
    """A pytest plugin: runs everything once, then the trials instead."""

    def __init__(self, queue: list[Mutant], children: Children, kills: Counter):
        self.queue, self.children, self.kills = queue, children, kills
        self.seconds: dict[str, float] = {}
        self.callers: dict[Key, set[str]] = {}
        self.items: dict[str, pytest.Item] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        self.run_all(session)
        forget()
        for mutant in self.queue:
            self.trial(mutant)
        self.children.drain()
        return True

    def run_all(self, session: pytest.Session) -> None:
        """The tests pass on what is; their seconds; which functions they call."""
        for item, following in pairs(session.items):
            forget()  # else a function behind a cache has one caller
            with self.noting(item.nodeid):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                raise SystemExit(f"a test fails on the code as it is: {self.failed}")

    @contextlib.contextmanager
    def noting(self, name: str) -> Iterator[None]:
        folder, callers = str(ROOT / "refquant"), self.callers

        def call(frame, event: str, argument: object) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(folder):
                callers.setdefault((code.co_filename, code.co_qualname.split(".<")[0]), set()).add(name)

        started = time.process_time()
        sys.setprofile(call)
        try:
            yield
        finally:
            sys.setprofile(None)
            self.seconds[name] = time.process_time() - started

    def trial(self, mutant: Mutant) -> None:
        module = importlib.import_module(f"refquant.{mutant.module}")
        changed = changed_function(mutant)
        function = changed and function_of(mutant.module, changed[0])
        names = self.callers.get((module.__file__, changed[0]), set()) if changed else set()
        if not function or not names:
            self.children.take(mutant, Outcome("import"))
            return
        chosen = self.chosen(names)
        limit = 10 + 5 * sum(self.seconds[name] for name in chosen)
        self.children.start(mutant, lambda: self.swapped(function, changed[1], chosen), limit)

    def chosen(self, names: set[str]) -> list[str]:
        """Known killers first, then cheap ones, within the budget."""
        total, found = 0.0, []
        for name in sorted(names, key=lambda n: (self.seconds[n] + 0.01) / (1 + 3 * self.kills[n])):
            total += self.seconds[name]
            if total < BUDGET:
                found.append(name)
        return found

    def swapped(self, function: object, code: object, names: list[str]) -> str:
        function.__code__ = code
        self.failed = ""
        for item, following in pairs([self.items[name] for name in names]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return self.failed
        return ""


def pairs(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Each with the one after it: pytest keeps the fixtures that both need."""
    return zip(items, [*items[1:], None], strict=True)


def run_session(queue: list[Mutant], children: Children, kills: Counter) -> None:
    """In a process of its own: all trials by swapped code."""
    plugin = Session(queue, children, kills)
    pytest.main([*OPTIONS, *files(SESSION)], plugins=[plugin])
