"""The verdict in one line, and the few other words that every way of showing a report has in common.

Reads result types only, whose texts are fit to be shown; knows nothing of consoles and pages.
"""

from collections.abc import Iterator, Sequence
from math import isfinite

from reference.diagnosis.named import NamedFault
from reference.reporting.result import CheckResult, Counterexample, Entry, Fix


def verdict_line(result: CheckResult, line: int | None = None, faults: Sequence[NamedFault] | None = None) -> str:
    """What is wrong with whom, as "MyNorm dx: dx-gamma-outside-means, line 24"; or that nothing is.

    Args:
        line: of the layer's file in which the first mistake is; by default that of the result's first fix, if it has any.
        faults: of the result that are meant; by default all.
    """
    faults = result.faults if faults is None else faults
    if not faults:
        return f"{result.subject}: {headline(result)}"
    for fix in result.fixes[:1]:
        line = fix.line if line is None else line
    said: dict[str, list[str]] = {}
    for fault in faults:
        kind = f" ({fault.kind})" if fault.kind != "mistake" else ""
        said.setdefault(", ".join(fault.quantities), []).append(f"{fault.id}{kind}")
    parts = [f"{where}: {' and '.join(ids)}".removeprefix(": ") for where, ids in said.items()]
    separator = " " if next(iter(said)) else ": "
    return f"{result.subject}{separator}{'; '.join(parts)}" + (f", line {line}" if line is not None else "")


def headline(result: CheckResult) -> str:
    """The verdict without the name: what agrees, or which mistakes there are and what they spoil."""
    if result.passed:
        left_out = " of what could be tried" if result.not_covered else ""
        incomplete = f" (in the time {result.incomplete})" if result.incomplete else ""
        return f"all{left_out} agrees with torch.nn, within rounding{incomplete}"
    if result.regressions and not result.faults:
        lost = ", ".join(text.partition(" ")[0] for text in result.regressions)
        return f"right, and worse than its baseline ({lost})"
    if not result.faults:
        return f"not everything was tried: {result.incomplete}"
    wrong = [name for name, figures in result.quantities.items() if not figures.passed]
    names = [fault.id for fault in result.faults]
    kind = "differs from torch by convention: " if all(f.kind == "convention" for f in result.faults) else ""
    where = f", line {result.fixes[0].line}" if result.fixes else ""
    return f"{kind}{' and '.join(names)}{where}" + (f" ({', '.join(wrong)} wrong)" if wrong else "")


def title(result: CheckResult) -> str:
    """Whose report it is."""
    name = result.subject if result.like == result.subject else f"{result.subject} as {result.like}"
    return f"{name}: {result.cases} cases"


def label(fault: NamedFault) -> str:
    """What a fault is called, and the quantities that it spoils."""
    word = "cause" if fault.kind == "mistake" else fault.kind
    return f"{word}: {fault.id}" + (f" ({', '.join(fault.quantities)})" if fault.quantities else "")


def fix_heading(fix: Fix) -> str:
    """What a fix is worth, and where it is."""
    lines = f"line {fix.line}" if fix.line == fix.end_line else f"lines {fix.line} to {fix.end_line}"
    kept = f", but for {', '.join(fix.conventions)}" if fix.conventions else ""
    return f"fix, {lines} (with it all {fix.cases} cases agree{kept})"


def consistency(result: CheckResult) -> str:
    """Which half is wrong, where that could be told."""
    forward = result.quantities.get("y")
    match result.backward_is_derivative_of_forward:
        case _ if result.passed:
            return ""
        case True if forward is not None and not forward.passed:
            return "its backward is the derivative of its own forward: the forward is not this normalization"
        case False:
            return "its backward is not the derivative of its own forward"
    return ""


def told(fault: NamedFault, here: str, right: str) -> Iterator[str]:
    """A fault in lines of text; the two words stand before its formulas."""
    yield fault.summary
    if fault.wrong:
        yield f"{here}{fault.wrong}"
        yield f"{right}{fault.right}"
    if fault.alternatives:
        yield alternatives(fault)
    yield f"evidence: {fault.evidence}"
    if fault.fix:
        yield f"fix: {fault.fix}"


def alternatives(fault: NamedFault) -> str:
    """What would do as well."""
    return f"or: {', or '.join(fault.alternatives)}, which would give the same numbers" if fault.alternatives else ""


def messages(example: Counterexample, entries: Sequence[Entry]) -> list[str]:
    """What is wrong in a case besides the entries that are shown of its arrays."""
    shown = {entry.quantity for entry in entries}
    return [*(str(c) for c in example.comparisons if c.quantity not in shown), *example.problems]


def units(error: float | None) -> str:
    """An error as it is written; "-" where there is no number."""
    return f"{error:.3g} u" if error is not None and isfinite(error) else "-"
