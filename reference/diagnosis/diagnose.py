"""From what is wrong to the name of the mistake, or to an honest "unknown".

A mistake is named only when a layer with exactly that mistake gives the subject's numbers on every probe, to rounding,
in float64 (`reference.search`). Mistakes that are no formula are told by experiment: by what the layer was seen to do,
or by probes that differ in one aspect only. What neither finds is "unknown", with all that can be said about it
(`reference.conditions`). This module knows how to bring the three together, and must not know how reports look.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import prod

import numpy as np

from reference.cases.case import Case
from reference.diagnosis.conditions import describe_unknown
from reference.diagnosis.faults import FAULTS, Constant
from reference.diagnosis.named import NamedFault
from reference.diagnosis.search import Explanation, Search, Suspect
from reference.kinds import Kind
from reference.truth.compare import roundoff
from reference.truth.convention import Convention
from reference.truth.exact import GRADIENTS, QUANTITIES, passes
from reference.truth.verdict import Trial, wrong_in

CONTIGUOUS = ("C", "read-only")


def diagnose(kind: Kind, trials: list[Trial], failing: list[Trial], convention: Convention) -> list[NamedFault]:
    """The mistakes behind the failing trials, by name where one is found.

    Args:
        kind: of layer. trials: the designed probes, passed and failed. failing: those that failed, random ones too.
        convention: what the layer is held to.
    """
    found = _by_deed(failing)
    deeds = {fault.id for fault in found}
    numbers = [t for t in trials if not _explained_by_deed(t, deeds)]
    missing = _eval_backward_missing(numbers)
    if missing:
        found.append(missing)
        numbers = [t for t in numbers if not _statistics_given(t.case) and t.case.history != "eval between"]
    regular = [t for t in numbers if _usable(t)]
    core = [t for t in regular if _plain(t.case) and _small(t.case)]
    # Of tiny numbers a wrong gradient is made of rounding alone, but y tells a clamped variance from a missing eps.
    core += [
        replace(t, comparisons={"y": t.comparisons["y"]})
        for t in numbers
        if t.case.data == "tiny" and t.case.dtype == "float64" and _plain(t.case) and "y" in t.comparisons
    ]
    special = [t for t in regular if not _plain(t.case)]
    explanations: list[Explanation] = [Explanation()]
    search = Search(kind, core, convention)
    if any(t.wrong for t in core):
        demoted = _demoted(core, numbers)
        if demoted:
            return _merge(kind, [*found, demoted])
        explanations = search.explain()
        found += _named(search, explanations, core)
    unknown = explanations[0].unknown
    suspects = explanations[0].suspects
    # What is left once the formula has said its part: probes that differ from a plain one in one aspect.
    left = [t for t in special if any(name not in unknown for name in _unexplained(search, suspects, t))]
    found += _by_experiment(left, special)
    large = [t for t in regular if _plain(t.case) and not _small(t.case) and _unexplained(search, suspects, t)]
    if large and not unknown:
        unknown = wrong_in(large)
    if unknown:
        found.append(_unknown(trials, unknown))
    else:
        # What no finding accounts for: wrong in float32 alone, at a large mean, in a random case...
        accounted = {name for fault in found for name in fault.quantities}
        accounted |= {name for t in regular for name in t.wrong}
        others = [t for t in failing if not (_explained_by_deed(t, deeds) or (missing and not t.case.training))]
        # Where it raised, all that comes after is missing; that is of one cause with what is accounted for.
        others = [t for t in others if not (t.seen.raised and accounted & set(t.wrong))]
        wrong = tuple(name for name in QUANTITIES if name not in accounted and any(name in t.wrong for t in others))
        if wrong or not found:
            everything = [
                *trials,
                *[t for t in failing if t not in trials][:1],
            ]  # the rest are tries to shrink that one
            found.append(_unknown(everything, wrong))
    return _merge(kind, found)


def _plain(case: Case) -> bool:
    return not case.overwrite and case.layout in CONTIGUOUS and case.dy_layout in CONTIGUOUS


def _statistics_given(case: Case) -> bool:
    """Whether it is BatchNorm with its running statistics."""
    return not case.training and case.tracks


def _usable(trial: Trial) -> bool:
    """Whether its numbers can be held against formulas: float64, finite, not all rounding."""
    case = trial.case
    conditioned = trial.expected.truth.conditioning < 1e4
    # where all numbers of a row are the same, a wrong formula is made of rounding alone
    alone = case.sharing == 1
    regular = case.data in ("unit", "shifted", "integers", "small", "large", "offset 1e2") and not alone
    return case.dtype == "float64" and regular and conditioned


def _small(case: Case) -> bool:
    """Whether it is cheap enough to try many formulas on; larger cases only confirm what was found."""
    return prod(case.shape) * case.calls <= 1500


def _by_deed(failing: list[Trial]) -> list[NamedFault]:
    """What the layer was seen to do: write into its arguments, hand out their memory, change the dtype, not return."""
    seen: dict[str, list[tuple[str, str]]] = {}
    for trial in failing:
        for finding in trial.findings:
            seen.setdefault(finding.id, []).append((finding.quantity, finding.detail))
    for covered in [other for id in seen if id in FAULTS for other in FAULTS[id].covers]:
        seen.pop(covered, None)
    found = []
    for id, details in seen.items():
        quantities = tuple(dict.fromkeys(quantity for quantity, _ in details))
        evidence = f"{details[0][1]} (seen {len(details)} times)"
        if id in FAULTS:
            found.append(_fault(id, quantities, evidence))
        else:
            found.append(NamedFault("unknown", "mistake", quantities, f"{id}: {details[0][1]}", "", evidence))
    return found


def _explained_by_deed(trial: Trial, deeds: set[str]) -> bool:
    """Whether a trial failed only because the layer could not write where it wanted to, or had no numbers in time."""
    if any(finding.id == "timeout" for finding in trial.findings):
        return True
    return bool(
        any(id in FAULTS and FAULTS[id].writes for id in deeds)
        and (trial.seen.raised or trial.case.overwrite or "read-only" in (trial.case.layout, trial.case.dy_layout))
    )


def _eval_backward_missing(trials: list[Trial]) -> NamedFault | None:
    """BatchNorm's backward in eval mode: it raises or returns None each time, while in training mode it does not."""
    evaluation = [t for t in trials if _statistics_given(t.case) and not t.seen.refused]
    training = [t for t in trials if t.case.training]
    if (
        not evaluation
        or not all("dx" in t.seen.problems for t in evaluation)
        or any(t.seen.raised == "forward" for t in evaluation)
    ):
        return None
    if all("dx" in t.seen.problems for t in training):
        return None
    return _fault("eval-backward-missing", GRADIENTS, f"in eval mode: {evaluation[0].seen.problems['dx']}")


