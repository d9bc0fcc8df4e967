"""A verdict in GitHub's terms: annotations on lines of the user's files, and a page for the summary of a job.

The forms are those of GitHub's workflow commands and of its Markdown. Reads result types only; knows no environment.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reference.diagnosis.named import NamedFault
from reference.reporting.foreign import cleaned, printable_lines
from reference.reporting.headline import fix_heading, headline, told, units
from reference.reporting.result import CheckResult
from reference.subjects.guard import printable

LONGEST = 1000 * 1024  # bytes of a job's summary: GitHub shows none that has more than 1024 kB


@dataclass(frozen=True)
class Place:
    """Where an annotation is shown.

    Attributes:
        file: from the repository's folder, "" if it is not known. line: of it, 0 likewise.
    """

    file: str = ""
    line: int = 0


def command(level: str, place: Place, title: str, text: str) -> str:
    """One workflow command; whatever is in the texts, it is one line, and what it says is what they say.

    Args:
        level: "error" or "warning".
    """
    properties = {"file": place.file, "line": str(place.line or ""), "title": title}
    said = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::{level} {said}::{_message(text)}"


def annotations(result: CheckResult, guilty: Place, layer: Place) -> Iterator[str]:
    """The workflow commands of one verdict: an error for what is wrong, a warning for hazards and conventions.

    Args:
        guilty: the line that is wrong. layer: where the layer is, for all that no line can be blamed for.
    """
    result = cleaned(result)
    for fault in [*result.faults, *(hazard for hazard in result.hazards if hazard not in result.faults)]:
        is_mistake = fault.kind == "mistake"
        title = f"{result.subject}{' ' if fault.quantities else ''}{', '.join(fault.quantities)}: {fault.id}"
        text = "\n".join(_told(result, fault, with_fix=fault is next(iter(result.faults), None)))
        yield command("error" if is_mistake else "warning", guilty if is_mistake else layer, title, text)
    for text in result.regressions:
        yield command("error", layer, f"{result.subject}: worse than its baseline", text)
    if not result.passed and not result.faults and not result.regressions:
        yield command("error", layer, result.subject, headline(result))


def refusal(subject: str, reason: str, layer: Place) -> str:
    """The workflow command for a subject that could not be checked."""
    return command("error", layer, f"{printable(subject)}: not checked", printable(reason))


def summary(results: Sequence[CheckResult], refused: Mapping[str, str]) -> str:
    """All verdicts as Markdown: a table, and below it each mistake with the diff of its fix."""
    shown = [cleaned(result) for result in results]
    wrong = sum(not result.passed for result in shown)
    said = f"{wrong} of {len(shown)} wrong" if wrong else f"{len(shown)} right"
    said += f", {len(refused)} not checked" if refused else ""
    lines = [
        f"## normcheck: {said}",
        "",
        "| layer | verdict | | worst errors | cases |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for result in shown:
        errors = ", ".join(
            f"{name} {units(figures.worst_error)}" if figures.passed else f"**{name} {units(figures.worst_error)}**"
            for name, figures in result.quantities.items()
        )
        verdict = "PASS" if result.passed else "**FAIL**"
        lines.append(f"| {_text(result.subject)} | {verdict} | {_text(headline(result))} | {errors} | {result.cases} |")
    for subject, reason in refused.items():
        lines.append(f"| {_text(printable(subject))} | not checked | {_text(printable(reason))} | | |")
    lines.append("")
    size = sum(len(line.encode()) + 1 for line in lines)
    for result in shown:
        part = list(_details(result))
        size += sum(len(line.encode()) + 1 for line in part)
        if size > LONGEST:
            break
        lines += part
    return "\n".join(lines) + "\n"


def _told(result: CheckResult, fault: NamedFault, with_fix: bool) -> Iterator[str]:
    yield from told(fault, "here:  ", "right: ")
    for fix in result.fixes if with_fix else ():
        yield f"{fix_heading(fix)}:"
        yield printable_lines(fix.diff.rstrip("\n"))


def _details(result: CheckResult) -> Iterator[str]:
    if result.passed:
        return
    yield f"### {_text(result.subject)}"
    yield ""
    for fault in result.faults:
        yield f"- **{_text(fault.id)}** ({_text(', '.join(fault.quantities))}): {_text(fault.summary)}"
        yield f"  {_text(fault.fix)}" if fault.fix else f"  {_text(fault.evidence)}"
    for text in result.regressions:
        yield f"- worse than its baseline: {_text(text)}"
    for fix in result.fixes:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", fix.diff)), default=0))
        yield from ("", f"{_text(fix_heading(fix))}:", "", f"{fence}diff", fix.diff.rstrip("\n"), fence)
    if result.counterexample is not None:
        yield from ("", f"smallest failing case: {_text(str(result.counterexample.case))}")
    yield ""


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def _text(text: str) -> str:
    """A text that Markdown shows as it is, in a cell of a table too."""
    return re.sub(r"([\\`*_\[\]~#$@|])", r"\\\1", html.escape(text, quote=False)).replace("\n", " ")
