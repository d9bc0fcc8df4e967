"""Ranks and shapes that a layer takes without refusing them, though it is not made for them.

A layer for (N, C) computes something of (N, C, H, W) too, and a layer that normalizes one axis something of a shape of
two. What tells that it is not meant for them: everything it gives there is wrong, its output as well, and the gradients of
its parameters come in a shape that cannot be taken from the parameters, while all is right elsewhere.
"""

from collections.abc import Callable, Sequence

from reference.cases.case import Case
from reference.truth.verdict import Trial

PARTS: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("several normalized axes", lambda case: case.kind.normalizes_features and len(case.parameter_shape) > 1),
    *((f"{rank}D", lambda case, rank=rank: len(case.shape) == rank) for rank in (3, 4, 5)),
)


def not_meant(trials: Sequence[Trial]) -> dict[str, str]:
    """The parts that the layer is not made for, and what says so; empty where it is wrong elsewhere too."""
    found: dict[str, str] = {}
    for name, belongs in PARTS:
        inside = [trial for trial in trials if belongs(trial.case)]
        shapes = {text for trial in inside if (text := _misshapen(trial))}
        telling = [
            trial for trial in inside if trial.case.has_gamma and trial.case.data != "nan" and min(trial.case.shape) > 1
        ]
        if telling and all("y" in trial.wrong and _misshapen(trial) for trial in telling):
            found[name] = f"it is not made for that: dgamma comes in another shape than gamma ({min(shapes)})"
    rest = [trial for trial in trials if not any(belongs(trial.case) for name, belongs in PARTS if name in found)]
    if not rest or any("y" in trial.wrong or _misshapen(trial) for trial in rest):
        return {}
    return found


def without(trials: Sequence[Trial], parts: Sequence[str]) -> list[Trial]:
    """The trials of none of these parts."""
    chosen = [belongs for name, belongs in PARTS if name in parts]
    return [trial for trial in trials if not any(belongs(trial.case) for belongs in chosen)]


def _misshapen(trial: Trial) -> str:
    """What the shape of dgamma was, where it is not gamma's."""
    comparison = trial.comparisons.get("dgamma")
    if comparison is not None and comparison.problem.startswith("got shape"):
        return comparison.problem
    finding = next((f for f in trial.findings if f.id == "parameter-gradients-misshapen"), None)
    return finding.detail if finding else ""
