"""The third opinion on a case of any function."""

from __future__ import annotations

from specs.vector_cases import opinions_calibration, opinions_core, opinions_estimators, opinions_layers
from specs.vector_cases.case import Case
from specs.vector_cases.opinions_core import Found

KNOWN = opinions_core.TABLE | opinions_calibration.TABLE | opinions_layers.TABLE | opinions_estimators.TABLE


def opinion(case: Case) -> Found | None:
    """The third opinion, None where there is none."""
    return KNOWN[case.fn](case) if case.fn in KNOWN else None