def _named(search: Search, explanations: list[Explanation], core: list[Trial]) -> list[NamedFault]:
    """The entries of the dictionary of the shortest explanations."""
    found = []
    ties = [sorted(e.ids) for e in explanations]
    for explanation in explanations:
        wrong = [name for name in QUANTITIES if any(name in t.wrong for t in core) and name not in explanation.unknown]
        worst = search.worst_error(explanation.suspects, wrong)
        for suspect in explanation.suspects:
            fault = FAULTS[suspect.id]
            # what it spoils first, or whatever is wrong if that is only seen through its consequences
            quantities = [name for name in wrong if name in _consequences(fault.quantities, fault.forward)] or wrong
            evidence = f"reproduces all {len(core)} probes, to {worst:.2g} u"
            if len(explanation.suspects) > 1:
                others = " and ".join(s.id for s in explanation.suspects if s is not suspect)
                evidence += f", together with {others}"
            if len(ties) > 1:
                evidence += "; so does " + ", or ".join(" with ".join(tie) for tie in ties if suspect.id not in tie)
            own = suspect.changes.get(fault.constant)
            if isinstance(own, Constant):
                evidence += f"; the {fault.constant} that was used is {own.value:g}"
            found.append(_fault(suspect.id, quantities, evidence))
    return found


def _consequences(quantities: tuple[str, ...], forward: bool) -> tuple[str, ...]:
    return QUANTITIES if forward and "y" in quantities else quantities


def _unexplained(search: Search, suspects: tuple[Suspect, ...], trial: Trial) -> list[str]:
    """The quantities of a trial that the formula with these mistakes does not give."""
    return [
        n for n in trial.comparisons if (n in trial.wrong or suspects) and not search.reproduces(suspects, [trial], n)
    ]


def _by_experiment(left: list[Trial], special: list[Trial]) -> list[NamedFault]:
    """Probes that differ from a right one in one aspect: x overwritten, or another place in memory."""
    found = []
    over_x = [t for t in left if t.case.overwrite == "x"]
    strided = [t for t in left if not t.case.overwrite]
    others = [t for t in left if t.case.overwrite == "y"]
    if over_x and not others:
        wrong = wrong_in(over_x)
        found.append(
            _fault("input-not-saved", wrong, f"right until x is overwritten before backward: {over_x[0].case}")
        )
    if strided:
        wrong = wrong_in(strided)
        layouts = sorted({t.case.layout if t.case.layout != "C" else f"dy {t.case.dy_layout}" for t in strided})
        evidence = f"right for contiguous arrays, wrong for these: {', '.join(layouts)}"
        found.append(_fault("layout-dependent", wrong, evidence))
    if others:
        wrong = wrong_in(others)
        found.append(_unknown(special, wrong))
    return found


