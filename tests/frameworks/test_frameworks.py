"""Each layer of each framework in each dtype against exact values; what is known to be wrong is expected by its name."""

import pytest

from reference.dtypes import NARROW
from tests.frameworks.measured import ROWS, measured, tried
from tests.frameworks.row import Row

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own

EACH = [(row, dtype) for row in ROWS for dtype in tried(row)]


def _param(row: Row, dtype: str, known: bool) -> object:
    marks = [pytest.mark.skipif(bool(row.absent), reason=row.absent or "installed")]
    if known and dtype in row.known:
        marks.append(pytest.mark.xfail(reason=row.known[dtype].why, strict=True, raises=AssertionError))
    return pytest.param(row, dtype, id=f"{row.id}-{dtype}", marks=marks)


@pytest.mark.parametrize(("row", "dtype"), [_param(row, dtype, known=True) for row, dtype in EACH])
def test_a_layer_agrees_with_exact_values(row: Row, dtype: str) -> None:
    found = measured(row, dtype)
    assert not found.refused
    assert not found.faults, f"{found.smallest}\n{found.told}"
    assert found.well < (16 if dtype not in NARROW else 128)


@pytest.mark.parametrize(
    ("row", "dtype"), [_param(row, dtype, known=False) for row, dtype in EACH if dtype in row.known]
)
def test_what_is_wrong_is_named(row: Row, dtype: str) -> None:
    found = measured(row, dtype)
    assert found.faults == row.known[dtype].faults
    assert found.smallest
