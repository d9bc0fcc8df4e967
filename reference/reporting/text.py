"""How a report looks: as text. Reads result types only; computes and decides nothing."""

from collections.abc import Iterator
from io import StringIO
from math import isfinite

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reference.diagnosis.named import NamedFault
from reference.reporting.result import CheckResult, Counterexample

WIDTH = 100
LONG_SCRIPT = 140  # lines beyond which a script is not printed, only counted


def as_text(report: CheckResult, width: int = WIDTH) -> str:
    """The report in plain text."""
    console = Console(file=StringIO(), width=width, no_color=True, highlight=False, soft_wrap=False)
    print_report(report, console)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def print_report(report: CheckResult, console: Console) -> None:
    """The report on a console: the verdict a quantity, the cause, the fix, the worst entries, the smallest case."""
    for part in _parts(report, console.width):
        # a script must come out as it is, however narrow the terminal
        console.print(part, soft_wrap=isinstance(part, Text) and part.no_wrap is True)


def _parts(report: CheckResult, width: int) -> Iterator[RenderableType]:
    name = report.subject if report.like == report.subject else f"{report.subject} as {report.like}"
    yield Text(f"{name}: {report.cases} cases", style="bold")
    yield _quantities(report, width)
    if report.passed:
        yield Text(f"PASS  {_agreement(report)}", style="green")
    else:
        yield Text(f"FAIL  {_headline(report)}", style="bold red")
    if report.accepted:
        yield Text(f"accepted: {', '.join(report.accepted)}")
    if report.read_as:
        yield Text(f"read as: {', '.join(report.read_as)}", style="dim")
    for fault in report.faults:
        yield from _fault(fault)
    for hazard in report.hazards:
        if hazard not in report.faults:
            yield Text(
                f"hazard: {hazard.id} ({', '.join(hazard.quantities)}): {hazard.summary} {hazard.fix}", style="yellow"
            )
    if not report.passed:
        yield Text(_consistency(report))
    if report.counterexample is not None:
        yield from _example(report.counterexample)
    for what, why in report.not_covered.items():
        yield Text(f"not covered: {what} ({why})", style="dim")
    for note in report.notes:
        yield Text(f"note: {note}", style="dim")


def _quantities(report: CheckResult, width: int) -> Table:
    """A row for each quantity; narrow terminals lose the columns that can be done without."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("quantity", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("worst error", justify="right", no_wrap=True)
    table.add_column("torch's", justify="right", no_wrap=True)
    wide = width >= 72
    if wide:
        table.add_column("tolerance", justify="right", no_wrap=True)
        table.add_column("cases", justify="right", no_wrap=True)
    for name, figures in report.quantities.items():
        verdict = Text("ok", style="green") if figures.passed else Text("WRONG", style="bold red")
        row: list[RenderableType] = [name, verdict, _units(figures.worst_error), _units(figures.torch_error)]
        if wide:
            wrong = f"{figures.failed} of {figures.cases}" if figures.failed else str(figures.cases)
            row += [_units(figures.tolerance), wrong]
        table.add_row(*row)
    return table


def _agreement(report: CheckResult) -> str:
    left_out = " of what could be tried" if report.not_covered else ""
    incomplete = f" (in the time {report.incomplete})" if report.incomplete else ""
    return f"all{left_out} agrees with torch.nn, within rounding{incomplete}"


def _headline(report: CheckResult) -> str:
    wrong = [name for name, figures in report.quantities.items() if not figures.passed]
    names = [fault.id for fault in report.faults]
    kind = "differs from torch by convention: " if all(f.kind == "convention" for f in report.faults) else ""
    return f"{kind}{' and '.join(names)}" + (f" ({', '.join(wrong)} wrong)" if wrong else "")


def _fault(fault: NamedFault) -> Iterator[RenderableType]:
    label = {"unknown": "cause: unknown", "convention": f"convention: {fault.id}", "hazard": f"hazard: {fault.id}"}.get(
        fault.id if fault.id == "unknown" else fault.kind, f"cause: {fault.id}"
    )
    spoils = f" ({', '.join(fault.quantities)})" if fault.quantities else ""
    yield Text(f"\n{label}{spoils}", style="bold yellow")
    lines = [fault.summary]
    if fault.wrong:
        lines += [f"  here:   {fault.wrong}", f"  right:  {fault.right}"]
    if fault.alternatives:
        lines.append(f"or: {', or '.join(fault.alternatives)}, which would give the same numbers")
    lines.append(f"evidence: {fault.evidence}")
    if fault.fix:
        lines.append(f"fix: {fault.fix}")
    yield Padding(Text("\n".join(lines)), (0, 0, 0, 2), expand=False)


def _consistency(report: CheckResult) -> str:
    forward = report.quantities.get("y")
    match report.backward_is_derivative_of_forward:
        case True if forward is not None and not forward.passed:
            return "\nits backward is the derivative of its own forward: the forward is not this normalization"
        case False:
            return "\nits backward is not the derivative of its own forward"
    return ""


def _example(example: Counterexample) -> Iterator[RenderableType]:
    if example.entries:
        yield Text("\nworst entries", style="bold")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("quantity", "index", "got", "should be", "error"):
            table.add_column(column, justify="left" if column in ("quantity", "index") else "right", no_wrap=True)
        for entry in example.entries:
            table.add_row(
                entry.quantity, str(entry.index), f"{entry.got:.9g}", f"{entry.expected:.9g}", _units(entry.error)
            )
        yield table
    yield Text("\nsmallest failing case", style="bold")
    yield Padding(Text(str(example.case)), (0, 0, 0, 2), expand=False)
    for message in (*map(str, example.comparisons), *example.problems):
        yield Padding(Text(message), (0, 0, 0, 2), expand=False)
    lines = example.script.splitlines()
    if len(lines) > LONG_SCRIPT:
        yield Text(f"\na script of {len(lines)} lines shows it with numpy and torch alone: it is in the JSON (--json)")
    elif lines:
        yield Text("\nto see it with numpy and torch alone", style="bold")
        yield Text("\n".join(lines), no_wrap=True, overflow="ignore")


def _units(error: float) -> str:
    return f"{error:.3g} u" if isfinite(error) else "-"
