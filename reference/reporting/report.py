"""The report that a check returns: its data, and the ways in which it shows itself."""

from dataclasses import dataclass
from typing import Any

from reference.reporting.json_report import as_dict
from reference.reporting.result import CheckResult
from reference.reporting.text import as_text


@dataclass(frozen=True)
class Report(CheckResult):
    """The verdict on one layer. `str(report)` is the text for a terminal, `to_dict()` the JSON."""

    def __str__(self) -> str:
        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as the JSON of one subject."""
        return as_dict(self)
