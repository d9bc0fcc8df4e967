"""The wide arithmetic of the exact values: at least 64 bits of mantissa, on any machine.

NumPy's longdouble where that is wide enough (x86 with 64 bits, others with 113). Elsewhere, where longdouble is float64
or a pair of float64s, mpmath's numbers in arrays of objects, some hundred times slower and no less right: 113 bits of
them, from 128, because sums of objects go one by one. mpmath is imported there alone. Knows numbers, not formulas.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.dtypes import carried

Array = NDArray[Any]

LONGDOUBLE_IS_WIDE = np.finfo(np.longdouble).nmant >= 63 and np.finfo(np.longdouble).nmant != 105
WIDE = np.dtype(np.longdouble if LONGDOUBLE_IS_WIDE else object)
STEP = 1e-200j  # of the complex step


def wide(array: Array) -> Array:
    """`array` in the wide arithmetic; the values do not change."""
    array = carried(array)
    if WIDE.kind != "O":
        return np.asarray(array.astype(WIDE))
    import mpmath

    return np.asarray(np.frompyfunc(lambda value: mpmath.mpf(float(value)), 1, 1)(array))


def sqrt(array: Array) -> Array:
    """The square root in the wide arithmetic, or in its complex numbers."""
    if array.dtype != object:
        return np.asarray(np.sqrt(array))
    import mpmath

    return np.asarray(np.frompyfunc(mpmath.sqrt, 1, 1)(array))


def wide_precision() -> AbstractContextManager[Any]:
    """The context that the wide arithmetic needs: mpmath's precision, if the numbers are mpmath's."""
    if WIDE.kind != "O":
        return nullcontext()
    import mpmath

    return mpmath.workprec(128)  # type: ignore[no-any-return]


def widened_complex(array: Array) -> Array:
    """A copy of a wide array whose numbers may have an imaginary part."""
    return array.copy() if array.dtype == object else array.astype(np.clongdouble)


def imaginary(array: Array) -> Array:
    """The imaginary parts, in units of the step."""
    if array.dtype == object:
        import mpmath

        return np.asarray(np.frompyfunc(lambda value: mpmath.mpmathify(value).imag / 1e-200, 1, 1)(array))
    return np.asarray(array.imag / np.longdouble(1e-200))
