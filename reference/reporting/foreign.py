"""Text that others wrote, made fit to be shown: the names, exceptions and shapes of a stranger's layer.

A layer says what it likes in an exception: codes that clear a screen, a carriage return and a verdict of its own, half
of a surrogate pair that no terminal can take. What can be seen is left as it is; all else is escaped, as Python writes
it. Whatever shows a report to people goes through `cleaned`; must not know how it is shown.
"""

from dataclasses import replace
from typing import TypeVar

from reference.diagnosis.named import NamedFault
from reference.reporting.result import CheckResult, Counterexample, Fix
from reference.subjects.guard import printable

NAME = 200  # characters of a name that are shown

R = TypeVar("R", bound=CheckResult)


def printable_lines(text: str, encoding: str = "utf-8") -> str:
    """The same for a program, whose lines stay lines."""
    return "\n".join(printable(line, encoding, most=len(line) * 10) for line in text.split("\n"))


def cleaned(result: R, encoding: str = "utf-8") -> R:
    """The same result, with every text in it fit to be shown."""

    def clean(text: str) -> str:
        return printable(text, encoding)

    def clean_fault(fault: NamedFault) -> NamedFault:
        return replace(
            fault,
            summary=clean(fault.summary),
            fix=clean(fault.fix),
            evidence=clean(fault.evidence),
            wrong=clean(fault.wrong),
            right=clean(fault.right),
            alternatives=tuple(map(clean, fault.alternatives)),
        )

    def clean_example(example: Counterexample) -> Counterexample:
        return replace(
            example,
            comparisons=tuple(replace(c, problem=clean(c.problem)) for c in example.comparisons),
            problems=tuple(map(clean, example.problems)),
            script=printable_lines(example.script, encoding),
        )

    def clean_fix(fix: Fix) -> Fix:
        return replace(
            fix,
            file=printable(fix.file, encoding, NAME),
            before=printable_lines(fix.before, encoding),
            after=printable_lines(fix.after, encoding),
            diff=printable_lines(fix.diff, encoding),
            also=clean(fix.also),
        )

    return replace(
        result,
        subject=printable(result.subject, encoding, NAME),
        not_covered={printable(what, encoding, NAME): clean(why) for what, why in result.not_covered.items()},
        faults=list(map(clean_fault, result.faults)),
        hazards=list(map(clean_fault, result.hazards)),
        counterexample=None if result.counterexample is None else clean_example(result.counterexample),
        notes=tuple(map(clean, result.notes)),
        accepted=tuple(map(clean, result.accepted)),
        read_as=tuple(printable(words, encoding, NAME) for words in result.read_as),
        incomplete=clean(result.incomplete),
        fixes=tuple(map(clean_fix, result.fixes)),
        not_fixed=clean(result.not_fixed),
        notes_on_source=tuple(replace(n, text=clean(n.text), code=clean(n.code)) for n in result.notes_on_source),
        regressions=tuple(map(clean, result.regressions)),
        annotated_file=printable(result.annotated_file, encoding, NAME),
    )
