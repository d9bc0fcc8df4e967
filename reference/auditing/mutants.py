"""The mistakes that tests are tried on: wrong variants of a right layer, which the verdict rejects, sampled evenly.

Two sources: edits of the layer's own text, those of the search for a fix in the other direction; and the entries of the
dictionary of mistakes, where none of these edits makes them. Runs edited code, in a child; knows which variants are wrong
and in what, not what any test says of them.
"""

import ast
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from reference.auditing.changes import Edited, Mistake, Mutant
from reference.auditing.ground import Ground, Stage
from reference.auditing.planting import address_of, mistakes_of
from reference.diagnosis.faults import FAULTS
from reference.repair.bench import Look
from reference.repair.edits import Edit, all_edits
from reference.repair.explore import packed, unpacked
from reference.repair.processes import Send, forked, messages
from reference.repair.site import is_array
from reference.repair.source import Key, Source
from reference.repair.values import Seen, body_nodes
from reference.truth import exact
from reference.truth.exact import QUANTITIES

CRASHES = 8  # children that may be lost to mutants
POOL = 3  # times as many mutants are found as are tried, so that those that few cases show are among these
PLANTED = 3  # at most one mutant of so many is a mistake of the dictionary that no edit makes
MARKED = 3  # cases whose numbers are compared, and as many that are wrong
FOR_NAMES = 0.2  # seconds for each mistake of the dictionary in which an edit is looked for that makes it
DIGITS = 5  # to which two mutants must give the same numbers to be one
NAMED_BY = 4  # cases in which a planted mistake must give the numbers of its entry's formula
AS_NAMED = 1e-6  # of the largest number, how far it may be off


# --- the search, in the parent ------------------------------------------------------------------------------------------


