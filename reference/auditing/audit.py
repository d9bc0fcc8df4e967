"""The audit of a layer's tests: the layer is judged, its mutants are found, the tests run on each, and it is said why.

Puts the parts together. The layer runs in this process and in forks of it; the tests in processes of their own.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reference.auditing.blindness import ONE_SIDED, Blindness, pairs_of, table
from reference.auditing.changes import Mistake, Mutant
from reference.auditing.cover import Chosen, Hidden, cover, refuted
from reference.auditing.ground import Ground, ground_probes
from reference.auditing.mutants import find_mutants
from reference.auditing.planted import packed
from reference.auditing.planting import address_of
from reference.auditing.reasons import hidden_by
from reference.auditing.report import Audit, Audited, Reason
from reference.auditing.runner import NotAudited, Order, Run, Runner, default_workers
from reference.auditing.witness import seen as cases_seen
from reference.cases.case import Case
from reference.diagnosis.faults import FAULTS
from reference.probing import probe
from reference.repair.fix import fix_of
from reference.repair.processes import can_fork
from reference.repair.source import NoSource, Source
from reference.repair.units import locate_all
from reference.subjects.guard import Clock, attribute
from reference.subjects.in_process import InProcess
from reference.subjects.loading import opened
from reference.subjects.reading import Refused, kind_of, name_of
from reference.truth.convention import Convention

TELLING = 60  # reasons that are held against the mutants that were noticed
LEAST = 0.12  # of the survivors that a reason must account for that would hide a good part of all mutants
SECONDS = 120.0  # for the search for mutants, and for the reasons, at most
Progress = Callable[[int, int], None]


def audit(
    layer: Any,
    tests: str | Sequence[str],
    *,
    like: str | None = None,
    mutants: int = 60,
    seed: int = 0,
    accept: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
    dtypes: Sequence[str] | None = None,
    channels_last: bool = False,
    ndims: Sequence[int] | None = None,
    timeout: float = 60.0,
    workers: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Find the mistakes of a layer that its tests would not notice, and say what the tests lack.

    Args:
        layer: a SUBJECT as on the command line, "my_layers.py:MyNorm", or a class or factory that comes from a file.
        tests: the command that runs its tests.
        like, accept, names, dtypes, channels_last, ndims, timeout: as of `check`.
        mutants: how many mistakes to try, at most. seed: of their choice.
        workers: runs of the tests at a time, by default one a core.
        folder: where to run the tests, by default here.
        progress: called with the runs done and the runs to do.

    Raises:
        Refused: there is nothing to audit: the layer is wrong, or the tests do not pass or do not use it.
        Unusable, ValueError, TypeError: an argument is not what it should be.
    """
    if mutants < 1:
        raise ValueError(f"Expected mutants to be at least 1 but got {mutants}")
    if workers is not None and workers < 1:
        raise ValueError(f"Expected workers to be at least 1 but got {workers}")
    if not can_fork():
        raise NotAudited("Expected a platform that can fork: mutants are judged in processes of their own")
    place = Path(folder or Path.cwd()).resolve()
    with _without_torch():
        subject = _subject(layer, like, channels_last, names)
        ground = _ground(subject, tuple(accept), ndims, dtypes, timeout)
        clean, *others = [_order(one.source) for one in ground.located]
        command = tests if isinstance(tests, str) else " ".join(tests)
        with Runner(tests, clean, [order.file for order in others], place, workers or default_workers()) as run:
            run.clean()
            found = find_mutants(ground, mutants, seed, SECONDS)
            orders = [_order_of(ground, mutant) for mutant in found]
            total = len(found)
            runs = run.run(orders, (lambda done: progress(done, total)) if progress else None)
            seconds, tried = run.seconds, _tried(ground, run)
        clear = [(mutant, run) for mutant, run in zip(found, runs, strict=True) if run.clear]
        found, runs = [mutant for mutant, _ in clear], [run for _, run in clear]
        return _report(ground, command, found, runs, seconds, mutants, tried)


def _order(source: Source, text: str | None = None, mistake: bytes = b"") -> Order:
    assert source.path is not None
    return Order(source.path, (source.text if text is None else text).encode(source.encoding), mistake)


