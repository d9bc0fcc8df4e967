"""What is done in a job of GitHub, by the command and by the pytest plugin: says where the lines are, and leaves a summary.

Knows the variables of the environment and finds lines in the user's files, which it reads and never imports; what is said
is `reporting.github`'s.
"""

import ast
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reference.by_name import Asked
from reference.reporting.github import Place, annotations, refusal, summary
from reference.reporting.result import CheckResult
from reference.subjects.loading import Unusable, parts_of
from reference.subjects.names import BACKWARDS

Outcomes = Sequence[tuple[Asked, CheckResult | str]]


def is_job() -> bool:
    """Whether this runs in one."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def tell(outcomes: Outcomes, say: Callable[[str], None]) -> None:
    """Annotations by `say`, a line each, which GitHub reads from either stream, and the summary of the job, if it has one.

    Raises:
        Unusable: the summary cannot be written.
    """
    for line in commands(outcomes):
        say(line)
    reports = [outcome for _, outcome in outcomes if not isinstance(outcome, str)]
    append_summary(reports, {asked.shown: outcome for asked, outcome in outcomes if isinstance(outcome, str)})


def commands(outcomes: Outcomes) -> list[str]:
    """The annotations of all verdicts, a line each."""
    lines: list[str] = []
    for asked, outcome in outcomes:
        layer = _layer(asked)
        if isinstance(outcome, str):
            lines.append(refusal(asked.shown, outcome, layer))
        else:
            lines += annotations(outcome, _guilty(outcome) or layer, layer)
    return lines


def append_summary(reports: Sequence[CheckResult], refused: Mapping[str, str]) -> None:
    """Add all verdicts to the summary of the job, if it has one.

    Raises:
        Unusable: it cannot be written.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(summary(reports, refused))
    except OSError as error:
        raise Unusable(f"{path} (GITHUB_STEP_SUMMARY) cannot be written: {error.strerror}") from error


def _guilty(report: CheckResult) -> Place | None:
    """The line of the fix, or else the first that was seen to hold something wrong."""
    for fix in report.fixes:
        return Place(_in_repository(Path(fix.file)), fix.line)
    for note in report.notes_on_source:
        if note.departs:
            return Place(_in_repository(Path(report.annotated_file)), note.line)
    return None


def _layer(asked: Asked) -> Place:
    """A layer's backward, or else the layer; its file, if no more can be found; nowhere, if nothing can."""
    try:
        place, name = parts_of(asked.where)
    except Unusable:
        return Place()
    for path in _files(place, asked.folder):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError, RecursionError):
            return Place(_in_repository(path))
        return Place(_in_repository(path), _line_of(tree, name))
    return Place()


def _files(place: str, folder: str) -> list[Path]:
    """Where a module may be, without an import of it or of what it is in."""
    if place.endswith(".py") or "/" in place or os.sep in place:
        return [path for path in [Path(place)] if path.is_file()]
    stem = place.replace(".", "/")
    around = [Path.cwd(), *(Path(entry) for entry in [folder, *sys.path] if entry)]
    return [path for base in around for end in (".py", "/__init__.py") if (path := base / f"{stem}{end}").is_file()]


def _line_of(tree: ast.Module, name: str) -> int:
    """The line of a class's backward, of a pair's second function, or else of what has the name; 0 for none."""
    defined = {n.name: n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    forward, _, backward = name.partition("+")
    found = defined.get(backward or forward)
    seen: set[str] = set()
    owner = found
    while isinstance(owner, ast.ClassDef) and owner.name not in seen:
        seen.add(owner.name)
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and node.name in BACKWARDS:
                return node.lineno
        bases = [base.id for base in owner.bases if isinstance(base, ast.Name) and base.id in defined]
        owner = defined[bases[0]] if bases else None
    return found.lineno if found else 0


def _in_repository(path: Path) -> str:
    """A path as GitHub has it: from the folder of the checkout, if it is below."""
    path = Path(os.path.abspath(path))
    for root in (os.environ.get("GITHUB_WORKSPACE"), os.getcwd()):
        if root and path.is_relative_to(os.path.abspath(root)):
            return path.relative_to(os.path.abspath(root)).as_posix()
    return path.as_posix()
