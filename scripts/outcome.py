"""Sums up the junit files of scripts/test: lists skipped tests with reasons, and ends with one line of
counts.

Usage: outcome.py FOLDER. Exits with 1 if CI is set and a test was skipped for lack of a package.
"""

import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# A skip with this text means a missing package, not a limit of the host.
PACKAGE_WANTING = re.compile(
    r"could not import|no module named|not installed|install |command not found", re.IGNORECASE
)


def main() -> int:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    skips: list[tuple[str, str, str]] = []
    for file in sorted(Path(sys.argv[1]).glob("*.xml")):
        stage = file.stem
        for case in ElementTree.parse(file).iter("testcase"):
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                counts["failed"] += 1
            elif skipped is not None and skipped.get("type") != "pytest.xfail":
                counts["skipped"] += 1
                skips.append(
                    (stage, f"{case.get('classname')}.{case.get('name')}", skipped.get("message") or "")
                )
            else:
                counts["passed"] += 1
    for stage, test, why in skips:
        print(f"skipped ({stage}): {test}: {why}")
    wanting = [test for _, test, why in skips if PACKAGE_WANTING.search(why)]
    on_ci = bool(os.environ.get("CI"))
    if wanting and on_ci:
        print(f"{len(wanting)} tests were skipped for lack of a package. On CI that is a failure")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if wanting and on_ci else 0


if __name__ == "__main__":
    sys.exit(main())
