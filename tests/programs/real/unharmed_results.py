"""Lists the tests in a report of regrtest (--junit-xml), and how each ended."""
import sys
from xml.etree import ElementTree

outcomes = []
for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
    kinds = [part.tag for part in case if part.tag not in ("system-out", "system-err")]
    outcomes.append(f"{case.get('name')}: {case.get('status')} {case.get('result')} {' '.join(kinds)}")
assert outcomes, "the report is empty"
print("\n".join(sorted(outcomes)))