def find_mutants(ground: Ground, count: int, seed: int, seconds: float) -> list[Mutant]:
    """Up to so many mutants, spread over the lines of the source and the kinds of edit; of those alike one.

    A third are mistakes of the dictionary: as edits where an edit makes them. Of the others half are taken as they come. Most
    edits spoil every case, which any test notices: the second half is spread over the cases that are spoiled, so that those are
    among them that are right where gamma is 1, or in training mode.
    """
    pool = _found(ground, POOL * count, seed, seconds)
    by_name: dict[str, Mutant] = {}
    for mutant in sorted(pool, key=lambda mutant: isinstance(mutant.change, Mistake)):
        if mutant.name:
            by_name.setdefault(mutant.name, mutant)
    chosen = _spread(list(by_name.values()), count // PLANTED)
    rest = [mutant for mutant in pool if mutant not in chosen and isinstance(mutant.change, Edited)]
    first = (count - len(chosen) + 1) // 2
    chosen += rest[:first]
    chosen += _spread(rest[first:], count - len(chosen))
    return sorted(chosen, key=lambda mutant: mutant.order)


def _spread(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """So many of them, of each pattern about as many."""
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        groups[mutant.pattern].append(mutant)
    chosen: list[Mutant] = []
    while groups and len(chosen) < count:
        for pattern in list(groups):
            if len(chosen) < count:
                chosen.append(groups[pattern].pop(0))
            if not groups[pattern]:
                del groups[pattern]
    return chosen


def _found(ground: Ground, count: int, seed: int, seconds: float) -> list[Mutant]:
    """The mistakes of the dictionary, as far as they can be made, and so many edits."""
    edits: list[Mutant] = []
    mistakes: dict[str, Mutant] = {}
    address = address_of(ground.subject)
    skip, end = 0, time.monotonic() + seconds
    for _ in range(CRASHES):
        child = forked("mutants", partial(_search, ground, count - len(edits), seed, skip))
        try:
            for _, message in messages([child], end):
                if message is None or message.get("waiting"):
                    continue
                skip = int(message.get("at", skip))
                said = tuple(message.get("wrong", ())), message.get("pattern", ""), message.get("name", "")
                if "edit" in message:
                    edits.append(Mutant(Edited(unpacked(message["edit"]), message["file"]), *said))
                elif "way" in message and address is not None:
                    mistakes[said[2]] = Mutant(Mistake(said[2], message["way"], *address), *said)
        finally:
            child.end()
        if child.finished or time.monotonic() >= end:
            break
        skip += 1  # the edit that ended the process
    return [*edits, *mistakes.values()]


# --- and in the child ---------------------------------------------------------------------------------------------------


def _search(ground: Ground, count: int, seed: int, skip: int, send: Send) -> None:
    stage = Stage(ground)
    rng = random.Random(seed)
    named: dict[Any, Mistake] = {}  # by what marks their numbers; taken out when an edit makes it
    for mistake, known in islice(_of_dictionary(stage, rng), POOL * -(-count // (POOL * PLANTED))):
        named.setdefault(known[1], mistake)
        send({"name": mistake.id, "way": mistake.way, "wrong": known[0], "pattern": known[2]})
    changes = list(evenly(_edits(stage), seed))[skip:]
    seen: set[Any] = set()
    at = 0
    for at, change in enumerate(changes, 1):
        if count <= 0:
            break
        send({"at": skip + at - 1})
        outcome = _tried(stage, change)
        if outcome is not None and outcome[1] not in seen:
            seen.add(outcome[1])
            count -= 1
            send(_told(stage, change, outcome, named))
    # beyond those that were asked for, what makes a mistake of the dictionary
    send({"at": skip + len(changes)})
    end = time.monotonic() + FOR_NAMES * len(named)
    for change in sorted(changes[at:], key=lambda change: change.edit.cost):
        if not named or time.monotonic() > end:
            return
        outcome = _tried(stage, change, Wanted(named))
        if outcome is not None and outcome[1] in named:
            told = _told(stage, change, outcome, named)
            if told["name"]:
                send(told)


def _told(stage: Stage, change: Edited, outcome: "Outcome", named: dict[Any, Mistake]) -> dict[str, Any]:
    """A mutant as the parent reads it, with the name of the mistake that it is, which is taken from the named ones."""
    same = named.get(outcome[1])
    name = same.id if same is not None and _is_as_named(stage, change, same, None) else ""
    if name:
        del named[outcome[1]]
    return {
        "edit": packed(change.edit),
        "file": change.file,
        "wrong": outcome[0],
        "pattern": outcome[2],
        "name": name,
    }


Outcome = tuple[list[str], Any, str]  # what is spoiled, a mark of the numbers, and the pattern


def _of_dictionary(stage: Stage, rng: random.Random) -> Iterator[tuple[Mistake, Outcome]]:
    """Each mistake that can be made of the layer, and is one there, by the first of its ways."""
    address = address_of(stage.ground.subject)
    made: set[str] = set()
    if address is None:
        return
    ways = list(mistakes_of(stage.ground.subject.kind))
    place = {id: rng.random() for id in dict.fromkeys(id for id, _ in ways)}
    for id, way in sorted(ways, key=lambda one: (place[one[0]], one[1])):
        mistake = Mistake(id, way, *address)
        if id in made or not _is_as_named(stage, mistake, mistake, NAMED_BY):
            continue
        outcome = _tried(stage, mistake)
        if outcome is not None and not stage.unclear:
            made.add(id)
            yield mistake, outcome


def _is_as_named(stage: Stage, change: Edited | Mistake, mistake: Mistake, cases: int | None) -> bool:
    """Whether the layer with a change gives the numbers of a mistake's formula.

    Args:
        cases: in how many in which it is wrong this is looked at; None for all.
    """
    changes = exact.merged(FAULTS[mistake.id].variants[mistake.way])
    wrong = 0
    try:
        with stage.playing(change):
            for probe in stage.ground.probes if cases is None else stage.ground.probes[: stage.ground.telling]:
                if probe.case.dtype != "float64":
                    continue
                look = stage.looked(probe)
                if look.raised or stage.unclear:
                    return False
                truth = exact.truth(probe.case, changes).exact
                for name, got in look.outcome.items():
                    wanted = np.asarray(truth[name], np.float64)
                    off = np.abs(got - wanted).max(initial=0.0) if got.shape == wanted.shape else np.inf
                    if not off <= AS_NAMED * max(1.0, np.abs(wanted).max(initial=0.0)):
                        return False
                wrong += bool(look.wrong)
                if wrong == cases:
                    break
    except (ValueError, IndexError, KeyError, SyntaxError):
        return False
    return wrong > 0


def _edits(stage: Stage) -> list[Edited]:
    found: list[Edited] = []
    for file, bench in enumerate(stage.benches):
        keys, seen, source = list(bench.patch.units), bench.watch(), bench.patch.source
        found += [Edited(edit, file) for edit in all_edits(source, seen, keys)]
        found += [Edited(edit, file) for key in keys for edit in _of_results(source, seen, key)]
    return found


# What is done to a whole result, which tells what is compared: {} stands for it.
OF_RESULTS = (
    ("too little", "{} - 1"),
    ("too much", "{} + 1"),
    ("the other sign", "-{}"),
    ("in another order", "{}[::-1]"),
    ("a hundredth too much", "{} * 1.01"),
    ("a hundred-thousandth too much", "{} * 1.00001"),
)


def _of_results(source: Source, seen: Seen, key: Key) -> Iterator[Edit]:
    """Edits of the arrays that a function returns, and of those that it keeps in attributes and entries."""
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


def evenly(changes: Sequence[Edited], seed: int) -> Iterator[Edited]:
    """All edits, line by line in turn, of each line one of the kind that has come least often; plain ones sooner."""
    rng = random.Random(seed)
    by_line: dict[tuple[int, int], dict[str, list[Edited]]] = defaultdict(lambda: defaultdict(list))
    for change in sorted(
        changes, key=lambda change: (change.file, change.edit.start, change.edit.end, change.edit.text)
    ):
        by_line[change.file, change.edit.line][change.kind].append(change)
    for kinds in by_line.values():
        for group in kinds.values():
            keys = {id(change): change.edit.cost + 2 * rng.random() for change in group}
            group.sort(key=lambda change: keys[id(change)], reverse=True)
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


class Wanted:
    """The marks that are of any interest, as far as they tell early that a change has none of them."""

    def __init__(self, marks: Iterable[Any]) -> None:
        marks = tuple(marks)
        self.begin = {mark[:length] for mark in marks for length in range(1, len(mark) + 1)}
        # a mark has the first cases, right or wrong, and then those that are wrong: from here on one of each is wrong
        self.last = max((mark[MARKED][0] if len(mark) > MARKED else MARKED - 1 for mark in marks), default=0)


def _tried(stage: Stage, change: Edited | Mistake, wanted: Wanted | None = None) -> Outcome | None:
    """What a change spoils, a mark of the numbers that it gives, and its pattern; None if it is no mutant to ask about.

    Args:
        wanted: what marks are of any interest; None if all are.
    """
    try:
        with stage.playing(change):
            return _spoiled(stage, wanted)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _spoiled(stage: Stage, wanted: Wanted | None) -> Outcome | None:
    wrong: set[str] = set()
    mark: list[Any] = []
    pattern = ""
    ground = stage.ground
    for place, probe in enumerate(ground.probes):
        if place >= ground.telling and wrong:
            break  # the others would add more of the same
        look = stage.looked(probe)
        if look.raised:
            return None  # any test that calls it there notices
        if place < MARKED or (look.wrong and len(mark) < 2 * MARKED):
            mark.append((place, _numbers(look)))
        wrong |= look.wrong
        if wanted is not None and (tuple(mark) not in wanted.begin or (place >= wanted.last and not wrong)):
            return None
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


__all__ = ["evenly", "find_mutants"]
