"""From a layer in this process to the text by which another process can import it."""

import inspect
import sys
from pathlib import Path
from typing import Any

from reference.subjects.reading import Refused


def place_of(layer: Any) -> str:
    """The SUBJECT that names a class, a function, or a pair made by `from_functions`.

    Raises:
        Refused: no other process can import it.
    """
    functions = getattr(layer, "functions", None)
    if functions:
        places = [_place(function) for function in functions]
        if places[0][0] != places[1][0]:
            raise Refused(f"isolated: {places[0][1]} and {places[1][1]} are not in one file")
        return f"{places[0][0]}:{places[0][1]}+{places[1][1]}"
    return ":".join(_place(layer))


def _place(thing: Any) -> tuple[str, str]:
    name, module = getattr(thing, "__qualname__", ""), getattr(thing, "__module__", None)
    loaded = sys.modules.get(module) if isinstance(module, str) else None
    if not name.isidentifier() or loaded is None or getattr(loaded, name, None) is not thing:
        raise Refused(
            f"isolated: {name or thing!r} cannot be imported by another process: expected a class or function at the top of "
            "a module"
        )
    if module != "__main__" and getattr(loaded, "__spec__", None) is not None:
        return str(module), name
    try:
        path = inspect.getsourcefile(thing) if thing is not None else None
    except (TypeError, OSError):
        path = None
    if path is None or not Path(path).is_file():
        raise Refused(f"isolated: {name} is in no file: put it into one")
    return str(Path(path).resolve()), name
