"""The mistakes that tests are tried on: edits of a right layer's source that the verdict rejects, sampled evenly.

Runs edited code, in a child; knows which edits are wrong and in what, not what any test says of them.
"""

import ast
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from math import prod
from typing import Any

import numpy as np

from reference.cases.case import Case, make, with_gamma, with_options
from reference.cases.probes import BASES, designed_for
from reference.cases.scope import Scope
from reference.dtypes import NARROW
from reference.repair.bench import Look, Probe, Screen, prepared, probe_of
from reference.repair.edits import Edit, all_edits
from reference.repair.explore import Bench, packed, unpacked
from reference.repair.processes import Send, forked, messages
from reference.repair.site import is_array
from reference.repair.source import Key, Source
from reference.repair.units import Located, Patch
from reference.repair.values import Seen, body_nodes
from reference.subjects.in_process import InProcess
from reference.truth.convention import Convention
from reference.truth.exact import QUANTITIES
from reference.truth.verdict import Trial, judge

SMALL = 1_500  # numbers of x in a case that mutants are tried on
ORDINARY = ("unit", "shifted", "integers", "small")  # data that a test of one's own may be asked to have
CRASHES = 8  # children that may be lost to mutants
PATIENCE = 2.0  # seconds that one case may take: by the clock, and other work must not make a mutant another one
POOL = 3  # times as many mutants are found as are tried, so that those that few cases show are among these
DIGITS = 5  # to which two mutants must give the same numbers to be one


@dataclass(frozen=True)
class Mutant:
    """An edit that makes the layer wrong.

    Attributes:
        edit: of the source. wrong: the quantities that it spoils in ordinary cases, in the order of a layer.
        pattern: the same for mutants that are wrong in the same of the crossed cases.
    """

    edit: Edit
    wrong: tuple[str, ...]
    pattern: str = ""


@dataclass(frozen=True, eq=False)
class Ground:
    """A right layer, and the ordinary cases in which mutants are held against it.

    Attributes:
        subject: the layer. located: its live functions. probes: cases in which it is right, the plainest first.
        convention: what it is held to. scope: what it takes.
    """

    subject: InProcess
    located: Located
    probes: tuple[Probe, ...]
    convention: Convention
    scope: Scope

    @property
    def source(self) -> Source:
        return self.located.source

    @cached_property
    def telling(self) -> int:
        """How many of the first probes vary several things at a time."""
        crossed = {self.scope.fit(case) for case in _crossed(self.scope)}
        return sum(probe.case in crossed for probe in self.probes)

    def bench(self) -> Bench:
        """The layer as it is, in a process that ends afterwards."""
        prepared()
        bench = Bench(self.subject, Screen(self.probes[:3], self.probes[3:]), Patch(self.located, self.source))
        bench.limit = PATIENCE
        return bench


