"""Ranks and shapes that a layer takes without refusing them, though it is not made for them.

A layer for (N, C) computes something of (N, C, H, W) too, and a layer that normalizes one axis something of a shape of
two. What tells that it is not meant for them: the gradients of its parameters come in a shape that cannot be taken from
the parameters, and its output is wrong as well; or it is made for one rank beyond 2D, where all of that is right.
"""

from collections.abc import Callable, Sequence

from reference.cases.case import Case
from reference.cases.scope import SEVERAL_AXES
from reference.truth.verdict import Trial

Belongs = Callable[[Case], bool]
RANKS: dict[str, Belongs] = {f"{rank}D": lambda case, rank=rank: len(case.shape) == rank for rank in (2, 3, 4, 5)}  # type: ignore[misc]
PARTS: dict[str, Belongs] = {
    SEVERAL_AXES: lambda case: case.kind.normalizes_features and len(case.parameter_shape) > 1
} | RANKS
TELLING = ("unit", "shifted", "integers")  # data of which a wrong output shows


def not_meant(trials: Sequence[Trial]) -> dict[str, str]:
    """The parts that the layer is not made for, and what says so; empty where it is wrong in the others too."""
    single = {name for name, belongs in RANKS.items() if name != "2D" and _is_right(_inside(trials, belongs))}
    found: dict[str, str] = {}
    for name, belongs in PARTS.items():
        inside = _inside(trials, belongs)
        shapes = [_misshapen(trial) for trial in inside]
        if not inside or not all(shapes):
            continue
        beyond = name != "2D" and all("y" in trial.wrong for trial in inside)
        if beyond or (name in RANKS and single):
            found[name] = f"it is not made for that: dgamma comes in another shape than gamma ({min(shapes)})"
    rest = [trial for trial in trials if not any(PARTS[name](trial.case) for name in found)]
    return found if _is_right([trial for trial in rest if trial.case.data in TELLING]) else {}


def without(trials: Sequence[Trial], parts: Sequence[str]) -> list[Trial]:
    """The trials of none of these parts."""
    return [trial for trial in trials if not any(PARTS[name](trial.case) for name in parts)]


def _inside(trials: Sequence[Trial], belongs: Belongs) -> list[Trial]:
    """The trials of a part that would show it: with a gamma, usual data, and no axis of 1 that hides an axis."""
    return [
        trial
        for trial in trials
        if belongs(trial.case) and trial.case.has_gamma and trial.case.data in TELLING and min(trial.case.shape) > 1
    ]


def _is_right(trials: Sequence[Trial]) -> bool:
    return bool(trials) and not any("y" in trial.wrong or _misshapen(trial) for trial in trials)


def _misshapen(trial: Trial) -> str:
    """What the shape of dgamma was, where it is not gamma's."""
    comparison = trial.comparisons.get("dgamma")
    if comparison is not None and "got shape" in comparison.problem:
        return comparison.problem[comparison.problem.index("got shape") :]
    finding = next((f for f in trial.findings if f.id == "parameter-gradients-misshapen"), None)
    return finding.detail if finding else ""
