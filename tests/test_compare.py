"""The error measure by itself: planted errors fail, by message, and figures are those worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from reference.dtypes import roundoff
from reference.truth.compare import Comparison, compare, error_units

EXACT = np.array([[1.0, 2.0, -4.0], [0.5, 8.0, 1.0]], dtype=np.longdouble)
SCALE = np.full(EXACT.shape, 8.0)
U = 2.0**-53


def versus(got: object, exact: np.ndarray = EXACT, tolerance: float = 4.0, dtype: str = "float64") -> Comparison:
    return compare("dx", got, exact, np.full(exact.shape, 8.0), dtype, tolerance)


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float64", 2.0**-53), ("float32", 2.0**-24), ("float16", 2.0**-11), (np.dtype("f4"), 2.0**-24)],
)
def test_the_roundoff_is_half_the_distance_from_1_to_the_next(dtype: str, expected: float) -> None:
    assert roundoff(dtype) == expected
    assert np.nextafter(np.ones((), dtype), np.full((), 2, dtype)) - 1 == 2 * expected


@pytest.mark.parametrize(
    ("got", "exact", "scale", "dtype", "expected"),
    [
        pytest.param(1.0 + 2 * U, 1.0, 1.0, "float64", 2.0, id="two roundoffs of 1"),
        pytest.param(1.0 + 2 * U, 1.0, 8.0, "float64", 0.25, id="on a scale of 8"),
        pytest.param(1.0 - 2 * U, 1.0, 1.0, "float64", 2.0, id="below"),
        pytest.param(-1.0 - 2 * U, -1.0, 1.0, "float64", 2.0, id="negative"),
        pytest.param(1.0 + 2.0**-22, 1.0, 1.0, "float32", 4.0, id="float32"),
        pytest.param(1.0 + 2.0**-10, 1.0, 1.0, "float16", 2.0, id="float16"),
        pytest.param(3.0, 3.0, 1.0, "float64", 0.0, id="equal"),
        pytest.param(0.0, 0.0, 0.0, "float64", 0.0, id="nothing of nothing"),
        pytest.param(2.0**-1060, 0.0, 0.0, "float64", 2.0**15, id="a scale of 0 counts as the smallest normal"),
        pytest.param(2.0**-149, 0.0, 1e-45, "float32", 2.0**1, id="a subnormal scale too"),
        pytest.param(2.0, 1.0, 1.0, "float64", 2.0**53, id="far off"),
    ],
)
def test_units_worked_out_by_hand(got: float, exact: float, scale: float, dtype: str, expected: float) -> None:
    errors = error_units(np.array([got], dtype), np.array([exact], np.longdouble), np.array([scale]), dtype)
    assert errors.dtype == np.float64
    assert errors.tolist() == [expected]


def test_the_difference_is_exact() -> None:
    """The truth has more digits than `got`, and they count: half a roundoff is seen."""
    exact = np.array([1.0], np.longdouble) + np.longdouble(U) / 2
    if exact[0] == 1:
        pytest.skip("longdouble is no wider than float64 here")
    assert error_units(np.array([1.0]), exact, np.ones(1), "float64").tolist() == [0.5]


def test_a_truth_of_python_numbers_is_compared_too() -> None:
    """The arbiter's other arithmetic hands over arrays of objects."""
    mpmath = pytest.importorskip("mpmath")
    exact = np.array([mpmath.mpf(1), mpmath.mpf("nan")], dtype=object)
    scale = np.array([mpmath.mpf(1), mpmath.mpf("nan")], dtype=object)
    assert error_units(np.array([1 + 2 * U, np.nan]), exact, scale, "float64").tolist() == [2.0, 0.0]


@given(
    exact=arrays(float, array_shapes(max_dims=3, max_side=4), elements=st.floats(-100, 100)),
    copies=st.integers(1, 50),
    roundoffs=st.integers(0, 20),
)
def test_the_error_does_not_grow_with_the_size(exact: np.ndarray, copies: int, roundoffs: int) -> None:
    """A thousand entries that are off by little are no worse than one."""
    scale = np.full(exact.shape, 128.0)
    got = exact.astype(np.longdouble) + roundoffs * U * 128
    once = compare("y", got, exact, scale, "float64", 4.0)
    many = compare("y", *(np.stack([array] * copies) for array in (got, exact, scale)), "float64", 4.0)
    assert once.error == many.error == pytest.approx(roundoffs, rel=1e-3, abs=1e-3)
    assert once.passed == many.passed == (once.error <= 4)


# --- planted errors ---------------------------------------------------------------------------------------------------


def test_what_is_equal_passes() -> None:
    result = versus(np.array(EXACT, float))
    assert result.passed
    assert (result.quantity, result.error, result.problem) == ("dx", 0.0, "")


