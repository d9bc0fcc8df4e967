"""The command `normcheck`: from a name on the command line to a verdict, and to the exit code that says it.

Exit 0: everything agrees. 1: something is wrong. 2: it could not be checked. Only this module and
`listings` write to the terminal.
What is slow to import (torch, Hypothesis) is imported when a subject is checked, so that all else answers at once.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.markup import escape

from reference.command.loading import Unusable, load
from reference.command.parser import names_of, parser
from reference.kinds import KINDS
from reference.reporting.files import stream_of

DEFAULT = tuple(f"npnorm:{name}" for name in KINDS)
MANY = 1000  # random cases a subject from which several subjects share the cores


class _Output(Console):
    """The console of standard output; who reads it may go, and the files that were asked for are still written."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    console = _Output(highlight=False, force_jupyter=False)
    errors = Console(stderr=True, highlight=False, force_jupyter=False)
    if not console.is_terminal:
        console = _Output(highlight=False, width=100, force_jupyter=False)
    try:
        if options.faults or options.explain:
            from reference.command import listings

            listings.print_faults(console) if options.faults else listings.explain(options.explain, console)
            return 0
        return _check(options, console, errors)
    except Unusable as error:
        _say(errors, str(error))
        return 2
    except KeyboardInterrupt:
        errors.print("normcheck: interrupted")
        return 2


def _check(options: argparse.Namespace, console: Console, errors: Console) -> int:
    subjects = options.subjects or list(DEFAULT)
    _refuse_unwritable(options)
    if any(path is not None and stream_of(path) == 1 for path in (options.json, options.plot)):
        console = errors  # what a program reads from standard output must be that alone
    work: dict[str, Any] = {
        "like": options.like,
        "examples": options.examples,
        "seed": options.seed,
        "accept": [id for item in options.accept for id in item.split(",") if id],
        "channels_last": options.channels_last,
        "ndims": options.ndims,
        "timeout": options.timeout,
        "strict": options.strict,
        "dtypes": options.dtypes,
    }
    try:
        work["names"] = names_of(options.names)
    except ValueError as error:
        raise Unusable(str(error)) from error
    reports: list[Any] = []
    refused = 0
    for _, outcome in _outcomes(subjects, work, errors):
        if isinstance(outcome, str):
            _say(errors, outcome)
            refused += 1
            continue
        show(outcome, console, errors, options, first=not reports)
        reports.append(outcome)
    if reports:
        _write(options, reports, {name: version(name) for name in ("numpy", "torch")})
    if refused:
        return 2
    return 0 if all(report.passed for report in reports) else 1


def _say(errors: Console, text: str) -> None:
    """One line on standard error, whatever a stranger's exception has in it."""
    from reference.reporting.foreign import printable

    errors.print(f"normcheck: {escape(printable(text, errors.encoding, most=5000))}", soft_wrap=True)


def show(report: Any, console: Console, errors: Console, options: argparse.Namespace, first: bool) -> None:
    """Print a report, or its script alone; then the verdict goes where people look, and not into the script."""
    from reference.reporting.foreign import cleaned
    from reference.reporting.headline import headline
    from reference.reporting.text import print_report, print_script

    if options.script:
        print_script(report, console)
        report = cleaned(report)
        errors.print(f"{report.subject}: {headline(report)}", markup=False, soft_wrap=True)
        return
    if not first:
        console.print()
    print_report(report, console, options.verbose)


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
    from reference.checks import check, kind_of
    from reference.subjects.functions import from_functions
    from reference.subjects.reading import Refused

    try:
        layer, own = load(subject), subject.rsplit(":", 1)[-1]
        like = work["like"] or getattr(layer, "like", None)
        if isinstance(layer, tuple):
            forward, backward = layer
            layer = from_functions(forward, backward, like)
            like = layer.like
        like = kind_of(own, like).name
        name = own if subject.startswith("npnorm:") else subject
        return check(layer, name=name, progress=progress, **(work | {"like": like}))
    except (Unusable, Refused, ValueError, TypeError) as error:
        return str(error)


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
        into = options.plot.exists() and not options.plot.is_file()  # a device or a pipe, which takes a PNG
        if options.plot.suffix.lower() not in (".png", ".svg", ".pdf") and not into:
            raise Unusable(f"Expected a file ending in .png, .svg or .pdf for --plot but got {options.plot}")


def _write(options: argparse.Namespace, reports: list[Any], versions: dict[str, str]) -> None:
    from reference.reporting import json_report, picture

    try:
        if options.json is not None:
            json_report.write_json(options.json, json_report.as_json(reports, options.seed, versions))
        if options.plot is not None:
            picture.draw(reports, options.plot)
    except OSError as error:
        raise Unusable(
            f"{error.filename or options.json or options.plot} cannot be written: {error.strerror}"
        ) from error
