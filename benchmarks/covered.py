"""Which lines and branches of refquant the suite takes, from the report of `make coverage`; fails below 98 % of either.

make coverage                                 runs the suite, then this
python benchmarks/covered.py REPORT.json      the report of `coverage json`
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from refquant.files import atomic_path  # noqa: E402

RESULT = Path(__file__).parent / "results" / "coverage.json"
LEAST = 98.0


def main() -> int:
    """0 where both shares are large enough, 1 where one is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="what pytest-cov wrote as JSON")
    totals = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))["totals"]
    counts = {
        "lines": (totals["covered_lines"], totals["num_statements"]),
        "branches": (totals["covered_branches"], totals["num_branches"]),
    }
    found = {
        kind: {"covered": own, "of": of, "percent": round(100 * own / of, 2)} for kind, (own, of) in counts.items()
    }
    with atomic_path(RESULT, overwrite=True) as path:
        path.write_text(json.dumps({"begun": date.today().isoformat(), **found}, indent=1) + "\n", encoding="utf-8")
    for kind, entry in found.items():
        print(f"{kind}: {entry['covered']} of {entry['of']}, {entry['percent']} %")
    return 0 if all(entry["percent"] >= LEAST for entry in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
