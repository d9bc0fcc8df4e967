"""A failed test in a few lines of text: the verdict first, since that is the line that a summary of tests shows.

Then why, what to do, the smallest case, and where the whole report is. Reads result types only.
"""

from collections.abc import Iterator, Sequence

from reference.diagnosis.named import NamedFault
from reference.reporting.foreign import cleaned
from reference.reporting.headline import fix_heading, label, messages, told, units, verdict_line
from reference.reporting.result import CheckResult, Counterexample
from reference.subjects.guard import printable

OTHERS = 3  # further causes that have a line of their own
MESSAGES = 2  # of what was seen by the test that fails


def as_failure(result: CheckResult, more: str, quantity: str = "", seen: Sequence[str] = ()) -> str:
    """The failure of a layer, or of one test about it.

    Args:
        more: what to type for the whole report.
        quantity: that the test is about; then the causes that spoil it come first, and alone if there are any.
        seen: what that test saw.
    """
    result = cleaned(result)
    faults = [fault for fault in result.faults if quantity in fault.quantities] or result.faults
    return "\n".join(_lines(result, faults, more, seen))


def _lines(result: CheckResult, faults: Sequence[NamedFault], more: str, seen: Sequence[str]) -> Iterator[str]:
    yield verdict_line(result, faults=faults)
    for fault in faults[:1]:
        yield from told(fault, "  here:   ", "  right:  ")
    for fix in result.fixes:
        yield f"{fix_heading(fix)}:"
        yield from (
            f"  {line}" for line in fix.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
        )
    for fault in faults[1 : OTHERS + 1]:
        yield f"{label(fault)}: {fault.fix or fault.summary}"
    for text in seen[:MESSAGES]:
        yield f"seen: {printable(text)}"
    if len(seen) > MESSAGES:
        yield f"seen: {len(seen) - MESSAGES} more"
    if result.counterexample is not None:
        yield from _case(result.counterexample)
    yield f"more: {printable(more)}"


def _case(example: Counterexample) -> Iterator[str]:
    yield f"smallest case: {example.case}"
    if example.entries:
        worst = example.entries[0]
        yield (
            f"  {worst.quantity}{list(worst.index)}: got {worst.got:.9g}, should be {worst.expected:.9g}, "
            f"error {units(worst.error)}"
        )
    else:
        yield from (f"  {message}" for message in messages(example, ()))
