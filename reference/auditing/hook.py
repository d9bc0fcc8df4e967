"""Lets one file of the user's be read as another text when it is imported; the file itself is never touched.

Runs in the processes of the user's tests, whatever Python they have: the standard library alone. Only where a class is to
be made wrong beside that, what this project knows of mistakes is imported, from where it lies, and forgotten.
What to do is in a file of JSON that an environment variable names, so that what tests start in processes of their own
does it too.
"""

import json
import os
import sys
from importlib.machinery import SourceFileLoader
from types import CodeType
from typing import Any

VARIABLE = "NORMCHECK_AUDIT"
PLANT = b"\n\n__import__('normcheck_audit_hook').plant(globals())\n"


def install(order_file: str) -> None:
    """From now on, in this process, the file that the order names has the text that it gives.

    Args:
        order_file: of JSON: `target`, the file; `text`, a file with what to read instead; `loaded`, a file to create once it
            was; where a class is to be made wrong, `mistake`, a file that says how, `ours`, the folder of this project,
            `unclear`, a file to create where that is not possible, and `record`, one to say in what the tests did.
    """
    with open(order_file, encoding="utf-8") as file:
        order = json.load(file)
    target = os.path.realpath(order["target"])
    known: dict[str, bool] = {}
    original = SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> "CodeType | None":
        path = self.get_filename(fullname)
        if path not in known:
            known[path] = os.path.realpath(path) == target
        if not known[path]:
            return original(self, fullname)
        with open(order["loaded"], "ab"):
            pass
        with open(order["text"], "rb") as text:
            content = text.read() + (PLANT if "mistake" in order else b"")
        code: CodeType = self.source_to_code(content, path)
        return code

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def plant(namespace: "dict[str, Any]") -> None:
    """Make a class of a module wrong that has just been executed, as the order says."""
    with open(os.environ[VARIABLE], encoding="utf-8") as file:
        order = json.load(file)

    def note() -> None:
        with open(order["unclear"], "ab"):
            pass

    # a module of the user's may have the name of ours
    theirs = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "reference"}
    for name in theirs:
        del sys.modules[name]
    sys.path.insert(0, order["ours"])
    try:
        from reference.auditing import planted

        with open(order["mistake"], "rb") as packed:
            planted.plant(namespace, packed.read(), note, order["record"])
    except Exception:  # another Python, or a class that is another one there
        note()
    finally:
        sys.path.remove(order["ours"])
        for name in [name for name in sys.modules if name.partition(".")[0] == "reference"]:
            del sys.modules[name]
        sys.modules.update(theirs)


def install_from_environment() -> None:
    """The same where the environment says so."""
    if os.environ.get(VARIABLE):
        install(os.environ[VARIABLE])
