"""From a SUBJECT on the command line to the layer that it names. The only module that imports a stranger's file."""

import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from reference.kinds import Kind, kind_in
from reference.subjects.frameworks import adapted, framework_of
from reference.subjects.functions import from_functions
from reference.subjects.guard import attempt
from reference.subjects.names import BACKWARDS, FORWARDS
from reference.subjects.reading import kind_of

EXPECTED = "package.module:Name, path/file.py:Name or path/file.py:forward_function+backward_function"
ALL = "*"  # in the place of a name: every layer of the file


class Unusable(Exception):
    """What was asked for cannot be done; the text says what and how to fix it."""


def parts_of(subject: str) -> tuple[str, str]:
    """The file or module of a SUBJECT, and the name in it.

    Raises:
        Unusable: it is no SUBJECT.
    """
    place, _, name = subject.rpartition(":")
    forward, plus, backward = name.partition("+")
    if not place or not (forward.isidentifier() or name == ALL) or (plus and not backward.isidentifier()):
        raise Unusable(f"Expected {EXPECTED} but got {subject!r}")
    return place, name


def opened(subject: str, like: str | None, device: str = "cpu") -> tuple[Any, Kind]:
    """The layer class that a SUBJECT names, and its kind; another framework's in the form of the protocol.

    Raises:
        Unusable, Refused: there is no such thing, or its name does not tell the kind.
        ValueError, TypeError: a pair of functions that cannot be read.
    """
    layer, own = load(subject), parts_of(subject)[1]
    like = like or getattr(layer, "like", None)
    if isinstance(layer, tuple):
        forward, backward = layer
        layer = from_functions(forward, backward, like)
        like = layer.like
    elif callable(layer):
        layer = adapted(layer, like, device)
    if not callable(layer):
        raise Unusable(
            f"Expected {own} to be a class, a factory or a function but it is of type {type(layer).__name__}"
        )
    return layer, kind_of(own, like)


def load(subject: str) -> Any:
    """The object that a SUBJECT names; a pair of functions as a tuple.

    Raises:
        Unusable: there is no such file, module or name, or importing it failed.
    """
    place, name = parts_of(subject)
    forward, plus, backward = name.partition("+")
    module = _module(place)
    for one in (forward, backward) if plus else (forward,):
        _refuse_absent(module, place, one)
    if plus:
        return getattr(module, forward), getattr(module, backward)
    _refuse_half_a_pair(module, place, forward)
    return getattr(module, forward)


def layers_of(subject: str) -> tuple[str, ...]:
    """The SUBJECTs that `file.py:*` stands for: layers, other frameworks' too, and pairs of functions of its own whose names
    tell their kind.

    Raises:
        Unusable: there is none, or importing it failed.
    """
    place, _ = parts_of(subject)
    module = _module(place)
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    found = []
    for name, value in own.items():
        if name.startswith("_") or kind_in(name) is None:
            continue
        if framework_of(value) is not None or (
            isinstance(value, type) and _has(value, FORWARDS) and _has(value, BACKWARDS)
        ):
            found.append(name)
        elif inspect.isfunction(value) and "forward" in name and name.replace("forward", "backward") in own:
            found.append(f"{name}+{name.replace('forward', 'backward')}")
    if not found:
        forms = "no class with forward and backward, no pair of functions, and nothing of torch's"
        raise Unusable(f"{place} has no layer whose name tells its kind: {forms}")
    return tuple(f"{place}:{name}" for name in found)


def _has(owner: type, methods: tuple[str, ...]) -> bool:
    return any(callable(getattr(owner, name, None)) for name in methods)


def _module(place: str) -> Any:
    is_file = place.endswith(".py") or "/" in place or os.sep in place
    # whatever their file does when it is imported, a call of sys.exit too
    imported = attempt(lambda: _module_of_file(Path(place)) if is_file else _module_of_name(place), shield=False)
    if is_file and "attempted relative import" in imported.failure:
        imported = attempt(lambda: _module_of_package(Path(place)), shield=False)
    if isinstance(imported.error, Unusable):
        raise imported.error
    if imported.error is not None:
        raise Unusable(f"{place} cannot be imported: {imported.failure}") from imported.error
    return imported.value


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


def _module_of_package(path: Path) -> Any:
    """A file with relative imports: by its dotted name, as far up as there are packages; one folder up in any case."""
    parts, folder = [path.stem], path.resolve().parent
    while (folder / "__init__.py").exists() or len(parts) == 1:
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts)
    sys.path.insert(0, str(folder))
    module = importlib.import_module(name)
    if os.path.realpath(getattr(module, "__file__", None) or "") != str(path.resolve()):
        raise Unusable(f"{path} is {name}, part of a package, but {name} is imported from {module.__file__}")
    return module


def _module_of_name(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)
