"""How a row does: its verdict in one dtype, and its worst errors where the mean is small and where it is 100 deviations.

The numbers of a case are the same everywhere, and so are the verdicts; the last digits of an error need not be.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

from reference import check
from reference.cases.case import DATA, Case
from reference.cases.probes import BASES, designed_for
from reference.diagnosis.conventions import accepted_convention
from reference.diagnosis.diagnose import diagnose
from reference.dtypes import DTYPES
from reference.kinds import Kind, kind_named
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.reading import Refused
from reference.truth.convention import Convention
from reference.truth.verdict import Trial, judge
from tests.frameworks import (
    autograd_layers,
    equinox_layers,
    flax_layers,
    keras_layers,
    mlx_layers,
    mygrad_layers,
    paddle_layers,
    tinygrad_layers,
    torch_layers,
)
from tests.frameworks.row import Row

MODULES = (
    torch_layers,
    flax_layers,
    equinox_layers,
    keras_layers,
    paddle_layers,
    mlx_layers,
    tinygrad_layers,
    mygrad_layers,
    autograd_layers,
)
ROWS = tuple(row for module in MODULES for row in module.ROWS)
SEEDS = range(4)
WELL_CONDITIONED = 4.0  # 1 + |mean| / deviation, at most
SECONDS = 600.0  # of one check, on a machine that others use too


@dataclass(frozen=True)
class Measured:
    """What became of a row in one dtype.

    Attributes:
        faults: what makes it fail, by id; empty where it passes.
        well, far: the worst error in u of any quantity, of data whose mean is small, and at a mean of 100 deviations.
        told: the whole report, or what was wrong where there is none. smallest: the smallest case that shows it.
        refused: why it could not be checked.
    """

    faults: tuple[str, ...] = ()
    well: float = 0.0
    far: float = 0.0
    told: str = ""
    smallest: str = ""
    refused: str = ""


def tried(row: Row) -> Iterator[str]:
    """The dtypes that a row has and the verdict knows."""
    return (dtype for dtype in row.dtypes if dtype in DTYPES)


@cache
def measured(row: Row, dtype: str) -> Measured:
    """How a row does in one dtype; once in a process."""
    kind, layer = kind_named(row.like), row.make()
    subject, clock = InProcess(layer, kind, row.id), Clock(SECONDS)
    try:
        scope = subject.discover(row.ranks, clock, (dtype,)).scope
        found = Measured() if row.compiled else _checked(row, layer, dtype)
    except Refused as refused:
        return Measured(refused=str(refused))
    designed = designed_for(scope)
    convention = accepted_convention(subject, row.accept, designed if row.accept else (), clock)

    def trials(cases: Iterable[Case]) -> list[Trial]:
        return [judge(subject, case, convention, clock) for case in cases]

    bases = [scope.fit(replace(BASES[kind][rank], dtype=dtype)) for rank in scope.ndims]
    near, far = (
        trials(replace(base, data=data, seed=seed) for base in bases for data in recipes for seed in SEEDS)
        for recipes in (("unit", "small", "integers"), ("offset 1e2",))
    )
    if row.compiled:
        programs = {(base.shape, base.config) for base in bases}
        found = _diagnosed(
            kind, trials(case for case in designed if (case.shape, case.config) in programs), near, convention
        )
    well = [trial for trial in near if trial.expected.truth.conditioning < WELL_CONDITIONED]
    return replace(found, well=_worst(well), far=_worst(far))


def _checked(row: Row, layer: Any, dtype: str) -> Measured:
    report = check(layer, row.like, dtypes=(dtype,), ndims=row.ranks, accept=row.accept, examples=30, timeout=SECONDS)
    shown = report.counterexample
    smallest = f"{shown.case}; {shown.comparisons[0]}" if shown and shown.comparisons else ""
    return Measured(tuple(fault.id for fault in report.faults), told=str(report), smallest=smallest)


def _diagnosed(kind: Kind, probes: list[Trial], near: list[Trial], convention: Convention) -> Measured:
    failing = [trial for trial in (*probes, *near) if trial.failed]
    if not failing:
        return Measured()
    faults = diagnose(kind, [*probes, *near], failing, convention)
    case, comparison = min(
        ((trial.case, trial.comparisons[name]) for trial in failing for name in trial.wrong),
        key=lambda pair: (
            prod(pair[0].shape) * pair[0].calls,
            DATA.index(pair[0].data) if pair[0].data in DATA else 99,
        ),
    )
    return Measured(
        tuple(fault.id for fault in faults),
        told="; ".join(fault.evidence for fault in faults),
        smallest=f"{case}; {comparison}",
    )


def _worst(trials: list[Trial]) -> float:
    return max((comparison.error for trial in trials for comparison in trial.comparisons.values()), default=0.0)
