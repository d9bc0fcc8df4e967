"""The smallest failing case: its worst entries, and a script that shows it with numpy and torch alone."""

from dataclasses import replace
from math import prod
from weakref import WeakKeyDictionary

import numpy as np

from reference.cases.case import Case
from reference.dtypes import NARROW, is_real
from reference.reporting.result import Counterexample, Entry, Picture
from reference.reporting.script import script_for
from reference.subjects.judged import Judged
from reference.truth.compare import error_units
from reference.truth.verdict import Trial

WORST = 6  # entries in the table
ODD = 6  # numbers that are as easy to look at as one thing that is out of the ordinary
USUAL_EPS = 1e-5
MOST_OBSCURE = 2
FREE = 0.02  # of the natural scale, from which the numbers that should be there are no mere remainder
PLAIN = 0.01  # of the largest number, from which an error is seen at a glance


def size_of(case: Case) -> tuple[int, ...]:
    """What makes a case small: few numbers and few things that are out of the ordinary, each as bad as some numbers."""
    odd = (case.layout != "C") + (case.dy_layout != "C") + bool(case.overwrite) + (case.data != "unit")
    odd += (
        (case.dtype != "float64")
        + (case.dtype in NARROW)
        + bool(case.resize)
        + bool(case.history)
        + (not case.training)
    )
    odd += case.options.get("eps") not in (case.kind.optional["eps"], USUAL_EPS)
    return (0 in case.shape, prod(case.shape) * case.calls + ODD * odd, odd, len(case.shape), case.seed)


def smallest(failing: list[Trial]) -> Trial:
    """The smallest trial, of those that have a wrong number if any has, and of those the ones that show it best."""
    wrong = [trial for trial in failing if trial.wrong]
    return min(wrong or failing, key=lambda trial: (obscurity(trial), size_of(trial.case)))


def obscurity(trial: Trial) -> int:
    """How hard a failure is to see: 0 where it strikes the eye in each wrong array, to `MOST_OBSCURE`.

    Two values that are normalized are 1 and -1 whatever they were: the right dx is next to nothing there, a remainder of
    large terms, and says little of what it should be. An error that is small beside the values is hard to see as well.
    """
    return max((_obscurity_of(trial, name) for name in trial.wrong), default=0)


def _obscurity_of(trial: Trial, name: str) -> int:
    """The same of one array; kept, since sorting asks for it again and again."""
    kept = _KEPT.setdefault(trial, {})
    if name not in kept:
        kept[name] = _measured_obscurity(trial, name)
    return kept[name]


_KEPT: WeakKeyDictionary[Trial, dict[str, int]] = WeakKeyDictionary()


def _measured_obscurity(trial: Trial, name: str) -> int:
    got, truth = trial.seen.outcome.get(name), trial.expected.truth
    exact, scale = (values[name].astype(np.float64) for values in (truth.exact, truth.scale))
    if got is None or got.shape != exact.shape or not is_real(got.dtype):
        return 0
    got, there = got.astype(np.float64), np.isfinite(exact)
    if (np.isfinite(got) != there).any():
        return 0  # an infinity or a NaN where there is none, or the other way round
    if not there.any() or np.median(np.abs(exact[there]) / np.where(scale > 0, scale, 1)[there]) < FREE:
        return MOST_OBSCURE
    return int(np.max(np.abs(got - exact)[there]) < PLAIN * np.max(np.abs(exact[there])))


def describe_failure(subject: Judged, trial: Trial, accepted: bool) -> Counterexample:
    """What a reader needs of a failing trial; `accepted` says that it was not held to torch's conventions."""
    trial = replace(trial, case=replace(trial.case, overwrite=""))  # which is never why a number is wrong
    return Counterexample(
        case=trial.case,
        comparisons=tuple(trial.comparisons[name] for name in trial.wrong),
        problems=tuple(f"{finding.quantity}: {finding.detail}" for finding in trial.findings),
        entries=tuple(worst_entries(trial)),
        script=script_for(subject, trial, accepted),
    )


def worst_entries(trial: Trial, most: int = WORST) -> list[Entry]:
    """The entries that are farthest off, the worst first, of all wrong quantities."""
    found = []
    for name in trial.wrong:
        got, exact = trial.seen.outcome.get(name), trial.expected.truth.exact[name]
        if got is None or got.shape != exact.shape:
            continue
        errors = error_units(got, exact, trial.expected.truth.scale[name], trial.case.dtype)
        for flat in np.argsort(-errors, axis=None)[:most]:
            if errors.flat[flat] > trial.comparisons[name].tolerance:
                index = tuple(int(i) for i in np.unravel_index(flat, errors.shape))
                found.append(Entry(name, index, float(got[index]), float(exact[index]), float(errors[index])))
    return sorted(found, key=lambda entry: -entry.error)[:most]


def pictures_of(failing: list[Trial]) -> tuple[Picture, ...]:
    """For each wrong quantity the arrays of the smallest and of a typical failing case."""
    pictures = []
    for name in dict.fromkeys(name for trial in failing for name in trial.wrong):
        drawable = [t for t in failing if name in t.wrong and _drawable(t, name)]
        if not drawable:
            continue
        ordered = sorted(drawable, key=lambda trial: (_obscurity_of(trial, name), size_of(trial.case)))
        # typical: the one in the middle, of those small enough to be seen
        plain = [t for t in ordered if _obscurity_of(t, name) == _obscurity_of(ordered[0], name)]
        seen = [t for t in plain if prod(t.case.shape) <= 1500] or ordered[:1]
        for title, trial in (("smallest", ordered[0]), ("typical", seen[len(seen) // 2])):
            expected = np.asarray(trial.expected.truth.exact[name]).astype(np.float64)
            pictures.append(Picture(name, trial.case, title, np.asarray(trial.seen.outcome[name]), expected))
    return tuple(pictures)


def _drawable(trial: Trial, name: str) -> bool:
    got = trial.seen.outcome.get(name)
    return got is not None and got.shape == trial.expected.truth.exact[name].shape
