"""The search for the entries of the dictionary that reproduce a layer's numbers.

Quantity after quantity, in the order in which a layer computes them, the formula is changed by as few entries as make
it give the subject's numbers on every probe, to rounding; what is found for one quantity holds for the next. Explanations
of equal length are followed side by side, as *branches*: a later quantity may tell between them.

This module knows the rules by which branches grow. What a formula gives is `formulas`', what a layer does besides its
numbers is not looked at, and how a finding is put into words is not known here.
"""

from collections.abc import Callable, Sequence
from copy import copy
from itertools import combinations
from math import prod

from reference.cases.case import Case
from reference.diagnosis.faults import FAULTS, Constant
from reference.diagnosis.formulas import Backward, Formulas, Suspects, cache_does_not_fit
from reference.diagnosis.suspects import (
    TRAINING,
    TRAINING_BY_FLAG,
    Explanation,
    Limit,
    Suspect,
    suspects_of,
    with_constant,
)
from reference.kinds import Kind
from reference.truth import exact
from reference.truth.convention import Convention
from reference.truth.exact import GRADIENTS
from reference.truth.verdict import Trial, wrong_in

BRANCHES = 32  # explanations of equal length that are followed side by side
PAIRED = 4  # of them, for how many pairs of suspects are tried
FEW = 12  # trials in which it is seen how far an explanation is off
RUNNING = ("running_mean", "running_var")

Branches = list[Explanation]


