"""What ``make tests`` has reached of each module: ``python -m tests.covered`` after the measured tests.

Combines what the processes have written to build/coverage, makes the reports there, lists the modules of which less
than 90 % of the statements and branches were reached, and then exits with 1. Not every test is measured, as Python runs
up to two and a half times as long meanwhile: ``measured.txt`` names the files of tests that are. Where some of those
were skipped, as their report (the first argument) says, nothing is judged.
"""

from __future__ import annotations

import json
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from coverage import Coverage
from coverage.exceptions import CoverageException, CoverageWarning

NEEDED = 90.0
"""Percent of the statements and branches of each module."""


def skipped(report: Path) -> int:
    """How many tests were skipped, of a report of JUnit's kind; without expected failures."""
    kinds = [each.get("type") for each in ElementTree.parse(report).getroot().iter("skipped")]
    return sum(kind != "pytest.xfail" for kind in kinds)


def main(arguments: Sequence[str]) -> int:
    """Combine, report, judge."""
    # A process that was killed while it wrote has left half a file.
    warnings.simplefilter("ignore", CoverageWarning)
    measured = Coverage()
    report = Path(str(measured.get_option("json:output")))
    try:
        measured.combine()
        measured.save()
        measured.html_report()
        measured.xml_report()
        total = measured.json_report()
    except CoverageException as error:
        print(f"coverage: {error}", file=sys.stderr)
        return 1
    found = {name: file["summary"] for name, file in json.loads(report.read_text())["files"].items()}
    low = {name: each["percent_covered"] for name, each in found.items() if each["percent_covered"] < NEEDED}
    for name, percent in sorted(low.items(), key=lambda item: item[1]):
        print(f"coverage: {name}: {percent:.1f} %, below {NEEDED:.0f} %", file=sys.stderr)
    least = min(found, key=lambda name: found[name]["percent_covered"])
    print(
        f"coverage: {total:.1f} % of {len(found)} modules, least {found[least]['percent_covered']:.1f} % of {least}; "
        f"see {Path(str(measured.get_option('html:directory'))) / 'index.html'}"
    )
    if low and arguments and (missing := skipped(Path(arguments[0]))):
        print(f"coverage: {missing} of the measured tests were skipped here, so that this is not judged")
        return 0
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
