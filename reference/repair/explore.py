"""The search itself, in a child: all edits in the order of their promise, each tried on probes until one differs.

Says through its pipe which edits make everything right, and which make something right and nothing wrong. Shows nothing,
and proves nothing.
"""

import ast
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from types import CodeType
from typing import Any

import numpy as np

from reference.dtypes import is_float
from reference.repair.bench import Look, Probe, Screen, limited, look, prepared, timed
from reference.repair.edits import Edit, all_edits, node_numbers
from reference.repair.formula import ANEW, written_anew
from reference.repair.holes import factors_and_terms
from reference.repair.processes import Send, Tickets
from reference.repair.site import Site, is_array, is_number, walk_sites
from reference.repair.source import Key, Source
from reference.repair.units import Located, Patch
from reference.repair.values import Hook, Seen, watched, wrapped
from reference.subjects.frameworks import plain
from reference.subjects.guard import OutOfTime
from reference.subjects.subject import Subject
from reference.truth.exact import QUANTITIES

PORTION = 8  # edits that are taken at once
TICKETS = 5_000  # portions at most: what a pipe holds
BEFORE_HOLES = 300  # portions that come before what is read off from values
BEAT = 0.3  # seconds after which a child says that it is at work
SLOWER = 6  # times as long as the layer took itself that a candidate may take
SAMPLE = 24  # probes that tell how far an edit helps
PARTIAL = 15  # edits that help in part whose effect on all probes is looked at, by each child
NAMED = 1.0  # how much sooner an edit comes that a named mistake points at
HINTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # a word of such a name: what is written, kinds of edit
    "eps": (("eps",), ()),
    "momentum": (("momentum", "1 -"), ()),
    "sign": ((), ("another sign", "another operator")),
    "sum": (("sum", "mean"), ()),
    "mean": (("mean", "sum"), ()),
    "doubled": ((), ("another number", "left out")),
    "gamma": (("gamma", "weight"), ()),
    "std": (("std", "sqrt", "**"), ()),
    "rooted": (("sqrt", "**"), ()),
    "biased": (("- 1",), ()),
    "unbiased": (("- 1", "ddof"), ()),
    "axis": (("axis",), ("other axes", "other arguments")),
    "axes": (("axis",), ("other axes", "other arguments")),
    "missing": ((), ("a factor or a term",)),
    "twice": ((), ("left out",)),
    "swapped": ((), ("another order",)),
    "accumulate": ((), ("another assignment",)),
    "mutated": ((".copy",), ("another assignment", "a copy")),
    "training": (("training",), ("another condition",)),
    "eval": (("training",), ("another condition",)),
}
WATCHED = 3  # cases in which it is seen what everything holds


@dataclass(frozen=True, eq=False)
class Work:
    """What a child is to do.

    Attributes:
        subject: the layer. located: its live functions. source: the text from which the edits go out. screen: the probes.
        tickets: which portions of the edits are still to be tried. deadline: when to stop.
        named: the words in the names of the mistakes that the diagnosis found.
    """

    subject: Subject
    located: Located
    source: Source
    screen: Screen
    tickets: Tickets
    deadline: float
    named: frozenset[str] = frozenset()


