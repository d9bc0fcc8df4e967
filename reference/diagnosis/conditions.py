"""Under which conditions an unknown mistake shows, and where in the array: found by comparing the trials that fail with
those that pass. Names no mistake.
"""

from collections.abc import Callable, Iterable
from math import prod

import numpy as np

from reference.cases.case import CONTIGUOUS, Case
from reference.truth import exact
from reference.truth.compare import error_units
from reference.truth.verdict import Trial

Predicate = Callable[[Case], bool]


def _per_group(case: Case) -> int:
    return int(case.options["num_channels"] // case.options["num_groups"]) if case.kind.has_groups else 0


# What may set a failing case apart, the most telling first.
CONDITIONS: tuple[tuple[str, Predicate], ...] = (
    ("in eval mode", lambda c: not c.training),
    ("in training mode", lambda c: c.training),
    ("in float16", lambda c: c.dtype == "float16"),
    ("in float32", lambda c: c.dtype == "float32"),
    ("where x holds a NaN", lambda c: c.data == "nan"),
    ("after the caller overwrote x", lambda c: c.overwrite == "x"),
    ("after the caller overwrote y", lambda c: c.overwrite == "y"),
    ("where x is not contiguous", lambda c: c.layout not in CONTIGUOUS),
    ("where dy is not contiguous", lambda c: c.dy_layout not in CONTIGUOUS),
    ("where x or dy is not contiguous", lambda c: not c.contiguous),
    ("where x or dy is read-only", lambda c: "read-only" in (c.layout, c.dy_layout)),
    ("after a call of another batch size", lambda c: c.calls > 1 and c.resize),
    ("from the second call on", lambda c: c.calls > 1),
    ("where the same array is passed again with other values", lambda c: c.calls > 1 and c.history == "refilled"),
    ("after a forward without its backward", lambda c: c.calls > 1 and c.history == "forward only"),
    ("where a row is constant", lambda c: c.data == "constant"),
    ("at a large mean", lambda c: c.data.startswith("offset")),
    ("at large magnitudes", lambda c: c.data == "large"),
    ("where the mean is not near zero", lambda c: c.data.startswith("offset") or c.data in ("shifted", "constant")),
    ("where the variance is near eps or below", lambda c: c.data in ("small", "tiny", "constant") or c.eps >= 0.1),
    ("where the variance is small", lambda c: c.data in ("small", "tiny", "constant")),
    ("at a large eps", lambda c: c.eps >= 0.1),
    ("where eps is not 1e-5", lambda c: c.eps != 1e-5),
    ("at a batch of 1", lambda c: c.shape[0] == 1),
    ("at a batch of more than 1", lambda c: c.shape[0] > 1),
    ("at a large batch", lambda c: c.shape[0] > 60),
    ("at large sizes", lambda c: max(c.shape) > 30),
    ("where N == C", lambda c: c.shape[0] == c.shape[1]),
    ("with one channel a group", lambda c: c.kind.has_groups and _per_group(c) == 1),
    ("with more than one channel a group", lambda c: c.kind.has_groups and _per_group(c) > 1),
    ("with one group", lambda c: c.options.get("num_groups") == 1),
    ("with more than one group", lambda c: c.options.get("num_groups", 0) > 1),
    ("with several normalized axes", lambda c: c.kind.normalizes_features and len(c.parameter_shape) > 1),
    ("with one normalized axis", lambda c: c.kind.normalizes_features and len(c.parameter_shape) == 1),
    ("where gamma is not the same everywhere", lambda c: c.has_gamma and c.affine_values in ("random", "some zero")),
    ("where gamma differs from 1", lambda c: c.has_gamma and c.affine_values != "unit"),
    ("where gamma has a zero", lambda c: c.has_gamma and c.affine_values == "some zero"),
    ("with gamma", lambda c: c.has_gamma),
    ("without gamma", lambda c: not c.has_gamma),
    ("where H differs from W", lambda c: len(c.shape) == 4 and c.shape[2] != c.shape[3]),
    ("where H or W is 1", lambda c: len(c.shape) == 4 and 1 in c.shape[2:]),
    ("where W is more than 1", lambda c: len(c.shape) > 2 and c.shape[-1] > 1),
    ("where an axis has an odd size", lambda c: any(size % 2 for size in c.shape[1:])),
    ("where C is odd", lambda c: c.shape[1] % 2 == 1),
    *((f"in {rank}D", lambda c, rank=rank: len(c.shape) == rank) for rank in (2, 3, 4, 5)),
    ("beyond 2D", lambda c: len(c.shape) > 2),
    ("with spatial axes", lambda c: prod(c.shape[2:]) > 1),
    ("where momentum is given", lambda c: c.options.get("momentum", 0.1) not in (None, 0.1)),
)


def conditions(trials: Iterable[Trial], failed: Callable[[Trial], bool]) -> list[str]:
    """The conditions that all failing trials share and passing ones do not, the sharpest first; at most three.

    A condition is "only" so if no trial without it fails; it is worth saying only if it sets apart most of what passes.
    """
    fail = [t.case for t in trials if failed(t)]
    passed = [t.case for t in trials if not failed(t)]
    if not fail or not passed:
        return []
    scored = []
    for order, (words, holds) in enumerate(CONDITIONS):
        shared = sum(map(holds, fail)) / len(fail)
        leaks = sum(map(holds, passed)) / len(passed)
        if shared == 1 and leaks < 1:
            scored.append((leaks, order, words))
    best = sorted(scored)[:3]
    # a second condition that sets apart much less than the first adds nothing
    return [words for leaks, _, words in best if leaks <= 2 * best[0][0] + 0.15]


def describe_unknown(trials: list[Trial], quantities: tuple[str, ...]) -> str:
    """What can be said of a mistake without a name: how often, when, where, and what its backward is made of."""

    def failed(trial: Trial) -> bool:
        return not trial.comparisons.keys().isdisjoint(quantities) and bool(set(trial.wrong) & set(quantities))

    bad = [t for t in trials if failed(t)]
    sentences = [f"wrong in {len(bad)} of {len(trials)} probes"]
    when = conditions(trials, failed)
    if when:
        sentences.append("only " + " and ".join(when))
    problems = sorted({t.comparisons[q].problem for t in bad for q in quantities if q in t.comparisons} - {""})
    sentences += problems[:1]
    if not problems:
        place = where(bad, quantities)
        if place:
            sentences.append(place)
    if "dx" in quantities and "y" not in quantities:
        terms = backward_terms(bad)
        if terms:
            sentences.append(terms)
    return "; ".join(sentences)


def where(bad: list[Trial], quantities: tuple[str, ...]) -> str:
    """The part of each axis in which the errors lie, if it is a proper part, in the largest failing trial."""
    for trial in sorted(bad, key=lambda t: -prod(t.case.shape)):
        for name in quantities:
            comparison, got = trial.comparisons.get(name), trial.seen.outcome.get(name)
            if comparison is None or comparison.passed or got is None or comparison.problem:
                continue
            truth = trial.expected.truth
            errors = error_units(got, truth.exact[name], truth.scale[name], trial.case.dtype)
            wrong = errors > comparison.tolerance
            parts = []
            for axis, axis_name in enumerate(_axis_names(trial.case, name)):
                hit = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
                if 0 < len(hit) < wrong.shape[axis]:
                    parts.append(f"{axis_name} {_ranges(hit)} of {wrong.shape[axis]}")
            if parts:
                return f"in {name} of {trial.case.shape}: " + ", ".join(parts)
            return ""
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


def backward_terms(bad: list[Trial]) -> str:
    """The least-squares coefficients of the backward's three terms, each 1 in a right layer; "" if they say nothing."""
    columns: list[np.ndarray] = []
    target: list[np.ndarray] = []
    for trial in bad:
        got = trial.seen.outcome.get("dx")
        if got is None or not trial.case.training or trial.case.data != "unit" or trial.case.dtype != "float64":
            continue
        if got.shape != trial.case.shape or got.size > 5000 or not np.isfinite(got).all():
            continue
        p = exact.passes(trial.case)[-1]
        terms = [p.rstd * p.d, -p.rstd * p.mean_term + 0 * p.d, -p.rstd * p.projection]
        columns.append(np.stack([np.asarray(term).reshape(-1).astype(np.float64) for term in terms], axis=1))
        target.append(got.reshape(-1))
    if not columns:
        return ""
    matrix, values = np.concatenate(columns), np.concatenate(target)
    used = [i for i in range(3) if np.any(matrix[:, i])]
    coefficients, _, rank, _ = np.linalg.lstsq(matrix[:, used], values, rcond=None)
    if rank < len(used):
        return ""
    names = ("d", "mean term", "projection term")
    fitted = matrix[:, used] @ coefficients
    left = float(np.linalg.norm(values - fitted) / (np.linalg.norm(values) or 1.0))
    words = ", ".join(f"{names[i]} {c:.4g}" for i, c in zip(used, coefficients, strict=True))
    return f"coefficients of dx's terms by least squares, each 1 when right: {words} (unexplained {left:.1%})"
