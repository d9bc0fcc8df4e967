"""The table of frameworks: `python -m tests.frameworks [FRAMEWORK ...]`, as Markdown, with versions and smallest cases."""

import sys
from collections.abc import Iterator

from reference.dtypes import DTYPES
from tests.frameworks.measured import ROWS, Measured, measured, tried
from tests.frameworks.row import Row


def main(wanted: list[str]) -> None:
    """Print the rows of these frameworks, or of all that are installed, as they come; then what is wrong with them."""
    print(f"| framework | layer | {' | '.join(DTYPES)} | verdict |")
    print(f"| --- | --- |{' --- |' * (len(DTYPES) + 1)}")
    found = {}
    for row in ROWS:
        if (wanted and row.framework not in wanted) or row.absent:
            continue
        found[row] = {dtype: measured(row, dtype) for dtype in tried(row)}
        print(_line(row, found[row]), flush=True)
    print("\n" + ", ".join(sorted({version for row in found for version in row.versions})) + "\n")
    for row, results in found.items():
        for dtype, result in results.items():
            if result.smallest:
                print(f"- {row.id}, {dtype}: {' and '.join(result.faults)}: {result.smallest}")
    absent = sorted({row.absent for row in ROWS if row.absent and (not wanted or row.framework in wanted)})
    print("\n".join(absent))


def _line(row: Row, results: dict[str, Measured]) -> str:
    cells = [_cell(results.get(dtype)) for dtype in DTYPES]
    return f"| {row.framework} | {row.layer} | {' | '.join(cells)} | {'; '.join(_verdicts(results))} |"


def _cell(result: Measured | None) -> str:
    """Both errors; "-" where there is no such dtype."""
    return "-" if result is None or result.refused else f"{result.well:.2g}, {result.far:.2g}"


def _verdicts(results: dict[str, Measured]) -> Iterator[str]:
    """What is found, with the dtypes in which it is."""
    judged = {dtype: result for dtype, result in results.items() if not result.refused}
    for faults in dict.fromkeys(result.faults for result in judged.values()):
        dtypes = [dtype for dtype, result in judged.items() if result.faults == faults]
        where = "" if len(dtypes) == len(judged) else f" in {', '.join(dtypes)}"
        yield (" and ".join(faults) or "ok") + where


if __name__ == "__main__":
    main(sys.argv[1:])
