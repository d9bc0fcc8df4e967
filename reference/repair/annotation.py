"""What each assignment of a layer holds in a small failing case, in the formula's words: found by comparing values.

A word is only said where one thing fits, up to a sign and a factor that is a small number or a count. Knows the formula
and a layer's values; the layer runs in a child.
"""

import ast
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.repair.bench import SMALL, limited, prepared
from reference.repair.fix import shown_name
from reference.repair.processes import Send, can_fork, forked, is_child, messages
from reference.repair.site import is_array
from reference.repair.source import Key, NoSource, Source
from reference.repair.units import Located, Patch, locate
from reference.repair.values import Seen, watched
from reference.reporting.result import Note
from reference.subjects.guard import Clock, OutOfTime
from reference.subjects.in_process import InProcess
from reference.truth.convention import Convention
from reference.truth.exact import Pass, passes
from reference.truth.verdict import Trial

SECONDS = 5.0
CLOSE = 1e-8  # relative: the case is in double precision
RETURNED = {"forward": "y", "backward": "dx"}  # what a function of that name gives back
FINAL = ("y", "dx", "dgamma", "dbeta")
SMALL_NUMBERS = {2.0: "2", 3.0: "3", 4.0: "4", 0.5: "1/2", 0.25: "1/4", 1.5: "3/2"}


@dataclass(frozen=True, eq=False)
class Word:
    """Something that the formula knows: what it is called, what a layer may call it, and its value."""

    name: str
    spelled: tuple[str, ...]
    value: Array


def annotate(subject: InProcess, trials: Sequence[Trial], convention: Convention) -> tuple[str, tuple[Note, ...]]:
    """The name of the layer's file, and notes for its lines, in their order; none where nothing can be said.

    Args:
        subject: a layer that is wrong. trials: how it did. convention: what it is held to.
    """
    trial = _telling(trials)
    if trial is None or not can_fork() or is_child():
        return "", ()
    try:
        located = locate(subject, [trial.case], Clock(SECONDS))
    except NoSource:
        return "", ()
    child = forked("annotate", partial(_noted, subject, located, trial, convention))
    notes: list[Note] = []
    try:
        for _, message in messages([child], time.monotonic() + SECONDS):
            entry = message.get("note") if message else None
            if isinstance(entry, list) and len(entry) == 3:
                notes.append(Note(int(entry[0]), str(entry[1]), bool(entry[2])))
    finally:
        child.end()
    lines = located.source.text.splitlines()
    notes = [replace(note, code=lines[note.line - 1].strip()) for note in notes if 0 < note.line <= len(lines)]
    return shown_name(located.source), tuple(sorted(notes, key=lambda note: note.line))


def annotated(text: str, notes: Sequence[Note]) -> str:
    """A file's text with the notes behind their lines, for the eye."""
    lines = text.splitlines()
    for note in notes:
        if 0 < note.line <= len(lines):
            lines[note.line - 1] = f"{lines[note.line - 1].rstrip()}  # {note.text}"
    return "\n".join(lines)


def _telling(trials: Sequence[Trial]) -> Trial | None:
    """The plainest failing case whose sizes all differ, so that no value can stand in for another."""
    fitting = [
        trial
        for trial in trials
        if trial.failed
        and trial.case.dtype == "float64"
        and trial.case.calls == 1
        and trial.case.data in ("unit", "shifted")
        and len(set(trial.case.shape)) == len(trial.case.shape)
        and min(trial.case.shape) > 1
        and (trial.case.shape[0] > 2 or not trial.case.kind.over_batch)  # two numbers are 1 and -1, normalized
        and np.prod(trial.case.shape) <= SMALL
        and trial.case.affine_values == "random"
        and trial.case.layout == trial.case.dy_layout == "C"
        and not trial.case.overwrite
        and not trial.case.history
    ]
    return min(fitting, key=lambda trial: (not trial.case.training, np.prod(trial.case.shape)), default=None)


def _noted(subject: InProcess, located: Located, trial: Trial, convention: Convention, send: Send) -> None:
    prepared()
    case, wrong = trial.case, frozenset(trial.wrong)
    patch = Patch(located, located.source)

    def run() -> None:
        try:
            with limited(SECONDS / 2):
                subject.run(case)
        except OutOfTime:
            pass

    seen = watched(patch, run)
    words = vocabulary(passes(case, convention.changes)[-1], case)
    for note in notes_of(located.source, seen, [unit.key for unit in located.units], words, wrong):
        send({"note": [note.line, note.text, note.departs]})


