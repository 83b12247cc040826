"""`refquant vectors`: list the golden vectors, print cases, check someone's answers."""

import difflib
import json
import struct
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from refquant.cli import vector_check
from refquant.cli.numbers import short
from refquant.cli.screen import Screen
from refquant.cli.vector_files import VectorFile, about, folder, lines, read_all
from refquant.files.printable import printable

WIDTH = vector_check.WIDTH


def run(arguments: Namespace, screen: Screen) -> int:
    """Runs the verb.

    Raises:
      ValueError: an unknown function or id, a limit below 1.
      OSError: vectors or answers that cannot be read.
    """
    if arguments.limit < 1:
        raise ValueError(f"--limit is {arguments.limit}, need at least 1")
    files = read_all(folder(arguments.folder))
    return {"list": _list, "show": _show, "check": _check}[arguments.action](files, arguments, screen)


def _list(files: list[VectorFile], arguments: Namespace, screen: Screen) -> int:
    chosen = [file for name in arguments.what for file in about(files, name)] or files
    if arguments.json:
        screen.json({"folder": str(folder(arguments.folder)), "files": [_summary(file) for file in chosen]})
        return 0
    wide = max(len(file.name) for file in chosen) + 2
    screen.line(screen.paint(f"{'file':<{wide}}{'cases':>6}  {'function':<30} rules", "dim"))
    for file in chosen:
        line = f"{file.name:<{wide}}{len(file.cases):>6}  {file.function:<30} {file.header.get('rules', '')}"
        screen.line(printable(line)[: screen.width])
    cases = sum(len(file.cases) for file in chosen)
    screen.line()
    where = folder(arguments.folder)
    screen.line(f"{len(chosen)} files, {cases:,} cases, in {printable(str(where))}")
    tables = sum(1 for _ in where.rglob("*.json"))
    if tables:
        screen.line(f"Beside them {tables} tables of thresholds (.json), the whole function of a convention each")
    screen.line(f"Cases of one:       refquant vectors show {printable(chosen[0].name)}")
    screen.line("Yours against them: refquant vectors check FILE")
    return 0


def _summary(file: VectorFile) -> dict[str, Any]:
    rules = file.header.get("rules", "")
    return {"file": file.name, "function": file.function, "cases": len(file.cases), "rules": rules}


def _show(files: list[VectorFile], arguments: Namespace, screen: Screen) -> int:
    if not arguments.what:
        raise ValueError("show needs a function or a case's id; `refquant vectors list` has the functions")
    cases = [case for name in arguments.what for case in _cases(files, name)]
    shown = cases[: arguments.limit]
    if arguments.json:
        screen.json({"cases": shown, "of": len(cases)})
        return 0
    for case in shown:
        _print_case(_seen(case), screen)
    if len(cases) > len(shown):
        screen.line(f"{len(shown)} of {len(cases)} cases; more: --limit {len(cases)}")
    return 0


def _cases(files: list[VectorFile], name: str) -> list[dict[str, Any]]:
    one = [case for file in files for case in file.cases if case["id"] == name]
    return one or [case for file in about(files, name) for case in file.cases]


