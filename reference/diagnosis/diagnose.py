"""From what is wrong to the name of the mistake, or to an honest "unknown".

A mistake is named only when a layer with exactly that mistake gives the subject's numbers on every probe, to rounding,
in float64 (`search`). Mistakes that are no formula are told by what the layer was seen to do, or by probes that differ
in one aspect only (`behaviour`). What neither finds is "unknown", with all that can be said about it (`conditions`).
This module knows in which order the three have their say, and must not know how reports look.
"""

from reference.diagnosis import behaviour
from reference.diagnosis.conditions import describe_unknown
from reference.diagnosis.evidence import Evidence
from reference.diagnosis.named import NamedFault, entry
from reference.diagnosis.search import Search
from reference.diagnosis.suspects import Explanation, Suspect
from reference.kinds import Kind
from reference.truth.convention import Convention
from reference.truth.exact import QUANTITIES
from reference.truth.verdict import Trial, wrong_in


def diagnose(kind: Kind, trials: list[Trial], failing: list[Trial], convention: Convention) -> list[NamedFault]:
    """The mistakes behind the failing trials, by name where one is found.

    Args:
        kind: of layer. trials: the designed probes, passed and failed. failing: those that failed, random ones too.
        convention: what the layer is held to.
    """
    evidence = Evidence(kind, trials, failing)
    found = behaviour.seen_to_do(evidence) + behaviour.eval_backward_missing(evidence)
    wrong = any(trial.wrong for trial in evidence.core)
    rounded = behaviour.precision_lost(evidence) if wrong else []
    if rounded:
        return _in_order(found + rounded)  # then all that the formula would be held against is rounding
    search = Search(kind, evidence.core, convention)
    explanations = search.explain() if wrong else [Explanation()]
    found += _by_formula(search, explanations, evidence.core)
    first = explanations[0]
    found += _by_experiment(evidence, search, first)
    unknown = first.unknown or wrong_in(_unexplained(search, first.suspects, evidence.large))
    found += _unknown(trials, unknown) if unknown else _left_over(evidence, found)
    return _in_order(found)


def _by_formula(search: Search, explanations: list[Explanation], core: list[Trial]) -> list[NamedFault]:
    """The entries of the dictionary that the shortest explanations are made of."""
    found = []
    ties = [sorted(e.ids) for e in explanations]
    for explanation in explanations:
        wrong = [name for name in wrong_in(core) if name not in explanation.unknown]
        worst = search.worst_error(explanation.suspects, wrong)
        for suspect in explanation.suspects:
            words = [f"reproduces all {len(core)} probes, to {worst:.2g} u"]
            others = [s.id for s in explanation.suspects if s is not suspect]
            if others:
                words[0] += f", together with {' and '.join(others)}"
            if len(ties) > 1:
                words.append("so does " + ", or ".join(" with ".join(tie) for tie in ties if suspect.id not in tie))
            if suspect.constant is not None:
                words.append(f"the {suspect.fault.constant} that was used is {suspect.constant:g}")
            found.append(entry(suspect.fault, _spoilt(suspect, wrong), "; ".join(words)))
    return found


def _spoilt(suspect: Suspect, wrong: list[str]) -> list[str]:
    """What a mistake spoils first, of what is wrong; or all that is, if the mistake is only seen by its consequences."""
    fault = suspect.fault
    consequences = QUANTITIES if fault.forward and "y" in fault.quantities else fault.quantities
    return [name for name in wrong if name in consequences] or wrong


def _by_experiment(evidence: Evidence, search: Search, explanation: Explanation) -> list[NamedFault]:
    """What is left once the formula has said its part, told by the probes that differ from a plain one in one aspect."""
    suspects, known = explanation.suspects, set(QUANTITIES) - set(explanation.unknown)
    left = [t for t in evidence.special if known & set(_not_given(search, suspects, t))]
    found = behaviour.input_not_saved(left) + behaviour.layout_dependent(left)
    over_y = [t for t in left if t.case.overwrite == "y"]  # no entry: nobody hands out y and reads it again
    return found + (_unknown(evidence.special, wrong_in(over_y)) if over_y else [])


def _unexplained(search: Search, suspects: tuple[Suspect, ...], trials: list[Trial]) -> list[Trial]:
    """The trials in which something is wrong that the formula with these mistakes does not give."""
    return [trial for trial in trials if _not_given(search, suspects, trial)]


def _not_given(search: Search, suspects: tuple[Suspect, ...], trial: Trial) -> list[str]:
    """The quantities of a trial that the formula with these mistakes does not give."""
    names = trial.comparisons if suspects else trial.wrong  # without mistakes the verdict has said it already
    return [name for name in names if not search.reproduces(suspects, [trial], name)]


def _left_over(evidence: Evidence, found: list[NamedFault]) -> list[NamedFault]:
    """What no finding accounts for: wrong in float32 alone, at a large mean, in a random case..."""
    accounted = {name for fault in found for name in fault.quantities}
    accounted |= set(wrong_in(evidence.regular))
    # Where it raised, all that comes after is missing; that is of one cause with what is accounted for.
    others = [t for t in evidence.loose if not (t.seen.raised and accounted & set(t.wrong))]
    wrong = tuple(name for name in wrong_in(others) if name not in accounted)
    return _unknown(evidence.with_one_random, wrong) if wrong or not found else []


def _unknown(trials: list[Trial], quantities: tuple[str, ...]) -> list[NamedFault]:
    summary = f"No known mistake gives these numbers: {', '.join(quantities) or 'nothing'} wrong."
    return [NamedFault("unknown", "mistake", quantities, summary, "", describe_unknown(trials, quantities))]


def _in_order(found: list[NamedFault]) -> list[NamedFault]:
    """Each name once, mistakes before conventions, the unknown last."""
    once: dict[str, NamedFault] = {}
    for fault in found:
        once.setdefault(fault.id, fault)
    return sorted(once.values(), key=lambda fault: (fault.id == "unknown", fault.kind == "convention"))