class Search:
    """The search for an explanation of the numbers of some trials."""

    def __init__(self, kind: Kind, trials: list[Trial], convention: Convention) -> None:
        # Most suspects are innocent: the trials that rule them out soonest, the wrong and the small ones, come first.
        self.trials = sorted(trials, key=lambda trial: (not trial.wrong, prod(trial.case.shape) * trial.case.calls))
        self.suspects = suspects_of(kind, trials, convention.changes)
        self.formulas = Formulas(self.trials, convention.changes)
        constants = (f for f in FAULTS.values() if f.constant and f.where is None and kind.name in f.layers)
        self.constant_entry = next(constants, None)
        self.limit: Limit | None = None
        self.pairs = True

    def within(self, holds: Callable[[Case], bool], limit: Limit | None, pairs: bool) -> "Search":
        """The same search among some of the trials, for mistakes that are made in some passes alone.

        What was computed is shared: most of it has been asked for before. pairs: whether two mistakes at once are tried.
        """
        other = copy(self)
        other.trials = [trial for trial in self.trials if holds(trial.case)]
        # what needs an earlier call shows in later ones alone anyway
        other.suspects = [s if s.fault.stateful else s.limited(limit) for s in self.suspects]
        other.limit, other.pairs = limit, pairs
        return other

    def explain(self, start: Sequence[Explanation] = (Explanation(),)) -> list[Explanation]:
        """The shortest explanations, each with the mistakes of one of `start`; several if they tie."""
        branches = list(start)
        for part, name in self._stages():
            branches = _distinct(self._grown(branches, part, name))[:BRANCHES]
        whole = [self._without_idle(branch) for branch in branches if self._holds(branch)]
        if not whole:
            return [Explanation(unknown=wrong_in(self.trials))]
        best = min((len(b.unknown), len(b.ids)) for b in whole)
        return _by_ids([b for b in whole if (len(b.unknown), len(b.ids)) == best])

    def _stages(self) -> list[tuple[list[Trial], str]]:
        """The parts of the evidence in the order in which they are explained: some trials, and one quantity of them.

        The forward before the backward, the running statistics before eval mode, which uses them, and single calls
        before sequences, in which only what a layer remembers can be new.
        """
        training = [t for t in self.trials if t.case.training]
        evaluation = [t for t in self.trials if not t.case.training]
        single, sequences = [t for t in training if t.case.calls == 1], [t for t in training if t.case.calls > 1]
        stages = [(part, "y") for part in (single, sequences)]
        stages += [(part, name) for part in (single, sequences) for name in RUNNING]
        stages += [(evaluation, name) for name in (*RUNNING, "y")]
        stages += [(part, name) for name in GRADIENTS for part in (single, sequences, evaluation)]
        having = [([t for t in part if name in t.comparisons], name) for part, name in stages]
        return [(part, name) for part, name in having if part]

    def _grown(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """The branches that explain `name` in these trials as well, by the first rule that gives any.

        Where one branch needs no more than it has, or fewer than others, the others are given up.
        """
        rules = (
            self._as_they_are,
            self._unknown_for_its_running_statistics,
            self._in_training_only,
            self._right_in_spite_of_the_forward,
            self._unknown_for_its_forward,
            self._with_one_more,
            self._with_one_more_in_training_only,
            self._with_a_constant,
            self._with_two_more,
        )
        for rule in rules:
            found = rule(branches, part, name)
            if found:
                return found
        return [branch.with_unknown(name) for branch in branches]

    # --- the rules, in their order ------------------------------------------------------------------------------------

    def _as_they_are(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """The branches that explain it already, or have called it unknown in other trials."""
        return [b for b in branches if name in b.unknown or self.reproduces(b.suspects, part, name)]

    def _unknown_for_its_running_statistics(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """In eval mode all follows from the running statistics: if those are unknown, so is this, and no mistake more."""
        if _in_training(part) or not all(set(RUNNING) & set(b.unknown) for b in branches):
            return []
        return [branch.with_unknown(name) for branch in branches]

    def _in_training_only(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """In eval mode: the branches with some of the mistakes made in training mode alone."""
        if _in_training(part):
            return []
        limited = [b for limit in (TRAINING, TRAINING_BY_FLAG) for branch in branches for b in branch.limited(limit)]
        return [b for b in limited if self.reproduces(b.suspects, part, name)]

    def _right_in_spite_of_the_forward(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """A gradient that is right though its forward is unknown needs no mistake: its backward computes its own arrays."""
        if not _in_training(part) or name not in GRADIENTS or any(name in trial.wrong for trial in part):
            return []
        return [b for b in branches if "y" in b.unknown]

    def _unknown_for_its_forward(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """What is made from the arrays of a forward that is unknown is unknown too. dbeta is not: it is a sum of dy."""
        if name not in ("dx", "dgamma") or not all("y" in b.unknown for b in branches):
            return []
        return [branch.with_unknown(name) for branch in branches]

    def _with_one_more(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """The branches with one more mistake."""
        return self._longer(branches, part, name, 1)

    def _with_one_more_in_training_only(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """The branches with a mistake of memory that is made in training mode alone.

        It shows in training too, where a pass in eval mode came between.
        """
        if not any(t.case.kind.tracks and t.case.history == "eval between" for t in part):
            return []
        found = []
        for branch in branches:
            fresh = [s for s in self._fresh(branch, part, name) if s.fault.stateful]
            limited = [s.limited(limit) for limit in (TRAINING, TRAINING_BY_FLAG) for s in fresh]
            found += [branch.with_suspects((s,)) for s in limited if self.reproduces((*branch.suspects, s), part, name)]
        return found

    def _with_a_constant(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """The first branches with a constant of the layer's own, beside none or one more mistake.

        The constant was measured as if the rest were right. Beside another mistake of the forward it is another one.
        """
        entry = self.constant_entry
        telling = next((t for t in part if t.case.data == "small"), None)
        if name != "y" or entry is None or telling is None or name not in telling.comparisons:
            return []
        found = []
        for branch in branches[:PAIRED]:
            fresh = [s for s in self._fresh(branch, part, name) if not s.fault.constant]
            for more in ((), *((s,) for s in fresh)) if entry.id not in branch.ids else ():
                value = self.formulas.eps_that_gives(branch.suspects + more, telling)
                if value is not None:
                    constant = with_constant(entry, {entry.constant: Constant(value)}).limited(self.limit)
                    if self.reproduces((*branch.suspects, *more, constant), part, name):
                        found.append(branch.with_suspects((*more, constant)))
        return found

    def _with_two_more(self, branches: Branches, part: list[Trial], name: str) -> Branches:
        """The first branches with two more mistakes; of all branches there would be too many pairs."""
        if not self.pairs:
            return []
        return self._longer(branches[:PAIRED], part, name, 2)

    # --- what the rules are made of -----------------------------------------------------------------------------------

    def _longer(self, branches: Branches, part: list[Trial], name: str, size: int) -> Branches:
        """The branches with so many more suspects, each of another id, where that reproduces `name`."""
        found = []
        for branch in branches:
            for more in combinations(self._fresh(branch, part, name), size):
                ids = {suspect.id for suspect in more}
                if len(ids) == size and self.reproduces(branch.suspects + more, part, name):
                    found.append(branch.with_suspects(more))
        return found

    def _fresh(self, branch: Explanation, part: list[Trial], name: str) -> list[Suspect]:
        """The suspects that may explain `name` in these trials, beyond those of the branch."""
        fresh = [s for s in self.suspects if s.id not in branch.ids and _touches(s, name)]
        if not any(name in t.wrong and not cache_does_not_fit(t.case) for t in part):
            fresh = [s for s in fresh if not s.fault.cached]  # nothing here shows a stale cache
        if not _in_training(part):
            fresh = [s for s in fresh if "view" not in s.changes]  # nothing here shows over what statistics run
        return fresh

    def _without_idle(self, branch: Explanation) -> Explanation:
        """The branch without suspects that only explain a part of what is unknown after all."""
        if not branch.unknown:
            return branch
        for suspect in branch.suspects:
            fewer = branch.without(suspect)
            if self._holds(fewer):
                branch = fewer
        return branch

    def _holds(self, branch: Explanation) -> bool:
        """Whether all that it does not call unknown is reproduced in all trials.

        A stage only looks at its own part: a mistake that was added for a later part may spoil an earlier one.
        """
        for name in exact.QUANTITIES:
            part = [t for t in self.trials if name in t.comparisons]
            if name not in branch.unknown and part and not self.reproduces(branch.suspects, part, name):
                return False
        return True

    def reproduces(self, suspects: Suspects, part: list[Trial], name: str) -> bool:
        """Whether the formula with these mistakes gives the subject's `name` in each of these trials."""
        forward = [s for s in suspects if s.forward]
        if any("view" in s.changes for s in forward) and part[0].case.kind.tracks:
            # Statistics of another shape: how a layer averages them further, for eval mode, no formula can say.
            part = [t for t in part if t.case.training and name not in RUNNING]
        # Only a wrong forward leaves a choice of backwards; it is one and the same in all trials.
        ways = tuple(Backward) if forward and name in GRADIENTS else (Backward.FOLLOWS,)
        return any(all(self.formulas.agrees(suspects, trial, name, way) for trial in part) for way in ways)

    def worst_error(self, suspects: Suspects, names: list[str]) -> float:
        """How far the formula with these mistakes is from the subject at worst, over a few trials."""
        few = self.trials[:FEW]
        if any(s.forward for s in suspects):  # its backward may be the true derivative, which is taken on some alone
            few = [t for t in self.trials if t.case in self.formulas.differentiable] or few
        arrays = [(trial, name) for trial in few for name in names if name in trial.comparisons]
        return max((self.error(suspects, *array) for array in arrays), default=0.0)

    def error(self, suspects: Suspects, trial: Trial, name: str) -> float:
        """How far the formula with these mistakes is from the subject in one array, with the backward that fits best."""
        return min(self.formulas.error(suspects, trial, name, way) for way in Backward)


# The steps of the formula that each gradient is made of.
_BACKWARD_STEPS = {"backward_gamma", "backward_xhat", "backward_rstd", "backward_average", "backward_constant"}
_STEPS_OF = {
    "dx": _BACKWARD_STEPS | {"d", "mean_term", "projection_mean", "projection", "dx"},
    "dgamma": {"backward_xhat", "parameter_sum", "dgamma_factor", "dgamma"},
    "dbeta": {"parameter_sum", "dbeta"},
}


def _touches(suspect: Suspect, name: str) -> bool:
    """Whether a suspect may change a quantity at all; the formula would say so too, only later."""
    if name in ("y", *RUNNING):
        return suspect.forward and name in suspect.fault.quantities
    if suspect.forward:
        return False  # what changes the forward has been found in the forward
    return not suspect.changes.keys().isdisjoint(_STEPS_OF[name])


def _in_training(part: list[Trial]) -> bool:
    """The mode of the trials of one stage, which all have the same."""
    return part[0].case.training


def _distinct(branches: Branches) -> Branches:
    return list(dict.fromkeys(branches))


def _by_ids(branches: Branches) -> Branches:
    """One branch for each set of names; the ways to make the same mistakes need not be told apart."""
    return list({(b.ids, b.unknown): b for b in reversed(branches)}.values())[::-1]