def _order_of(ground: Ground, mutant: Mutant) -> Order:
    """What the tests are to be run on for a mutant."""
    change = mutant.change
    if isinstance(change, Mistake):
        return Order(Path(change.file), Path(change.file).read_bytes(), packed(change.address, change.id, change.way))
    source = ground.located[change.file].source
    return _order(source, change.edit.applied(source.text))


def _tried(ground: Ground, run: Runner) -> list[Case]:
    """The cases that the tests try, by one more run with a witness; none where not all of them can be seen."""
    address = address_of(ground.subject)
    if address is None:
        return []
    file = Path(address[1])
    (seen,) = run.run([Order(file, file.read_bytes(), packed(address[0]))])
    return cases_seen(seen.record, ground.subject.kind) if seen.clear and not seen.noticed else []


@contextmanager
def _without_torch() -> Iterator[None]:
    """Exact values decide, and torch takes a second or two to import."""
    before, Convention.beside_torch = Convention.beside_torch, False
    try:
        yield
    finally:
        Convention.beside_torch = before


def _subject(layer: Any, like: str | None, channels_last: bool, names: Mapping[str, str] | None) -> InProcess:
    if isinstance(layer, str):
        factory, kind = opened(layer, like)
        return InProcess(factory, kind, layer, channels_last, names)
    if not callable(layer):
        raise TypeError(f"Expected layer to be a SUBJECT, a class or a factory but got {layer!r}")
    name = name_of(layer)
    return InProcess(layer, kind_of(name, like or attribute(layer, "like")), name, channels_last, names)


def _ground(
    subject: InProcess,
    accept: tuple[str, ...],
    ndims: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    timeout: float,
) -> Ground:
    """The layer with the cases in which mutants are judged.

    Raises:
        NotAudited: it is wrong itself, or has no source that could be edited.
    """
    probed = probe(subject, ndims, accept, timeout, dtypes=dtypes)
    if any(trial.failed for trial in probed.trials):
        wrong = sorted({name for trial in probed.trials for name in trial.wrong})
        others = probed.discovery.scope.ndims if len(probed.discovery.scope.ndims) > 1 else ()
        right = [rank for rank in others if not _is_wrong_in(subject, rank, accept, timeout, dtypes)]
        raise NotAudited(
            f"Expected a layer that is right but {subject.name} is wrong itself"
            f"{' in ' + ', '.join(wrong) if wrong else ''}: normcheck {subject.name} says how"
            + (f"; to audit it where it is right: --ndims {','.join(map(str, right))}" if right else "")
        )
    convention, scope = probed.run.convention, probed.discovery.scope
    probes = ground_probes(subject, scope, convention)
    if not probes:
        raise NotAudited(f"{subject.name} takes no ordinary case in which a mistake could show")
    try:
        located = locate_all(subject, [probe.case for probe in probes[:3]], Clock(5.0))
    except NoSource as error:
        raise NotAudited(f"{subject.name} has no source that could be edited: {error}") from None
    if located[0].source.path is None:
        raise NotAudited(f"{subject.name} is in no file that tests could import: {located[0].source.filename}")
    return Ground(subject, tuple(located), probes, convention, scope)


def _is_wrong_in(
    subject: InProcess, rank: int, accept: tuple[str, ...], timeout: float, dtypes: Sequence[str] | None
) -> bool:
    """Whether a layer is wrong for an x of some axes alone, too."""
    try:
        return any(trial.failed for trial in probe(subject, (rank,), accept, timeout, dtypes=dtypes).trials)
    except Refused:
        return True


