"""Lets one file of the user's be read as another text when it is imported; the file itself is never touched.

Runs in the processes of the user's tests, whatever Python they have: the standard library alone, nothing of this project.
What to do is in a file of JSON that an environment variable names, so that what tests start in processes of their own
does it too.
"""

import json
import os
from importlib.machinery import SourceFileLoader
from types import CodeType
from typing import Any

VARIABLE = "NORMCHECK_AUDIT"


def install(order_file: str) -> None:
    """From now on, in this process, the file that the order names has the text that it gives.

    Args:
        order_file: of JSON: `target`, the file; `text`, a file with what to read instead; `loaded`, a file to create once it
            was.
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
            code: CodeType = self.source_to_code(text.read(), path)
        return code

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def install_from_environment() -> None:
    """The same where the environment says so."""
    if os.environ.get(VARIABLE):
        install(os.environ[VARIABLE])
