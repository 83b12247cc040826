"""The HTML report: one file that needs no network, no script and no other file."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from jaxquant.decide.report_view import view
from refquant.files import atomic_path

TEMPLATES = Path(__file__).with_name("templates")


def render(result: Mapping[str, Any]) -> str:
    """The page as text; whatever comes from the model, the workload or the user is escaped.

    Args:
      result: as `Job.result` makes it; sections that are missing are left out or said to be missing.
    """
    style, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    return _page().render(**view(result), style=style, script=script)


@cache
def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["breakable"] = breakable
    return pages.get_template("report.html.j2")


def breakable(name: str) -> Markup:
    """A dotted or slashed name that may break after its separators."""
    return Markup(re.sub(r"([./,])", r"\1<wbr>", str(escape(name))))


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
      result: as `Job.result` makes it.
      path: a new file in an existing folder.
    Raises:
      ValueError: the file exists, or its folder does not.
    """
    text = render(result)
    with atomic_path(path, way="") as temporary:
        temporary.write_text(text, encoding="utf-8")
