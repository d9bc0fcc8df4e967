"""The command `normcheck`: from a name on the command line to a verdict, and to the exit code that says it.

Exit 0: everything agrees. 1: something is wrong. 2: it could not be checked. The only module that reads arguments, finds
a stranger's file, and writes to the terminal.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reference.faults import FAULTS

DEFAULT = tuple(f"npnorm:{like}" for like in ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm"))
MANY = 1000  # random cases a subject from which several subjects share the cores

EPILOG = """\
SUBJECT is package.module:Name or path/file.py:Name, a class or factory that takes torch's keywords and has
forward(x), backward(dy), gamma, beta, dgamma, dbeta (BatchNorm: training, running_mean, running_var too).
Without one, npnorm's own layers are checked. Errors are in unit roundoffs (u) of each number's natural scale.

exit code: 0 everything agrees, 1 something is wrong, 2 it could not be checked"""


class Unusable(Exception):
    """What was asked for cannot be done; the text says what and how to mend it."""


class _Output(Console):
    """The console of standard output; who reads it may go, and the files that were asked for are still written."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    console, errors = _Output(highlight=False), Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = _Output(highlight=False, width=100)
    try:
        if options.faults:
            _print_faults(console)
            return 0
        if options.explain:
            _explain(options.explain, console)
            return 0
        return _check(options, console, errors)
    except Unusable as error:
        errors.print(f"normcheck: {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("normcheck: interrupted")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="normcheck",
        description="Hold a NumPy normalization layer against torch.nn, and name what is wrong with it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT")
    parser.add_argument("--like", metavar="NAME", help="GroupNorm, LayerNorm, RMSNorm, BatchNorm or InstanceNorm; by "
                        "default what the name says")  # fmt: skip
    parser.add_argument("--examples", type=_count, default=200, metavar="N", help="random cases (default 200)")
    parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of the random cases (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw where it is wrong")
    parser.add_argument("--accept", action="append", default=[], metavar="ID", help="a convention that is not counted "
                        "as wrong, by its id; may be repeated")  # fmt: skip
    parser.add_argument("--channels-last", action="store_true", help="the layer takes x as (N, ..., C)")
    parser.add_argument("--ndims", type=_numbers, metavar="2,4", help="the ranks of x to try (default: all)")
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds a subject (default 60)")
    parser.add_argument("--faults", action="store_true", help="print the dictionary of mistakes")
    parser.add_argument("--explain", metavar="ID", help="print one entry of it")
    return parser


def _check(options: argparse.Namespace, console: Console, errors: Console) -> int:
    import numpy as np

    subjects = options.subjects or list(DEFAULT)
    _refuse_unwritable(options)
    work = {
        "like": options.like,
        "examples": options.examples,
        "seed": options.seed,
        "accept": [id for item in options.accept for id in item.split(",") if id],
        "channels_last": options.channels_last,
        "ndims": options.ndims,
        "timeout": options.timeout,
    }
    reports: list[Any] = []
    refused = 0
    for _, outcome in _outcomes(subjects, work, errors):
        if isinstance(outcome, str):
            errors.print(f"normcheck: {escape(outcome)}", soft_wrap=True)
            refused += 1
            continue
        from reference.report import print_report

        if reports:
            console.print()
        print_report(outcome, console)
        reports.append(outcome)
    if reports:
        _write(options, reports, {"numpy": np.__version__, "torch": _torch_version()})
    if refused:
        return 2
    return 0 if all(report.passed for report in reports) else 1


def _outcomes(subjects: Sequence[str], work: dict[str, Any], errors: Console) -> Iterator[tuple[str, Any]]:
    """Each subject with its report, or with the reason why there is none; many cases of several share the cores."""
    if len(subjects) > 1 and work["examples"] >= MANY:
        with ProcessPoolExecutor(min(len(subjects), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
            waiting = [(subject, pool.submit(outcome_of, subject, work)) for subject in subjects]
            for subject, future in waiting:
                yield subject, future.result()
        return
    for subject in subjects:
        with _progress(errors, subject) as progress:
            outcome = outcome_of(subject, work, progress)
        yield subject, outcome


def outcome_of(subject: str, work: dict[str, Any], progress: Callable[[int, int], None] | None = None) -> Any:
    """The report on a subject, or the reason why there is none."""
    from reference.checks import check, infer_like
    from reference.coverage import Refused

    try:
        layer, own = load(subject), subject.rsplit(":", 1)[-1]
        like = work["like"] or infer_like(own)
        name = own if subject.startswith("npnorm:") else subject
        return check(layer, name=name, progress=progress, **(work | {"like": like}))
    except (Unusable, Refused, ValueError, TypeError) as error:
        return str(error)


def load(subject: str) -> Any:
    """The object that a SUBJECT names.

    Raises:
        Unusable: there is no such file, module or name, or importing it failed.
    """
    place, _, name = subject.rpartition(":")
    if not place or not name.isidentifier():
        raise Unusable(f"Expected package.module:Name or path/file.py:Name but got {subject!r}")
    is_file = place.endswith(".py") or "/" in place or os.sep in place
    try:
        module = _module_of_file(Path(place)) if is_file else _module_of_name(place)
    except (Unusable, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever their file does when it is imported, a call of sys.exit too
        from reference.guard import describe

        raise Unusable(f"{place} cannot be imported: {describe(error)}") from error
    if not hasattr(module, name):
        found = [
            other for other, value in vars(module).items() if isinstance(value, type) and not other.startswith("_")
        ]
        hint = f"; it has {', '.join(sorted(found)[:8])}" if found else ""
        raise Unusable(f"{place} has no {name}{hint}")
    return getattr(module, name)


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


@contextlib.contextmanager
def _progress(errors: Console, subject: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal; nothing in CI, or where the output goes into a file."""
    if not errors.is_terminal or os.environ.get("CI"):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(escape(subject), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _refuse_unwritable(options: argparse.Namespace) -> None:
    """Find out before the work what would spoil its end."""
    for flag, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            raise Unusable(f"Expected a file in an existing folder for {flag} but got {path}")
    if options.plot is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise Unusable("--plot needs matplotlib: pip install 'npnorm[plot]'")
        if options.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise Unusable(f"Expected a file ending in .png, .svg or .pdf for --plot but got {options.plot}")


def _write(options: argparse.Namespace, reports: list[Any], versions: dict[str, str]) -> None:
    from reference import picture, report

    try:
        if options.json is not None:
            report.write_json(options.json, report.as_json(reports, options.seed, versions))
        if options.plot is not None:
            picture.draw(reports, options.plot)
    except OSError as error:
        raise Unusable(
            f"{error.filename or options.json or options.plot} cannot be written: {error.strerror}"
        ) from error


def _torch_version() -> str:
    from importlib.metadata import version

    return version("torch")


def _print_faults(console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    table.add_column("what is wrong (--explain ID says more)")
    for fault in FAULTS.values():
        kind = " (convention)" if fault.kind == "convention" else ""
        table.add_row(fault.id, escape(fault.summary) + kind)
    console.print(table)


def _explain(id: str, console: Console) -> None:
    if id not in FAULTS:
        import difflib

        near = difflib.get_close_matches(id, FAULTS, n=3, cutoff=0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise Unusable(f"Expected an id of the dictionary but got {id!r}{hint} (--faults lists all)")
    fault = FAULTS[id]
    console.print(f"[bold]{fault.id}[/bold] ({fault.kind})")
    console.print(escape(fault.summary))
    rows = (
        ("here", fault.wrong),
        ("right", fault.right),
        ("mend", fault.mend),
        ("spoils", ", ".join(fault.quantities)),
        ("layers", ", ".join(fault.likes)),
        ("seen in", fault.seen_in),
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, text in rows:
        if text:
            table.add_row(label, escape(text))
    console.print(table)


def _count(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0 but got {text!r}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, but got {text!r}")
    return value


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip() in ("2", "3", "4", "5") for part in parts):
        raise argparse.ArgumentTypeError(f"expected ranks from 2 to 5, as 2,4, but got {text!r}")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
