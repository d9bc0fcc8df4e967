"""What a report contradicts itself in: the check of the reports that the checks of layers are held to.

Knows reports, and neither how they came about nor which layer they are of.
"""

import re
from typing import Any

from reference.diagnosis.faults import FAULTS

# What a layer was seen to do may have spoilt no number: who writes into dy returns the right dx all the same.
SEEN = frozenset(
    fault.id for fault in FAULTS.values() if not fault.variants and not fault.constant and fault.told_by != "eval mode"
)
COEFFICIENTS = re.compile(r"coefficients of dx's terms.*unexplained (\S+)%")
SPECIAL = re.compile(r"(nan|large|tiny) data")


def contradictions(report: Any) -> list[str]:
    """Each contradiction in a report, in words; none in one that can be believed."""
    found = []
    wrong = {name for name, figures in report.quantities.items() if not figures.passed}
    spoken = {name for fault in report.faults for name in fault.quantities}
    certain = {name for fault in report.faults if fault.id not in SEEN for name in fault.quantities}
    if wrong - spoken:
        found.append(f"the table calls {sorted(wrong - spoken)} wrong, and no cause speaks of it")
    if certain - wrong:
        found.append(f"a cause speaks of {sorted(certain - wrong)}, which the table calls right")
    if report.passed == bool(report.faults):
        found.append(f"passed is {report.passed} with {len(report.faults)} causes")
    for fault in report.faults:
        found += _in_a_cause(fault)
    consistent = report.backward_is_derivative_of_forward
    if "the forward is not this normalization" in str(report) and "y" not in wrong:
        found.append("it says that the forward is wrong, which the table calls right")
    if consistent and not {"y", "running_mean", "running_var"} & wrong and wrong:
        found.append(f"it calls the backward the derivative of the forward: y is right, {sorted(wrong)} wrong")
    return found


def _in_a_cause(fault: Any) -> list[str]:
    found = []
    if not fault.quantities and not (fault.id in FAULTS and not FAULTS[fault.id].quantities):
        found.append(f"{fault.id} speaks of no quantity")
    if "nothing wrong" in fault.summary or "wrong in 0 of" in fault.evidence:
        found.append(f"{fault.id} speaks of nothing wrong: {fault.summary} {fault.evidence}")
    if "diagnosis itself failed" in fault.evidence:
        found.append(f"{fault.id}: {fault.evidence}")
    fit = COEFFICIENTS.search(fault.evidence)
    if fit and float(fit[1]) > 5:
        found.append(f"coefficients that leave {fit[1]} % unexplained")
    if re.search(r"got -?(nan|inf)", fault.evidence) and SPECIAL.search(fault.evidence):
        found.append(f"{fault.id} quotes what a special probe gave: {fault.evidence}")
    if fault.id in fault.alternatives:
        found.append(f"{fault.id} is an alternative to itself")
    return found
