"""A long search for a right layer that the verdict accuses: random cases over npnorm, torch and right layers of all styles.

    python -m tests.soak --cases 1000000 --processes 2 --seed 0

A case is one layer in one trial. Each set of arrays that is drawn is tried on five: npnorm's layer, torch's, one of the
corpus of formulations, one put together anew from any of their parts, and one of the right planted layers. Prints how
far it is, then how often each layer was tried, and of each quantity the worst error as a part of its tolerance. Exit
code 1 if any layer was accused: of a number, or of something else that it does. What a caller overwrites between
forward and backward is left out: it takes a second run, and makes hazards, never accusations.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 - it reads these variables when it is imported

import npnorm  # noqa: E402
from reference.cases.case import Case  # noqa: E402
from reference.cases.random_cases import Chosen, random_case  # noqa: E402
from reference.cases.scope import Scope  # noqa: E402
from reference.kinds import KINDS, Kind  # noqa: E402
from reference.subjects.discovery import discover  # noqa: E402
from reference.subjects.guard import Clock  # noqa: E402
from reference.subjects.subject import Subject  # noqa: E402
from reference.truth.beside import one_thread  # noqa: E402
from reference.truth.convention import Convention, Expected  # noqa: E402
from reference.truth.tolerance import tolerance_of  # noqa: E402
from reference.truth.verdict import Trial, judge  # noqa: E402
from tests import planted  # noqa: E402
from tests.formulations.layers import corpus, drawn, layer_of  # noqa: E402

RUN = 200  # cases for which the same layers are put together
ANEW = 10  # layers put together for each run
SHOWN = 20  # accusations, at most


@dataclass
class Found:
    """What came of some trials; small, whatever their number."""

    arrays: int = 0
    layers: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)  # by quantity: error / tolerance, and where
    accused: int = 0
    accusations: list[str] = field(default_factory=list)

    def add(self, name: str, trial: Trial) -> None:
        """Count a trial of a layer, unless the layer refused the case."""
        if not trial.comparisons:
            return
        self.layers[name] += 1
        for quantity, comparison in trial.comparisons.items():
            self._rank(quantity, comparison.error / comparison.tolerance, name, trial.case, comparison)
        if trial.failed:
            what = [str(c) for c in trial.comparisons.values() if not c.passed] + [str(f) for f in trial.findings]
            self._accuse(f"{name}: {'; '.join(what)} in {trial.case}")

    def add_torch(self, name: str, case: Case, expected: Expected) -> None:
        """The same of torch, whose errors are known with the truth."""
        self.layers[name] += 1
        for quantity, error in expected.torch_errors.items():
            tolerance = tolerance_of(quantity, expected.truth.conditioning, case.dtype)
            self._rank(quantity, error / tolerance, name, case, f"{error:.3g} u of {tolerance:.3g} u")
            if not error <= tolerance:
                self._accuse(f"{name}: {quantity}: error {error:.3g} u, tolerance {tolerance:.3g} u in {case}")

    def _rank(self, quantity: str, ratio: float, name: str, case: Case, said: object) -> None:
        key = f"{quantity} {case.dtype}"
        if ratio > self.worst.get(key, (-1.0, ""))[0]:
            self.worst[key] = (ratio, f"{name}: {said} in {case}")

    def _accuse(self, accusation: str) -> None:
        self.accused += 1
        self.accusations = [*self.accusations, accusation][:SHOWN]

    def join(self, other: "Found") -> None:
        self.arrays += other.arrays
        self.layers += other.layers
        for quantity, worst in other.worst.items():
            self.worst[quantity] = max(worst, self.worst.get(quantity, worst))
        self.accused += other.accused
        self.accusations = [*self.accusations, *other.accusations][:SHOWN]

    def __str__(self) -> str:
        lines = [f"{count:9d}  {name}" for name, count in sorted(self.layers.items())]
        lines += [
            f"{quantity:24s} {ratio:6.1%} of its tolerance  {at}"
            for quantity, (ratio, at) in sorted(self.worst.items())
        ]
        total = f"{self.layers.total()} cases of {self.arrays} sets of arrays, {len(self.layers)} layers"
        return "\n".join([*lines, f"{total}: {self.accused} accusations"])


@dataclass(frozen=True)
class Layer:
    """A layer that is right, and what can be tried on it."""

    name: str
    subject: Subject
    scope: Scope

    def trial(self, case: Case, convention: Convention) -> Trial | None:
        """The verdict on a case, fitted to the layer; None if that is not possible."""
        fitted = self.scope.fit(case)
        return None if self.scope.lacks(fitted) else judge(self.subject, fitted, convention)


def formulation(kind: Kind, ways: dict[str, str], name: str = "") -> Layer:
    said = name or f"{kind.name} with {ways}"
    return Layer(said, Subject(layer_of(kind.name, ways), kind, said), Scope.full(kind))


def planted_layers(kind: Kind) -> list[Layer]:
    """The right rows of the planted layers."""
    found = []
    for row in planted.ROWS:
        if row.kind == kind.name and not row.expected:
            subject = Subject(row.layer, kind, row.name, row.channels_last)
            scope = discover(subject, None, Clock(60)).scope
            dtypes = tuple(dtype for dtype in scope.dtypes if dtype != "float16")
            found.append(Layer(f"planted {kind.name} {row.name}", subject, Scope(**vars(scope) | {"dtypes": dtypes})))
    return found


class Turn:
    """The layers of one kind, whose turns come one after the other."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.at = kind, 0
        ours = f"npnorm {kind.name}"
        self.always = Layer(ours, Subject(getattr(npnorm, kind.name), kind, ours), Scope.full(kind))
        self.corpus = [
            formulation(kind, ways, f"formulation {kind.name} {place:02}")
            for place, ways in enumerate(corpus(kind.name))
        ]
        self.planted = planted_layers(kind)

    def trials(self, case: Case, anew: list[Layer], convention: Convention) -> Iterator[tuple[str, Trial]]:
        self.at += 1
        others = [group[self.at % len(group)] for group in (self.corpus, anew)]
        # a planted layer does not take all cases: the next one that does
        turned = [self.planted[(self.at + i) % len(self.planted)] for i in range(len(self.planted))]
        for layer in (self.always, *others):
            trial = layer.trial(case, convention)
            if trial is not None:
                yield layer.name, trial
        for layer in turned:
            trial = layer.trial(case, convention)
            if trial is not None:
                yield layer.name, trial
                return


