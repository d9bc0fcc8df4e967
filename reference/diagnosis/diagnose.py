"""From what is wrong to the name of the mistake, or to an honest "unknown".

A mistake is named only when a layer with exactly that mistake gives the subject's numbers on every probe of a group, to
rounding, in float64 (`search`, `groups`). Mistakes that are no formula are told by what the layer was seen to do, or by
probes that differ in one aspect only (`behaviour`). What neither accounts for is "unknown", with all that can be said
about it (`unknown`). This module knows in which order they have their say, keeps the account of what is still to be
explained, and must not know how reports look.
"""

from collections.abc import Iterable
from dataclasses import replace

from reference.cases.case import ANOTHER
from reference.diagnosis import behaviour, constants
from reference.diagnosis.evidence import WELL_CONDITIONED, Evidence, statistics_given
from reference.diagnosis.faults import FAULTS
from reference.diagnosis.formulas import cache_does_not_fit
from reference.diagnosis.groups import FEWEST, NARROW, Part, explained
from reference.diagnosis.named import NamedFault, in_formulas_of, told_by, unknown
from reference.diagnosis.search import Search
from reference.diagnosis.suspects import Suspect
from reference.diagnosis.unknown import Wrong, described
from reference.diagnosis.wording import named_by_formula, one_a_name
from reference.dtypes import NARROW as SIXTEEN_BITS
from reference.dtypes import roundoff
from reference.kinds import Kind
from reference.truth.convention import Convention
from reference.truth.exact import GRADIENTS, QUANTITIES
from reference.truth.verdict import Trial, wrong_in

ALIVE = "another layer alive"
ORDINARY = ("unit", "shifted")  # data in which a computation in float32, or one that cancels, keeps most of its digits
DIGITS = 0.01  # of a number's scale, beyond which it is another number


def diagnose(kind: Kind, trials: list[Trial], failing: list[Trial], convention: Convention) -> list[NamedFault]:
    """The mistakes behind the failing trials, by name where one is found.

    Whatever happens here, the verdict stands: a diagnosis that fails says so in the place of a name.

    Args:
        kind: of layer. trials: the designed probes, passed and failed. failing: those that failed, random ones too.
        convention: what the layer is held to.
    """
    evidence = Evidence(kind, trials, failing)
    try:
        return _Diagnosis(evidence, convention).found()
    except Exception as error:  # a mistake of ours must not hide the layer's
        words = f"the diagnosis itself failed with {type(error).__name__}: {error}; the verdict does not depend on it"
        return [unknown(evidence.wrong, words, "No mistake could be looked for.")]


