"""What a layer is held against, and the verdict."""

from reference.checks import check
from reference.coverage import Refused
from reference.result import Report

__all__ = ["Refused", "Report", "check"]
