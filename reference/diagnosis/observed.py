"""What needs no search: hazards and conventions that were seen, from their ids to entries of the dictionary."""

from collections.abc import Sequence

from reference.diagnosis.faults import FAULTS
from reference.diagnosis.named import NamedFault, entry
from reference.subjects.observation import Finding
from reference.truth.exact import QUANTITIES
from reference.truth.verdict import Trial


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
    found = []
    for finding in findings:
        follows = {"momentum-default": "momentum-inverted", "parameters-start-elsewhere": "gamma-plus-one"}.get(
            finding.id
        )
        if finding.id not in known and follows not in known:
            found.append(entry(FAULTS[finding.id], (), finding.detail))
    return found