def _seen(value: Any) -> Any:
    """JSON whose texts a terminal may print: whoever wrote the file does not steer the reader's screen."""
    if isinstance(value, dict):
        return {printable(key): _seen(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_seen(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def _print_case(case: dict[str, Any], screen: Screen) -> None:
    screen.line(f"{screen.paint(case['id'], 'bold')}   {case.get('fn', '')}   {case.get('rule', '')}")
    for name, value in case.get("options", {}).items():
        screen.wrapped(f"  {name:<12} {value if isinstance(value, str) else json.dumps(value)}", 15)
    for name, array in case.get("args", {}).items():
        screen.wrapped(f"  {name:<12} {_array(array)}", 15)
    expect = case["expect"]
    if "unspecified" in expect:
        screen.line(f"  {'gives':<12} anything: {expect['unspecified']} leaves it open")
    for k, one in enumerate([] if "unspecified" in expect else expect.get("any_of", [expect])):
        for name, array in one.items():
            screen.wrapped(f"  {('gives' if k == 0 else 'or') + ' ' + name:<12} {_array(array)}", 15)
    if case.get("flags"):
        screen.wrapped(f"  {'catches':<12} {', '.join(case['flags'])}", 15, "dim")
    screen.line()


def _array(array: Any) -> str:
    """dtype, shape and elements: floats as bits and value."""
    if not isinstance(array, dict) or "bits" not in array:
        return json.dumps(array)
    dtype, shape = array.get("dtype", ""), array.get("shape", [])
    words = [_element(word, dtype) for word in array["bits"][:16]]
    more = f" ... {len(array['bits']) - 16} more" if len(array["bits"]) > 16 else ""
    return f"{dtype}{shape}  {'  '.join(words)}{more}"


def _element(word: Any, dtype: str) -> str:
    if dtype not in WIDTH or word == "nan":
        return str(word)
    raw = int(word, 16)
    kind = {"float16": ("H", "e"), "float32": ("I", "f"), "float64": ("Q", "d")}.get(dtype)
    if kind is None:
        raw, kind = raw << 16, ("I", "f")
    value = struct.unpack("<" + kind[1], struct.pack("<" + kind[0], raw))[0]
    return f"{word}={short(value if dtype == 'float64' else np.float32(value))}"


def _check(files: list[VectorFile], arguments: Namespace, screen: Screen) -> int:
    if len(arguments.what) != 1:
        raise ValueError(f"{len(arguments.what)} files are given, need one JSON Lines file of answers, or - for stdin")
    chosen = about(files, arguments.function) if arguments.function else files
    cases = {case["id"]: case for file in chosen for case in file.cases}
    known = {case["id"] for file in files for case in file.cases}
    given = _answers(arguments.what[0])
    answers = {key: row for key, row in given.items() if key in cases}
    unknown = [key for key in given if key not in known]
    wrong = [found for key, answer in answers.items() if (found := vector_check.judge(cases[key], answer))]
    silent = _silent(chosen, answers, every=bool(arguments.function))
    code = 2 if unknown else 1 if wrong else 3 if silent or not answers else 0
    rows = vector_check.suspects((cases[key] for key in answers), {found.case["id"] for found in wrong})
    found = {"checked": len(answers), "unanswered": silent, "unknown": unknown, "differ": len(wrong), "exit_code": code}
    if arguments.json:
        told = [{"flag": flag, "differ": bad, "cases": every} for flag, bad, every in rows]
        screen.json(found | {"differences": [_difference(one) for one in wrong], "suspects": told})
        return code
    _print_unknown(unknown, sorted(known), arguments.limit, screen)
    _print_check(found, wrong, arguments.limit, screen)
    if len(wrong) == len(answers) > 1:
        told = (
            "All cases differ: look at the format of the answers first (integers as numbers, floats as bits), then at "
            "the convention: a case is of the one in its options, or of the default; specs/25-conventions.md has "
            "those of other runtimes, examples/check_a_kernel.py names the one that a kernel follows"
        )
        screen.wrapped(told, 0)
        return code
    _print_suspects(rows, {k: text for file in chosen for k, text in file.header.get("flags", {}).items()}, screen)
    return code


def _difference(one: vector_check.Difference) -> dict[str, Any]:
    return {"id": one.case["id"], "why": one.why, "elements": one.count, "flags": one.case.get("flags", [])}


def _silent(files: list[VectorFile], answers: dict[str, Any], *, every: bool) -> int:
    """Cases without an answer; those of a file that nobody answered count only where it was asked for by name."""
    touched = [file for file in files if every or any(case["id"] in answers for case in file.cases)]
    due = (case["id"] for file in touched for case in file.cases if "unspecified" not in case["expect"])
    return sum(key not in answers for key in due)


def _answers(name: str) -> dict[str, Any]:
    """The answers by id.

    Raises:
      OSError: no such file, a line that is no answer, an id answered twice.
    """
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    answers: dict[str, Any] = {}
    for number, row in lines(data, name):
        if not isinstance(row.get("id"), str):
            raise OSError(f'{name}, line {number}: no id, need {{"id": ..., "codes": [...]}}')
        if row["id"] in answers:
            raise OSError(f"{name}, line {number}: {row['id']} is answered a second time")
        answers[row["id"]] = row
    return answers


def _print_unknown(unknown: list[str], known: list[str], limit: int, screen: Screen) -> None:
    near = difflib.get_close_matches(unknown[0], known, 1, 0.4) if unknown else []
    hint = f"; nearest: {printable(near[0])}" if near else ""
    for k, key in enumerate(unknown[:limit]):
        word = screen.paint("UNKNOWN ID", "bad")
        screen.line(f"{word}: there is no case {printable(key)}{hint if k == 0 else ''}")
    if len(unknown) > limit:
        screen.line(f"  ... and {len(unknown) - limit:,} more unknown ids; all of them: --limit {len(unknown)}")


def _print_check(found: dict[str, Any], wrong: list[vector_check.Difference], limit: int, screen: Screen) -> None:
    right = found["checked"] - found["differ"]
    if found["unknown"] and not found["checked"]:
        return
    word, style = ("DIFFERENT", "bad") if wrong else ("EQUAL", "good") if found["exit_code"] != 3 else ("UNSURE", "bad")
    screen.line(f"{screen.paint(word, style)}: {right:,} of {found['checked']:,} answered cases have the expected bits")
    if found["unanswered"]:
        screen.line(f"  {found['unanswered']:,} cases have no answer")
    for one in wrong[:limit]:
        case = _seen(one.case)
        screen.line(f"  {screen.paint(case['id'], 'bold')} ({case.get('rule', '')}): {printable(one.why)}")
    if len(wrong) > limit:
        screen.line(f"  ... and {len(wrong) - limit:,} more; all of them: --limit {len(wrong)}")


def _print_suspects(rows: list[tuple[str, int, int]], notes: dict[str, str], screen: Screen) -> None:
    if rows:
        screen.line("Suspects, by the share of their cases that differ:")
    for flag, bad, every in rows[:5]:
        screen.wrapped(printable(f"  {flag:<20} {f'{bad} of {every}':<10} {notes.get(flag, '')}"), 34)
