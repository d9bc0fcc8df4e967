"""Odd values of every constructor argument and every attribute, and odd arrays to forward and backward.

Whatever it is, it is taken for what it says or refused by name, at once: no error of Python's or NumPy's own, no number
that is silently another's. `tests/test_refusals.py` has the ordinary refusals.
"""

import itertools
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import npnorm
from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, Normalization, RMSNorm
from tests.test_refusals import FRESH, KINDS, refused

SHAPE = (3, 4, 5)
X = np.ones
LARGEST = 2**63 - 1


class Mute:
    """Raises where it can."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    def __index__(self) -> int:
        raise KeyError("no number")


class Stubborn(float):
    def __float__(self) -> float:
        raise KeyError("no number")


# --- arguments --------------------------------------------------------------------------------------------------------

RIGHT: dict[str, dict[str, Any]] = {
    "GroupNorm": {"num_groups": 2, "num_channels": 4, "eps": 1e-5, "affine": True},
    "LayerNorm": {"normalized_shape": (4, 5), "eps": 1e-5, "elementwise_affine": True, "bias": True},
    "RMSNorm": {"normalized_shape": (4, 5), "eps": 1e-5, "elementwise_affine": True},
    "BatchNorm": {"num_features": 4, "eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True},
    "InstanceNorm": {"num_features": 4, "eps": 1e-5, "affine": True},
    "Normalization": {"parameter_shape": (4,), "eps": 1e-5, "gamma": True, "beta": False},
}
ARGUMENTS = [pytest.param(like, name, id=f"{like}-{name}") for like, right in RIGHT.items() for name in right]

ODD: list[Any] = [
    *(None, True, False, np.True_, "3", "", b"3", bytearray(b"44"), 1j, 1.5, 3.0, float("nan"), float("inf"), -1, 0),
    *(2**40, 2**62, 2**63, 2**70, -(2**70), 10**400, -(10**400), 10**5000, -(10**5000)),
    *(np.int64(3), np.uint64(2**63), np.float32(1e-3), np.float64("nan"), np.longdouble(2) ** 2000),
    *(np.timedelta64(3), np.datetime64("2020"), np.void(b"1"), Decimal("0.1"), Fraction(1, 10), Stubborn(0.5)),
    *(np.array(3), np.array(0.5), np.array([3]), np.array([4, 5]), np.array([[3]]), np.array([]), np.array([4.0])),
    *(np.ma.masked, np.ma.array([4, 5], mask=[0, 1]), np.array([4, None]), np.array("4"), np.array([4, 5], object)),
    *([], (), [4], (4, 5), [[4]], [4, 2.5], [4, True], ["4"], {4}, {4: 5}, deque([4, 5]), range(3, 5), range(10**30)),
    *([1] * 64, [1] * 65, [2] * 64, [2**40, 2**40], [2**70], (4, 0), (4, -(10**5000))),
    *(np.int8(4), object(), Mute(), [Mute()], int, len, ..., NotImplemented, memoryview(b"44")),
]


def outcome(act: Callable[[], Any]) -> Exception | None:
    """The refusal, if there is one; anything but a refusal is raised."""
    try:
        act()
    except (TypeError, ValueError, MemoryError, AttributeError) as error:
        return error
    return None


@pytest.mark.parametrize(("like", "name"), ARGUMENTS)
def test_an_odd_argument_is_taken_or_refused_by_name(like: str, name: str) -> None:
    """In one line that can be read; what it is taken for is what the layer then has."""
    make, taken = getattr(npnorm, like), 0
    for value in [*ODD, iter([4]), itertools.count(1)]:
        refusal = outcome(lambda value=value: make(**RIGHT[like] | {name: value}))
        if refusal is None:
            taken += 1
            continue
        text = str(refusal)
        assert text.startswith("Expected "), text
        assert name in text or isinstance(refusal, MemoryError), text
        assert " but got " in text
        assert len(text) < 300, len(text)
        assert "\n" not in text
    assert taken, "the test would pass if nothing were ever taken"


INT, NUMBER, ONE = "to be an int", "to be a number", "to be at least 1"
SIZES = ["num_groups", "num_channels", "normalized_shape", "num_features", "parameter_shape"]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (np.array(3), TypeError, "to be an int but got {name}=array(3) (type ndarray)"),
        (np.array([[3]]), TypeError, "to be an int but got {name}=array([[3]]) (type ndarray)"),
        ({4}, TypeError, "to be an int but got {name}={{4}} (type set)"),
        (2**70, ValueError, f"to be at most {LARGEST} but got {{name}}=1180591620717411303424"),
        (2**63, ValueError, f"to be at most {LARGEST} but got {{name}}=9223372036854775808"),
        (-(10**5000), ValueError, "to be at least 1 but got {name}=an int of 16610 bits"),
        (np.timedelta64(3), TypeError, "to be an int but got {name}=np.timedelta64(3) (type timedelta64)"),
    ],
    ids=["0-d", "2-d", "set", "2**70", "2**63", "-10**5000", "timedelta"],
)
@pytest.mark.parametrize(
    ("like", "name"), [row for row in ((like, name) for like in RIGHT for name in RIGHT[like]) if row[1] in SIZES]
)
def test_an_odd_size_is_refused(like: str, name: str, value: Any, error: type[Exception], text: str) -> None:
    make = getattr(npnorm, like)
    refused(lambda: make(**RIGHT[like] | {name: value}), error, f"Expected {name} {text.format(name=name)}")


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm])
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([1] * 65, ValueError, " to have at most 64 entries but got normalized_shape=[1, 1, 1, 1, 1, 1, ...]"),
        ([4, np.array(5)], TypeError, "[1] to be an int but got normalized_shape[1]=array(5) (type ndarray)"),
        ((4, 2**70), ValueError, f"[1] to be at most {LARGEST} but got normalized_shape[1]=1180591620717411303424"),
        (np.array([]), ValueError, " to have at least one entry but got normalized_shape=array([], dtype=float64)"),
        (np.array([4.0]), TypeError, "[0] to be an int but got normalized_shape[0]=np.float64(4.0) (type float64)"),
    ],
    ids=["65 entries", "0-d entry", "2**70", "empty array", "array of floats"],
)
def test_an_odd_normalized_shape_is_refused(layer: type, value: Any, error: type[Exception], text: str) -> None:
    refused(lambda: layer(value), error, f"Expected normalized_shape{text}")


EPS = "to be finite and at least 0 but got eps="
FRACTION = "to be from 0 to 1 but got momentum="


@pytest.mark.parametrize("how", ["argument", "attribute"])
@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("eps", 10**400, ValueError, EPS + "an int of 1329 bits"),
        ("eps", -(10**400), ValueError, EPS + "an int of 1329 bits"),
        ("eps", 10**5000, ValueError, EPS + "an int of 16610 bits"),
        ("eps", np.longdouble(2) ** 2000, ValueError, EPS + f"{np.longdouble(2) ** 2000!r}"),
        ("eps", np.nan, ValueError, EPS + "nan"),
        ("eps", -np.inf, ValueError, EPS + "-inf"),
        ("eps", -1e-300, ValueError, EPS + "-1e-300"),
        ("eps", np.array(1e-5), TypeError, "to be a number but got eps=array(1.e-05) (type ndarray)"),
        ("eps", True, TypeError, "to be a number but got eps=True (type bool)"),
        ("eps", "1e-5", TypeError, "to be a number but got eps='1e-5' (type str)"),
        ("eps", np.timedelta64(3), TypeError, "to be a number but got eps=np.timedelta64(3) (type timedelta64)"),
        ("eps", Stubborn(0.5), TypeError, "to be a number but got eps=0.5 (type Stubborn)"),
        ("momentum", 10**400, ValueError, FRACTION + "an int of 1329 bits"),
        ("momentum", 2**70, ValueError, FRACTION + "1180591620717411303424"),
        ("momentum", np.array(0.1), TypeError, "to be a number but got momentum=array(0.1) (type ndarray)"),
        ("momentum", False, TypeError, "to be a number but got momentum=False (type bool)"),
    ],
    ids=lambda value: None if isinstance(value, type) else f"{value!s:.20}" if not isinstance(value, int) else "int",
)
def test_an_odd_number_is_refused(name: str, value: Any, error: type[Exception], text: str, how: str) -> None:
    if how == "argument":
        refused(lambda: BatchNorm(4, **{name: value}), error, f"Expected {name} {text}")
    else:
        layer = BatchNorm(4)
        before = getattr(layer, name)
        refused(lambda: setattr(layer, name, value), error, f"Expected {name} {text}")
        assert getattr(layer, name) == before


# --- attributes -------------------------------------------------------------------------------------------------------

ARRAYS = [
    X(4, "f2"),
    X(4, ">f4"),
    X(4, int),
    X(4, complex),
    X(4, object),
    np.ma.ones(4),
    X((4, 1)),
    X(5),
    np.array(1.0),
]
ATTRIBUTES = ["gamma", "beta", "running_mean", "running_var", "num_batches_tracked", "training", "parameter_shape"]


@pytest.mark.parametrize("moment", ["before forward", "in eval mode", "before backward"])
@pytest.mark.parametrize("like", KINDS)
def test_an_odd_attribute_is_taken_or_refused_by_name(like: str, moment: str, normal: Callable[..., Any]) -> None:
    """When it is set, or, of arrays, by the next forward: a backward goes by what forward had."""
    x = normal(SHAPE, 1)
    for name in (*ATTRIBUTES, *RIGHT[like]):
        for value in [*ODD, *ARRAYS]:
            layer = FRESH[like][0]()
            if not hasattr(layer, name):
                continue
            if moment == "in eval mode" and like == "BatchNorm":
                layer.eval()
            layer.forward(x)
            expected = FRESH[like][0]()
            expected.training = getattr(layer, "training", True)
            expected.forward(x)
            refusal = outcome(lambda layer=layer, name=name, value=value: setattr(layer, name, value))
            if moment == "before backward":
                np.testing.assert_array_equal(layer.backward(x), expected.backward(x))
            elif refusal is None:
                refusal = outcome(lambda layer=layer: layer.forward(x))
                assert refusal or layer.backward(x).shape == SHAPE
            assert refusal is None or str(refusal).startswith(("Expected", "Expected running_mean and")), refusal
            assert refusal is None or name in str(refusal)


@pytest.mark.parametrize(
    ("layer", "name", "value", "text"),
    [
        (GroupNorm(2, 4), "num_groups", 4, "2, as the layer was made, but got num_groups=4"),
        (GroupNorm(2, 4), "num_channels", 8, "4, as the layer was made, but got num_channels=8"),
        (LayerNorm((4, 5)), "normalized_shape", 5, "(4, 5), as the layer was made, but got normalized_shape=(5,)"),
        (RMSNorm(5), "normalized_shape", 4, "(5,), as the layer was made, but got normalized_shape=(4,)"),
        (BatchNorm(4), "num_features", 3, "4, as the layer was made, but got num_features=3"),
        (InstanceNorm(4), "parameter_shape", (3,), "(4,), as the layer was made, but got parameter_shape=(3,)"),
    ],
    ids=lambda value: None if isinstance(value, (int, tuple)) else f"{value!s:.9}",
)
def test_a_size_stays_what_the_layer_was_made_for(layer: Any, name: str, value: Any, text: str) -> None:
    refused(lambda: setattr(layer, name, value), AttributeError, f"Expected {name} to stay {text}")
    setattr(layer, name, getattr(layer, name))


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("training", 1, TypeError, "a bool but got training=1 (type int)"),
        ("training", "no", TypeError, "a bool but got training='no' (type str)"),
        ("training", None, TypeError, "a bool but got training=None (type NoneType)"),
        ("track_running_stats", 0, TypeError, "a bool but got track_running_stats=0 (type int)"),
        ("num_batches_tracked", -1, ValueError, "at least 0 but got num_batches_tracked=-1"),
        ("num_batches_tracked", 1.0, TypeError, "an int but got num_batches_tracked=1.0 (type float)"),
        ("num_batches_tracked", None, TypeError, "an int but got num_batches_tracked=None (type NoneType)"),
    ],
)
def test_an_odd_mode_or_count_is_refused(name: str, value: Any, error: type[Exception], text: str) -> None:
    refused(lambda: setattr(BatchNorm(4), name, value), error, f"Expected {name} to be {text}")


def test_an_average_over_more_batches_than_a_float_counts(normal: Callable[..., Any]) -> None:
    layer = BatchNorm(4, momentum=None)
    layer.num_batches_tracked = 10**5000
    layer.forward(normal(SHAPE, 1))
    np.testing.assert_array_equal(layer.running_var, 1)


@pytest.mark.parametrize("like", KINDS)
def test_a_parameter_taken_away_has_no_gradient(like: str, normal: Callable[..., Any]) -> None:
    """Nor keeps the one of a pass that had it."""
    layer = FRESH[like][0]()
    layer.forward(normal(SHAPE, 1))
    layer.backward(normal(SHAPE, 2))
    layer.gamma = layer.beta = None
    layer.backward(normal(SHAPE, 2))
    assert layer.dgamma is not None
    layer.forward(normal(SHAPE, 1))
    layer.backward(normal(SHAPE, 2))
    assert layer.dgamma is None
    assert layer.dbeta is None
    assert layer.parameters() == []


def test_what_the_layers_have_in_common_is_no_layer() -> None:
    layer = Normalization((4,), 1e-5, True, True)
    text = "Expected one of the layers but got what they have in common"
    refused(lambda: layer.forward(X(SHAPE)), NotImplementedError, text)


# --- arrays -----------------------------------------------------------------------------------------------------------


class Renamed(np.ndarray):
    """An array that does nothing itself, and lies."""

    shape = property(lambda self: (1,))  # type: ignore[assignment]
    dtype = property(lambda self: np.dtype("int8"))  # type: ignore[assignment]

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not mine")

    def __array_function__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not mine")


class Duck:
    shape, dtype, ndim = SHAPE, np.dtype("float64"), 3

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return X(SHAPE)


MASKED = "an array without a mask but got MaskedArray: fill it first, as with .filled(0)"
FLOATS = "an array of floats but got dtype "
RECORDS = np.dtype([("a", "<i4"), ("b", "<f8")])
NO_ARRAYS: list[tuple[str, Callable[[], Any], str]] = [
    ("masked", lambda: np.ma.masked_greater(X(SHAPE), 0), MASKED),
    ("masked nowhere", lambda: np.ma.ones(SHAPE), MASKED),
    ("masked whole numbers", lambda: np.ma.ones(SHAPE, int), MASKED),
    ("strings", lambda: X(SHAPE).astype(str), f"{FLOATS}<U32"),
    ("bytes", lambda: X(SHAPE).astype(bytes), f"{FLOATS}|S32"),
    ("dates", lambda: np.zeros(SHAPE, "M8[s]"), f"{FLOATS}datetime64[s]"),
    ("durations", lambda: np.zeros(SHAPE, "m8[s]"), f"{FLOATS}timedelta64[s]"),
    ("half a complex", lambda: X(SHAPE, "complex64"), f"{FLOATS}complex64"),
    ("objects that are floats", lambda: X(SHAPE).astype(object), f"{FLOATS}object"),
    ("records", lambda: np.zeros(SHAPE, RECORDS), f"{FLOATS}{RECORDS}"),
    ("void", lambda: np.zeros(SHAPE, "V8"), f"{FLOATS}|V8"),
    ("a scalar of NumPy's", lambda: np.float64(1), "a NumPy array but got float64"),
    ("a duck", Duck, "a NumPy array but got Duck"),
    ("a memoryview", lambda: memoryview(X(SHAPE)), "a NumPy array but got memoryview"),
    ("a tensor", lambda: torch.ones(SHAPE), "a NumPy array but got Tensor"),
    ("a sparse tensor", lambda: torch.ones(SHAPE).to_sparse(), "a NumPy array but got Tensor"),
]


@pytest.mark.parametrize(("make", "text"), [pytest.param(*row[1:], id=row[0]) for row in NO_ARRAYS])
@pytest.mark.parametrize("like", KINDS)
def test_what_is_no_plain_array_of_floats_is_refused(
    like: str, make: Callable[[], Any], text: str, normal: Callable[..., Any]
) -> None:
    layer, alone = FRESH[like][0](), FRESH[like][0]()
    for one in (layer, alone):
        one.forward(normal(SHAPE, 1))
    refused(lambda: layer.forward(make()), TypeError, f"Expected x to be {text}")
    refused(lambda: layer.backward(make()), TypeError, f"Expected dy to be {text}")
    np.testing.assert_array_equal(layer.backward(normal(SHAPE, 2)), alone.backward(normal(SHAPE, 2)))


def in_file(array: np.ndarray, path: Path) -> np.ndarray:
    mapped = np.memmap(path / "array", array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped


def in_records(array: np.ndarray, path: Path) -> np.ndarray:
    records = np.zeros(array.shape, RECORDS)
    records["b"] = array
    return records["b"]


PLAIN: dict[str, Callable[[np.ndarray, Path], np.ndarray]] = {  # the same numbers
    "a subclass that lies": lambda array, path: array.view(Renamed),
    "a file": in_file,
    "a field of records": in_records,
    "another byte order": lambda array, path: array.astype(array.dtype.newbyteorder()),
    "unaligned": lambda array, path: np.frombuffer(b"x" + array.tobytes(), offset=1).reshape(array.shape),
    "every other in each axis": lambda array, path: np.repeat(array[::-1], 2, axis=2)[::-1, :, ::2],
    "a broadcast view": lambda array, path: np.broadcast_to(array, (2, *array.shape))[1],
}


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("like", KINDS)
def test_the_same_numbers_in_an_odd_array_give_the_same(
    like: str, make: Callable[..., np.ndarray], tmp_path: Path, normal: Callable[..., Any]
) -> None:
    x, dy = normal(SHAPE, 1), normal(SHAPE, 2)
    layer, plain = FRESH[like][0](), FRESH[like][0]()
    for found, expected in (
        (layer.forward(make(x, tmp_path)), plain.forward(x)),
        (layer.backward(make(dy, tmp_path)), plain.backward(dy)),
    ):
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_matrix_gives_an_array(normal: Callable[..., Any]) -> None:
    x = normal((4, 5), 1)
    for layer in (LayerNorm(5), RMSNorm((4, 5)), GroupNorm(1, 5), BatchNorm(5)):
        expected, dx = layer.forward(x), layer.backward(x)
        found = layer.forward(np.matrix(x))
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(layer.backward(np.matrix(x)), dx)
    layer = LayerNorm((4, 5))
    layer.gamma = np.matrix(x)
    layer.forward(x)
    assert layer.backward(x).shape == layer.dgamma.shape == x.shape


@pytest.mark.parametrize("like", KINDS)
def test_long_doubles_are_computed_as_such(like: str, normal: Callable[..., Any]) -> None:
    x, dy = normal(SHAPE, 1), normal(SHAPE, 2)
    layer, plain = FRESH[like][0](), FRESH[like][0]()
    for found, expected in (
        (layer.forward(x.astype(np.longdouble)), plain.forward(x)),
        (layer.backward(dy.astype(np.longdouble)), plain.backward(dy)),
    ):
        assert found.dtype == np.longdouble
        np.testing.assert_allclose(found.astype("float64"), expected, rtol=1e-13, atol=1e-14)
