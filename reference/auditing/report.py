"""What an audit found, as data and as text: the mutants, which of them the tests noticed, and why not the others."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1  # that of `reporting/audit_schema.json`
SHOWN = 12  # survivors whose diffs are printed
WIDTH = 100


@dataclass(frozen=True)
class Audited:
    """One mistake that the tests were tried on.

    Attributes:
        file: that is wrong, and the line of it; 0 where the layer is wrong as a whole, as if its formula were another one.
        before, after: that line and what stood there instead; the two formulas where there is no line.
        kind: of edit, in a few words. diff: a unified one, "" where there is no line. wrong: the quantities that it spoils.
        noticed: whether the tests failed. seconds: of their run. reasons: ids of what hides it, if it was not noticed.
        name: the id of the mistake in the dictionary that gives the same, and its summary; "" if none does.
    """

    file: str
    line: int
    before: str
    after: str
    kind: str
    diff: str
    wrong: tuple[str, ...]
    noticed: bool
    seconds: float
    reasons: tuple[str, ...] = ()
    name: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Reason:
    """What survivors have in common.

    Attributes:
        id: of the blindness, two with "+" if it takes both. lacking: what the survivors need, in words. advice: what to do.
        survivors: how many of them need it. elsewhere: whether the tests have it somewhere: a mutant that needs it
            was noticed.
    """

    id: str
    lacking: str
    advice: tuple[str, ...]
    survivors: int
    elsewhere: bool = False


@dataclass(frozen=True)
class Audit:
    """Which mistakes of a layer its tests would not notice.

    Attributes:
        subject: the layer. tests: the command. file: the layer's. seconds: of the clean run.
        mutants: all that were tried, by line. reasons: the fewest that account for the survivors, the most telling first.
        unexplained: how many survive for no reason that could be told. asked: how many mutants were asked for.
    """

    subject: str
    tests: str
    file: str
    seconds: float
    mutants: tuple[Audited, ...]
    reasons: tuple[Reason, ...]
    unexplained: int
    asked: int

    @property
    def survivors(self) -> tuple[Audited, ...]:
        return tuple(mutant for mutant in self.mutants if not mutant.noticed)

    @property
    def passed(self) -> bool:
        """Whether none survives."""
        return bool(self.mutants) and not self.survivors

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it: `reporting/audit_schema.json` says what is in it."""
        found = {"schema": SCHEMA, **asdict(self)}
        found["survivors"] = len(self.survivors)
        found["passed"] = self.passed
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.text()

    def text(self, verbose: bool = False) -> str:
        """The report; with all survivors if `verbose`."""
        lines = [f"{self.subject}, {len(self.mutants)} mistakes, on each: {self.tests}", ""]
        lines += self._of_survivors(verbose)
        lines += [self.headline, *self._of_reasons()]
        return "\n".join(lines)

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        count, total = len(self.survivors), len(self.mutants)
        if not total:
            return "No edit of this layer makes it wrong in a way that could be asked about."
        if not count:
            return f"All {total} mistakes are noticed."
        return f"{count} of {total} mistakes are not noticed."

    def _of_survivors(self, verbose: bool) -> list[str]:
        survivors = self.survivors
        shown = survivors if verbose else _spread(survivors, SHOWN)
        lines: list[str] = []
        for mutant in shown:
            lines += self._of_survivor(mutant)
        left = len(survivors) - len(shown)
        if left:
            lines.append(f"and {left} more, with --verbose")
        return [*lines, ""] if lines else []

    def _of_survivor(self, mutant: Audited) -> list[str]:
        why = f"; {', '.join(mutant.reasons)}" if mutant.reasons else ""
        spoils = f"spoils {', '.join(mutant.wrong)}{why}"
        if not mutant.line:
            formulas = [f"  as if it were {mutant.after}", f"  instead of    {mutant.before}"]
            return [f"not noticed: {mutant.name}, {spoils}", f"  {mutant.summary}", *formulas]
        place = f"line {mutant.line}" if mutant.file == self.file else f"{Path(mutant.file).name}, line {mutant.line}"
        name = f" ({mutant.name})" if mutant.name else ""
        return [
            f"not noticed: {place}, {mutant.kind}{name}, {spoils}",
            *(f"  - {line}" for line in mutant.before.splitlines()),
            *(f"  + {line}" for line in mutant.after.splitlines()),
        ]

    def _of_reasons(self) -> list[str]:
        lines = [f"  {_said(reason)}" for reason in self.reasons]
        if self.unexplained and self.reasons:
            lines.append(f"  {self.unexplained} for no reason that could be told")
        elif self.unexplained:
            lines.append("  For no reason that could be told.")
        advice = list(dict.fromkeys(line for reason in self.reasons for line in reason.advice))
        if advice:
            lines += ["What to do:", *(f"  - {line}" for line in advice)]
        return lines


def _said(reason: Reason) -> str:
    need = "needs" if reason.survivors == 1 else "need"
    also = ", which the tests have, but not where these would show" if reason.elsewhere else ""
    return f"{reason.survivors} {need} {reason.lacking}{also}"


def _spread(survivors: Sequence[Audited], most: int) -> Sequence[Audited]:
    """Some of the survivors, of each reason about as many."""
    if len(survivors) <= most:
        return survivors
    by_reason: dict[tuple[str, ...], list[Audited]] = {}
    for mutant in survivors:
        by_reason.setdefault(mutant.reasons, []).append(mutant)
    chosen: list[Audited] = []
    while len(chosen) < most:
        for group in by_reason.values():
            if group and len(chosen) < most:
                chosen.append(group.pop(0))
    return sorted(chosen, key=lambda mutant: mutant.line)