@pytest.mark.parametrize("index", list(np.ndindex(EXACT.shape)), ids=str)
@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
def test_five_roundoffs_anywhere_fail_where_four_pass(index: tuple[int, int], sign: int) -> None:
    got = EXACT.copy()
    got[index] += sign * 4 * U * 8
    assert versus(got).passed
    got[index] += sign * U * 8
    result = versus(got)
    assert not result.passed
    assert result.where == index
    value = float(EXACT[index])
    assert str(result).startswith(f"dx: got {float(got[index])!r}, expected {value!r} at index {index}: error 5 u, ")
    assert str(result).endswith("tolerance 4 u")


def test_the_worst_entry_is_named() -> None:
    got = EXACT.copy()
    got[0, 1] += 1e-6
    got[1, 2] -= 1e-5
    got[1, 0] += 1e-7
    assert versus(got).where == (1, 2)
    assert versus(got).got == pytest.approx(1 - 1e-5)
    assert versus(got).expected == 1.0


FLAT = EXACT.reshape(-1)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        pytest.param(None, "dx: got None, expected an array", id="nothing"),
        pytest.param(EXACT.T, "dx: got shape (3, 2), expected (2, 3)", id="transposed"),
        pytest.param(FLAT, "dx: got shape (6,), expected (2, 3)", id="flat"),
        pytest.param(EXACT[:1], "dx: got shape (1, 3), expected (2, 3)", id="would broadcast"),
        pytest.param(1.0, "dx: got shape (), expected (2, 3)", id="a number"),
        pytest.param(EXACT[:, :0], "dx: got shape (2, 0), expected (2, 3)", id="empty"),
        pytest.param(EXACT.astype(complex), "dx: got dtype complex128, expected float64", id="complex"),
        pytest.param(EXACT.astype(bool), "dx: got dtype bool, expected float64", id="bool"),
        pytest.param(EXACT.astype(object), "dx: got dtype object, expected float64", id="objects"),
        pytest.param("gradient", "dx: got dtype <U8, expected float64", id="a word"),
    ],
)
def test_what_is_no_array_of_that_shape_is_refused(got: object, message: str) -> None:
    result = versus(got, tolerance=np.inf)
    assert not result.passed
    assert result.error == np.inf
    assert result.where is None
    assert str(result) == message


def test_lists_and_whole_numbers_are_arrays_too() -> None:
    assert versus([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], np.longdouble)).passed


def test_an_empty_array_has_no_error() -> None:
    result = versus(np.empty((0, 3)), np.empty((0, 3), np.longdouble))
    assert result.passed
    assert str(result) == "dx: as expected"


# --- what is not finite -----------------------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_the_same_nonfinite_number_passes(value: float) -> None:
    exact = EXACT.copy()
    exact[1, 1] = value
    assert versus(exact.astype(float), exact).passed


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        pytest.param(NAN, 1.0, "got nan, expected 1.0 at index (1,)", id="nan for a number"),
        pytest.param(INF, 1.0, "got inf, expected 1.0 at index (1,)", id="inf for a number"),
        pytest.param(-INF, INF, "got -inf, expected inf at index (1,)", id="the other inf"),
        pytest.param(NAN, INF, "got nan, expected inf at index (1,)", id="nan for inf"),
        pytest.param(INF, NAN, "got inf, expected nan at index (1,)", id="inf for nan"),
        pytest.param(1.0, NAN, "got 1.0, expected nan at index (1,)", id="a number for nan"),
        pytest.param(1.0, INF, "got 1.0, expected inf at index (1,)", id="a number for inf"),
    ],
)
@pytest.mark.parametrize("tolerance", [4.0, np.inf], ids=["tolerance 4", "any tolerance"])
def test_another_nonfinite_number_fails(got: float, expected: float, message: str, tolerance: float) -> None:
    result = versus(np.array([1.0, got, 2.0]), np.array([1.0, expected, 2.0], np.longdouble), tolerance)
    assert not result.passed
    assert result.error == np.inf
    assert result.where == (1,)
    assert str(result).startswith(f"dx: {message}")


def test_a_nan_does_not_hide_what_is_wrong_beside_it() -> None:
    result = versus(np.array([NAN, 1.5]), np.array([NAN, 1.0], np.longdouble))
    assert not result.passed
    assert result.where == (1,)


def test_nothing_is_written_to() -> None:
    got, exact, scale = np.array([1.0, NAN]), np.array([1.0, NAN], np.longdouble), np.ones(2)
    for array in (got, exact, scale):
        array.flags.writeable = False
    assert compare("y", got, exact, scale, "float64", 1.0).passed
