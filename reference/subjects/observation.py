"""What a subject was seen to do in one case: its arrays, what stood in their place, and what else it did.

Plain data; knows no layer, and not what is right.
"""

from dataclasses import dataclass, field

from reference.cases.case import Array

GRADIENTS = ("dx", "dgamma", "dbeta")


@dataclass(frozen=True)
class Finding:
    """Something that a layer does besides its numbers.

    Attributes:
        id: in the dictionary. quantity: that it concerns. detail: what was seen.
        hazard: whether it is right in ordinary use, and wrong or costly only where a caller does something unusual.
    """

    id: str
    quantity: str
    detail: str
    hazard: bool = False


@dataclass
class Observation:
    """What a layer gave for a case.

    Attributes:
        outcome: the arrays of the last call, in torch's shapes and axes; a quantity that the layer does not give is absent.
        problems: for a quantity without an array what came instead, in words.
        findings: what else was seen.
        refused: how the constructor, the first forward, or backward in eval mode or for want of memory refused the case:
            an exception in words; else "". What came before it is in the outcome.
        seconds: of the processor that the layer took.
        derived: in 16 bits, whether the gradients are a framework's own derivative of the forward, and nobody wrote them.
        raised: the stage ("forward", "backward") in which an exception came, else "".
    """

    outcome: dict[str, Array] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    refused: str = ""
    raised: str = ""
    seconds: float = 0.0
    derived: bool = False

    def find(self, id: str, quantity: str, detail: str, hazard: bool = False) -> None:
        self.findings.append(Finding(id, quantity, detail, hazard))

    def has(self, id: str) -> bool:
        """Whether there is a finding of that id."""
        return any(finding.id == id for finding in self.findings)

    def fail(self, stage: str, detail: str) -> None:
        """All quantities from `stage` on have `detail` in place of an array; a case that was refused has none."""
        self.raised = stage
        if self.refused:
            return
        for name in GRADIENTS if stage == "backward" else ("y", *GRADIENTS):
            self.problems[name] = detail
