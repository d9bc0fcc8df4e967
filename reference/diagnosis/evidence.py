"""The trials of one check, sorted by what each of them can tell: named subsets, each with the reason for it.

Every explainer of `diagnose` asks for the subset that it needs. This module knows trials and what a layer was seen to
do in them; it runs no formula and names no mistake.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from math import prod

from reference.cases.case import ANOTHER, Case
from reference.diagnosis.faults import FAULTS
from reference.kinds import Kind
from reference.subjects.observation import Finding
from reference.truth.exact import GRADIENTS
from reference.truth.verdict import Trial, wrong_in

# Data whose right and wrong results are not made of rounding alone, and which no cautious layer treats in a way of its own.
REGULAR = ("unit", "balanced", "shifted", "integers", "small", "large", "offset 1e2")
CONDITIONED = 1e4  # beyond it a mean's roundoff hides in y what a formula would tell
WELL_CONDITIONED = 10  # the same for float32
# Findings after which there are no numbers, or none of that precision.
ENDS = ("never-returns", "process-ended", "backward-raises", "forward-raises", "dtype-demoted")
SMALL = 1500  # numbers in all calls of a case up to which many formulas are tried on it


class Evidence:
    """What there is to explain.

    Args:
        kind: of layer. trials: the designed probes, passed and failed. failing: those that failed, random ones too.
    """

    def __init__(self, kind: Kind, trials: list[Trial], failing: list[Trial]) -> None:
        self.kind, self.trials, self.failing = kind, trials, failing

    # --- what the layer was seen to do --------------------------------------------------------------------------------

    @cached_property
    def findings(self) -> dict[str, list[Finding]]:
        """What the layer was seen to do besides its numbers, by id; without what is only another side of the same."""
        seen: dict[str, list[Finding]] = {}
        for trial in self.failing:
            for finding in trial.findings:
                seen.setdefault(finding.id, []).append(finding)
        also = {other for id in seen if id in FAULTS for other in FAULTS[id].covers}
        return {id: findings for id, findings in seen.items() if id not in also}

    @cached_property
    def writes(self) -> bool:
        """Whether the layer was seen to write where the caller's arrays lie."""
        return any(FAULTS[id].writes for id in self.findings if id in FAULTS)

    def told_by_behaviour(self, trial: Trial) -> bool:
        """Whether a trial failed only because the layer could not write where it wanted to, or had no numbers in time."""
        if any(finding.id in ENDS for finding in trial.findings):
            return True
        read_only = "read-only" in (trial.case.layout, trial.case.dy_layout)
        return self.writes and bool(trial.seen.raised or trial.case.overwrite or read_only)

    @cached_property
    def no_eval_backward(self) -> list[Trial]:
        """The trials of BatchNorm's eval mode, if its backward gives nothing in any of them though in training it does."""
        told = [t for t in self.trials if not self.told_by_behaviour(t)]
        evaluation = [t for t in told if statistics_given(t.case) and not t.seen.refused]
        training = [t for t in told if t.case.training]
        if any("dx" not in t.seen.problems or t.seen.raised == "forward" for t in evaluation):
            return []
        return [] if all("dx" in t.seen.problems for t in training) else evaluation

    # --- trials with numbers ------------------------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> list[Trial]:
        """The probes whose numbers are for a formula to explain: nothing that the layer was seen to do has spoilt them."""
        numbers = [t for t in self.trials if not self.told_by_behaviour(t)]
        if self.no_eval_backward:  # nothing can be said of a gradient that is not there, nor of what a failed call left
            numbers = [t for t in numbers if t.case.history != "eval between"]
            numbers = [_forward_alone(t) if statistics_given(t.case) else t for t in numbers]
        return numbers

    @cached_property
    def regular(self) -> list[Trial]:
        """Those whose numbers can be held against formulas: float64, finite, not all rounding."""
        return [t for t in self.numbers if _regular(t)]

    @cached_property
    def core(self) -> list[Trial]:
        """Those on which formulas are tried: plain cases, cheap enough to try many formulas on."""
        return [t for t in self.regular if plain(t.case) and _cheap(t.case)] + self._tiny

    @cached_property
    def _tiny(self) -> list[Trial]:
        """Of tiny numbers a wrong gradient is made of rounding alone, but y tells a clamped variance from a missing eps."""
        tiny = [t for t in self.numbers if t.case.data == "tiny" and t.case.dtype == "float64" and plain(t.case)]
        return [_reduced(t, ("y",)) for t in tiny if "y" in t.comparisons]

    @cached_property
    def narrow(self) -> list[Trial]:
        """The same in float32: fewer, and with fewer digits, but there are layers that are wrong in float32 alone."""
        narrow = [
            t for t in self.numbers if t.case.dtype == "float32" and t.case.data in REGULAR and t.case.sharing > 1
        ]
        return [
            t for t in narrow if plain(t.case) and _cheap(t.case) and t.expected.truth.conditioning < WELL_CONDITIONED
        ]

    @cached_property
    def large(self) -> list[Trial]:
        """Plain cases that are too dear for many formulas; they only confirm what was found."""
        return [t for t in self.regular if plain(t.case) and not _cheap(t.case)]

    @cached_property
    def special(self) -> list[Trial]:
        """Those that differ from a plain case in one aspect: overwritten arrays, or another place in memory."""
        return [t for t in self.regular if not plain(t.case)]

    # --- what there is to account for ---------------------------------------------------------------------------------

    @cached_property
    def random(self) -> list[Trial]:
        """The failing case that is none of the probes; those after the first are tries to make that one smaller."""
        designed = {trial.case for trial in self.trials}
        return [trial for trial in self.failing if trial.case not in designed][:1]

    @cached_property
    def counted(self) -> list[Trial]:
        """All trials that the report's table counts, as far as they can have failed."""
        return [*self.trials, *self.random]

    @cached_property
    def wrong(self) -> tuple[str, ...]:
        """The quantities that the report's table calls wrong."""
        return wrong_in(self.counted)


def plain(case: Case) -> bool:
    """Whether nothing about its arrays is special."""
    return case.contiguous and case.history != ANOTHER


def statistics_given(case: Case) -> bool:
    """Whether it is BatchNorm with its running statistics."""
    return not case.training and case.tracks


def _reduced(trial: Trial, names: Iterable[str]) -> Trial:
    """The trial as if only these quantities had been compared."""
    return replace(trial, comparisons={name: c for name, c in trial.comparisons.items() if name in names})


def _forward_alone(trial: Trial) -> Trial:
    return _reduced(trial, set(trial.comparisons) - set(GRADIENTS))


def _regular(trial: Trial) -> bool:
    case = trial.case
    # where a row is one number, xhat is nought, and a wrong formula is made of rounding alone
    enough = case.data in REGULAR and case.sharing > 1 and 0 not in case.shape
    return case.dtype == "float64" and enough and trial.expected.truth.conditioning < CONDITIONED


def _cheap(case: Case) -> bool:
    return prod(case.shape) * case.calls <= SMALL
