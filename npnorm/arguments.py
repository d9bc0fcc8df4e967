"""What the layers accept, and the one grammar in which they refuse: what was expected, what came.

Knows argument types and array dtypes; knows no layer and does no arithmetic.
"""

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def positive_int(name: str, value: object) -> int:
    """`value` as an int of at least 1."""
    number = _int(name, value)
    if number < 1:
        raise ValueError(f"Expected {name} to be at least 1 but got {name}={number}")
    return number


def positive_ints(name: str, value: object) -> tuple[int, ...]:
    """`value`, an int or a non-empty iterable of them, as a tuple of ints of at least 1."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        numbers = tuple(positive_int(f"{name}[{i}]", item) for i, item in enumerate(value))
        if not numbers:
            raise ValueError(f"Expected {name} to have at least one entry but got {name}={value!r}")
        return numbers
    return (positive_int(name, value),)


def epsilon(value: object) -> float:
    """`value` as the finite, non-negative number that is added to a variance."""
    number = _float("eps", value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"Expected eps to be finite and at least 0 but got eps={value!r}")
    return number


def fraction(name: str, value: object) -> float:
    """`value` as a number from 0 to 1."""
    number = _float(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"Expected {name} to be from 0 to 1 but got {name}={value!r}")
    return number


def flag(name: str, value: object) -> bool:
    """`value` as a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"Expected {name} to be a bool but got {name}={value!r} (type {type(value).__name__})")


def float_array(name: str, value: object) -> Array:
    """`value` if it is an array of real floating-point numbers."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"Expected {name} to be a NumPy array but got {type(value).__name__}")
    if value.dtype.kind != "f":
        raise TypeError(f"Expected {name} to be an array of floats but got dtype {value.dtype}")
    return value


def _int(name: str, value: object) -> int:
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"Expected {name} to be an int but got {name}={value!r} (type {type(value).__name__})")


def _float(name: str, value: object) -> float:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"Expected {name} to be a number but got {name}={value!r} (type {type(value).__name__})")