# --- the words --------------------------------------------------------------------------------------------------------


def vocabulary(p: Pass, case: Case) -> list[Word]:
    """The quantities of the formula in a case; of two with the same value the plainer one comes first."""
    with np.errstate(all="ignore"):
        x, dy, d, mean, xhat, rstd = p.x, p.dy, p.d, p.mean, p.xhat, p.rstd
        n = p.count
        total = partial(np.sum, axis=p.view.axes, keepdims=True)
        found: list[tuple[str, tuple[str, ...], Any]] = [
            ("y", ("y", "out", "output"), p.y),
            ("dx", ("dx", "grad_input", "grad_x", "dinput"), p.dx),
            ("dgamma", ("dgamma", "dweight", "dg", "grad_gamma"), p.dgamma),
            ("dbeta", ("dbeta", "dbias", "db", "grad_beta"), p.dbeta),
            ("x", ("x",), x),
            ("dy", ("dy", "dout"), dy),
            ("mean", ("mean", "mu"), mean),
            ("x - mean", ("xmu", "x_mu", "centred", "centered", "xc"), p.centred),
            ("(x - mean)**2", ("sq",), p.centred**2),
            ("var", ("var",), p.var),
            ("var + eps", (), p.var + p.eps),
            ("std", ("std", "sqrtvar"), 1 / rstd),
            ("1/std", ("rstd", "inv_std", "ivar", "istd", "invstd"), rstd),
            ("xhat", ("xhat", "x_hat", "x_norm", "normalized"), xhat),
            ("dxhat", ("dxhat", "d", "dx_hat", "dx_norm"), d),
            ("dy * xhat", (), dy * xhat),
            ("dxhat * xhat", (), d * xhat),
            ("dxhat * (x - mean)", (), d * p.centred),
            ("dxhat / std", (), d * rstd),
            ("sum of dy", (), total(dy)),
            ("sum of dxhat", (), total(d)),
            ("sum of dy * xhat", (), total(dy * xhat)),
            ("sum of dxhat * xhat", (), total(d * xhat)),
            ("sum of dxhat * (x - mean)", (), total(d * p.centred)),
            ("xhat * sum of dxhat * xhat", (), xhat * total(d * xhat)),
        ]
        if not p.backward_constant:
            dvar = -0.5 * rstd**3 * total(d * p.centred)
            found += [
                ("dvar", ("dvar", "dv"), dvar),
                ("dstd", ("dstd",), -(rstd**2) * total(d * p.centred)),
                ("dxhat - mean of dxhat", (), d - total(d) / n),
            ]
            if p.case.kind.centred:
                found.append(("dmean", ("dmean", "dmu"), -rstd * total(d)))
    return [Word(name, spelled, np.asarray(value, dtype=np.float64)) for name, spelled, value in found]


def said(value: Any, words: Sequence[Word], counts: dict[float, str], prefer: str = "") -> tuple[str, str] | None:
    """What a value is: the word, and the factor before it ("" for 1, "-" for -1); None where none or several fit."""
    if not is_array(value) or value.size < 2 or not np.isfinite(value).all():
        return None
    got = np.ravel(value).astype(np.float64)
    size = float(np.linalg.norm(got))
    if size < 1e-12 or np.ptp(got) <= CLOSE * size:
        return None
    plain: list[tuple[Word, str]] = []
    scaled: list[tuple[Word, str]] = []
    for word in words:
        factor = _factor(got, np.ravel(word.value))
        if factor is None:
            continue
        text = _spoken(factor, counts)
        if text is not None:
            (plain if text in ("", "-") else scaled).append((word, text))
    preferred = [(w, text) for w, text in (*plain, *scaled) if prefer in w.spelled]
    for fits in (preferred, plain, scaled):
        if fits and len({_same_value(fits[0][0], other) for other, _ in fits} | {True}) == 1:
            return fits[0][0].name, fits[0][1]
        if fits:
            return None
    return None


def _same_value(one: Word, other: Word) -> bool:
    return one.value.size == other.value.size and bool(
        np.allclose(np.ravel(one.value), np.ravel(other.value), rtol=1e-12)
    )


