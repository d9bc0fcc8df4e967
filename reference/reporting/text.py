"""How a report looks as text: what went by first, the verdict last, and all of it within one look.

By default a report has at most 40 lines. Each of its blocks has a long form and one of a line or none; the most telling
blocks get their long form first, as long as there is room. `verbose` shows everything. Reads result types only; computes
and decides nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reference.diagnosis.named import NamedFault
from reference.reporting.foreign import cleaned
from reference.reporting.headline import alternatives, consistency, fix_heading, headline, label, messages, title, units
from reference.reporting.result import CheckResult, Counterexample, Fix, Note

WIDTH = 100
MOST_LINES = 40  # of a report that is not verbose
WIDE = 72  # columns from which the table has all of its own
FOLDED = 3  # entries of a long list that are shown
CAUSES = 5  # causes that have a line of their own at least
ENTRIES = 4  # worst entries


@dataclass(frozen=True)
class Hints:
    """What to type for more."""

    script: str
    verbose: str
    fix: str = ""


TERMINAL = Hints("--script", "--verbose", "--fix")
PYTHON = Hints("report.counterexample.script", "report.text(verbose=True)")


@dataclass(frozen=True)
class _Block:
    """A part of a report.

    Attributes:
        long, short: what is printed of it where there is room, and where there is none.
        rank: blocks of a low one are the first to get their long form. folded: whether its long form leaves things out.
    """

    long: Sequence[RenderableType]
    short: Sequence[RenderableType] = ()
    rank: int = 0
    folded: bool = False


def as_text(report: CheckResult, width: int = WIDTH, verbose: bool = False) -> str:
    """The report in plain text, whatever the environment says of terminals and notebooks."""
    console = Console(
        file=StringIO(),
        width=width,
        color_system=None,
        no_color=True,
        highlight=False,
        force_terminal=False,
        force_jupyter=False,
        force_interactive=False,
        legacy_windows=False,
    )
    print_report(report, console, verbose, PYTHON)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def print_report(report: CheckResult, console: Console, verbose: bool = False, hints: Hints = TERMINAL) -> None:
    """The report on a console: the figures, the causes with their fixes, the smallest case, the verdict.

    Args:
        verbose: whether nothing is left out, however long it gets. hints: what is said to type for more.
    """
    report = cleaned(report, console.encoding)
    blocks = list(_blocks(report, console.width, verbose))
    end = [_verdict(report)]
    if blocks[2:]:
        end.insert(0, Text(""))
    more = _more(report, hints)
    chosen = [block.long for block in blocks]
    if not verbose:
        chosen = _fitted(blocks, console, MOST_LINES - _height(console, [*end, more]))
        left_out = any(block.folded or shown is not block.long for block, shown in zip(blocks, chosen, strict=True))
        if left_out or report.counterexample is not None:
            end.insert(0, more)
    for part in (part for parts in [*chosen, end] for part in parts):
        # a script must come out as it is, however narrow the terminal
        console.print(part, soft_wrap=isinstance(part, Text) and part.no_wrap is True)


def print_script(report: CheckResult, console: Console) -> None:
    """The program that shows the smallest failing case, and nothing else; nothing at all where there is none."""
    if report.counterexample is not None:
        console.print(_program(cleaned(report, console.encoding).counterexample), soft_wrap=True)


def _height(console: Console, parts: Sequence[RenderableType]) -> int:
    return sum(len(console.render_lines(part, pad=False)) for part in parts)


def _fitted(blocks: Sequence[_Block], console: Console, room: int) -> list[Sequence[RenderableType]]:
    """Of each block the long form as long as there is room, the most telling first, else the short one."""
    chosen = [block.short for block in blocks]
    heights = [_height(console, parts) for parts in chosen]
    room -= sum(heights)
    for index, block in sorted(enumerate(blocks), key=lambda pair: pair[1].rank):
        more = 0 if block.long is block.short else _height(console, block.long) - heights[index]
        if more <= room:
            chosen[index] = block.long
            room -= more
    return chosen


def _blocks(report: CheckResult, width: int, verbose: bool) -> Iterator[_Block]:
    """All but the verdict, in their order; the first two are always there."""
    yield _Block([Text(title(report), style="bold")], [_line(title(report), width, "bold")])
    table = [_quantities(report, width)]
    yield _Block(table, table)
    if report.accepted:
        text = f"accepted: {', '.join(report.accepted)}"
        yield _Block([Text(text)], [_line(text, width)], rank=6)
    if report.read_as:
        shown = report.read_as if verbose else report.read_as[: 2 * FOLDED]
        more = len(report.read_as) - len(shown)
        text = f"read as: {', '.join(shown)}" + (f", and {more} more" if more else "")
        yield _Block([Text(text, style="dim")], [_line(text, width, "dim")], rank=5, folded=more > 0)
    worse = [f"worse than its baseline: {text}" for text in report.regressions]
    yield from (_Block([Text(text, style="yellow")], [_line(text, width, "yellow")], rank=2) for text in worse)
    for number, fault in enumerate(report.faults):
        if verbose or number < CAUSES or len(report.faults) == CAUSES + 1:
            short = [_line(f"{label(fault)}: {fault.fix or fault.summary}", width, "bold yellow")]
            yield _Block(list(_fault(fault)), short, rank=1 if number == 0 else 3)
        else:
            rest = ", ".join(fault.id for fault in report.faults[number:])
            yield _Block(
                [Text(f"\nand {len(report.faults) - number} more causes: {rest}", style="bold yellow")], rank=4
            )
            break
    for fix in report.fixes:
        yield _Block(list(_fix(fix)), [_line(fix_heading(fix), width, "bold green")], rank=0)
    if report.not_fixed:
        yield _Block([Text(f"\nno fix: {report.not_fixed}", style="dim")], rank=4)
    if report.notes_on_source:
        yield from _annotation(report, width)
    if consistency(report):
        yield _Block([Text(f"\n{consistency(report)}")], rank=4)
    if report.counterexample is not None:
        yield _Block(
            list(_example(report.counterexample, width, verbose)), list(_case(report.counterexample, width)), rank=2
        )
    if not report.passed and (report.hazards or report.not_covered or report.notes):
        yield _Block([Text()], [Text()])
    others = [hazard for hazard in report.hazards if hazard not in report.faults]
    hazards = [f"{h.id} ({', '.join(h.quantities)}): {h.summary} {h.fix}" for h in others]
    yield from _listed("hazard", hazards, [hazard.id for hazard in others], width, verbose, 3, "yellow")
    left_out = [f"{what} ({why})" for what, why in report.not_covered.items()]
    yield from _listed("not covered", left_out, list(report.not_covered), width, verbose, 5)
    yield from _listed("note", list(report.notes), (), width, verbose, 6)
    if verbose and report.counterexample is not None:
        heading = Text("\nto see it with numpy and torch alone", style="bold")
        yield _Block([heading, _program(report.counterexample)])


def _listed(
    word: str, texts: Sequence[str], names: Sequence[str], width: int, verbose: bool, rank: int, style: str = "dim"
) -> Iterator[_Block]:
    """A line for each of some texts, or for the first few and their number; in short their names in one line."""
    if texts:
        shown = texts if verbose or len(texts) == FOLDED + 1 else texts[:FOLDED]
        lines = [Text(f"{word}: {text}", style=style) for text in shown]
        if len(texts) > len(shown):
            named = f": {', '.join(names[len(shown) :])}" if names else ""
            lines.append(_line(f"{word}: {len(texts) - len(shown)} more{named}", width, style))
        short = _line(f"{word}: {', '.join(names) or len(texts)}", width, style)
        yield _Block(lines, [short], rank, folded=len(texts) > len(shown))


def _line(text: str, width: int, style: str = "") -> Text:
    """A text that takes one line, and is cut off there; by dots that any encoding has."""
    if cell_len(text) > width:
        text = f"{set_cell_size(text, width - 3)}..."
    return Text(text, style=style)


def _verdict(report: CheckResult) -> Text:
    word, style = ("PASS", "green") if report.passed else ("FAIL", "bold red")
    return Text(f"{word}  {headline(report)}", style=style)


def _more(report: CheckResult, hints: Hints) -> Text:
    script = f"{hints.script}, a program that shows it; " if report.counterexample is not None else ""
    script = (f"{hints.fix} writes the fix; " if report.fixes and hints.fix else "") + script
    return Text(f"\nmore: {script}{hints.verbose}, everything", style="dim")


def _quantities(report: CheckResult, width: int) -> Table:
    """A row for each quantity: its worst case; narrow terminals lose the columns that can be done without."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("quantity", overflow="fold")
    table.add_column("verdict", overflow="fold")
    wide = width >= WIDE
    for column in ("worst error", "tolerance", *(("torch's", "cases") if wide else ())):
        table.add_column(column, justify="right", overflow="fold")
    for name, figures in report.quantities.items():
        verdict = Text("ok", style="green") if figures.passed else Text("WRONG", style="bold red")
        row: list[RenderableType] = [name, verdict, units(figures.worst_error), units(figures.tolerance)]
        if wide:
            wrong = f"{figures.failed} of {figures.cases}" if figures.failed else str(figures.cases)
            row += [units(figures.torch_error), wrong]
        table.add_row(*row)
    return table