def ordinary(scope: Scope) -> list[Case]:
    """The cases that mutants are judged by: what tests of one's own may be asked to try; the most telling first.

    Without the regimes in which a layer loses digits, 16 bits, and x that the caller overwrites: a mutant that is wrong
    there alone is not counted, so that no test is blamed for what few tests need.
    """
    designed = [
        case
        for case in designed_for(scope)
        if case.data in ORDINARY
        and case.dtype not in NARROW
        and not case.overwrite
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
            for momentum in (0.0, 0.4) if kind.tracks else ():
                yield replace(with_options(case, momentum=momentum), calls=2, data="shifted")


def ground_probes(subject: InProcess, scope: Scope, convention: Convention) -> tuple[Probe, ...]:
    """The ordinary cases in which a layer is right, each with what must come of it."""
    trials = (judge(subject, case, convention) for case in ordinary(scope))
    return tuple(probe_of(trial) for trial in trials if is_sound(trial))


def is_sound(trial: Trial) -> bool:
    return bool(trial.comparisons) and not trial.failed and not trial.seen.refused


# --- the search, in the parent ------------------------------------------------------------------------------------------


def find_mutants(ground: Ground, count: int, seed: int, seconds: float) -> list[Mutant]:
    """Up to so many mutants, spread over the lines of the source and the kinds of edit; of those alike one.

    Half of them as they come. Most edits spoil every case, which any test notices: the other half is spread over the cases that
    are spoiled, so that those are among them that are right where gamma is 1, or in training mode.
    """
    pool = _found(ground, POOL * count, seed, seconds)
    chosen = pool[: count - count // 2]
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in pool[len(chosen) :]:
        groups[mutant.pattern].append(mutant)
    while groups and len(chosen) < count:
        for pattern in list(groups):
            if len(chosen) < count:
                chosen.append(groups[pattern].pop(0))
            if not groups[pattern]:
                del groups[pattern]
    return sorted(chosen, key=lambda mutant: (mutant.edit.line, mutant.edit.start, mutant.edit.text))


def _found(ground: Ground, count: int, seed: int, seconds: float) -> list[Mutant]:
    found: list[Mutant] = []
    skip, end = 0, time.monotonic() + seconds
    for _ in range(CRASHES):
        known = len(found)
        child = forked("mutants", partial(_search, ground, count - known, seed, skip))
        try:
            for _, message in messages([child], end):
                if message is None or message.get("waiting"):
                    continue
                skip = int(message.get("at", skip))
                if "edit" in message:
                    found.append(Mutant(unpacked(message["edit"]), tuple(message["wrong"]), message["pattern"]))
        finally:
            child.end()
        if child.finished or time.monotonic() >= end:
            break
        skip += 1  # the edit that ended the process
    return found


# --- and in the child ---------------------------------------------------------------------------------------------------


def _search(ground: Ground, count: int, seed: int, skip: int, send: Send) -> None:
    bench = ground.bench()
    edits = list(evenly(_edits(bench, ground), seed))
    seen: set[Any] = set()
    for at, edit in enumerate(edits[skip:], skip):
        if count <= 0:
            return
        send({"at": at})
        outcome = _tried(bench, ground, edit)
        if outcome is None or outcome[1] in seen:
            continue
        seen.add(outcome[1])
        count -= 1
        send({"edit": packed(edit), "wrong": outcome[0], "pattern": outcome[2]})


def _edits(bench: Bench, ground: Ground) -> list[Edit]:
    keys = list(bench.patch.units)
    seen = bench.watch()
    return [*all_edits(ground.source, seen, keys), *(edit for key in keys for edit in _of_results(ground, seen, key))]


# What is done to a whole result, which tells what is compared: {} stands for it.
OF_RESULTS = (
    ("too little", "{} - 1"),
    ("too much", "{} + 1"),
    ("the other sign", "-{}"),
    ("in another order", "{}[::-1]"),
    ("a hundredth too much", "{} * 1.01"),
    ("a hundred-thousandth too much", "{} * 1.00001"),
)


def _of_results(ground: Ground, seen: Seen, key: Key) -> Iterator[Edit]:
    """Edits of the arrays that a function returns, and of those that it keeps in attributes and entries."""
    source = ground.source
    for node in body_nodes(source, key):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            whole: ast.expr | None = node.value
        else:
            whole = node.value if isinstance(node, ast.Return) else None
        values = whole.elts if isinstance(whole, ast.Tuple) else [] if whole is None else [whole]
        for value in values:
            start, end = source.span(value)
            if not is_array(seen.value(value)):
                continue
            for kind, text in OF_RESULTS:
                yield Edit(start, end, text.format(f"({source.text[start:end]})"), kind, 1.0, key, -1, value.lineno)


def evenly(edits: Sequence[Edit], seed: int) -> Iterator[Edit]:
    """All edits, line by line in turn, of each line one of the kind that has come least often; plain ones sooner."""
    rng = random.Random(seed)
    by_line: dict[int, dict[str, list[Edit]]] = defaultdict(lambda: defaultdict(list))
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end, edit.text)):
        by_line[edit.line][edit.kind].append(edit)
    for kinds in by_line.values():
        for group in kinds.values():
            keys = {id(edit): edit.cost + 2 * rng.random() for edit in group}
            group.sort(key=lambda edit: keys[id(edit)], reverse=True)
    came: Counter[str] = Counter()
    lines = sorted(by_line)
    while lines:
        rng.shuffle(lines)
        for line in list(lines):
            kinds = by_line[line]
            kind = min(kinds, key=lambda kind: (came[kind], rng.random()))
            came[kind] += 1
            yield kinds[kind].pop()
            if not kinds[kind]:
                del kinds[kind]
            if not kinds:
                lines.remove(line)


def _tried(bench: Bench, ground: Ground, edit: Edit) -> tuple[list[str], Any, str] | None:
    """What an edit spoils, a mark of the numbers that it gives, and its pattern; None if it is no mutant to ask about."""
    try:
        code = bench.patch.compiled(edit.key, edit.places)
        bench.patch.put(edit.key, code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    try:
        return _spoiled(bench, ground)
    finally:
        bench.patch.restore(edit.key)


def _spoiled(bench: Bench, ground: Ground) -> tuple[list[str], Any, str] | None:
    wrong: set[str] = set()
    mark: list[Any] = []
    pattern = ""
    for place, probe in enumerate(ground.probes):
        if place >= ground.telling and wrong:
            break  # the others would add more of the same
        look = bench.looked(probe)
        if look.raised:
            return None  # any test that calls it there notices
        if place < len(bench.screen.first) or (look.wrong and len(mark) < 2 * len(bench.screen.first)):
            mark.append((place, _numbers(look)))
        wrong |= look.wrong
        pattern += "01"[bool(look.wrong)] if place < ground.telling else ""
    if not wrong:
        return None
    return [name for name in QUANTITIES if name in wrong], tuple(mark), pattern


def _numbers(look: Look) -> tuple[Any, ...]:
    """What came, so that what differs by rounding alone is the same."""
    found = []
    for name, array in sorted(look.outcome.items()):
        with np.errstate(all="ignore"):
            scale = float(np.abs(array).max(initial=0.0)) or 1.0
            found.append((name, array.shape, f"{scale:.{DIGITS}g}", (np.round(array / scale, DIGITS) + 0.0).tobytes()))
    return tuple(found)


__all__ = ["Ground", "Mutant", "evenly", "find_mutants", "ground_probes", "is_sound", "ordinary"]
