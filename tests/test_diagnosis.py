"""The diagnosis against layers that share no code with its formulas: each wrong one rejected and named, no right one accused.

A row is named if the report gives just its ids; a mistake that no dictionary holds must be called unknown. A part of the
rows runs always, the others with `pytest -m slow`.
"""

import pytest

from reference import check
from reference.diagnosis.faults import FAULTS
from tests.planted import ROWS
from tests.planted.row import Planted

UNKNOWN = frozenset({"unknown"})


def _parameters():
    """All rows; those that are not always run are marked slow.

    Always: the first row of each mistake, in one layer after the other, every fourth pair of mistakes, and every third
    of the others.
    """
    seen, parameters, counts = set(), [], {"pair": 0, "other": 0}
    for module, row in sorted(ROWS, key=lambda item: (item[1].like[::-1], item[0])):
        if len(row.faults) == 1:
            always = not row.faults <= seen
            seen |= row.faults
        else:
            kind, every = ("pair", 4) if row.faults else ("other", 3)
            always = counts[kind] % every == 0
            counts[kind] += 1
        name = getattr(row.layer, "__name__", "layer")
        marks = [] if always else [pytest.mark.slow]
        parameters.append(pytest.param(module, row, id=f"{row.like}-{name}", marks=marks))
    return parameters


@pytest.mark.parametrize(("module", "row"), _parameters())
def test_planted_layer(module: str, row: Planted, record_property):
    report = check(
        row.layer, row.like, examples=10, minimize=False, channels_last="channels_last" in module, timeout=120
    )
    others = [id for fault in report.faults for words in fault.alternatives for id in words.split(" with ")]
    named = frozenset([*(fault.id for fault in report.faults), *others])
    expected = row.faults or (UNKNOWN if row.quantities else frozenset())
    outcome = "named" if named == expected else "unknown" if "unknown" in named else "wrongly named"
    if row.faults:
        record_property("diagnosis", outcome)
    elif row.quantities:
        record_property("diagnosis", "rightly called unknown" if named == UNKNOWN else "wrongly named")
    assert report.passed == (not row.quantities), f"{row.note}\n{report}"
    assert named == expected, f"{row.note}\n{report}"
    wrong = {name for name, figures in report.quantities.items() if not figures.passed}
    raised = "raise" in row.note or "raised" in str(report)  # then what comes after it is wrong too
    assert wrong <= row.quantities or raised, f"{row.note}\n{report}"


def test_every_entry_is_planted():
    planted = {(row.like, id) for _, row in ROWS for id in row.faults}
    assert set(FAULTS) == {id for _, id in planted}
