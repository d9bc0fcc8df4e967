"""What a layer's figures were: the file of `--baseline`, which is committed, and what is held against it.

A tolerance must admit every right layer, so that a good one may lose a digit and still pass. The baseline is a ratchet: a
quantity whose worst error is more than twice what it was, and beyond what rounding alone explains, fails. Between machines
the last roundings differ (another BLAS, other vector instructions), which `TIMES` and `AT_LEAST` leave room for. Reads
reports and one file; decides nothing else.
"""

import json
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from reference.reporting.files import write_file
from reference.reporting.headline import units
from reference.reporting.result import CheckResult, Figures
from reference.subjects.loading import Unusable

SCHEMA = 1
TIMES = 2.0  # the recorded error
AT_LEAST = 4.0  # units: what any way to compute these numbers may give
DIGITS = (
    2  # of an error in the file: enough for `TIMES`, and few enough that a record does not change with every commit
)
SHARE = 0.9  # of the recorded cases; the rest may be another Hypothesis that draws others
KEYS = ("error", "torch", "cases")


class Baseline:
    """The records of a file, by subject."""

    def __init__(self, path: Path, new: bool = False) -> None:
        """Read it.

        Args:
            path: of the file. new: whether there may be none yet.

        Raises:
            Unusable: there is none, or it is no baseline.
        """
        self.path = path
        self.subjects: dict[str, Any] = {}
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if not new:
                raise Unusable(
                    f"Expected a baseline in {path} but there is none: --update-baseline writes it"
                ) from None
            return
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        try:
            self.subjects = _records(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unusable(f"Expected {path} to be what --update-baseline writes but got {error!r}") from None

    def held(self, report: CheckResult, examples: int, seed: int) -> tuple[str, ...]:
        """In what a layer got worse, a sentence each; a quantity that is wrong anyway is not spoken of.

        Raises:
            Unusable: there is no record of it.
        """
        record = self.subjects.get(report.subject)
        if record is None:
            raise Unusable(f"{report.subject} has no record in {self.path}: --update-baseline adds it")
        alike = (record["examples"], record["seed"]) == (examples, seed) and not report.incomplete
        found = []
        records = record["quantities"]
        for name in [*report.quantities, *(name for name in records if name not in report.quantities)]:
            if name not in records:
                continue
            was, figures = records[name], report.quantities.get(name)
            if figures is None:
                found.append(f"{name} is not there any more, which was compared in {was['cases']} cases")
            elif figures.passed and figures.largest_error > max(TIMES * was["error"], AT_LEAST):
                found.append(f"{name} is off by {units(figures.largest_error)}, it was {units(was['error'])}")
            elif figures.passed and alike and figures.cases < SHARE * was["cases"]:
                found.append(f"{name} was compared in {figures.cases} cases, it was in {was['cases']}")
        return tuple(found)

    def record(self, report: CheckResult, examples: int, seed: int) -> None:
        """Take a layer's figures for the file."""
        self.subjects[report.subject] = {
            "examples": examples,
            "seed": seed,
            "quantities": {name: _record(figures) for name, figures in report.quantities.items()},
        }

    def write(self) -> None:
        """Write the file: sorted, a line for each quantity.

        Raises:
            OSError: it cannot be written.
        """
        lines = []
        for subject, record in sorted(self.subjects.items()):
            head = f'"examples": {record["examples"]}, "seed": {record["seed"]}, "quantities": {{'
            rows = [f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(record["quantities"].items())]
            lines.append(f"  {json.dumps(subject)}: {{{head}\n" + ",\n".join(rows) + "\n  }}")
        text = f'{{\n "schema": {SCHEMA},\n "subjects": {{\n' + ",\n".join(lines) + "\n }\n}\n"
        write_file(self.path, text.encode())


def rounded_up(value: float, digits: int = DIGITS) -> float:
    """The next number of so many digits that is not less."""
    exact = Decimal(value)
    if not exact:
        return 0.0
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    return float(exact.quantize(step, rounding=ROUND_CEILING))


def _record(figures: Figures) -> dict[str, Any]:
    errors = (rounded_up(figures.largest_error), rounded_up(figures.largest_torch_error))
    return dict(zip(KEYS, (*errors, figures.cases), strict=True))


def _records(content: Any) -> dict[str, Any]:
    """The records of a file's content; raises what Python raises where it is something else."""
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']}")
    found: dict[str, Any] = dict(content["subjects"])
    for record in found.values():
        numbers = [record["examples"], record["seed"]]
        numbers += [row[key] for row in record["quantities"].values() for key in KEYS]
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError(f"{numbers}")
    return found