def soak(count: int, seed: tuple[int, ...], turns: dict[Kind, Turn] | None = None) -> Iterator[Found]:
    """At least so many cases, in runs; what each run found."""
    turns = turns or {kind: Turn(kind) for kind in KINDS.values()}
    done, run = 0, 0
    while done < count:
        for kind, turn in turns.items():
            rng = np.random.default_rng((*seed, run))
            found = Found()
            anew = [formulation(kind, drawn(kind.name, rng)) for _ in range(ANEW)]
            run_of(turn, anew, int(rng.integers(2**32)), found)
            done, run = done + found.layers.total(), run + 1
            # those put together anew are named where they are accused; they are counted as one
            for layer in anew:
                found.layers[f"drawn {kind.name}"] += found.layers.pop(layer.name, 0)
            yield found
            if done >= count:
                return


def run_of(turn: Turn, anew: list[Layer], seed: int, found: Found) -> None:
    convention = Convention()  # whose memory of truths ends with the run
    scope, choose = Scope.full(turn.kind), Chosen(random.Random(seed))
    for _ in range(RUN):
        case = replace(random_case(scope, choose), overwrite="")
        found.arrays += 1
        found.add_torch(f"torch {case.kind.name}", case, convention.expected(case))
        for name, trial in turn.trials(case, anew, convention):
            found.add(name, trial)


def _work(count: int, seed: tuple[int, ...], results: Any) -> None:
    with one_thread():
        for found in soak(count, seed):
            results.put(found)
    results.put(None)


def in_processes(count: int, processes: int, seed: int) -> Iterator[Found]:
    """The same in several processes at once."""
    context = get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_work, args=(-(-count // processes), (seed, place), results), daemon=True)
        for place in range(processes)
    ]
    for worker in workers:
        worker.start()
    running = processes
    while running:
        found = results.get()
        if found is None:
            running -= 1
        else:
            yield found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Look for a right layer that the verdict accuses.")
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=30, help="seconds between lines of progress")
    asked = parser.parse_args(arguments)
    total, start = Found(), time.monotonic()
    said = start
    found = soak(asked.cases, (asked.seed, 0)) if asked.processes == 1 else None
    for one in found or in_processes(asked.cases, asked.processes, asked.seed):
        total.join(one)
        for accusation in one.accusations[: max(0, SHOWN + one.accused - total.accused)]:
            print(f"ACCUSED {accusation}", flush=True)
        if time.monotonic() - said > asked.every:
            said = time.monotonic()
            done = total.layers.total()
            print(f"{done} cases in {said - start:.0f} s, {total.accused} accusations", flush=True)
    print(total)
    return 1 if total.accused else 0


if __name__ == "__main__":
    sys.exit(main())