def _fault(fault: NamedFault) -> Iterator[RenderableType]:
    yield Text(f"\n{label(fault)}", style="bold yellow")
    yield _indented(fault.summary)
    for word, formula in (("here:   ", fault.wrong), ("right:  ", fault.right)):
        if fault.wrong:
            yield _labelled(word, formula)
    if fault.alternatives:
        yield _indented(alternatives(fault))
    yield _indented(f"evidence: {fault.evidence}")
    if fault.fix:
        yield _indented(f"fix: {fault.fix}")


def _fix(fix: Fix) -> Iterator[RenderableType]:
    yield Text(f"\n{fix_heading(fix)}", style="bold green")
    styles = {"+": "green", "-": "red", "@": "dim"}
    for line in fix.diff.splitlines():
        yield Text(line, style=styles.get(line[:1], ""), no_wrap=True, overflow="ignore")
    if fix.also:
        yield Text(f"on this line also: {fix.also}", style="dim")


def _annotation(report: CheckResult, width: int) -> Iterator[_Block]:
    """The lines of the layer's file with what they hold; in short those that hold something else than they should."""
    notes = report.notes_on_source
    column = min(max(len(note.code) for note in notes), width // 2)

    def shown(note: Note) -> Text:
        text = _line(f"{note.line:>5}  {note.code:<{column}}  # {note.text}", width)
        text.stylize("red" if note.departs else "dim")
        return text

    heading = Text(f"\nwhat the lines of {report.annotated_file} hold in a failing case", style="bold")
    yield _Block([heading, *map(shown, notes)], [shown(note) for note in notes if note.departs][:1], rank=2)


def _example(example: Counterexample, width: int, verbose: bool) -> Iterator[RenderableType]:
    yield from _case(example)
    entries = example.entries if verbose else example.entries[:ENTRIES]
    digits = 9 if verbose or width >= WIDE else 5
    for message in messages(example, () if verbose else entries):
        yield _indented(message)
    if entries:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("quantity", "index", "got", "should be", "error"):
            table.add_column(column, justify="left" if column in ("quantity", "index") else "right", overflow="fold")
        for entry in entries:
            table.add_row(
                *(entry.quantity, str(entry.index)),
                *(f"{number:.{digits}g}" for number in (entry.got, entry.expected)),
                units(entry.error),
            )
        yield Padding(table, (0, 0, 0, 2), expand=False)


def _case(example: Counterexample, width: int | None = None) -> Iterator[RenderableType]:
    """The heading and the case; in one line of a width where one is given."""
    yield Text("\nsmallest failing case", style="bold")
    yield _indented(str(example.case)) if width is None else _line(f"  {example.case}", width)


def _indented(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 2), expand=False)


def _labelled(word: str, text: str) -> Table:
    """A word, and beside it a text whose further lines begin where the first one does."""
    table = Table.grid(padding=0)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row(f"    {word}", Text(text))
    return table


def _program(example: Counterexample | None) -> Text:
    lines = example.script.rstrip().splitlines() if example is not None else []
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")
