"""The functions of a layer's file that run in a case, alive: found by running it once, and given other code.

Knows the subject and its source; not what is right, nor which edits there are.
"""

import contextlib
import gc
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from reference.cases.case import Case
from reference.repair.source import Key, NoSource, Skeleton, Source, all_codes, read_source
from reference.subjects.guard import OURS, Clock
from reference.subjects.subject import Subject

_LIBRARIES = {"site-packages", "dist-packages"}
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_FUTURE = 0x1FF0000  # the flags of `from __future__`, among a code object's


@dataclass(frozen=True, eq=False)
class Unit:
    """An outermost function of the file that ran, with all live functions of its code."""

    key: Key
    code: CodeType
    functions: tuple[FunctionType, ...]


@dataclass(frozen=True, eq=False)
class Located:
    """A layer's source, and those of its functions that ran."""

    source: Source
    units: tuple[Unit, ...]


def locate(subject: Subject, cases: list[Case], clock: Clock) -> Located:
    """Where a subject is written.

    Args:
        subject: the layer. cases: small ones, in which what is wrong shows. clock: whose time it takes.

    Raises:
        NoSource: nowhere, or it is not what was loaded.
    """
    ran = _ran_in(subject, cases, clock)
    return _located(_file_of(subject, cases[0], ran), ran)


def locate_all(subject: Subject, cases: list[Case], clock: Clock) -> list[Located]:
    """Where a subject is written, and the other files of its project that run: those of its package, or beside it.

    Raises:
        NoSource: the first is nowhere, or is not what was loaded.
    """
    ran = _ran_in(subject, cases, clock)
    own = _file_of(subject, cases[0], ran)
    found = [_located(own, ran)]
    project = _project_of(own)
    for filename in dict.fromkeys(code.co_filename for code in ran):
        if filename != own and _is_theirs(filename) and project in Path(os.path.realpath(filename)).parents:
            with contextlib.suppress(NoSource):
                found.append(_located(filename, ran))
    return found


