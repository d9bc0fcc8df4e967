"""How a row does: its verdict in one dtype, and its worst errors where the mean is small and where it is 100 deviations.

The numbers of a case are the same everywhere, and so are the verdicts; the last digits of an error need not be.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from reference import check
from reference.cases.case import DTYPES
from reference.cases.probes import BASES, designed_for
from reference.diagnosis.conventions import accepted_convention
from reference.kinds import kind_named
from reference.reporting.report import Report
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.reading import Refused
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
SECONDS = 600.0  # of one check, on a machine that others use too


@dataclass(frozen=True)
class Measured:
    """What became of a row in one dtype.

    Attributes:
        faults: what makes it fail, by id; empty where it passes.
        well, far: the worst error in u of any quantity, of data whose mean is small, and at a mean of 100 deviations.
        report: of the whole check; None for a brief row. smallest: the smallest case that shows what is wrong.
        refused: why it could not be checked.
    """

    faults: tuple[str, ...]
    well: float
    far: float
    report: Report | None = None
    smallest: str = ""
    refused: str = ""


def tried(row: Row) -> Iterator[str]:
    """The dtypes that a row has and the verdict knows."""
    return (dtype for dtype in row.dtypes if dtype in DTYPES)


@cache
def measured(row: Row, dtype: str) -> Measured:
    """How a row does in one dtype; once in a process."""
    kind, layer = kind_named(row.like), row.make()
    ndims = row.ndims or tuple(rank for rank in (2, 4) if rank in kind.ranks)
    report = None
    try:
        if not row.brief:
            report = check(
                layer, row.like, dtypes=(dtype,), ndims=ndims, accept=row.accept, examples=30, timeout=SECONDS
            )
        subject, clock = InProcess(layer, kind, row.id), Clock(SECONDS)
        scope = subject.discover(ndims, clock, (dtype,)).scope
    except Refused as refused:
        return Measured((), 0.0, 0.0, refused=str(refused))
    convention = accepted_convention(subject, row.accept, designed_for(scope) if row.accept else (), clock)

    def trials(*recipes: str) -> list[Trial]:
        cases = (
            replace(BASES[kind][rank], dtype=dtype, seed=seed, data=data)
            for rank in scope.ndims
            for data in recipes
            for seed in SEEDS
        )
        return [judge(subject, scope.fit(case), convention, clock) for case in cases]

    well, far = trials("unit", "small", "integers"), trials("offset 1e2")
    if report is not None:
        faults = tuple(fault.id for fault in report.faults)
        smallest = str(report.counterexample.case) if report.counterexample else ""
    else:
        wrong = [trial for trial in (*well, *far) if trial.failed]
        faults = tuple(dict.fromkeys(f"{name} wrong" for trial in wrong for name in trial.wrong))
        smallest = str(wrong[0].case) if wrong else ""
    return Measured(faults, _worst(well), _worst(far), report, smallest)


def _worst(trials: list[Trial]) -> float:
    return max((comparison.error for trial in trials for comparison in trial.comparisons.values()), default=0.0)
