"""The diagnosis against layers that share no code with its formulas: each wrong one rejected and named, no right one accused.

A row is named if the report gives just its ids; a mistake that no dictionary holds must be called unknown. The first row
of each kind of mistake runs always, all the others with `pytest -m slow`.
"""

import pytest

from reference import check
from tests.planted import ROWS
from tests.planted.row import Planted

UNKNOWN = frozenset({"unknown"})


def _parameters():
    seen, parameters = set(), []
    for module, row in ROWS:
        kind = (row.like, row.faults) if row.faults else (module, row.layer.__name__)
        marks = [pytest.mark.slow] if kind in seen else []
        seen.add(kind)
        name = getattr(row.layer, "__name__", "layer")
        parameters.append(pytest.param(module, row, id=f"{row.like}-{name}", marks=marks))
    return parameters


@pytest.mark.parametrize(("module", "row"), _parameters())
def test_planted_layer(module: str, row: Planted, record_property):
    report = check(
        row.layer, row.like, examples=25, minimize=False, channels_last="channels_last" in module, timeout=120
    )
    named = frozenset(fault.id for fault in report.faults)
    expected = row.faults or (UNKNOWN if row.quantities else frozenset())
    outcome = "named" if named == expected else "unknown" if "unknown" in named else "wrongly named"
    if row.quantities:
        record_property("diagnosis", outcome if row.faults else f"{outcome}, in no dictionary")
    assert report.passed == (not row.quantities), f"{row.note}\n{report}"
    assert named == expected, f"{row.note}\n{report}"


@pytest.mark.parametrize(("module", "row"), [p for p in _parameters() if p.values[1].quantities and not p.marks])
def test_no_more_quantities_than_those_that_are_wrong(module: str, row: Planted):
    """What the report calls wrong is a part of what the row says is wrong."""
    report = check(row.layer, row.like, examples=0, minimize=False, channels_last="channels_last" in module, timeout=120)
    wrong = {name for name, figures in report.quantities.items() if not figures.passed}
    raised = any("raise" in text for text in (row.note, str(report)))
    assert wrong <= row.quantities or raised, f"{row.note}\n{report}"


def test_every_entry_is_planted():
    from reference.faults import FAULTS

    planted = {(row.like, id) for _, row in ROWS for id in row.faults}
    assert set(FAULTS) == {id for _, id in planted}
