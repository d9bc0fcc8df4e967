"""What tests may be blind to, as a table.

A blindness is a restriction of the cases (gamma is 1, x is 2D...) or a weakness of the comparison (norms alone, a
wide tolerance...). It hides a mutant that agrees with what is right, compared so, in all ordinary cases restricted
so; `reasons` tells which. Runs nothing, and knows nothing of any mutant or test.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np

from reference.cases.case import Array, Case, make, with_gamma, with_options
from reference.cases.scope import Scope
from reference.repair.bench import Probe
from reference.truth.exact import QUANTITIES

USUAL_EPS = 1e-5
TOLERANCES = (1e-6, 1e-4, 1e-2, 0.1, 0.5)  # absolute, of usual data
CRASHES = 8
# What is common enough in tests to be looked at in pairs, besides ranks and quantities.
JOINING = {"gamma-of-ones", "dy-of-ones", "norms", "sums", "tolerance-0.01", "first-call", "one-normalized-axis"}
JOINING |= {"only-training", "always-affine", "always-bias", "usual-momentum"}
ONE_SIDED = 0.5  # the share of the wrong cases in which all differences have one sign
NEARLY = 1e-3  # what a usual eps may make of usual data, in most cases
MOSTLY = 0.75  # the share of the wrong cases that are within a tolerance

Restrict = Callable[[Case], Case | None]
Agree = Callable[[str, Array, Probe], bool]


@dataclass(frozen=True)
class Blindness:
    """Something that tests may not look at.

    Attributes:
        id: its name. lacking: what the mutants need that it does not have, after "need". advice: what to do.
        restrict: the nearest case to one that has the restriction, None if there is none. agree: whether an array passes.
        share: of the cases in which a mutant is wrong, that in which it must pass to be hidden.
        shows: whether it must not pass in some ordinary case without the restriction, which tells it from one that is hidden
            by the comparison alone.
    """

    id: str
    lacking: str
    advice: str
    restrict: Restrict | None = None
    agree: Agree | None = None
    share: float = 1.0
    shows: bool = False

    def holds(self, case: Case) -> bool:
        """Whether a case has the restriction; one without any has it not."""
        return self.restrict is not None and self.restrict(case) == case

    @property
    def of(self) -> str:
        """What it is about: "quantities", "comparison" or "cases"."""
        return "cases" if self.agree is None else "quantities" if self.restrict is None else "comparison"

    @property
    def is_common(self) -> bool:
        """Whether it is so common in tests that they may have it in one place and not in another, or with something else."""
        return self.id in JOINING or self.of == "quantities" or self.id in {f"only-{rank}d" for rank in (2, 3, 4, 5)}


Together = tuple[Blindness, ...]


def pairs_of(rows: Sequence[Blindness]) -> list[Together]:
    """The pairs that tests are likely to have together, for what only both of them hide; two of a comparison are none."""
    joined = combinations([row for row in rows if row.is_common], 2)
    return [(one, other) for one, other in joined if one.of == "cases" or one.of != other.of]


def _only(accepts: Callable[[Case], bool]) -> Restrict:
    return lambda case: case if accepts(case) else None


def _equal_sizes(case: Case) -> Case | None:
    """The same with all axes as long as each other."""
    if len(set(case.shape)) == 1:
        return case
    groups, axes = (2, len(case.parameter_shape)) if case.kind.has_groups else (1, len(case.parameter_shape))
    fresh = make(case.kind, (4,) * len(case.shape), groups=groups, axes=min(axes, len(case.shape)))
    options = {name: value for name, value in case.options.items() if name not in case.kind.required}
    return with_options(replace(case, shape=fresh.shape, config=fresh.config), **options)


def _batch_of_one(case: Case) -> Case | None:
    free = len(case.parameter_shape) < len(case.shape)
    return replace(case, shape=(1, *case.shape[1:]), resize=False) if free else None


def _usual_eps(case: Case) -> Case | None:
    return case if case.eps <= USUAL_EPS and case.data in ("unit", "shifted") else None


def _plain(case: Case) -> bool:
    return case.data == "unit" and case.dtype == "float64" and _usual_eps(case) is not None


def _one_number(measure: Callable[[Array], float]) -> Agree:
    """Arrays that agree in one number."""

    def agree(name: str, got: Array, probe: Probe) -> bool:
        wanted = probe.wanted[name].exact.astype(np.float64)
        mine, theirs = measure(got), measure(wanted)
        return abs(mine - theirs) <= 1e-9 * float(np.abs(wanted).sum())

    return agree


def _one_side(sign: int) -> Agree:
    def agree(name: str, got: Array, probe: Probe) -> bool:
        wanted = probe.wanted[name]
        return bool((sign * (got - wanted.exact) <= np.maximum(wanted.bound, 1e-7)).all())

    return agree


def _same_offset(name: str, got: Array, probe: Probe) -> bool:
    """Whether y is off by the same in every sample."""
    off = got - probe.wanted[name].exact
    return name == "y" and bool(np.ptp(off, axis=0).max(initial=0.0) <= 1e-9)


def _within(tolerance: float) -> Agree:
    def agree(name: str, got: Array, probe: Probe) -> bool:
        return bool(np.abs(got - probe.wanted[name].exact).max(initial=0.0) <= tolerance)

    return agree


def _not_compared(*names: str) -> Agree:
    return lambda name, got, probe: name in names


def table(scope: Scope) -> list[Blindness]:
    """All that tests of such a layer may be blind to, the likeliest first."""
    kind = scope.kind
    return [*_of_values(), *_of_quantities(scope), *_of_comparison(), *_of_shapes(scope), *_of_use(scope, kind.tracks)]


def _of_values() -> Iterator[Blindness]:
    yield Blindness(
        "gamma-of-ones",
        "a gamma that is not 1, or a beta that is not 0",
        "set gamma and beta to random numbers",
        lambda case: replace(case, affine_values="unit"),
    )
    yield Blindness(
        "dy-of-ones",
        "a dy that is not constant, as that of y.sum() is",
        "give backward a random dy",
        lambda case: replace(case, dy_data="ones"),
    )


def _of_quantities(scope: Scope) -> Iterator[Blindness]:
    gradients = ("dx", "dgamma", "dbeta")
    rows: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in QUANTITIES]
    rows += [("dgamma and dbeta", gradients[1:]), ("the gradients", gradients)]
    rows += [("y", ("y",)), ("the running statistics", ("running_mean", "running_var"))]
    for text, names in dict(rows).items():
        has_beta = scope.kind.has_beta or "dbeta" not in names or len(names) == len(gradients)
        if has_beta and (scope.kind.tracks or not names[0].startswith("running")):
            yield Blindness(
                f"{'-'.join(names)}-not-compared",
                f"a look at {text}" + (" too" if names == ("y",) else ""),
                f"compare {text}",
                None,
                _not_compared(*names),
            )


def _of_comparison() -> Iterator[Blindness]:
    plain = _only(_plain)
    whole = "compare each entry, by its absolute difference"
    yield Blindness("norms", "more than the norm of each array", whole, plain, _one_number(_norm))
    yield Blindness("sums", "more than the sum or the mean of each array", whole, plain, _one_number(np.sum))
    for side, other, sign in (("large", "small", 1), ("small", "large", -1)):
        yield Blindness(
            f"one-sided-{side}",
            f"differences without their sign: what they give is too {other}, hardly ever too {side}",
            "take the absolute value before the maximum: abs(a - b).max()",
            plain,
            _one_side(sign),
            ONE_SIDED,
        )
    yield Blindness(
        "eps-does-not-count",
        "an eps that counts",
        "try x whose variance is near eps, or an eps of 0.1",
        plain,
        _within(NEARLY),
        MOSTLY,
        True,
    )
    yield Blindness(
        "differences-of-y",
        "a look at y itself: what is added to all of it does not show in numerical gradients",
        "compare y",
        _only(lambda case: _plain(case) and case.shape[0] > 1),
        _same_offset,
    )
    for tolerance in TOLERANCES:
        yield Blindness(
            f"tolerance-{tolerance:g}",
            f"a tolerance below {tolerance:g}",
            "compare float64 to 1e-9 or closer, whatever the number of rows",
            plain,
            _within(tolerance),
            MOSTLY,
        )


def _norm(array: Array) -> float:
    return float(np.sqrt((array.astype(np.float64) ** 2).sum()))


def _of_shapes(scope: Scope) -> Iterator[Blindness]:
    for rank in scope.ndims if len(scope.ndims) > 1 else ():
        others = [f"{other}D" for other in scope.ndims if other != rank]
        yield Blindness(
            f"only-{rank}d",
            f"an x that is not {rank}D",
            f"try x in {', '.join(others[:-1]) + ' and ' if others[:-1] else ''}{others[-1]} too",
            _only(lambda case, rank=rank: len(case.shape) == rank),  # type: ignore[misc]
        )
    yield Blindness("equal-sizes", "axes of different sizes", "let N, C, H and W all differ", _equal_sizes)
    yield Blindness("batch-of-one", "more than one sample", "let x have several samples", _batch_of_one)
    if scope.kind.has_groups:
        yield Blindness(
            "one-group",
            "several groups",
            "try several groups, of several channels",
            _only(lambda case: case.options["num_groups"] == 1),
        )
        yield Blindness(
            "a-channel-a-group",
            "groups of several channels",
            "try groups of several channels",
            _only(lambda case: case.options["num_groups"] == case.shape[1]),
        )
    if scope.kind.normalizes_features and scope.several_axes:
        yield Blindness(
            "one-normalized-axis",
            "several normalized axes",
            "try a normalized_shape of two entries",
            _only(lambda case: len(case.parameter_shape) == 1),
        )


def _of_use(scope: Scope, tracks: bool) -> Iterator[Blindness]:
    if tracks and len(scope.modes) > 1:
        yield Blindness("only-training", "eval mode", "try eval mode too", _only(lambda case: case.training))
        yield Blindness("only-eval", "training mode", "try training mode too", _only(lambda case: not case.training))
    yield Blindness(
        "first-call",
        "a second call of the same object",
        "call forward and backward twice, with other data and another batch size",
        lambda case: replace(case, calls=1, resize=False, history=""),
    )
    if len(scope.gammas) > 1:
        yield Blindness(
            "always-affine", "a layer without gamma", f"try {scope.kind.affine_keyword}=False", partial(_affine, True)
        )
        yield Blindness("never-affine", "a layer with gamma", "give the layer gamma and beta", partial(_affine, False))
    if len(scope.betas) > 1 and "bias" in scope.kind.optional:
        yield Blindness(
            "always-bias",
            "a layer with gamma but no beta",
            "try bias=False",
            _only(lambda case: case.options.get("bias", True)),
        )
    if "eps" in scope.keywords:
        yield Blindness(
            "usual-eps",
            f"an eps that is not {USUAL_EPS:g}",
            "try another eps, as 0.1",
            _only(lambda case: case.options.get("eps", USUAL_EPS) == USUAL_EPS),
        )
    if "momentum" in scope.keywords:
        default = scope.kind.optional["momentum"]
        yield Blindness(
            "usual-momentum",
            f"a momentum that is not {default}",
            f"try another momentum than {default}, and None",
            _only(lambda case: case.options.get("momentum", default) == default),
        )
        yield Blindness(
            "always-tracking",
            "a layer without running statistics",
            "try track_running_stats=False",
            _only(lambda case: case.tracks),
        )
    yield Blindness("standard-normal", "an x whose mean is not 0", "try x of another mean and variance", _unit)
    for dtype, other in (("float64", "float32"), ("float32", "float64")) if len(scope.dtypes) > 1 else ():
        yield Blindness(dtype, f"an x in {other}", f"try {other} too", partial(_in_dtype, dtype))
    yield Blindness(
        "contiguous",
        "an x that is not contiguous",
        "try a transposed x and dy, and every second column of one",
        _only(lambda case: case.contiguous),
    )


def _in_dtype(dtype: str, case: Case) -> Case:
    return replace(case, dtype=dtype)


def _affine(gamma: bool, case: Case) -> Case:
    return with_gamma(case, gamma)


def _unit(case: Case) -> Case | None:
    return case if case.data == "unit" else None


__all__ = ["Blindness", "Together", "pairs_of", "table"]
