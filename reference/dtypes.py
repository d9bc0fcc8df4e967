"""The dtypes that x may have, as data: how far each rounds, and where NumPy has it from.

bfloat16 is no dtype of NumPy's own: ml_dtypes brings it, imported when it is first asked for. Outside a layer its numbers
are carried in float32, which holds each of them. Knows numbers, and no layer.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}  # normal numbers
DTYPES = tuple(ROUNDOFF)
NARROW = ("float16", "bfloat16")  # those that a layer computes wider than


@cache
def dtype_named(name: str) -> np.dtype:
    """NumPy's dtype of that name.

    Raises:
        ImportError: bfloat16 without ml_dtypes.
    """
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype(name)


def roundoff(dtype: str | np.dtype) -> float:
    """The unit roundoff u of a dtype: half the distance from 1 to the next number."""
    return ROUNDOFF[dtype if isinstance(dtype, str) else dtype.name]


def smallest_normal(dtype: str | np.dtype) -> float:
    """Below it no number of a dtype has its full precision."""
    return SMALLEST[dtype if isinstance(dtype, str) else dtype.name]


def computing_dtype(dtype: str) -> str:
    """What a right layer computes in: float32 for 16 bits, else the dtype itself."""
    return "float32" if dtype in NARROW else dtype


def is_float(dtype: np.dtype) -> bool:
    """Whether it holds floating-point numbers, bfloat16 among them."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_real(dtype: np.dtype) -> bool:
    """Whether it holds numbers on a line: floating-point ones or integers."""
    return dtype.kind in "iu" or is_float(dtype)


def carried(array: Array) -> Array:
    """`array` in a dtype of NumPy's own that holds each of its numbers: float32 for bfloat16, else as it is."""
    if array.dtype.kind in "biuf":  # a dtype's name is put together anew each time that it is asked for
        return array
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