def _project_of(filename: str) -> Path:
    """The folder of the package that a file is in, the outermost; that of the file where it is in none."""
    folder = Path(os.path.realpath(filename)).parent
    while (folder / "__init__.py").is_file() and (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _ran_in(subject: Subject, cases: list[Case], clock: Clock) -> dict[CodeType, Mapping[str, Any]]:
    ran: dict[CodeType, Mapping[str, Any]] = {}
    for case in cases:
        ran |= _ran(subject, case, clock)
    return ran


def _located(filename: str, ran: Mapping[CodeType, Mapping[str, Any]]) -> Located:
    """One file, and those of its functions that ran."""
    own = {code: module for code, module in ran.items() if code.co_filename == filename}
    source = read_source(filename, next(iter(own.values())))
    keys = {code: key for code in own if (key := source.key_of(code)) is not None}
    if not keys or not _is_as_loaded(source, keys):
        raise NoSource(f"{Path(filename).name} is not as it was when it was loaded")
    nodes = {source.functions[key]: code for code, key in keys.items()}
    outermost = [code for node, code in nodes.items() if not any(above in nodes for above in source.ancestors(node))]
    alive = _alive(outermost)
    units = tuple(Unit(keys[code], code, alive[code]) for code in outermost if alive[code])
    if not units:
        raise NoSource(f"none of the functions of {Path(filename).name} that run can be held")
    return Located(source, units)


def _ran(subject: Subject, case: Case, clock: Clock) -> dict[CodeType, Mapping[str, Any]]:
    """The code objects of strangers' files that run in a case, each with its module's names."""
    found: dict[CodeType, Mapping[str, Any]] = {}
    for frame in calls(lambda: subject.observe(case, clock)):
        found.setdefault(*frame)
    return found


def calls(work: Callable[[], Any]) -> list[tuple[CodeType, Mapping[str, Any]]]:
    """What is called in strangers' files while `work` is done."""
    found: dict[CodeType, Mapping[str, Any]] = {}

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code not in found and not frame.f_code.co_filename.startswith("<frozen"):
            found[frame.f_code] = frame.f_globals

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return [item for item in found.items() if OURS not in Path(item[0].co_filename).parents]


def _file_of(subject: Subject, case: Case, ran: Mapping[CodeType, Any]) -> str:
    """The file in which the layer is written: that of its class or functions, or of the first base that ran."""
    files = [code.co_filename for code in ran]
    for thing in _written(subject, case):
        code = getattr(thing, "__code__", None)
        if code is not None and code.co_filename in files:
            return str(code.co_filename)
    others = [name for name in files if _is_theirs(name)]
    others = [name for name in others if os.path.isfile(name)] or others  # what was made of a string is in none
    if not others:
        raise NoSource("it runs no Python of a file that could be edited: it is built in, or in a library")
    return max(others, key=others.count)


def _written(subject: Subject, case: Case) -> Iterator[Any]:
    """The functions that a subject is made of, those of its own class first."""
    own = getattr(subject.factory, "adapts", subject.factory)
    yield from () if own is not subject.factory else getattr(subject.factory, "functions", ())
    try:
        layer = subject.construct(case)
    except Exception:  # it refuses this case
        layer = None
    inside = type(getattr(layer, "adapted", layer))  # of another framework
    for owner in (*(own.__mro__ if isinstance(own, type) else ()), *inside.__mro__):
        for member in vars(owner).values():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            while hasattr(function, "__wrapped__"):
                function = function.__wrapped__
            yield function
    yield inspect.unwrap(own)


def _is_theirs(filename: str) -> bool:
    path = Path(filename)
    return not (
        filename.startswith("<") or _LIBRARIES & set(path.parts) or _STANDARD in path.parents or OURS in path.parents
    )


def _is_as_loaded(source: Source, keys: Mapping[CodeType, Key]) -> bool:
    """Whether the text gives the code that runs; but for asserts, which pytest writes anew."""
    flags = next(iter(keys)).co_flags & _FUTURE
    fresh = {
        (code.co_qualname, code.co_firstlineno): code
        for code in all_codes(compile(source.text, source.filename, "exec", flags, True))
    }
    for code in keys:
        same = fresh.get((code.co_qualname, code.co_firstlineno))
        if same is None:
            return False
        if same.co_code != code.co_code and not any(name.startswith("@py_") for name in code.co_varnames):
            return False
    return True


def _alive(codes: list[CodeType]) -> dict[CodeType, tuple[FunctionType, ...]]:
    found: dict[CodeType, list[FunctionType]] = {code: [] for code in codes}
    gc.unfreeze()  # what somebody has frozen is not among the referrers
    for thing in gc.get_referrers(*codes):
        if isinstance(thing, FunctionType) and thing.__code__ in found:
            found[thing.__code__].append(thing)
    return {code: tuple(functions) for code, functions in found.items()}


class Patch:
    """Units with another code than their own; only ever used in a process that ends afterwards.

    Args:
        located: the layer. text: of the file from which the edits go out, by default as it lies there.
    """

    def __init__(self, located: Located, source: Source) -> None:
        self.source, self.units = source, {unit.key: unit for unit in located.units}
        self._flags = {key: unit.code.co_flags & _FUTURE for key, unit in self.units.items()}
        self._skeletons = {key: Skeleton(source, key, self._flags[key]) for key in self.units}
        self.base: dict[Key, CodeType] = {}
        for key, skeleton in self._skeletons.items():
            self.base[key] = skeleton.compiled(source.text[skeleton.start : skeleton.end])
            self.put(key, self.base[key])

    def compiled(self, key: Key, edits: list[tuple[int, int, str]]) -> CodeType:
        """A unit's code with some spans of the file replaced.

        Raises:
            SyntaxError, ValueError: it is no such function any more.
        """
        skeleton = self._skeletons[key]
        parts, at = [], skeleton.start
        for start, end, replacement in sorted(edits, key=lambda edit: edit[0]):  # several at one place in their order
            parts += [self.source.text[at:start], replacement]
            at = end
        parts.append(self.source.text[at : skeleton.end])
        return skeleton.compiled("".join(parts))

    def put(self, key: Key, code: CodeType) -> None:
        """Let all live functions of a unit run `code`.

        Raises:
            ValueError: it needs other variables of the scope around it.
        """
        for function in self.units[key].functions:
            function.__code__ = code

    def restore(self, key: Key) -> None:
        self.put(key, self.base[key])
