"""The diagnosis against layers that share no code with its formulas: each wrong one rejected and named, no right one accused.

And each report can be believed: what its table calls wrong the causes speak of, and nothing else. A row is named if the
report gives just its ids, as causes or as alternatives to one; a mistake that no dictionary holds must be called unknown.
What is right in ordinary use alone is listed as a hazard, and is no cause. A part of the rows runs always, the others with
`pytest -m slow`.
"""

import pytest

from reference import check
from tests.believable import contradictions
from tests.planted import ROWS
from tests.planted.row import UNKNOWN, Planted

DEAR = {"JacobianGroupNorm", "LoopGroupNorm"}  # right ones, in seconds of loops: the next in line is run in their place


def _parameters():
    """All rows; those that are not always run are marked slow.

    Always: the first row of each mistake, convention and hazard, every fourth pair of mistakes, and every third of the
    others. They are taken by the layers' names, which mixes the kinds.
    """
    seen, parameters, counts, owed = set(), [], {"pair": 0, "other": 0}, 0
    for row in sorted(ROWS, key=lambda row: (row.name, row.kind)):
        ids = row.expected - UNKNOWN or row.hazards
        if len(ids) == 1:
            always = not ids <= seen
            seen |= ids
        else:
            group, every = ("pair", 4) if len(ids) > 1 else ("other", 3)
            always = counts[group] % every == 0
            counts[group] += 1
            if row.name in DEAR:
                owed, always = owed + always, False
            elif owed and not always:
                owed, always = owed - 1, True
        marks = [] if always else [pytest.mark.slow]
        parameters.append(pytest.param(row, id=f"{row.kind}-{row.name}", marks=marks))
    return parameters


@pytest.mark.parametrize("row", _parameters())
def test_planted_layer(row: Planted, record_property):
    report = check(row.layer, row.kind, examples=10, minimize=False, channels_last=row.channels_last, timeout=120)
    assert contradictions(report) == [], report
    others = [id for fault in report.faults for words in fault.alternatives for id in words.split(" with ")]
    named = frozenset([*(fault.id for fault in report.faults), *others])
    if row.expected == UNKNOWN:
        record_property("diagnosis", "rightly called unknown" if named == UNKNOWN else "wrongly named")
    elif row.expected:
        outcome = "named" if named == row.expected else "unknown" if "unknown" in named else "wrongly named"
        record_property("diagnosis", outcome)
    assert report.passed == (not row.expected), f"{row.note}\n{report}"
    assert named == row.expected, f"{row.note}\n{report}"
    hazards = {fault.id for fault in report.hazards}
    assert hazards >= row.hazards if row.expected else hazards == row.hazards, f"{row.note}\n{report}"
    wrong = {name for name, figures in report.quantities.items() if not figures.passed}
    assert wrong <= row.quantities or row.raises, f"{row.note}\n{report}"
