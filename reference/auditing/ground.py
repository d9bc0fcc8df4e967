"""The right layer that mutants are made of: its files, and the ordinary cases in which it is right.

On a `Stage` a mutant takes the layer's place, in a process that ends afterwards. Knows no mutant but how it is put on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Protocol

from reference.auditing.caches import caches_of
from reference.auditing.planting import Planted
from reference.cases.case import Case, make, with_gamma, with_options
from reference.cases.probes import BASES, designed_for
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.repair.bench import Look, Probe, Screen, prepared, probe_of
from reference.repair.explore import Bench
from reference.repair.source import Source
from reference.repair.units import Located, Patch
from reference.subjects.in_process import InProcess
from reference.truth.convention import Convention
from reference.truth.verdict import Trial, judge

SMALL = 1_500  # numbers of x in a case that mutants are tried on
ORDINARY = ("unit", "shifted", "integers", "small")  # data that a test of one's own may be asked to have
PATIENCE = 2.0  # seconds that one case may take: by the clock, and other work must not make a mutant another one


@dataclass(frozen=True, eq=False)
class Ground:
    """A right layer, and the ordinary cases in which mutants are held against it.

    Attributes:
        subject: the layer. located: its live functions, file by file, the layer's own file first.
        probes: cases in which it is right, the plainest first. convention: what it is held to. scope: what it takes.
    """

    subject: InProcess
    located: tuple[Located, ...]
    probes: tuple[Probe, ...]
    convention: Convention
    scope: Scope

    @property
    def source(self) -> Source:
        """Of the layer's own file."""
        return self.located[0].source

    @cached_property
    def telling(self) -> int:
        """How many of the first probes vary several things at a time."""
        crossed = {self.scope.fit(case) for case in _crossed(self.scope)}
        return sum(probe.case in crossed for probe in self.probes)


class Change(Protocol):
    """What makes a mutant of the layer."""

    def put_on(self, stage: "Stage") -> None:
        """Let the layer be that mutant.

        Raises:
            SyntaxError, ValueError: it cannot be.
        """

    def take_off(self, stage: "Stage") -> None:
        """Let it be right again."""


class Stage:
    """The layer at work, in a process that ends afterwards: as it is, or as a mutant.

    Attributes:
        benches: one a file. planted: the mistake that was wrapped around the layer last. unclear: whether a pass could not be
            followed since.
    """

    def __init__(self, ground: Ground) -> None:
        prepared()
        self.ground = ground
        screen = Screen(ground.probes[:3], ground.probes[3:])
        self.benches = [Bench(ground.subject, screen, Patch(one, one.source)) for one in ground.located]
        for bench in self.benches:
            bench.limit = PATIENCE
        self.planted: Planted | None = None
        self.unclear = False
        self._caches = caches_of({one.source.filename for one in ground.located})

    @contextmanager
    def playing(self, change: Change) -> Iterator[None]:
        """The mutant in the layer's place; what functions remember of earlier calls is of one of them alone.

        Raises:
            SyntaxError, ValueError: it is none.
        """
        change.put_on(self)
        self._forget()
        try:
            yield
        finally:
            change.take_off(self)
            self._forget()

    def _forget(self) -> None:
        for clear in self._caches:
            clear()

    def note(self) -> None:
        """A pass could not be followed."""
        self.unclear = True

    def looked(self, probe: Probe) -> Look:
        """How the layer does as it is now."""
        return self.benches[0].looked(probe)


def ordinary(scope: Scope) -> list[Case]:
    """The cases that mutants are judged by: what tests of one's own may be asked to try; the most telling first.

    Without the regimes in which a layer loses digits, 16 bits, read-only arrays, and x that the caller overwrites: a mutant
    that is wrong there alone is not counted, so that no test is blamed for what few tests need.
    """
    designed = [
        case
        for case in designed_for(scope)
        if case.data in ORDINARY
        and case.dtype not in NARROW
        and not case.overwrite
        and "read-only" not in (case.layout, case.dy_layout)
        and 0 < prod(case.shape) * case.calls <= SMALL
        and case.dy_data == "unit"
        and case.options.get("eps", 0.0) is not None
    ]
    crossed = [scope.fit(case) for case in _crossed(scope)]
    return list(dict.fromkeys([*(case for case in crossed if not scope.lacks(case)), *designed]))


def _crossed(scope: Scope) -> Iterator[Case]:
    """Ranks, axes, parameters, modes and calls in all combinations: the designed cases vary one of them at a time."""
    kind = scope.kind
    for rank in scope.ndims:
        base = BASES[kind][rank]
        shape, said = base.shape, {k: v for k, v in base.options.items() if k not in kind.required}
        several = range(1, min(3, rank)) if kind.normalizes_features else (1,)
        groups = sorted({1, base.options["num_groups"], shape[1]}) if kind.has_groups else [1]
        for axes, group in product(several, groups):
            case = make(kind, shape, axes=axes, groups=group, seed=20 + rank, **said)
            without = [with_options(case, bias=False)] if "bias" in kind.optional else []
            for one in (with_gamma(case, True), with_gamma(case, False), *without):
                for calls, training in product((1, 2), (True, False) if kind.tracks else (True,)):
                    yield replace(one, calls=calls, training=training, data="shifted")
            for values, dy in (("unit", "unit"), ("random", "ones"), ("unit", "ones")):
                yield replace(case, affine_values=values, dy_data=dy, data="shifted")
            # what tells mutants apart that few tests would notice: sizes that are all the same, a single sample
            square = make(kind, (4,) * rank, axes=axes, groups=min(2, group), seed=20 + rank, **said)
            yield replace(square, data="shifted")
            if len(case.parameter_shape) < rank and (rank > 2 or not kind.over_batch):
                yield replace(case, shape=(1, *shape[1:]), data="shifted")
            for momentum in (0.0, 0.4) if kind.tracks else ():
                yield replace(with_options(case, momentum=momentum), calls=2, data="shifted")


def ground_probes(subject: InProcess, scope: Scope, convention: Convention) -> tuple[Probe, ...]:
    """The ordinary cases in which a layer is right, each with what must come of it."""
    trials = (judge(subject, case, convention) for case in ordinary(scope))
    return tuple(probe_of(trial) for trial in trials if is_sound(trial))


def is_sound(trial: Trial) -> bool:
    return bool(trial.comparisons) and not trial.failed and not trial.seen.refused


__all__ = ["Change", "Ground", "Stage", "ground_probes", "is_sound", "ordinary"]
