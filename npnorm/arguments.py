"""What the layers accept, and the one grammar in which they refuse: what was expected, what came.

Knows argument types and array dtypes; knows no layer and does no arithmetic.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from reprlib import Repr
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar("T")

LARGEST = np.iinfo(np.intp).max  # entries along an axis
RANK = 64  # axes of an array
WORDY = 256  # bits of an int whose digits tell nobody anything; Python itself refuses to print very long ones
_shortened = Repr()
_shortened.maxother = _shortened.maxstring = 60


def checked(name: str, check: Callable[[str, Any], Any], fixed: bool = False) -> Any:
    """A property whose values go through `check(name, value)` whenever and by whomever it is set.

    Args:
        name: the property's own.
        check: gives the value to keep, or refuses.
        fixed: whether the first value is the last, because others were made to fit it.
    """
    place = f"_{name}"

    def keep(layer: object, value: object) -> None:
        kept = check(name, value)
        if fixed and getattr(layer, place, kept) != kept:
            first = getattr(layer, place)
            raise AttributeError(f"Expected {name} to stay {first}, as the layer was made, but got {name}={kept}")
        setattr(layer, place, kept)

    return property(operator.attrgetter(place), keep, lambda layer: delattr(layer, place))  # read at the speed of C


def optional(check: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    """A check that takes None too."""
    return lambda name, value: None if value is None else check(name, value)


def positive_int(name: str, value: object) -> int:
    """`value` as an int of at least 1, that an axis can have as its length."""
    number = _int(name, value)
    if number < 1:
        raise ValueError(f"Expected {name} to be at least 1 but got {name}={shown(number)}")
    if number > LARGEST:
        raise ValueError(f"Expected {name} to be at most {LARGEST} but got {name}={shown(number)}")
    return number


def positive_ints(name: str, value: object) -> tuple[int, ...]:
    """`value`, an int or a non-empty sequence of them, as a tuple of ints of at least 1."""
    if isinstance(value, np.ndarray):
        is_sequence = value.ndim == 1
    else:
        is_sequence = isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))
    if not is_sequence:
        return (positive_int(name, value),)
    entries = tuple(islice(cast(Iterable[Any], value), RANK + 1))
    if not entries:
        raise ValueError(f"Expected {name} to have at least one entry but got {name}={shown(value)}")
    if len(entries) > RANK:
        raise ValueError(f"Expected {name} to have at most {RANK} entries but got {name}={shown(value)}")
    return tuple(positive_int(f"{name}[{i}]", entry) for i, entry in enumerate(entries))


def count(name: str, value: object) -> int:
    """`value` as an int of at least 0."""
    number = _int(name, value)
    if number < 0:
        raise ValueError(f"Expected {name} to be at least 0 but got {name}={shown(number)}")
    return number


def epsilon(name: str, value: object) -> float:
    """`value` as the finite, non-negative number that is added to a variance."""
    number = _float(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"Expected {name} to be finite and at least 0 but got {name}={shown(value)}")
    return number


def fraction(name: str, value: object) -> float:
    """`value` as a number from 0 to 1."""
    number = _float(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"Expected {name} to be from 0 to 1 but got {name}={shown(value)}")
    return number


def flag(name: str, value: object) -> bool:
    """`value` as a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"Expected {name} to be a bool but got {_with_type(name, value)}")


def float_array(name: str, value: object) -> Array:
    """`value`, an array of real floating-point numbers, as a plain one; its numbers are not copied."""
    if type(value) is not np.ndarray:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"Expected {name} to be a NumPy array but got {type(value).__name__}")
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"Expected {name} to be an array without a mask but got {type(value).__name__}: "
                "fill it first, as with .filled(0)"
            )
        value = np.asarray(value)
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":  # which ml_dtypes brings, as a kind of its own
        raise TypeError(f"Expected {name} to be an array of floats but got dtype {value.dtype}")
    return value


def shown(value: object) -> str:
    """`value` on one line and not longer than a message can bear, whatever it is."""
    if isinstance(value, int) and value.bit_length() > WORDY:
        return f"an int of {value.bit_length()} bits"
    try:
        return " ".join(_shortened.repr(value).split())
    except Exception:  # what is in it cannot show itself
        return f"a {type(value).__name__} that cannot be printed"


def _int(name: str, value: object) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, (bool, np.bool_, np.ndarray)):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except Exception:  # whatever a stranger's __index__ raises, it gives no int
            pass
    raise TypeError(f"Expected {name} to be an int but got {_with_type(name, value)}")


def _float(name: str, value: object) -> float:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.timedelta64)):
        try:
            return float(value)
        except OverflowError:  # an int beyond all floats
            return math.inf if value > 0 else -math.inf
        except Exception:  # as above
            pass
    raise TypeError(f"Expected {name} to be a number but got {_with_type(name, value)}")


def _with_type(name: str, value: object) -> str:
    return f"{name}={shown(value)} (type {type(value).__name__})"
