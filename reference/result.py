"""What a check returns: plain typed data, to read, to print and to write as JSON. Knows nothing of how it came about."""

from dataclasses import dataclass, field
from math import isfinite
from sys import float_info
from typing import Any

from reference.cases import Array, Case
from reference.compare import Comparison


@dataclass(frozen=True)
class Figures:
    """One quantity over all cases.

    Attributes:
        passed: whether it was within its tolerance every time.
        worst_error, tolerance: of the worst case, in unit roundoffs of the natural scale.
        torch_error: torch's own worst error over the same cases.
        cases: how many were compared. failed: how many of them were wrong.
    """

    passed: bool
    worst_error: float
    tolerance: float
    torch_error: float
    cases: int
    failed: int


@dataclass(frozen=True)
class NamedFault:
    """A mistake by its name, or an honest "unknown".

    Attributes:
        id: as in the dictionary, or "unknown".
        kind: "mistake" or "convention".
        quantities: those that it spoils here.
        summary, mend: one sentence each. wrong, right: the two formulas.
        evidence: what makes us say so.
    """

    id: str
    kind: str
    quantities: tuple[str, ...]
    summary: str
    mend: str
    evidence: str
    wrong: str = ""
    right: str = ""


@dataclass(frozen=True)
class Entry:
    """One entry of a wrong array."""

    quantity: str
    index: tuple[int, ...]
    got: float
    expected: float
    error: float


@dataclass(frozen=True)
class Picture:
    """The arrays that a picture of one wrong quantity is drawn from."""

    quantity: str
    case: Case
    title: str
    got: Array
    expected: Array


@dataclass(frozen=True)
class Counterexample:
    """The smallest failing case.

    Attributes:
        case: the case. comparisons: of the quantities that fail in it. problems: what else is wrong in it.
        entries: the worst entries of the wrong arrays, the worst first.
        script: a program that shows the failure with numpy and torch alone.
    """

    case: Case
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]
    entries: tuple[Entry, ...]
    script: str


@dataclass(frozen=True)
class Report:
    """The verdict on one layer. `str(report)` is the text for a terminal, `to_dict()` the JSON.

    Attributes:
        subject: its name. like: the layer it was held against.
        passed: whether everything that could be tried agrees.
        cases: how many were tried. not_covered: what could not be, and why.
        quantities: the figures of each quantity.
        faults: the named mistakes.
        backward_is_derivative_of_forward: whether its own forward, differenced, gives its own backward; None where that
            could not be told.
        counterexample: the smallest failing case, if any.
        notes: what else a reader should know.
    """

    subject: str
    like: str
    passed: bool
    cases: int
    seed: int
    not_covered: dict[str, str]
    quantities: dict[str, Figures]
    faults: list[NamedFault]
    backward_is_derivative_of_forward: bool | None
    counterexample: Counterexample | None
    notes: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        from reference.report import as_text  # rendering is not this module's business, and str() has no arguments

        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as the JSON of one subject."""
        example = self.counterexample
        return {
            "subject": self.subject,
            "like": self.like,
            "passed": self.passed,
            "cases": self.cases,
            "not_covered": dict(self.not_covered),
            "quantities": {
                name: {
                    "passed": figures.passed,
                    "worst_error": _number(figures.worst_error),
                    "tolerance": _number(figures.tolerance),
                    "torch_error": _number(figures.torch_error),
                    "cases": figures.cases,
                }
                for name, figures in self.quantities.items()
            },
            "faults": [
                {
                    "id": fault.id,
                    "class": fault.kind,
                    "quantities": list(fault.quantities),
                    "summary": fault.summary,
                    "mend": fault.mend,
                    "evidence": fault.evidence,
                }
                for fault in self.faults
            ],
            "backward_is_derivative_of_forward": self.backward_is_derivative_of_forward,
            "accepted": list(self.accepted),
            "notes": list(self.notes),
            "counterexample": None
            if example is None
            else {
                "case": str(example.case),
                "like": example.case.like,
                "shape": list(example.case.shape),
                "config": {name: list(v) if isinstance(v, tuple) else v for name, v in example.case.config},
                "dtype": example.case.dtype,
                "data": example.case.data,
                "seed": example.case.seed,
                "training": example.case.training,
                "calls": example.case.calls,
                "messages": [*map(str, example.comparisons), *example.problems],
                "script": example.script,
            },
        }


def _number(value: float) -> float:
    """JSON has no infinity: the largest number in its place, which is beyond any tolerance too."""
    return value if isfinite(value) else float_info.max