class _Diagnosis:
    """The account of one diagnosis: the causes found so far, and the wrong arrays that none of them speaks of."""

    def __init__(self, evidence: Evidence, convention: Convention) -> None:
        self.evidence, self.convention = evidence, convention
        self.causes: list[NamedFault] = []
        self.wrong: Wrong = {(trial.case, name) for trial in evidence.counted for name in trial.wrong}

    def found(self) -> list[NamedFault]:
        """All causes, those that leave least to doubt first asked for."""
        self._by_behaviour()
        if not self._by_precision():
            self._by_formula()
        self._by_consequence()
        self._drop_other_sides()
        if self.wrong or not self.causes:
            left = {name for _, name in self.wrong} or set(self.evidence.wrong)
            names = tuple(name for name in QUANTITIES if name in left)
            words = described(self.evidence.trials, self.evidence.random, self.wrong)
            self.causes.append(unknown(names, words))
        return [in_formulas_of(self.evidence.kind, cause) for cause in one_a_name(self.causes)]

    # --- the explainers, in their order -------------------------------------------------------------------------------

    def _by_behaviour(self) -> None:
        evidence = self.evidence
        self.causes += behaviour.seen_to_do(evidence)
        self._account(t for t in evidence.counted if evidence.told_by_behaviour(t))
        self.causes += behaviour.eval_backward_missing(evidence)
        if evidence.no_eval_backward:
            in_eval = [t for t in evidence.counted if statistics_given(t.case) or t.case.history == "eval between"]
            self._account(in_eval, GRADIENTS)

    def _by_precision(self) -> bool:
        """Whether all that a formula would be held against is rounding; then none is tried."""
        found = self._by_lost_digits() or behaviour.computed_in_16_bits(self.evidence)
        found = found or behaviour.one_pass(self.evidence, self.convention.changes)
        self.causes += found
        for cause in found:
            self._account((t for t in self.evidence.counted if not _is_more_than_lost_digits(t)), cause.quantities)
        return bool(found)

    def _by_lost_digits(self) -> list[NamedFault]:
        """float32's precision in float64, and beside it the one mistake that would hide it: another eps for None."""
        evidence, changes = self.evidence, self.convention.changes
        if not any(t.wrong for t in evidence.numbers):
            return []
        found = behaviour.precision_lost(evidence)
        if found:
            return [constants.with_rounded_eps(fault, evidence, changes) for fault in found]
        other = constants.eps_for_none(evidence, changes)
        cases = {t.case for t in evidence.trials if t.case.options.get("eps", 0.0) is None} if other else set()
        beside = behaviour.precision_lost(evidence, cases) if other else []
        alone = other and all(t.case in cases for t in evidence.counted if t.wrong)
        return [*other, *beside] if beside or alone else []

    def _by_formula(self) -> None:
        """Mistakes that are a change to the formula: group by group in float64, and what is left of float32 alone."""
        evidence = self.evidence
        search = Search(evidence.kind, evidence.core, self.convention)
        for part in explained(search):
            belonging = [t for t in (*evidence.core, *evidence.large, *evidence.special) if part.group.holds(t.case)]
            self._name(part, belonging)
            self._by_experiment(search, part)
        unknown_anyway = {name for case, name in self.wrong if case.dtype == "float64"}
        alone = [t for t in evidence.narrow if self._is_left(t) and not unknown_anyway & set(t.wrong)]
        if len(alone) >= FEWEST:
            narrow = Search(evidence.kind, evidence.narrow, self.convention)
            self._name(Part(NARROW, narrow, narrow.explain()), evidence.narrow)
        named = {name for cause in self.causes for name in cause.quantities}
        self._account((t for t in evidence.counted if t.case.dtype in SIXTEEN_BITS), named)  # no formula is tried there

    def _name(self, part: Part, belonging: list[Trial]) -> None:
        """Name what explains a part, and take off the account what it gives of the trials that belong to the part."""
        given = [
            (trial, name)
            for trial in belonging
            for name in trial.wrong
            if (trial.case, name) in self.wrong and _is_given(part, trial, name)
        ]
        causes = named_by_formula(part, given)
        self.causes += causes
        self.wrong -= {(trial.case, name) for trial, name in given}
        # Where no formula can be tried, in float32 or at a large mean, the same quantity is of the same mistake.
        tried = {trial.case for trial in self.evidence.regular}
        beyond = [t for t in self.evidence.counted if part.group.holds(t.case) and t.case not in tried]
        self._account(beyond, {name for cause in causes for name in cause.quantities})

    def _by_experiment(self, search: Search, part: Part) -> None:
        """What is left once the formula has said its part, told by the probes that differ from a plain one in one aspect."""
        special = [t for t in self.evidence.special if part.group.holds(t.case)]
        known = set(QUANTITIES) - set(part.first.unknown)
        left = [t for t in special if known & set(_not_given(search, part.first.suspects, t))]
        for found in (behaviour.another_alive(left), behaviour.layout_dependent(left)):
            self.causes += found
            if found:
                self._account(t for t in left if (t.case.history == ANOTHER) == (found[0].id == told_by(ALIVE).id))

    def _by_consequence(self) -> None:
        """Where a layer raised, all that comes after is missing; that is of one cause with what is accounted for."""
        regular = {trial.case for trial in self.evidence.regular}
        raised = [t for t in self.evidence.counted if t.seen.raised and t.case not in regular]
        for number, cause in enumerate(self.causes):
            spoken = set(cause.quantities)
            consequences = [t for t in raised if spoken & set(t.wrong) and self._is_left(t)]
            more = [name for name in wrong_in(consequences) if name not in spoken]
            self.causes[number] = replace(cause, quantities=(*cause.quantities, *more))
            self._account(consequences)

    def _drop_other_sides(self) -> None:
        """What is only another side of a cause is not told beside it, and that cause speaks of its quantities too."""
        for side in list(self.causes):
            over = next((c for c in self.causes if c.id in FAULTS and side.id in FAULTS[c.id].covers), None)
            if over is None or (FAULTS[over.id].cached and not self._only_where_no_cache_fits(side.id)):
                continue
            self.causes.remove(side)
            both = {*over.quantities, *side.quantities}
            names = tuple(name for name in QUANTITIES if name in both)
            self.causes[self.causes.index(over)] = replace(over, quantities=names)

    def _only_where_no_cache_fits(self, id: str) -> bool:
        """Whether something was seen only where a layer with an earlier call's cache has none, or one of another size."""
        seen = [t for t in self.evidence.counted if t.seen.has(id)]
        return all(cache_does_not_fit(t.case) for t in seen)

    # --- the account --------------------------------------------------------------------------------------------------

    def _account(self, trials: Iterable[Trial], names: Iterable[str] = QUANTITIES) -> None:
        """Call these quantities of these trials explained."""
        names = tuple(names)
        self.wrong -= {(trial.case, name) for trial in trials for name in names}

    def _is_left(self, trial: Trial) -> bool:
        return any((trial.case, name) in self.wrong for name in trial.wrong)


def _is_more_than_lost_digits(trial: Trial) -> bool:
    """Whether numbers of float64 are another altogether where no digits can be lost: that is of another mistake."""
    if trial.case.dtype != "float64" or trial.expected.truth.conditioning > WELL_CONDITIONED:
        return False
    errors = [trial.comparisons[name].error for name in trial.wrong if trial.case.data in ORDINARY]
    return any(DIGITS < error * roundoff("float64") < float("inf") for error in errors)


def _is_given(part: Part, trial: Trial, name: str) -> bool:
    """Whether the mistakes of a part are why a quantity is wrong: with them the formula gives it, and without it does not.

    The second half is for what no formula is about: the right numbers in an array of the wrong shape, and digits that are
    lost. Where a mistake is so small that the right formula gives the numbers too, it must give them within the tolerance.
    """
    suspects = part.first.suspects
    if not suspects or name in part.first.unknown or not part.search.reproduces(suspects, [trial], name):
        return False
    comparison = trial.comparisons[name]
    if not part.search.reproduces((), [trial], name):
        return True
    return not comparison.problem and part.search.error(suspects, trial, name) <= comparison.tolerance


def _not_given(search: Search, suspects: tuple[Suspect, ...], trial: Trial) -> list[str]:
    """The quantities of a trial that the formula with these mistakes does not give."""
    names = trial.comparisons if suspects else trial.wrong  # without mistakes the verdict has said it already
    return [name for name in names if not search.reproduces(suspects, [trial], name)]