def explore(work: Work, send: Send) -> None:
    """Try edits until there are none left, or no time."""
    prepared()
    patch = Patch(work.located, work.source)
    bench = Bench(work.subject, work.screen, patch, partial(send, {"alive": True}))
    seen = bench.watch()
    touched = sensitivity(bench, seen)
    edits = [*ordered(bench, seen, touched, work.named), *rewritten(bench, seen)]
    holes = list(open_places(bench, seen, touched))
    first = min(BEFORE_HOLES, len(edits) // PORTION + 1)  # portions of the likeliest edits, before values are read
    send({"edits": len(edits)})
    attempts = Attempts(work, bench, send)
    while (ticket := work.tickets.take()) is not None:
        send({"portion": ticket})
        if first <= ticket < first + len(holes):
            candidates: Iterable[Edit] = from_values(bench, *holes[ticket - first])
        else:
            at = PORTION * (ticket if ticket < first else ticket - len(holes))
            candidates = edits[at : at + PORTION]
            if at >= len(edits):
                return
        for edit in candidates:
            if time.monotonic() > work.deadline:
                return
            attempts.on(edit)


class Attempts:
    """Tries one edit after the other, each code once, and says what came of it."""

    def __init__(self, work: Work, bench: "Bench", send: Send) -> None:
        self.work, self.bench, self.send = work, bench, send
        self.done: set[tuple[Key, CodeType]] = set()
        self.in_part = 0

    def on(self, edit: Edit) -> None:
        try:
            code = self.bench.patch.compiled(edit.key, edit.places)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
        if (edit.key, code) in self.done:
            return
        self.done.add((edit.key, code))
        outcome = self.bench.tried(edit.key, code, self.in_part < PARTIAL)
        if outcome is not None:
            kind, left = outcome
            self.in_part += kind == "helps"
            self.send({kind: True, "left": left, "edit": packed(edit)})


def rewritten(bench: "Bench", seen: Seen) -> Iterator[Edit]:
    """Statements as the formula has them."""
    source = bench.patch.source
    for key in bench.patch.units:
        for anew in written_anew(source, seen, key, bench.screen.first[0].case):
            start, end = source.span(anew.node)
            before = ((anew.at, anew.at, anew.before),) if anew.before else ()
            yield Edit(start, end, anew.text, "as the formula has it", ANEW, key, -1, anew.line, before)


Touched = dict[ast.expr, frozenset[str]]


def open_places(bench: "Bench", seen: Seen, touched: Touched) -> Iterator[tuple[Site, str]]:
    """The expressions whose missing factor or term can be read off, each with the wrong quantity that tells it."""
    wrong = bench.base[bench.screen.first[0]].wrong
    for key in bench.patch.units:
        numbers = node_numbers(bench.patch.source, key)
        for site in walk_sites(bench.patch.source, seen, key, [n for n in numbers if n in touched]):
            spoiled = touched[site.node] & wrong
            if spoiled:
                yield site, next(name for name in QUANTITIES if name in spoiled)


def from_values(bench: "Bench", site: Site, quantity: str) -> Iterator[Edit]:
    """Edits that put in what is missing, by the values of one failing case."""
    probe, key = bench.screen.first[0], site.key
    wanted, now = probe.wanted[quantity], bench.base[probe].outcome.get(quantity)
    if now is None or now.shape != wanted.exact.shape or not wanted.finite:
        return
    hook = Hook()
    hook.install()
    hook.record = False
    try:
        code = bench.patch.compiled(key, wrapped(bench.patch.source, {0: site.node}))
    except (SyntaxError, ValueError):
        return

    def run(change: Callable[[Any], Any]) -> np.ndarray | None:
        hook.change = change
        bench.patch.put(key, code)
        try:
            return bench.looked(probe).outcome.get(quantity)
        finally:
            bench.patch.restore(key)

    scope = dict(bench.patch.units[key].functions[0].__globals__)
    for text, tightly, cost in factors_and_terms(site, run, now, wanted.exact, scope):
        yield Edit(*site.replaced(text, tightly), "what is missing by its value", cost, key, -1, site.node.lineno)


def packed(edit: Edit) -> dict[str, Any]:
    """An edit as JSON has it."""
    return asdict(edit)


def unpacked(entry: dict[str, Any]) -> Edit:
    """The edit that `packed` gave.

    Raises:
        KeyError, TypeError: it is none.
    """
    more = tuple((int(start), int(end), str(text)) for start, end, text in entry["more"])
    return Edit(**entry | {"key": Key(**entry["key"]), "more": more})


class Bench:
    """The layer as it is now, and the probes that candidates are tried on."""

    def __init__(self, subject: Subject, screen: Screen, patch: Patch, beat: Callable[[], None] = lambda: None) -> None:
        self._beat, self._beaten = beat, time.monotonic()
        self.subject, self.screen, self.patch = subject, screen, patch
        self.limit = 0.25
        self.base: dict[Probe, Look] = {}
        seconds = timed(lambda: self.base.update({probe: self.looked(probe) for probe in screen.first}))
        self.limit = min(max(20 * seconds / max(len(screen.first), 1), 0.1), 0.5)
        shown = {(probe.case.training, look_.faults) for probe, look_ in self.base.items()}
        step = max(1, len(screen.rest) // SAMPLE)
        self.sample = set(screen.rest[::step])  # what helps in part is tried on these alone
        self.uniform = len(shown) == 1  # all that is wrong shows in the first probe

    def looked(self, probe: Probe) -> Look:
        """How the layer does as it is now; one that takes too long gives nothing."""
        if time.monotonic() - self._beaten > BEAT:
            self._beat()  # still at work
            self._beaten = time.monotonic()
        try:
            with limited(max(self.limit, SLOWER * probe.seconds)):
                return look(self.subject, probe)
        except OutOfTime:
            return Look(frozenset(probe.wanted), frozenset(), {}, True)

    def watch(self) -> Seen:
        """What everything holds: in a failing case, and in the other mode and rank if there is one."""
        cases = [probe.case for probe in self.screen.first[:1]]
        for probe in self.screen.probes:
            fresh = all((p.training, len(p.shape)) != (probe.case.training, len(probe.case.shape)) for p in cases)
            if fresh and len(cases) < WATCHED:
                cases.append(probe.case)
        found = [watched(self.patch, lambda case=case: self._run(case)) for case in cases]  # type: ignore[misc]
        values: dict[ast.expr, list[Any]] = {}
        names: dict[tuple[Key, int], dict[str, Any]] = {}
        for seen in reversed(found):
            values |= seen.values
            names |= seen.names
        return Seen(values, names)

    def _run(self, case: Any) -> None:
        try:
            with limited(2.0):
                self.subject.run(case)
        except OutOfTime:
            pass

    def tried(self, key: Key, code: CodeType, wanted_in_part: bool) -> tuple[str, int] | None:
        """How the layer does with another code of a unit.

        Returns:
            ("right", 0) if everything is right; ("helps", the faults left over all probes) if something is that was not,
            and nothing is wrong that was right; None otherwise.
        """
        try:
            self.patch.put(key, code)
        except ValueError:
            return None
        try:
            return self._judged(wanted_in_part)
        finally:
            self.patch.restore(key)

    def _judged(self, wanted_in_part: bool) -> tuple[str, int] | None:
        left, helped = 0, False
        for probe in self.screen.first:
            now, before = self.looked(probe).faults, self.base[probe].faults
            if now - before:
                return None
            helped |= now < before
            if not helped and self.uniform:
                return None
            left += len(now)
        if not helped or (left and not wanted_in_part):
            return None
        for probe in self.screen.rest:
            if left and probe not in self.sample:
                continue
            now = self.looked(probe).faults
            if now - probe.faults or (now and not wanted_in_part):
                return None
            left += len(now)
        return ("right", 0) if not left else ("helps", left)


def ordered(bench: Bench, seen: Seen, touched: Touched, named: frozenset[str] = frozenset()) -> list[Edit]:
    """All edits, the most promising first: cheap ones that touch what is wrong, and cannot touch what is right.

    What the diagnosis named comes before what it did not.
    """
    patch = bench.patch
    edits = all_edits(patch.source, seen, list(patch.units))
    numbers = {key: node_numbers(patch.source, key) for key in patch.units}
    nodes = {key: {number: node for node, number in numbers[key].items()} for key in patch.units}
    lines = _by_line(patch.source, touched)
    wrong = frozenset().union(*(look_.wrong for look_ in bench.base.values()))

    def promise(edit: Edit) -> float:
        node = nodes[edit.key].get(edit.node)
        affected = _nearest(patch.source, touched, node) if node is not None else lines.get(edit.line)
        return edit.cost + _distance(affected, wrong) - NAMED * _is_named(patch.source, edit, named)

    return sorted(edits, key=promise)


def _is_named(source: Source, edit: Edit, named: frozenset[str]) -> bool:
    """Whether an edit writes, or takes away, what the name of a mistake speaks of."""
    old = source.text[edit.start : edit.end]
    return any(
        edit.kind in kinds or any(edit.text.count(word) != old.count(word) for word in words)
        for name, (words, kinds) in HINTS.items()
        if name in named
    )


def _nearest(source: Source, touched: Touched, node: ast.expr | ast.AST) -> frozenset[str] | None:
    for above in (node, *source.ancestors(node)):
        if above in touched:
            return touched[above]
        if isinstance(above, ast.stmt):
            return None
    return None


def _by_line(source: Source, touched: Touched) -> dict[int, frozenset[str]]:
    found: dict[int, frozenset[str]] = {}
    for node, quantities in touched.items():
        found[node.lineno] = found.get(node.lineno, frozenset()) | quantities
    return found


def _distance(affected: frozenset[str] | None, wrong: frozenset[str]) -> float:
    """How far from what is wrong an edit is."""
    if affected is None or not wrong:
        return 1.0
    if not affected & wrong:
        return 6.0
    return 1.5 * bool(affected - wrong) + 1.0 * bool(wrong - affected)


def sensitivity(bench: Bench, seen: Seen) -> Touched:
    """Which quantities change when the value of an expression does; without those that cannot be changed."""
    hook = Hook()
    hook.install()
    hook.record, hook.change = False, _nudged
    patch, found = bench.patch, {}
    runs = [(probe, bench.base[probe]) for probe in bench.screen.first[:2] if bench.base[probe].outcome]
    for key in patch.units:
        for node in node_numbers(patch.source, key):
            value = seen.value(node)
            if not ((is_array(value) and value.dtype.kind == "f") or (is_number(value) and isinstance(value, float))):
                continue
            try:
                patch.put(key, patch.compiled(key, wrapped(patch.source, {0: node})))  # type: ignore[dict-item]
            except (SyntaxError, ValueError):
                continue
            quantities: set[str] = set()
            for probe, before in runs:
                now = bench.looked(probe)
                quantities |= {
                    name for name, array in before.outcome.items() if not _same(array, now.outcome.get(name))
                }
            patch.restore(key)
            found[node] = frozenset(quantities)
    return found  # type: ignore[return-value]


def _nudged(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return (value * 1.37 + 0.11).astype(value.dtype)
    if isinstance(value, float) or (plain(value) is not value and is_float(plain(value).dtype)):
        return value * 1.37 + 0.11
    return value


def _same(one: Any, other: Any) -> bool:
    return other is not None and np.array_equal(one, other, equal_nan=True)
