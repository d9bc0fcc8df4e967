"""What can be said of a mistake without a name: how often it shows, when, where in the array, and of what it is made.

Everything that is said must be true of all the numbers that it speaks of; what does not hold for each is left out.
Names no mistake, and must not know how reports look.
"""

from math import prod

import numpy as np

from reference.cases.case import Case
from reference.diagnosis.conditions import conditions
from reference.dtypes import NARROW
from reference.truth import exact
from reference.truth.compare import error_units
from reference.truth.verdict import Trial

Wrong = set[tuple[Case, str]]  # arrays that are wrong: of which case, and which quantity

# Data of probes that ask for what a layer is not made for: what comes of them says nothing of a layer that fails elsewhere.
SPECIAL = ("nan", "large", "tiny")
FITS = 0.05  # of dx's norm that its three terms may leave unexplained
SAME = 1e-6  # by how much the coefficients of two cases may differ
RIGHT = 1e-9  # by how much a coefficient may differ from 1 in a right layer
NOUGHT = 1e-9  # of the natural scale
LARGEST = 5000  # numbers of dx up to which it is taken apart


def described(designed: list[Trial], random: list[Trial], wrong: Wrong) -> str:
    """All that can be said of what is wrong in the designed probes, or else in the random cases, in one line."""

    def failed(trial: Trial) -> bool:
        return any((trial.case, name) in wrong for name in trial.wrong)

    bad = [t for t in designed if failed(t)]
    sentences = [f"wrong in {len(bad)} of {len(designed)} probes"]
    if not bad:  # then nothing is compared: one case has too many properties to be told from all the others by one
        bad = [t for t in random if failed(t)]
        sentences = [f"wrong in none of the {len(designed)} probes, but in a random case: {t.case}" for t in bad[:1]]
    else:
        when = conditions(designed, failed)
        if when:
            sentences.append("only " + " and ".join(when))
    arrays = [(t, name) for t in bad for name in t.wrong if (t.case, name) in wrong]
    said = (_instead(arrays) or _place(arrays), _nought(arrays) or _terms(arrays))
    sentences += [words for words in said if words]
    return "; ".join(sentences)


Arrays = list[tuple[Trial, str]]


def _instead(arrays: Arrays) -> str:
    """What came in place of an array, or of its numbers, in a case that a layer must be able to take."""
    wide = [
        (trial, name) for trial, name in arrays if trial.case.dtype not in NARROW
    ]  # a wrong formula overflows there
    ordinary = [
        (trial, trial.comparisons[name].problem) for trial, name in wide or arrays if trial.case.data not in SPECIAL
    ]
    problems = [(trial, problem) for trial, problem in ordinary if problem]
    if not problems:
        return ""
    first = min(problem for _, problem in problems)
    if len(problems) == len(ordinary):
        return first
    few = {trial.case for trial, _ in problems}
    return f"in {len(few)} of them {first}"


def _place(arrays: Arrays) -> str:
    """The part of each axis in which the errors lie, if it is a proper part, in the largest failing trial."""
    for trial, name in sorted(arrays, key=lambda array: -prod(array[0].case.shape)):
        comparison, got = trial.comparisons[name], trial.seen.outcome.get(name)
        if got is None or comparison.problem or trial.case.data in SPECIAL:
            continue
        truth = trial.expected.truth
        wrong = error_units(got, truth.exact[name], truth.scale[name], trial.case.dtype) > comparison.tolerance
        parts = []
        for axis, axis_name in enumerate(_axis_names(trial.case, name)):
            hit = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
            if 0 < len(hit) < wrong.shape[axis]:
                parts.append(f"{axis_name} {_ranges(hit)} of {wrong.shape[axis]}")
        return f"in {name} of {trial.case.shape}: " + ", ".join(parts) if parts else ""
    return ""


def _axis_names(case: Case, name: str) -> list[str]:
    if name in ("y", "dx"):
        spatial = ["W", "H", "D"]
        names = ["sample", "channel", *reversed(spatial[: len(case.shape) - 2])]
        if case.kind.normalizes_features:
            names = [f"axis {axis}:" for axis in range(len(case.shape))]
        return names
    return ["channel"] if len(case.parameter_shape) == 1 else [f"axis {a}:" for a in range(len(case.parameter_shape))]


def _ranges(indices: np.ndarray) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for index in map(int, indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    words = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(words[:4]) + (", ..." if len(words) > 4 else "")


def _regular(arrays: Arrays, name: str) -> list[Trial]:
    """The trials in which `name` is wrong and is an array whose numbers mean something."""
    trials = [t for t, wrong in arrays if wrong == name and t.case.data == "unit" and t.case.dtype == "float64"]
    return [t for t in trials if name in t.seen.outcome and not t.comparisons[name].problem]


def _nought(arrays: Arrays) -> str:
    """The quantities that are zero in every case in which they are wrong."""
    found = []
    for name in dict.fromkeys(name for _, name in arrays):
        trials = _regular(arrays, name)
        sizes = [np.abs(t.seen.outcome[name]) <= NOUGHT * np.max(t.expected.truth.scale[name]) for t in trials]
        if len(trials) > 1 and all(size.all() for size in sizes):
            found.append(name)
    return f"{' and '.join(found)} is 0 throughout, to rounding" if found else ""


TERMS = ("d", "mean term", "projection term")


def _terms(arrays: Arrays) -> str:
    """The coefficients of the backward's terms, each 1 in a right layer, as far as they are the same in every case.

    They are fitted for each case alone. A fit over several cases has an answer even where each has its own: a mean that
    is a sum has n for a coefficient, and n is another one in each case.
    """
    fits = []
    for trial in _regular(arrays, "dx"):
        if "y" in trial.wrong or not trial.case.training or trial.seen.outcome["dx"].size > LARGEST:
            continue
        fit = _fitted(trial)
        if fit is None:
            continue
        if fit[1] > FITS:
            return ""
        fits.append(fit)
    if not fits:
        return ""
    words, told = [], False
    for name in TERMS:
        values = [coefficients[name] for coefficients, _ in fits if name in coefficients]
        same = bool(values) and np.ptp(values) <= SAME * max(1.0, abs(values[0]))
        words += [f"{name} {values[0]:.7g}"] if same else []
        told |= bool(values) and not (same and abs(values[0] - 1) <= RIGHT)
    left = max(left for _, left in fits)
    if not told or not words:
        return ""  # that nothing is the matter with those that could be fitted does not help
    return f"coefficients of dx's terms, each 1 when right: {', '.join(words)} (unexplained {left:.1%})"


def _fitted(trial: Trial) -> tuple[dict[str, float], float] | None:
    """The coefficients of dx's terms in one case, and what they leave unexplained; None where it cannot be told."""
    p = exact.passes(trial.case)[-1]
    columns = [p.rstd * p.d, -p.rstd * p.mean_term + 0 * p.d, -p.rstd * p.projection]
    matrix = np.stack([np.asarray(column).reshape(-1).astype(np.float64) for column in columns], axis=1)
    values = trial.seen.outcome["dx"].reshape(-1)
    used = [i for i in range(len(TERMS)) if np.any(matrix[:, i])]
    # with as many terms as there are numbers anything fits
    if len(values) < 4 * len(used) or p.count < 2 * len(used):
        return None
    coefficients, _, rank, _ = np.linalg.lstsq(matrix[:, used], values, rcond=None)
    if rank < len(used):
        return None
    left = np.linalg.norm(values - matrix[:, used] @ coefficients) / (np.linalg.norm(values) or 1.0)
    return {TERMS[i]: float(c) for i, c in zip(used, coefficients, strict=True)}, float(left)
