"""How far an array is from the truth, and whether that is too far. Pure NumPy; knows no layer.

The error of an array is max |got - exact| / (u * scale), where u is the unit roundoff of the dtype it was computed in
and the scale of each element is the sum of the magnitudes of the terms that make it. It is a small number whatever
the size of the data, so a tolerance is a small constant, which must not grow with the size of the array.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.dtypes import carried, is_real, roundoff, smallest_normal

Array = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """One array held against the truth.

    Attributes:
        quantity: the array's name.
        error: the worst error, in units of u * scale; inf where shapes differ, or only one side is finite.
        tolerance: what it is held to, in the same units.
        where: the index of the worst entry, and `got` and `expected` there; None if there is no such entry.
        problem: what is wrong before any value is: "missing", a shape, an entry that is not finite; else "".
    """

    quantity: str
    error: float
    tolerance: float
    where: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.tolerance and self.error < np.inf

    def __str__(self) -> str:
        """What came, what was expected, where: the one grammar of every message."""
        if self.problem:
            return f"{self.quantity}: {self.problem}"
        if self.where is None:
            return f"{self.quantity}: as expected"
        return (
            f"{self.quantity}: got {self.got!r}, expected {self.expected!r} at index {self.where}: "
            f"error {self.error:.3g} u, tolerance {self.tolerance:.3g} u"
        )


def compare(
    quantity: str,
    got: object,
    exact: Array,
    scale: Array,
    dtype: str,
    tolerance: float,
) -> Comparison:
    """`got` against `exact`: first that it is there, its shape, where it is not finite, then its values.

    Args:
        got: what the layer gave, anything; None if it gave nothing.
        exact: the truth, of a dtype wider than `dtype`; `got` is converted to it, so that the difference is exact.
        scale: the natural scale of each element, as exact's shape.
        dtype: whose roundoff is the unit.
        tolerance: the largest error that passes, in units.
    """
    if got is None:
        return Comparison(quantity, np.inf, tolerance, problem="got None, expected an array")
    array = np.asarray(got)
    if not is_real(array.dtype):
        return Comparison(quantity, np.inf, tolerance, problem=f"got dtype {array.dtype}, expected {dtype}")
    array = carried(array)
    if array.shape != exact.shape:
        problem = f"got shape {array.shape}, expected {exact.shape}"
        return Comparison(quantity, np.inf, tolerance, problem=problem)
    if not array.size:
        return Comparison(quantity, 0.0, tolerance)
    errors = error_units(array, exact, scale, dtype)
    worst = int(errors.argmax())
    where = tuple(int(i) for i in np.unravel_index(worst, errors.shape))
    value, truth = float(array.flat[worst]), float(exact.flat[worst])
    problem = ""
    if not np.isfinite(value) and errors.flat[worst]:
        problem = f"got {value}, expected {truth!r} at index {where}"
    return Comparison(quantity, float(errors.flat[worst]), tolerance, where, value, truth, problem)


def error_units(got: Array, exact: Array, scale: Array, dtype: str) -> Array:
    """The error of each element in units of u * scale, as float64; inf where only one of the two is finite.

    The scale is kept from falling below the smallest normal number: below it no dtype has relative precision.
    """
    floored = np.maximum(scale.astype(np.float64), smallest_normal(dtype))
    with np.errstate(all="ignore"):  # divided in this order, since u times the smallest normal number would be 0
        errors = np.abs(got.astype(exact.dtype) - exact).astype(np.float64) / floored / roundoff(dtype)
        finite = np.isfinite(errors)
        if not finite.all():
            odd, truth = ~finite, exact.astype(np.float64)
            same = (np.isnan(got) & np.isnan(truth)) | (got == truth)
            errors[odd] = np.where(same[odd], 0.0, np.inf)
    return np.asarray(errors)
