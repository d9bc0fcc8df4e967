"""How a report looks."""
from reference.result import Report

def as_text(report: Report) -> str:
    return repr(report)
