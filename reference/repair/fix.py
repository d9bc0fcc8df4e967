"""A fix as data: where, what stood there, what is to stand there, as a diff, and the whole file; and how it is written.

Knows texts and files, not how a fix was found.
"""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from reference.repair.source import Source
from reference.reporting.files import replace_file
from reference.reporting.result import Fix

CONTEXT = 3  # unchanged lines around a change in a diff


class CannotWrite(Exception):
    """A fix was not written; the text says why. The file is as it was."""


def lines_of(text: str) -> list[str]:
    """The lines of a text, each with its own newline; no other character ends one, as `patch` has it."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def diff_of(name: str, before: str, after: str) -> str:
    """A unified diff that `patch -p1` and `git apply` take."""
    lines = difflib.unified_diff(lines_of(before), lines_of(after), f"a/{name}", f"b/{name}", n=CONTEXT)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def shown_name(source: Source) -> str:
    """What a file is called in a diff: from where the user stands, if it lies below."""
    if source.path is None:
        return re.sub(r"[<>\s]", "", source.filename).lstrip("/") or "source"
    path = Path(os.path.abspath(source.path))
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix().lstrip("/")


def fix_of(source: Source, fixed: str, quantities: Sequence[str], cases: int, also: str = "") -> Fix:
    """The fix that makes `fixed` of a source's text."""
    old, new = lines_of(source.text), lines_of(fixed)
    changed = [code for code in difflib.SequenceMatcher(None, old, new, False).get_opcodes() if code[0] != "equal"]
    first, last = changed[0], changed[-1]
    return Fix(
        file=str(source.path or source.filename),
        line=first[1] + 1,
        end_line=max(last[2], first[1] + 1),
        before="".join(old[first[1] : last[2]]),
        after="".join(new[first[3] : last[4]]),
        diff=diff_of(shown_name(source), source.text, fixed),
        source=fixed,
        original=source.text,
        encoding=source.encoding if source.path else "",
        quantities=tuple(quantities),
        cases=cases,
        also=also,
    )


def write_fix(fix: Fix) -> Path:
    """Write the fixed file in the place of the one that was read: whole or not at all.

    Raises:
        CannotWrite: there is no file, it has changed since it was read, or may not be written.
    """
    path = Path(fix.file)
    if not fix.encoding:
        raise CannotWrite(f"{fix.file} is no file that could be written: the diff is to be applied by hand")
    path = Path(os.path.realpath(path))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CannotWrite(f"{path.name} cannot be read: {error.strerror}") from None
    if raw != fix.original.encode(fix.encoding):
        raise CannotWrite(f"{path.name} has changed since it was read: nothing was written")
    if not os.access(path, os.W_OK):
        raise CannotWrite(f"{path.name} is read-only: nothing was written")
    try:
        replace_file(path, fix.source.encode(fix.encoding))
    except OSError as error:
        raise CannotWrite(f"{path.name} cannot be written: {error.strerror}") from None
    return path
