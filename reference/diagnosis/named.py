"""A mistake by its name: what the diagnosis returns and a report shows. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedFault:
    """A mistake by its name, or an honest "unknown".

    Attributes:
        id: as in the dictionary, or "unknown".
        kind: "mistake" or "convention".
        quantities: those that it spoils here.
        summary, fix: what is wrong and what to do about it, one sentence each. wrong, right: the two formulas.
        evidence: what makes us say so.
    """

    id: str
    kind: str
    quantities: tuple[str, ...]
    summary: str
    fix: str
    evidence: str
    wrong: str = ""
    right: str = ""