def _demoted(core: list[Trial], trials: list[Trial]) -> NamedFault | None:
    """float64 with float32's precision: errors of that size everywhere, without a pattern, and none in float32."""
    core = [t for t in core if t.case.data not in ("large", "tiny")]  # float32 does not reach as far
    wrong = [(t, t.comparisons[name]) for t in core for name in t.wrong]
    unit = roundoff("float32") / roundoff("float64")
    if not wrong or any(c.problem or c.error > 64 * unit * t.expected.truth.conditioning**2 for t, c in wrong):
        return None
    if any(t.wrong for t in trials if t.case.dtype == "float32"):
        return None
    if len({t.case for t, _ in wrong}) < len(core) / 3:
        return None
    worst = max(c.error / t.expected.truth.conditioning for t, c in wrong)
    # a rounded rstd leaves an error that follows its row, but not one of many roundoffs, as a wrong constant does
    patterns = [_patterned(t, c.quantity) for t, c in sorted(wrong, key=lambda pair: -prod(pair[0].case.shape))[:12]]
    if worst < 0.1 * unit or (worst > 2 * unit and sum(patterns) > len(patterns) / 2):
        return None
    quantities = tuple(dict.fromkeys(c.quantity for _, c in wrong))
    evidence = f"errors up to {worst:.2g} u in float64, that is {worst / unit:.2g} u of float32; none in float32"
    return _fault("dtype-demoted", quantities, evidence)


def _patterned(trial: Trial, name: str) -> bool:
    """Whether an array's error follows the terms that it is made of, as that of a constant that is a little off does.

    Rounding does not: row by row, it is nearly orthogonal to any few terms.
    """
    if name not in ("y", "dx"):
        return False
    p = passes(trial.case)[-1]
    shape = p.view.shape
    terms = [p.d, p.mean_term + 0 * p.d, p.projection] if name == "dx" else [p.gamma * p.xhat, p.gamma + 0 * p.xhat]
    error = (trial.seen.outcome[name] - trial.expected.truth.exact[name]).reshape(shape).astype(np.float64)
    rows = tuple(axis for axis in range(len(shape)) if axis not in p.view.axes)
    error = error.transpose(*rows, *p.view.axes).reshape(-1, p.count)
    columns = [
        (np.zeros(shape) + term.astype(np.float64)).transpose(*rows, *p.view.axes).reshape(-1, p.count)
        for term in terms
    ]
    if p.count < 12:
        return False
    left = 0.0
    for row, *features in zip(error, *columns, strict=True):
        matrix = np.stack(features, axis=1)
        left += float(np.sum((row - matrix @ np.linalg.lstsq(matrix, row, rcond=None)[0]) ** 2))
    return left < 1e-2 * float(np.sum(error**2))


def _unknown(trials: list[Trial], quantities: tuple[str, ...]) -> NamedFault:
    summary = f"No known mistake gives these numbers: {', '.join(quantities) or 'nothing'} wrong."
    return NamedFault("unknown", "mistake", quantities, summary, "", describe_unknown(trials, quantities))


def _fault(id: str, quantities: Iterable[str], evidence: str) -> NamedFault:
    fault = FAULTS[id]
    return NamedFault(id, fault.kind, tuple(quantities), fault.summary, fault.fix, evidence, fault.wrong, fault.right)


def _of_kind(kind: Kind, fault: NamedFault) -> NamedFault:
    """The finding with the formulas as they are for this kind of layer."""
    entry = FAULTS.get(fault.id)
    if entry is None:
        return fault
    return replace(fault, wrong=entry.wrong_for(kind), right=entry.right_for(kind), fix=entry.fix_for(kind))


def _merge(kind: Kind, found: list[NamedFault]) -> list[NamedFault]:
    """Each name once, in the formulas of the kind, mistakes before conventions, the unknown last."""
    once: dict[str, NamedFault] = {}
    for fault in found:
        once.setdefault(fault.id, _of_kind(kind, fault))
    return sorted(once.values(), key=lambda fault: (fault.id == "unknown", fault.kind == "convention"))
