"""The corpus of planted layers is in order: each row is where its truth says, and every known mistake is planted.

    pytest tests/test_planted.py::test_every_entry_is_planted -s

prints how many layers of each kind have each mistake.
"""

from collections import Counter

import pytest

from reference.diagnosis.faults import FAULTS
from tests import planted
from tests.planted.row import UNKNOWN

KINDS = {
    "batch_norm": "BatchNorm",
    "group_norm": "GroupNorm",
    "instance_norm": "InstanceNorm",
    "layer_norm": "LayerNorm",
    "rms_norm": "RMSNorm",
}


def _table() -> str:
    """A line an id: how many rows of each kind expect it."""
    width = max(map(len, planted.BY_FAULT))
    lines = [" " * width + "".join(f"{kind:>14}" for kind in KINDS.values())]
    for id, rows in planted.BY_FAULT.items():
        counts = Counter(row.kind for row in rows)
        lines.append(f"{id:{width}}" + "".join(f"{counts[kind] or '-':>14}" for kind in KINDS.values()))
    return "\n".join(lines)


@pytest.mark.parametrize("module", [pytest.param(module, id=module.__name__) for module in planted.MODULES])
def test_rows_are_in_the_folder_of_their_truth(module):
    folder, *kind, _ = module.__name__.removeprefix(f"{planted.__name__}.").split(".")
    for row in module.ROWS:
        assert row.kind in KINDS.values(), row
        # a default, or what a parameter starts with, spoils nothing
        spoilt = {name for id in row.expected for name in (FAULTS[id].quantities if id in FAULTS else (id,))}
        assert bool(spoilt) == bool(row.quantities), row
        assert all(FAULTS[id].kind == "hazard" for id in row.hazards), row
        if folder == "wrong":
            assert [row.kind] == [KINDS[name] for name in kind], row
            assert row.expected, row
            assert all(id in FAULTS and FAULTS[id].kind != "hazard" for id in row.expected), row
        else:
            assert row.expected == {"right": frozenset(), "unknown": UNKNOWN}[folder], row


def test_no_two_rows_have_the_same_name():
    names = Counter((row.kind, row.name) for row in planted.ROWS)
    assert [name for name, count in names.items() if count > 1] == []


ENDLESS = {"process-ended", "never-returns"}  # not to be run among others: in `test_isolation`

OF_TORCH = {"backward-not-reentrant", "backward-not-repeatable"}  # no NumPy layer has them: in `test_from_torch`


def test_every_entry_is_planted():
    print(f"\n{_table()}")
    assert planted.BY_FAULT.keys() == (FAULTS.keys() - ENDLESS - OF_TORCH) | UNKNOWN
