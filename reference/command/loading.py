"""From a SUBJECT on the command line to the object that it names. The only module that imports a stranger's file."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from reference.subjects.guard import attempt


class Unusable(Exception):
    """What was asked for cannot be done; the text says what and how to fix it."""


def load(subject: str) -> Any:
    """The object that a SUBJECT names.

    Raises:
        Unusable: there is no such file, module or name, or importing it failed.
    """
    place, _, name = subject.rpartition(":")
    forward, plus, backward = name.partition("+")
    if not place or not forward.isidentifier() or (plus and not backward.isidentifier()):
        raise Unusable(
            "Expected package.module:Name, path/file.py:Name or path/file.py:forward_function+backward_function but got "
            f"{subject!r}"
        )
    is_file = place.endswith(".py") or "/" in place or os.sep in place
    # whatever their file does when it is imported, a call of sys.exit too
    imported = attempt(lambda: _module_of_file(Path(place)) if is_file else _module_of_name(place), shield=False)
    if isinstance(imported.error, Unusable):
        raise imported.error
    if imported.error is not None:
        hint = ""
        if is_file and "attempted relative import" in imported.failure:
            hint = f"; it is part of a package: from the folder above it, normcheck {_dotted(Path(place))}:{name}"
        raise Unusable(f"{place} cannot be imported: {imported.failure}{hint}") from imported.error
    module = imported.value
    for name in (forward, backward) if plus else (forward,):
        _refuse_absent(module, place, name)
    if plus:
        return getattr(module, forward), getattr(module, backward)
    _refuse_half_a_pair(module, place, forward)
    return getattr(module, forward)


def _refuse_absent(module: Any, place: str, name: str) -> None:
    if not hasattr(module, name):
        found = [
            other for other, value in vars(module).items() if isinstance(value, type) and not other.startswith("_")
        ]
        hint = f"; it has {', '.join(sorted(found)[:8])}" if found else ""
        raise Unusable(f"{place} has no {name}{hint}")


def _refuse_half_a_pair(module: Any, place: str, name: str) -> None:
    """A forward function has a backward beside it, and both make the layer: say the line that names them."""
    if isinstance(getattr(module, name), type) or "forward" not in name:
        return
    other = name.replace("forward", "backward")
    if callable(getattr(module, other, None)):
        raise Unusable(f"{name} is half of a layer: name both functions, as {place}:{name}+{other}")


def _dotted(path: Path) -> str:
    """The dotted name of a file in its package, as far up as there are packages."""
    parts, folder = [path.stem], path.resolve().parent
    while (folder / "__init__.py").exists() or len(parts) == 1:
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise Unusable(f"Expected a file {path} but there is none")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise Unusable(f"Expected a Python file but got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _module_of_name(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)
