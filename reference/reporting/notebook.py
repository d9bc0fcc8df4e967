"""How a report looks in a notebook: one piece of HTML, that needs nothing else and is right on light and on dark pages.

The colours of the page are inherited; those that are ours are seen on white and on black. Reads result types only.
"""

from collections.abc import Iterable, Sequence
from html import escape

from reference.diagnosis.named import NamedFault
from reference.reporting.foreign import cleaned
from reference.reporting.headline import alternatives, consistency, fix_heading, headline, label, messages, title, units
from reference.reporting.result import CheckResult, Counterexample, Fix

GREEN, RED, AMBER = "#188038", "#c5221f", "#b06000"  # behind white letters
ADDED, REMOVED = "#2a9d4a", "#e0524a"  # letters on white or black
RULE = "1px solid rgba(128, 128, 128, 0.4)"
CELL = "padding: 1px 12px 1px 0; background: transparent; border: none; white-space: nowrap; font-size: inherit; "
CODE = "font-family: monospace; white-space: pre-wrap; background: transparent; color: inherit; "
FIGURES = ("worst error", "tolerance", "torch's", "cases")
OPEN = 3  # entries of a list that are shown at once; a longer one opens with a click


def as_html(report: CheckResult) -> str:
    """The report as HTML: the verdict first, since a page is read from its top."""
    report = cleaned(report)
    word, colour = ("PASS", GREEN) if report.passed else ("FAIL", RED)
    parts = [
        f'<div style="font-weight: bold">{_badge(word, colour)} {escape(headline(report))}</div>',
        f"<div>{escape(title(report))}</div>",
        _quantities(report),
    ]
    for words, texts in (("accepted", report.accepted), ("read as", report.read_as)):
        if texts:
            parts.append(f"<div>{words}: {escape(', '.join(texts))}</div>")
    parts += [_fault(fault) for fault in report.faults]
    parts += [_fix(fix) for fix in report.fixes]
    if report.not_fixed:
        parts.append(f'<div style="opacity: 0.8">no fix: {escape(report.not_fixed)}</div>')
    if report.notes_on_source:
        parts.append(_annotation(report))
    if consistency(report):
        parts.append(f'<div style="margin-top: 8px">{escape(consistency(report))}</div>')
    if report.counterexample is not None:
        parts.append(_example(report.counterexample))
    others = [hazard for hazard in report.hazards if hazard not in report.faults]
    parts.append(_list("hazard", [f"{label(h).removeprefix('hazard: ')}: {h.summary} {h.fix}" for h in others]))
    parts.append(_list("not covered", [f"{what} ({why})" for what, why in report.not_covered.items()]))
    parts.append(_list("note", report.notes))
    return (
        '<div style="line-height: 1.45; text-align: left; max-width: 60em; overflow-wrap: anywhere">'
        f"{''.join(parts)}</div>"
    )


def _badge(word: str, colour: str) -> str:
    return f'<span style="background: {colour}; color: #fff; border-radius: 3px; padding: 1px 7px">{word}</span>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A table of HTML cells, the first few columns of which are words and the others numbers."""

    def row(cells: Sequence[str], tag: str, style: str) -> str:
        sides = ["left" if number < words else "right" for number in range(len(cells))]
        return "".join(
            f'<{tag} style="{CELL}text-align: {side}; {style}">{cell}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )

    body = "".join(f'<tr style="background: transparent">{row(cells, "td", "")}</tr>' for cells in rows)
    style = "border-collapse: collapse; border: none; margin: 6px 0; font-variant-numeric: tabular-nums"
    header = row(head, "th", f"font-weight: normal; opacity: 0.7; border-bottom: {RULE}")
    return f'<table style="{style}"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'


def _quantities(report: CheckResult) -> str:
    rows = []
    for name, figures in report.quantities.items():
        wrong = f"{figures.failed} of {figures.cases}" if figures.failed else str(figures.cases)
        numbers = (figures.worst_error, figures.tolerance, figures.torch_error)
        verdict = "ok" if figures.passed else _badge("WRONG", RED)
        rows.append([name, verdict, *map(units, numbers), wrong])
    return _table(("quantity", "verdict", *FIGURES), rows, 2)


def _fault(fault: NamedFault) -> str:
    lines = [escape(fault.summary)]
    if fault.wrong:
        formulas = f"here:   {fault.wrong}\nright:  {fault.right}"
        lines.append(f'<pre style="{CODE}margin: 2px 0 2px 1em; padding: 0">{escape(formulas)}</pre>')
    if fault.alternatives:
        lines.append(f"<div>{escape(alternatives(fault))}</div>")
    lines.append(f"<div>evidence: {escape(fault.evidence)}</div>")
    if fault.fix:
        lines.append(f"<div><b>fix: {escape(fault.fix)}</b></div>")
    return (
        f'<div style="border-left: 3px solid {AMBER}; padding-left: 10px; margin-top: 10px">'
        f"<b>{escape(label(fault))}</b><div>{''.join(lines)}</div></div>"
    )


def _fix(fix: Fix) -> str:
    """The diff, each line in its colour."""
    colours = {"+": ADDED, "-": REMOVED}
    lines = []
    for line in fix.diff.splitlines():
        colour = f' style="color: {colours[line[0]]}"' if line[:1] in colours else ""
        lines.append(f"<span{colour}>{escape(line)}</span>")
    also = f"<div>on this line also: {escape(fix.also)}</div>" if fix.also else ""
    return (
        f'<div style="margin-top: 10px"><b>{escape(fix_heading(fix))}</b></div>'
        f'<pre style="{CODE}margin: 4px 0; padding: 0">{chr(10).join(lines)}</pre>{also}'
    )


def _annotation(report: CheckResult) -> str:
    """The lines of the layer's file with what they hold, those that hold something else in red."""
    lines = []
    for note in report.notes_on_source:
        colour = f' style="color: {REMOVED}"' if note.departs else ""
        lines.append(f"{note.line:>5}  {escape(note.code)}  <span{colour}># {escape(note.text)}</span>")
    return (
        f'<div style="margin-top: 10px"><b>what the lines of {escape(report.annotated_file)} hold in a failing case</b></div>'
        f'<pre style="{CODE}margin: 4px 0; padding: 0">{chr(10).join(lines)}</pre>'
    )


def _example(example: Counterexample) -> str:
    parts = [
        f'<div style="margin-top: 10px"><b>smallest failing case</b></div><div>{escape(str(example.case))}</div>',
        *(f"<div>{escape(message)}</div>" for message in messages(example, example.entries)),
    ]
    if example.entries:
        rows = (
            [e.quantity, str(e.index), f"{e.got:.9g}", f"{e.expected:.9g}", units(e.error)] for e in example.entries
        )
        parts.append(_table(("quantity", "index", "got", "should be", "error"), rows, 2))
    if example.script:
        script = f'<pre style="{CODE}margin: 4px 0; padding: 0; font-size: 90%">{escape(example.script)}</pre>'
        parts.append(
            f"<details><summary>a program that shows it with numpy and torch alone</summary>{script}</details>"
        )
    return "".join(parts)


def _list(word: str, texts: Sequence[str]) -> str:
    """Some texts, each on its line; many of them behind their number."""
    lines = "".join(f'<div style="opacity: 0.8">{word}: {escape(text)}</div>' for text in texts)
    if len(texts) <= OPEN:
        return lines
    return f"<details><summary>{word}: {len(texts)} entries</summary>{lines}</details>"
