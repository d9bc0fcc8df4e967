"""What a layer is held against, and the verdict: `check` and the other entry points.

    from reference import check
    report = check(MyGroupNorm)      # a class or factory with torch's keywords
    print(report)                    # what is wrong, by name; the smallest failing case

This package never imports the layers it judges. Its names are loaded when they are first used, so that importing it
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference.auditing.audit import audit
    from reference.auditing.report import Audit
    from reference.checks import check
    from reference.reporting.report import Report
    from reference.subjects.functions import from_functions
    from reference.subjects.reading import Refused
    from reference.subjects.torch_form import from_torch
    from reference.testing import assert_matches, parametrize_with_checks

_HOME = {
    "Audit": "reference.auditing.report",
    "Refused": "reference.subjects.reading",
    "Report": "reference.reporting.report",
    "assert_matches": "reference.testing",
    "audit": "reference.auditing.audit",
    "check": "reference.checks",
    "from_functions": "reference.subjects.functions",
    "from_torch": "reference.subjects.torch_form",
    "parametrize_with_checks": "reference.testing",
}

__all__ = [
    "Audit",
    "Refused",
    "Report",
    "assert_matches",
    "audit",
    "check",
    "from_functions",
    "from_torch",
    "parametrize_with_checks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