def _report(
    ground: Ground,
    command: str,
    found: list[Mutant],
    runs: list[Run],
    seconds: float,
    asked: int,
    tried: list[Case],
) -> Audit:
    rows = table(ground.scope)
    by_id = {row.id: row for row in rows}
    vague = frozenset((row.id,) for row in rows if row.share < 1)
    missed = [mutant for mutant, run in zip(found, runs, strict=True) if not run.noticed]
    caught = [mutant for mutant, run in zip(found, runs, strict=True) if run.noticed]
    hidden = hidden_by(ground, missed, [(row,) for row in rows], SECONDS)
    # what the tests were seen to go beyond is no restriction of theirs; what they were not is one
    cases = [row for row in rows if tried and row.of == "cases"]
    kept = frozenset((row.id,) for row in cases if all(map(row.holds, tried)))
    not_blind = _refuted(ground, caught, hidden, by_id, vague) | {(row.id,) for row in cases}
    not_blind -= kept
    rare = (row.id for row in rows if row.share <= ONE_SIDED)  # hides half of what any test notices
    counts = Counter(ids for ids_of in hidden for ids in ids_of)
    not_blind |= {(id,) for id in rare if counts[id,] < LEAST * len(missed)}
    pairs = hidden_by(ground, missed, pairs_of([row for row in rows if (row.id,) not in not_blind]), SECONDS)
    not_blind |= _refuted(ground, caught, pairs, by_id, vague)
    # what the tests have somewhere is said only where nothing else is to be: it may not be where this one would show
    common = frozenset((row.id,) for row in rows if row.is_common and row.of == "cases")
    plain = {
        number: ((alone | both) - not_blind) or (alone & common)
        for number, (alone, both) in enumerate(zip(hidden, pairs, strict=True))
    }
    order: dict[tuple[str, ...], int] = {(row.id,): place for place, row in enumerate(rows)}
    restrictions = frozenset((row.id,) for row in rows if row.agree is None)
    chosen = cover(plain, order, restrictions, vague)
    reasons = [
        _reason(one, by_id, [hidden for hidden in plain.values() if one.accounts_for(hidden)], not_blind)
        for one in chosen
    ]
    reasons.sort(key=lambda reason: -reason.survivors)
    told = iter(tuple("+".join(one.ids) for one in chosen if one.accounts_for(plain[number])) for number in plain)
    audited = [
        _audited(ground, mutant, run, () if run.noticed else next(told))
        for mutant, run in zip(found, runs, strict=True)
    ]
    unexplained = sum(not ids for ids in plain.values())
    file = str(ground.source.path)
    return Audit(ground.subject.name, command, file, seconds, tuple(audited), tuple(reasons), unexplained, asked)


def _refuted(
    ground: Ground,
    caught: Sequence[Mutant],
    hidden: Sequence[Hidden],
    rows: Mapping[str, Blindness],
    vague: frozenset[tuple[str, ...]],
) -> frozenset[tuple[str, ...]]:
    """Which of the things that hide survivors would have hidden a mutant that was noticed; the most telling alone."""
    counts = Counter(ids for ids_of in hidden for ids in ids_of)
    asked = [tuple(rows[id] for id in ids) for ids, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    known = hidden_by(ground, caught, asked[:TELLING], SECONDS)
    return refuted(hidden, known, vague)


def _reason(
    chosen: Chosen, rows: Mapping[str, Blindness], survivors: Sequence[Hidden], not_blind: frozenset[tuple[str, ...]]
) -> Reason:
    own = [rows[id] for id in chosen.ids]
    too = [rows[id] for ids in chosen.also for id in ids]
    lacking = " and ".join([", or ".join(row.lacking for row in own), *(row.lacking for row in too)])
    advice = tuple(row.advice for row in (*own, *too))
    return Reason("+".join(chosen.ids), lacking, advice, len(survivors), chosen.ids in not_blind)


def _audited(ground: Ground, mutant: Mutant, run: Run, reasons: tuple[str, ...]) -> Audited:
    entry = FAULTS.get(mutant.name)
    if isinstance(mutant.change, Mistake):
        assert entry is not None
        kind, file, line, diff = ground.subject.kind, mutant.change.file, 0, ""
        before, after = entry.right_for(kind), entry.wrong_for(kind)
    else:
        source = ground.located[mutant.change.file].source
        change = fix_of(source, mutant.change.edit.applied(source.text), mutant.wrong, 0)
        file, line, before, after, diff = change.file, change.line, change.before, change.after, change.diff
    return Audited(
        file,
        line,
        before,
        after,
        mutant.change.kind,
        diff,
        mutant.wrong,
        run.noticed,
        run.seconds,
        reasons,
        mutant.name,
        entry.summary if entry else "",
    )
