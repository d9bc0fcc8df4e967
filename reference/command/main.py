"""The command `normcheck`: from names on the command line to verdicts, and to the exit code that says them.

Exit 0: everything agrees. 1: something is wrong. 2: it could not be checked. Each subject runs in a process of its own;
the verdict is made here, where no subject's code is. Only this module and `listings` write to the terminal.
What is slow to import (torch, Hypothesis) is imported when a subject is checked, so that all else answers at once.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape

from reference.by_name import NOT_CHECKED, Asked, outcome_of
from reference.command.lean import import_torch_in_part
from reference.command.parser import EXAMPLES, FIX_SECONDS, names_of, parser
from reference.configuration import Configuration, configuration_for
from reference.kinds import KINDS
from reference.reporting.files import stream_of
from reference.subjects.guard import describe, printable
from reference.subjects.loading import Unusable

if TYPE_CHECKING:  # they need the dictionary, or are slow to import, and `--help` can do without
    from concurrent.futures import ProcessPoolExecutor

    from reference.command.baseline import Baseline

DEFAULT = tuple(f"npnorm:{name}" for name in KINDS)
MANY = 1000  # random cases a subject from which several subjects share the cores


class _Output(Console):
    """The console of standard output; who reads it may go, and the files that were asked for are still written."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> NoReturn:
    """The command as the process that it is.

    It ends without taking the interpreter down: with torch in it that takes 0.3 s, a thread may still be importing C++, and
    after Ctrl-C in some places (CPython's `exec` of a text, as dataclasses do it) the code would be another one.
    """
    import_torch_in_part()
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Whatever happens, it ends in a line of text and a code."""
    _stand_for_closed_streams()
    options = parser().parse_args(arguments)
    console = _Output(highlight=False, force_jupyter=False)
    errors = Console(stderr=True, highlight=False, force_jupyter=False)
    if not console.is_terminal:
        console = _Output(highlight=False, width=100, force_jupyter=False)
    try:
        with _ended_by_sigterm():
            code = _command(options, console, errors)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as interrupt:
        text = str(interrupt) or "interrupted"
    except Unusable as error:
        text = str(error)
    except OSError as error:
        text = f"the output cannot be written: {error.strerror or describe(error)}"
    except Exception as error:  # ours, and no reason to show its frames
        text = f"an error of its own, please report it: {describe(error)}"
    with contextlib.suppress(OSError):
        _say(errors, text)
    _drop_what_cannot_be_written()
    return 2


def _command(options: argparse.Namespace, console: Console, errors: Console) -> int:
    if options.faults or options.explain:
        from reference.command import listings

        listings.print_faults(console) if options.faults else listings.explain(options.explain, console)
        return 0
    if options.audit is not None:
        from reference.command import auditing

        _refuse_unwritable(options)
        with _progress(errors, options.audit) as progress:
            return auditing.run(options, console, errors, progress)
    return _check(options, console, errors)


def _check(options: argparse.Namespace, console: Console, errors: Console) -> int:
    _refuse_unwritable(options)
    if any(path is not None and stream_of(path) == 1 for path in (options.json, options.plot)):
        console = errors  # what a program reads from standard output must be that alone
    configured = configuration_for(Path.cwd())
    asked_for = _asked(options, configured)
    baseline = _baseline(options, configured)
    reports: list[Any] = []
    refused: dict[str, str] = {}
    without_record: list[str] = []
    unwritten: OSError | None = None  # what came of printing; the files are written all the same
    outcomes: list[tuple[Asked, Any]] = []
    for asked, outcome in _outcomes(asked_for, options, errors):
        if isinstance(outcome, str):
            _say(errors, outcome)
            refused[asked.shown] = outcome
            outcomes.append((asked, outcome))
            continue
        if baseline:
            outcome, untold = _held(asked, outcome, baseline, options)
            if untold:
                _say(errors, untold)
                without_record.append(outcome.subject)
        try:
            show(outcome, console, errors, options, first=not reports)
        except OSError as error:
            unwritten, console.quiet = error, True
        reports.append(outcome)
        outcomes.append((asked, outcome))
        if options.fix:
            _write_fixes(outcome, errors)
    _write(options, reports, refused)
    _tell_github(outcomes, errors)
    if baseline and options.update_baseline:
        _update(baseline, outcomes, options, errors)
    if unwritten:
        raise unwritten
    if not all(report.passed for report in reports):
        return 1
    return 2 if refused or without_record else 0


def _tell_github(outcomes: list[tuple[Asked, Any]], errors: Console) -> None:
    """What a job of GitHub is told, on this stream, since the other may be a file."""
    from reference import github

    def say(line: str) -> None:
        errors.print(printable(line, errors.encoding, most=len(line) * 10), markup=False, soft_wrap=True, emoji=False)

    if github.is_job():
        github.tell(outcomes, say)


def _baseline(options: argparse.Namespace, configured: Configuration) -> "Baseline | None":
    """What was typed, or else what is configured for the subjects that are."""
    path = options.baseline or (None if options.subjects else configured.baseline)
    if path is None:
        if options.update_baseline:
            raise Unusable("Expected --baseline FILE with --update-baseline but got none")
        return None
    from reference.command.baseline import Baseline

    return Baseline(path, new=options.update_baseline)


def _held(asked: Asked, report: Any, baseline: "Baseline", options: argparse.Namespace) -> tuple[Any, str]:
    """A report that also says what got worse; and why that cannot be told, if it cannot."""
    if options.update_baseline:
        return report, ""
    try:
        worse = baseline.held(report, asked.options["examples"], options.seed)
    except Unusable as error:
        return report, str(error) if report.passed else ""  # one that fails is not recorded
    return replace(report, regressions=worse, passed=report.passed and not worse), ""


def _update(
    baseline: "Baseline", outcomes: list[tuple[Asked, Any]], options: argparse.Namespace, errors: Console
) -> None:
    for asked, report in outcomes:
        if isinstance(report, str):
            continue
        if report.passed and not report.incomplete:
            baseline.record(report, asked.options["examples"], options.seed)
        else:
            _say(errors, f"{report.subject} is not recorded: {'not all was tried' if report.passed else 'it fails'}")
    try:
        baseline.write()
    except OSError as error:
        raise Unusable(f"{baseline.path} cannot be written: {error.strerror}") from error


def _asked(options: argparse.Namespace, configured: Configuration) -> list[Asked]:
    """The subjects that were named, or those of pyproject.toml, or npnorm's; what is typed goes before what is configured.

    Raises:
        Unusable: an option or the configuration is not what it should be.
    """
    try:
        names = names_of(options.names)
    except ValueError as error:
        raise Unusable(str(error)) from error
    typed = {
        "like": options.like,
        "accept": [id for item in options.accept for id in item.split(",") if id],
        "names": names,
        "channels_last": options.channels_last,
        "device": options.device,
        "ndims": options.ndims,
        "dtypes": options.dtypes,
        "strict": options.strict,
        "timeout": options.timeout,
        "fix_seconds": options.fix_seconds,
    }
    rest = {"seed": options.seed, "annotate": options.annotate}
    rest |= {option: value for option, value in typed.items() if value}
    rest |= {} if options.examples is None else {"examples": options.examples}
    rest |= {"fix_seconds": 0.0} if options.no_fix_search or options.script else {}
    defaults = {"examples": EXAMPLES, "fix_seconds": FIX_SECONDS}
    found = [configured.asked(subject) for subject in options.subjects] or configured.subjects
    found = found or [Asked(subject, subject, configured.defaults) for subject in DEFAULT]
    return [one.with_defaults(defaults).with_options(rest) for one in found]


def _say(errors: Console, text: str) -> None:
    """One line on standard error, whatever a stranger's exception has in it."""
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


