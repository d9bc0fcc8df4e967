"""How the explanations of a search become named mistakes: what each spoils, what else would do, and in which words.

Knows formulas no more than the search that it asks, and must not know how reports look.
"""

from dataclasses import replace

from reference.diagnosis.groups import Part
from reference.diagnosis.named import NamedFault, entry
from reference.diagnosis.suspects import Explanation, Suspect
from reference.truth.exact import QUANTITIES
from reference.truth.verdict import Trial

ASKED = 8  # trials of a quantity in which it is seen whether a mistake spoils it

Given = list[tuple[Trial, str]]  # wrong arrays that an explanation gives


def named_by_formula(part: Part, given: Given) -> list[NamedFault]:
    """The entries of the dictionary that the explanation of a part is made of."""
    first = part.first
    suspects = [s for s in first.suspects if s not in part.before]
    names = [name for name in QUANTITIES if any(name == given_name for _, given_name in given)]
    if not suspects or not names:
        return []
    spoils = {suspect: _spoilt(part, suspect, given, names) for suspect in suspects}
    # one may hide behind another: what no single one of them accounts for, they spoil together
    spoken = {name for spoilt in spoils.values() for name in spoilt}
    spoils[suspects[0]] += [name for name in names if name not in spoken]
    worst = part.search.worst_error(first.suspects, names)
    what = ", ".join(names) + " in all" if first.unknown else "all"
    found = []
    for suspect in suspects:
        words = f"reproduces {what} {len(part.search.trials)} probes, to {worst:.2g} u"
        when = ", ".join(dict.fromkeys(w for w in (part.group.words, suspect.limit and suspect.limit.words) if w))
        others = [s.id for s in suspects if s is not suspect]
        if when:
            words = f"{when}: {words}"
        if others:
            words += f", together with {' and '.join(others)}"
        if suspect.constant is not None:
            words += f"; the {suspect.fault.constant} that was used is {suspect.constant:g}"
        own = suspect.fault.quantities
        quantities = sorted(spoils[suspect] or names, key=lambda name: name not in own)  # what it spoils first, first
        found.append(entry(suspect.fault, quantities, words, _alternatives(part.explanations, suspect)))
    return found


def _spoilt(part: Part, suspect: Suspect, given: Given, names: list[str]) -> list[str]:
    """The quantities that a mistake spoils: those which the explanation does not give without it."""
    others = part.first.without(suspect).suspects
    if not others:
        return list(names)
    asked = {name: [trial for trial, given_name in given if given_name == name][:ASKED] for name in names}
    return [name for name in names if any(not part.search.reproduces(others, [t], name) for t in asked[name])]


def _alternatives(explanations: list[Explanation], suspect: Suspect) -> tuple[str, ...]:
    """What stands in the place of a mistake in the other explanations of equal length, which are as good as the first."""
    first, *others = explanations
    found: dict[str, None] = {}
    for other in others:
        replaced = [s.id for s in first.suspects if s.id not in other.ids]
        instead = sorted(other.ids - first.ids)
        if replaced and instead and suspect.id == replaced[0]:
            found[" with ".join(instead)] = None
    return tuple(found)


def one_a_name(causes: list[NamedFault]) -> list[NamedFault]:
    """Each name once, with all that was found of it; mistakes before conventions, the unknown last."""
    once: dict[object, NamedFault] = {}
    for number, cause in enumerate(causes):
        key = cause.id if cause.id != "unknown" else number  # two that are unknown need not be one
        if key in once:
            once[key] = _joined(once[key], cause)
        else:
            once[key] = cause
    return sorted(once.values(), key=lambda fault: (fault.id == "unknown", fault.kind == "convention"))


def _joined(one: NamedFault, other: NamedFault) -> NamedFault:
    """One mistake that was found twice, in two groups or by two experiments."""
    return replace(
        one,
        quantities=tuple(dict.fromkeys((*one.quantities, *other.quantities))),
        evidence="; ".join(dict.fromkeys((one.evidence, other.evidence))),
        alternatives=tuple(dict.fromkeys((*one.alternatives, *other.alternatives))),
    )