def _factor(got: Array, wanted: Array) -> float | None:
    """What `wanted` is multiplied by to give the same numbers, in any order and each as often as it is spread; else None."""
    if not wanted.size or got.size % wanted.size:
        return None
    size, times = float(np.linalg.norm(wanted)), got.size // wanted.size
    if not np.isfinite(size) or size < 1e-12:
        return None
    ratio = float(np.linalg.norm(got)) / (size * np.sqrt(times))
    ordered = np.sort(got)
    for factor in (ratio, -ratio):
        spread = np.sort(np.repeat(factor * wanted, times))
        if np.abs(ordered - spread).max() <= CLOSE * np.abs(ordered).max():
            return float(factor)
    return None


def _spoken(factor: float, counts: dict[float, str]) -> str | None:
    """A factor in words; None if it is none that has a meaning."""
    sign, size = "-" if factor < 0 else "", abs(factor)
    if abs(size - 1) <= CLOSE:
        return sign
    for number, text in (SMALL_NUMBERS | counts).items():
        if abs(size / number - 1) <= CLOSE:
            return f"{sign}{text} x "
    return None


# --- the notes --------------------------------------------------------------------------------------------------------


def notes_of(source: Source, seen: Seen, keys: Sequence[Key], words: Sequence[Word], wrong: Set[str]) -> Iterator[Note]:
    """A note for each assignment that holds something of the formula, and for the first that departs from it."""
    n = words[0].value.size // max(next(w.value.size for w in words if w.name == "var"), 1)
    counts = {float(n): "n", 1.0 / n: "1/n"}
    departed = False
    sound: set[str] = set()  # names that hold what they say
    for key in keys:
        sound = {known for known in sound if "." in known}  # of another function only the attributes
        sound |= {argument.arg for argument in source.functions[key].args.args}
        for line, name, node, alone in assignments(source, key):
            values = seen.values.get(node, [])
            if len(values) != 1:
                continue  # it did not run, or again and again: then it holds no one thing
            own = name.rsplit(".", 1)[-1]
            found = said(values[0], words, counts, own)
            meant = next((word for word in words if own in word.spelled), None)
            final = meant is not None and meant.name in FINAL
            text, departs = "", False
            if found is not None and meant is not None and found == (meant.name, ""):
                text = f"{meant.name}, right" if final or meant.name.startswith("d") else meant.name
            elif found is not None and (not final or (meant is not None and found[0] == meant.name)):
                text, departs = f"{found[1]}{found[0]}", final
            elif (
                final
                and meant is not None
                and meant.name in wrong
                and _is_last(source, key, name, node)
                and _comparable(values[0], meant)
            ):
                text, departs = f"not {meant.name}", True
            if departs and not departed and _arrays_in(source, seen, node) <= sound:
                text += ": first departure is here"
            departed |= departs
            if (found is not None and not departs) or not is_array(values[0]):
                sound.add(name)
            if text and alone:
                yield Note(line, text, departs)


def _arrays_in(source: Source, seen: Seen, node: ast.expr) -> set[str]:
    """The names of the arrays that an expression is made of."""
    return {
        source.text_of(inner)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Name, ast.Attribute))
        and any(map(is_array, seen.values.get(inner, [])))
        and not any(
            inner is above.value
            for above in ast.walk(node)
            if isinstance(above, ast.Attribute) and above in seen.values
        )
    }


def _is_last(source: Source, key: Key, name: str, node: ast.expr) -> bool:
    """Whether what is assigned is what comes out in the end: what is returned, or an attribute that stays as it is."""
    if isinstance(source.parents[node], ast.Return):
        return True
    return "." in name and not any(
        source.text_of(inner.target if isinstance(inner, ast.AugAssign) else inner.value).startswith(name)
        for inner in ast.walk(source.functions[key])
        if isinstance(inner, ast.AugAssign) or (isinstance(inner, ast.Subscript) and isinstance(inner.ctx, ast.Store))
    )


def _comparable(value: Any, meant: Word) -> bool:
    return is_array(value) and value.size == meant.value.size


def assignments(source: Source, key: Key) -> Iterator[tuple[int, str, ast.expr, bool]]:
    """The assignments to names and attributes in a function, in the order of the text.

    Each is a line, the name, the value, and whether it is the only one of its line.
    """
    found = []
    for node in ast.walk(source.functions[key]):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for one, held in pairs:
                if isinstance(one, (ast.Name, ast.Attribute)):
                    found.append((node.lineno, source.text_of(one), held, len(pairs) == 1))
        elif isinstance(node, ast.Return) and node.value is not None:
            name = RETURNED.get(key.qualname.rsplit(".", 1)[-1])
            if name and not isinstance(node.value, ast.Name):
                found.append((node.lineno, name, node.value, True))
    yield from sorted(found, key=lambda entry: entry[0])