def _write_fixes(report: Any, errors: Console) -> None:
    """Write what was proved, and say so; what cannot be written is said too."""
    from reference.repair.fix import CannotWrite, write_fix

    for fix in report.fixes:
        try:
            told = f"fixed {write_fix(fix)}, line {fix.line}"
        except CannotWrite as error:
            told = f"not fixed: {error}"
        _say(errors, told)


def _outcomes(asked: Sequence[Asked], options: argparse.Namespace, errors: Console) -> Iterator[tuple[Asked, Any]]:
    """Each subject with its report, or with the reason why there is none; many cases of several share the cores."""
    named: list[Asked] = []
    for one in asked:
        try:
            named += one.each()
        except NOT_CHECKED as error:
            yield one, str(error)
    named = _part(named, options.shard)
    if len(named) > 1 and max(one.options["examples"] for one in named) >= MANY:
        with _pool(min(len(named), os.cpu_count() or 1)) as pool:
            waiting = [(one, pool.submit(outcome_of, one)) for one in named]
            for one, future in waiting:
                yield one, future.result()
        return
    for one in named:
        with _progress(errors, one.shown) as progress:
            outcome = outcome_of(one, progress)
        yield one, outcome


def _part(named: list[Asked], shard: tuple[int, int] | None) -> list[Asked]:
    """The subjects of one shard: every n-th, so that those of one file, which take about as long, are spread."""
    which, count = shard or (1, 1)
    return named[which - 1 :: count]


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too, and is for the command
    import_torch_in_part()


@contextlib.contextmanager
def _pool(count: int) -> Iterator["ProcessPoolExecutor"]:
    """Processes that check subjects; when the command is ended they end at once, and do not finish their work first."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin_worker) as pool:
        try:
            yield pool
        except BaseException:
            for process in active_children():
                process.kill()
            raise


# --- the process and its output ---------------------------------------------------------------------------------------


def _stand_for_closed_streams() -> None:
    """A closed standard stream is None to Python; what is written there is lost. No encoding is too narrow."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_what_cannot_be_written() -> None:
    """What is left in the buffer of a full or closed standard output must not fail once more at the very end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: the subjects' processes with it, no file half written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    for flag, path in (("--json", options.json), ("--plot", options.plot), ("--baseline", options.baseline)):
        if path is not None and (not path.parent.is_dir() or path.is_dir()):
            raise Unusable(f"Expected a file in an existing folder for {flag} but got {path}")
    if options.plot is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise Unusable("--plot needs matplotlib: pip install 'npnorm[plot]'")
        into = options.plot.exists() and not options.plot.is_file()  # a device or a pipe, which takes a PNG
        if options.plot.suffix.lower() not in (".png", ".svg", ".pdf") and not into:
            raise Unusable(f"Expected a file ending in .png, .svg or .pdf for --plot but got {options.plot}")


def _write(options: argparse.Namespace, reports: list[Any], refused: dict[str, str]) -> None:
    """The files that were asked for; with the refused subjects, so that none is missing unnoticed."""
    from importlib.metadata import version

    from reference.reporting import json_report, picture

    versions = {name: version(name) for name in ("numpy", "torch")}
    try:
        if options.json is not None:
            json_report.write_json(options.json, json_report.as_json(reports, options.seed, versions, refused))
        if options.plot is not None and reports:
            picture.draw(reports, options.plot)
    except OSError as error:
        raise Unusable(
            f"{error.filename or options.json or options.plot} cannot be written: {error.strerror}"
        ) from error
