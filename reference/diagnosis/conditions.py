"""Under which conditions an unknown mistake shows: found by comparing the trials that fail with those that pass.

A condition is believed only where the probes were designed to differ in its aspect: there is a probe that passes, and
that differs from one that fails in nothing else. What one random case happens to have is no condition. Names no mistake.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import lru_cache, partial
from math import prod
from typing import NamedTuple

from reference.cases.case import CONTIGUOUS, Case
from reference.dtypes import NARROW
from reference.truth.verdict import Trial

MOST = 3  # conditions that are said

# The aspects in which cases differ: fields of a case, or options of the layer, that vary together.
SIZES = ("shape", "seed", "num_groups", "num_channels", "num_features", "normalized_shape")
MODE = ("training", "calls", "resize", "history")
CALLS = ("calls", "resize", "history")
DTYPE = ("dtype",)
DATA = ("data",)
EPS = ("eps", "data")
GAMMA = ("affine_values",)
AFFINE = ("affine", "elementwise_affine", "bias")


class Condition(NamedTuple):
    """What may set a failing case apart."""

    words: str
    holds: Callable[[Case], bool]
    aspect: tuple[str, ...]
    likely: float = 0.0  # how many of the probes that meet it must fail, of those that are else like a failing one


def _per_group(case: Case) -> int:
    return int(case.options["num_channels"] // case.options["num_groups"]) if case.kind.has_groups else 0


def _has_rank(rank: int, case: Case) -> bool:
    return len(case.shape) == rank


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


# The most telling first.
CONDITIONS = (
    Condition("in eval mode", lambda c: not c.training, MODE),
    Condition("in training mode", lambda c: c.training, MODE),
    Condition("with track_running_stats=False", lambda c: c.kind.tracks and not c.tracks, ("track_running_stats",)),
    Condition("with momentum=None", lambda c: c.options.get("momentum", 0.1) is None, ("momentum",)),
    Condition("in bfloat16", lambda c: c.dtype == "bfloat16", DTYPE),
    Condition("in float16", lambda c: c.dtype == "float16", DTYPE),
    Condition("in 16 bits", lambda c: c.dtype in NARROW, DTYPE),
    Condition("in float32", lambda c: c.dtype == "float32", DTYPE),
    Condition("where x holds a NaN", lambda c: c.data == "nan", DATA),
    Condition("after the caller overwrote x", lambda c: c.overwrite == "x", ("overwrite",)),
    Condition("after the caller overwrote y", lambda c: c.overwrite == "y", ("overwrite",)),
    Condition("where x is not contiguous", lambda c: c.layout not in CONTIGUOUS, ("layout",)),
    Condition("where dy is not contiguous", lambda c: c.dy_layout not in CONTIGUOUS, ("dy_layout",)),
    Condition("where x or dy is not contiguous", lambda c: not c.contiguous, ("layout", "dy_layout")),
    Condition("where x is a part of a longer array", lambda c: c.layout == "sliced", ("layout",)),
    Condition("where x or dy is read-only", lambda c: "read-only" in (c.layout, c.dy_layout), ("layout", "dy_layout")),
    Condition("after a call of another batch size", lambda c: c.calls > 1 and c.resize, CALLS),
    Condition("from the second call on", lambda c: c.calls > 1, CALLS),
    Condition(
        "where the same array is passed again with other values",
        lambda c: c.calls > 1 and c.history == "refilled",
        CALLS,
    ),
    Condition("after a forward without its backward", lambda c: c.calls > 1 and c.history == "forward only", CALLS),
    Condition("where a row is constant", lambda c: c.data == "constant", DATA),
    Condition("at a large mean", lambda c: c.data.startswith("offset"), DATA),
    Condition("at large magnitudes", lambda c: c.data == "large", DATA),
    Condition(
        "where the mean is not near zero",
        lambda c: c.data.startswith("offset") or c.data in ("shifted", "constant"),
        DATA,
    ),
    Condition(
        "where the variance is near eps or below",
        lambda c: c.data in ("small", "tiny", "constant") or c.eps >= 0.1,
        EPS,
    ),
    Condition("where the variance is small", lambda c: c.data in ("small", "tiny", "constant"), DATA),
    Condition("at a large eps", lambda c: c.eps >= 0.1, ("eps",)),
    Condition("where eps is not 1e-5", lambda c: c.eps != 1e-5, ("eps",)),
    Condition("at a batch of 1", lambda c: c.shape[0] == 1, SIZES),
    Condition("at a batch of more than 1", lambda c: c.shape[0] > 1, SIZES, 0.5),
    Condition("at a large batch", lambda c: c.shape[0] > 60, SIZES, 0.3),
    Condition("at large sizes", lambda c: max(c.shape) > 30, SIZES, 0.3),
    Condition("where the batch size is odd", lambda c: c.shape[0] % 2 == 1, SIZES, 0.5),
    Condition(
        "where x is not square, as many rows as features",
        lambda c: c.kind.normalizes_features and prod(c.shape) != c.sharing**2,
        SIZES,
        0.5,
    ),
    Condition("where N == C", lambda c: c.shape[0] == c.shape[1], SIZES),
    Condition("with one channel a group", lambda c: c.kind.has_groups and _per_group(c) == 1, SIZES, 0.5),
    Condition("with more than one channel a group", lambda c: c.kind.has_groups and _per_group(c) > 1, SIZES, 0.5),
    Condition("with one group", lambda c: c.options.get("num_groups") == 1, SIZES, 0.5),
    Condition("with more than one group", lambda c: c.options.get("num_groups", 0) > 1, SIZES, 0.5),
    Condition(
        "with several normalized axes", lambda c: c.kind.normalizes_features and len(c.parameter_shape) > 1, SIZES, 0.5
    ),
    Condition(
        "with one normalized axis", lambda c: c.kind.normalizes_features and len(c.parameter_shape) == 1, SIZES, 0.5
    ),
    Condition(
        "where gamma is not the same everywhere",
        lambda c: c.has_gamma and c.affine_values in ("random", "some zero"),
        GAMMA,
    ),
    Condition("where gamma differs from 1", lambda c: c.has_gamma and c.affine_values != "unit", GAMMA),
    Condition("where gamma has a zero", lambda c: c.has_gamma and c.affine_values == "some zero", GAMMA),
    Condition("with gamma", lambda c: c.has_gamma, AFFINE),
    Condition("without gamma", lambda c: not c.has_gamma, AFFINE),
    Condition("with bias=False", lambda c: c.has_gamma and not c.options.get("bias", True), AFFINE),
    Condition("where H differs from W", lambda c: len(c.shape) == 4 and c.shape[2] != c.shape[3], SIZES, 0.5),
    Condition("where H or W is 1", lambda c: len(c.shape) == 4 and 1 in c.shape[2:], SIZES, 0.5),
    Condition("where W is more than 1", lambda c: len(c.shape) > 2 and c.shape[-1] > 1, SIZES, 0.5),
    Condition(
        "where as many numbers share a mean as are no power of two", lambda c: not _power_of_two(c.sharing), SIZES, 0.5
    ),
    Condition("where an axis has an odd size", lambda c: any(size % 2 for size in c.shape[1:]), SIZES, 0.5),
    Condition("where C is odd", lambda c: c.shape[1] % 2 == 1, SIZES, 0.5),
    *(Condition(f"in {rank}D", partial(_has_rank, rank), SIZES) for rank in (2, 3, 4, 5)),
    Condition("beyond 2D", lambda c: len(c.shape) > 2, SIZES, 0.5),
    Condition("with spatial axes", lambda c: prod(c.shape[2:]) > 1, SIZES, 0.5),
    Condition("where momentum is given", lambda c: c.options.get("momentum", 0.1) not in (None, 0.1), ("momentum",)),
)


def conditions(designed: Iterable[Trial], failed: Callable[[Trial], bool]) -> list[str]:
    """The conditions that all failing probes share and passing ones do not, the sharpest first; at most three.

    A condition is "only" so if no probe without it fails. A second one is said if it sets apart most of those that pass
    though they meet the first.
    """
    fail: list[Case] = []
    passed: list[Case] = []
    for trial in designed:
        (fail if failed(trial) else passed).append(trial.case)
    possible = [c for c in CONDITIONS if all(map(c.holds, fail)) and _was_varied(c, fail, passed)] if fail else []
    found: list[str] = []
    while possible and passed and len(found) < MOST:
        meeting = [(len([case for case in passed if c.holds(case)]), order) for order, c in enumerate(possible)]
        fewest, order = min(meeting)
        if fewest == len(passed) or (found and fewest > len(passed) / 2):
            break
        best = possible.pop(order)
        passed = [case for case in passed if best.holds(case)]
        found.append(best.words)
    return found


def _was_varied(condition: Condition, fail: list[Case], passed: list[Case]) -> bool:
    """Whether a probe without the condition passes that is in all else like one that fails.

    Sizes vary together, and a few that fail have many things in common: there most of the probes with it must fail.
    """
    like_failing = {_but_for(case, condition.aspect) for case in fail}
    alike = [case for case in passed if _but_for(case, condition.aspect) in like_failing]
    meeting = sum(map(condition.holds, alike))
    return meeting < len(alike) and len(fail) >= condition.likely * (len(fail) + meeting)


@lru_cache(maxsize=8192)
def _but_for(case: Case, aspect: tuple[str, ...]) -> tuple[object, ...]:
    """All of a case but one aspect of it."""
    rest = tuple(getattr(case, f.name) for f in fields(case) if f.name not in (*aspect, "config"))
    return (*rest, tuple(option for option in case.config if option[0] not in aspect))
