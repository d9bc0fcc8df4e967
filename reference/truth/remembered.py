"""What an earlier run found of torch's errors, so that a process that needs nothing else of torch can do without it.

The figures belong to one torch, one NumPy, one machine and one state of this package, and are of no use to any other. Kept
only where a process asks for it (`kept_in`). Knows cases and numbers; must not know where the numbers come from.
"""

import contextlib
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path

import numpy as np

from reference.cases.case import Case
from reference.kinds import Kind
from reference.truth.exact import QUANTITIES

Errors = dict[str, float]  # of torch, by quantity, in units of u times the scale

PACKAGE = Path(__file__).parent.parent
TELLING = (
    "kinds.py",
    "dtypes.py",
    "cases",
    "truth",
    "subjects/torch_pass.py",
)  # of the package: what decides the figures
MOST = 4_000  # cases of a kind that are kept, of some 150 bytes; beyond them those of earlier runs go
NEW = 1_000  # of one run: the designed cases and the usual number of random ones, not a hundred thousand

_memory: "Memory | None" = None


def memory() -> "Memory | None":
    """Where figures are kept in this process at present, if anywhere."""
    return _memory


@contextlib.contextmanager
def kept_in(folder: Path | None) -> Iterator["Memory | None"]:
    """What is measured in the block is kept in a folder, and what an earlier run left there is not measured again.

    A folder that cannot be read or written is as good as none.
    """
    global _memory
    before, _memory = _memory, Memory(folder) if folder and _stamp() else None
    try:
        yield _memory
    finally:
        if _memory:
            _memory.write()
        _memory = before


def usual_folder() -> Path | None:
    """Where figures are kept between runs: $NORMCHECK_CACHE, or else the user's folder for such; None where that is empty."""
    told = os.environ.get("NORMCHECK_CACHE")
    if told is not None:
        return Path(told) if told else None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "normcheck") if os.path.isabs(base) else None


class Memory:
    """The figures of earlier runs, a file for each kind of layer and each torch; read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Errors]] = {}  # by kind and case
        self._used: dict[str, dict[str, Errors]] = {}  # in this run, the new ones among them
        self._new: dict[str, int] = {}

    def has(self, kind: Kind) -> bool:
        """Whether an earlier run left anything of this kind."""
        return bool(self._of(kind.name))

    def recalled(self, case: Case) -> Errors | None:
        key, kind = _key(case), case.kind.name
        found = self._of(kind).get(key)
        if found is not None:
            self._used[kind][key] = found
        return found

    def keep(self, case: Case, errors: Errors) -> None:
        kind = case.kind.name
        known = self._of(kind)
        if self._new[kind] < NEW:
            self._new[kind] += 1
            key = _key(case)
            known[key] = self._used[kind][key] = errors

    def write(self) -> None:
        """Write what is new, whole or not at all; nothing is said where that is not possible."""
        for kind, new in self._new.items():
            if not new:
                continue
            earlier = {key: errors for key, errors in self._known[kind].items() if key not in self._used[kind]}
            left = max(MOST - len(self._used[kind]), 0)
            kept = dict(list(earlier.items())[-left:] if left else []) | self._used[kind]
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                _replace(self._path(kind), json.dumps({"of": _stamp(), "errors": kept}, separators=(",", ":")))

    def _path(self, kind: str) -> Path:
        return self._folder / f"torch-{version('torch')}-{kind}.json"

    def _of(self, kind: str) -> dict[str, Errors]:
        if kind not in self._known:
            self._known[kind], self._used[kind], self._new[kind] = _read(self._path(kind)), {}, 0
        return self._known[kind]


_fields_of = attrgetter(*(field.name for field in fields(Case) if field.name != "kind"))


def _key(case: Case) -> str:
    return repr(_fields_of(case))


def _read(path: Path) -> dict[str, Errors]:
    """What a file holds; nothing where it is not of this torch, this machine and this package, or no such file."""
    try:
        found = json.loads(path.read_bytes())
        if found["of"] != _stamp():
            return {}
        return {str(key): _checked(errors) for key, errors in found["errors"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _checked(errors: Errors) -> Errors:
    if not all(name in QUANTITIES and type(error) is float and error >= 0 for name, error in errors.items()):
        raise ValueError
    return errors


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@cache
def _stamp() -> str:
    """What the figures depend on besides the case: "" where that cannot be told."""
    try:
        told = hashlib.sha256(f"{version('torch')} {np.__version__} {platform.machine()} {platform.node()}".encode())
        for name in TELLING:
            place = PACKAGE / name
            for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
                told.update(path.read_bytes())
    except (OSError, PackageNotFoundError):
        return ""
    return told.hexdigest()
