"""A report as JSON. Reads result types only."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from sys import float_info
from typing import Any

from reference.diagnosis.named import NamedFault
from reference.reporting.files import write_file
from reference.reporting.result import CheckResult, Fix

DIGITS = 3


def as_dict(result: CheckResult) -> dict[str, Any]:
    """The report as the JSON of one subject."""
    example = result.counterexample
    return {
        "subject": result.subject,
        "like": result.like,
        "passed": result.passed,
        "cases": result.cases,
        "not_covered": dict(result.not_covered),
        "quantities": {
            name: {
                "passed": figures.passed,
                "worst_error": _number(figures.worst_error),
                "tolerance": _number(figures.tolerance),
                "torch_error": None if figures.torch_error is None else _number(figures.torch_error),
                "cases": figures.cases,
                "failed": figures.failed,
                "largest_error": _number(figures.largest_error),
                "largest_torch_error": _number(figures.largest_torch_error),
            }
            for name, figures in result.quantities.items()
        },
        "faults": [_fault(fault) for fault in result.faults],
        "backward_is_derivative_of_forward": result.backward_is_derivative_of_forward,
        "hazards": [_fault(fault) for fault in result.hazards],
        "read_as": list(result.read_as),
        "incomplete": result.incomplete,
        "regressions": list(result.regressions),
        "fixes": [_fix(fix) for fix in result.fixes],
        "not_fixed": result.not_fixed,
        "annotation": [
            {"line": note.line, "code": note.code, "text": note.text, "departs": note.departs}
            for note in result.notes_on_source
        ],
        "accepted": list(result.accepted),
        "notes": list(result.notes),
        "counterexample": None
        if example is None
        else {
            "case": str(example.case),
            "like": example.case.kind.name,
            "shape": list(example.case.shape),
            "config": {name: list(v) if isinstance(v, tuple) else v for name, v in example.case.config},
            "dtype": example.case.dtype,
            "data": example.case.data,
            "seed": example.case.seed,
            "training": example.case.training,
            "calls": example.case.calls,
            "messages": [*map(str, example.comparisons), *example.problems],
            "script": example.script,
        },
    }


def _fault(fault: NamedFault) -> dict[str, Any]:
    return {
        "id": fault.id,
        "class": fault.kind,
        "quantities": list(fault.quantities),
        "summary": fault.summary,
        "fix": fault.fix,
        "evidence": fault.evidence,
        "alternatives": list(fault.alternatives),
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "file": fix.file,
        "line": fix.line,
        "end_line": fix.end_line,
        "before": fix.before,
        "after": fix.after,
        "diff": fix.diff,
        "source": fix.source,
        "quantities": list(fix.quantities),
        "cases": fix.cases,
        "also": fix.also,
        "conventions": list(fix.conventions),
    }


def _number(value: float) -> float:
    """Three digits, as in the text; JSON has no infinity: the largest number in its place, beyond any tolerance too.

    On one machine all digits are the same each time, whatever the hash seed and the number of threads. But an error is
    made of single roundings: where the layer adds up in BLAS, another kernel (`OPENBLAS_CORETYPE`, another machine) gives
    another one, so that digits beyond these would say more than is known, and fill diffs.
    """
    return float(f"{value:.{DIGITS}g}") if isfinite(value) else float_info.max


def as_json(
    reports: Sequence[CheckResult], seed: int, versions: dict[str, str], refused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `--json` writes; `versions` of numpy and torch, and the subjects that could not be checked with the reason."""
    return {
        "schema": 2,
        **versions,
        "seed": seed,
        "subjects": [as_dict(report) for report in reports],
        "refused": [{"subject": subject, "reason": reason} for subject, reason in (refused or {}).items()],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write it as `write_file` does.

    Raises:
        OSError: it cannot be written; an older file is as it was.
    """
    write_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
