"""The report that a check returns: its data, and the ways in which it shows itself."""

from dataclasses import dataclass
from typing import Any

from reference.reporting.json_report import as_dict
from reference.reporting.notebook import as_html
from reference.reporting.result import CheckResult
from reference.reporting.text import WIDTH, as_text


@dataclass(frozen=True)
class Report(CheckResult):
    """The verdict on one layer. `str(report)` is the text for a terminal, `to_dict()` the JSON; a notebook shows HTML."""

    def __str__(self) -> str:
        return as_text(self)

    def text(self, verbose: bool = False, width: int = WIDTH) -> str:
        """The report as text.

        Args:
            verbose: whether nothing is left out, the script of the smallest failing case included.
            width: in characters.
        """
        return as_text(self, width, verbose)

    def to_dict(self) -> dict[str, Any]:
        """The report as the JSON of one subject."""
        return as_dict(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(as_text(self))  # IPython in a terminal
