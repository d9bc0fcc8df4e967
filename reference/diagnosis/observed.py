"""What needs no search: hazards and conventions that were seen, and what was refused, in the dictionary's words."""

import re
from collections.abc import Sequence

from reference.diagnosis.conditions import conditions
from reference.diagnosis.faults import FAULTS
from reference.diagnosis.named import NamedFault, entry
from reference.subjects.observation import Finding
from reference.truth.exact import QUANTITIES
from reference.truth.verdict import Trial

PLAIN = ("backward in eval mode", "an empty batch", "negative strides")  # refusals that need no search for words


def hazards_of(trials: Sequence[Trial]) -> list[NamedFault]:
    """The hazards that were seen in some trials, each once."""
    seen: dict[str, list[tuple[Trial, Finding]]] = {}
    for trial in trials:
        for finding in trial.hazards:
            seen.setdefault(finding.id, []).append((trial, finding))
    found = []
    for id, pairs in seen.items():
        concerned = {finding.quantity for _, finding in pairs}
        trial, finding = pairs[0]
        evidence = f"{finding.detail}: {trial.case}"
        found.append(entry(FAULTS[id], (name for name in QUANTITIES if name in concerned), evidence))
    return found


def starting_conventions(findings: Sequence[Finding], known: set[str]) -> list[NamedFault]:
    """The defaults and starting values that are not torch's, but for those that are accepted or follow from another."""
    found: dict[str, NamedFault] = {}
    for finding in findings:
        follows = {"momentum-default": "momentum-inverted", "parameters-start-elsewhere": "gamma-plus-one"}.get(
            finding.id
        )
        if finding.id not in known and follows not in known:
            before = f"{found[finding.id].evidence}; " if finding.id in found else ""
            found[finding.id] = entry(FAULTS[finding.id], (), before + finding.detail)
    return list(found.values())


def refusals(refused: Sequence[Trial], others: Sequence[Trial]) -> dict[str, str]:
    """What the layer refused among the cases: the option, size or mode that sets them apart from `others`, and why."""
    alike: dict[str, list[Trial]] = {}
    for trial in refused:
        in_eval = trial.case.tracks and (not trial.case.training or trial.case.history == "eval between")
        if trial.seen.raised == "backward" and in_eval and trial.case.contiguous:
            words = "backward in eval mode"
        elif 0 in trial.case.shape:
            words = "an empty batch"
        elif "negative stride" in trial.seen.refused:
            words = "negative strides"
        else:
            words = re.sub(r"[0-9]+", "", trial.seen.refused)  # the same text for other sizes
        alike.setdefault(words, []).append(trial)
    return {
        words if words in PLAIN else _apart(trials, others): (f"refused: {trials[0].seen.refused}")
        for words, trials in alike.items()
    }


def _apart(refused: list[Trial], others: Sequence[Trial]) -> str:
    """What cases that are refused share and no other has, in words; else one of the cases."""
    options = set.intersection(*(set(trial.case.config) for trial in refused))
    options -= {pair for trial in others for pair in trial.case.config}
    if options:
        return ", ".join(f"{name}={value!r}" for name, value in sorted(options, key=str))
    when = conditions([*others, *refused], lambda trial: any(trial is one for one in refused))
    more = f", and {len(refused) - 1} like it" if len(refused) > 1 else ""
    return f"cases {' and '.join(when)}" if when else f"{refused[0].case}{more}"
