"""Layers in a bad position: copied amid a pass, with running statistics that cannot follow, or given a view of more
numbers than memory holds. They answer rightly or refuse, and what is refused changes nothing.

`tests/test_refusals.py` has the ordinary refusals, `tests/test_odd_values.py` what is set and passed that is odd.
"""

import copy
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm, machine
from npnorm import layer as layer_module
from tests.test_refusals import FRESH, KINDS, refused

SHAPE = (3, 4, 5)
X = np.ones

# --- copies -----------------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}
copied = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)


def gradients(layer: Any, dy: np.ndarray) -> list[np.ndarray]:
    return [layer.backward(dy), *(array for array in (layer.dgamma, layer.dbeta) if array is not None)]


def expected_of(like: str, x: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    """The gradients of a layer that nobody copied."""
    layer = FRESH[like][0]()
    layer.forward(x)
    return gradients(layer, dy)


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, right)


@copied
@pytest.mark.parametrize("first", ["original", "copy"])
@pytest.mark.parametrize("like", KINDS)
def test_a_pass_of_the_copy_leaves_that_of_the_original(
    like: str, first: str, make: Callable[[Any], Any], normal: Callable[..., Any]
) -> None:
    layer = FRESH[like][0]()
    x, other, dy = (normal(SHAPE, seed) for seed in (1, 2, 3))
    layer.forward(x)
    twin = make(layer)
    assert type(twin) is type(layer)
    twin.forward(other)
    right = [(layer, expected_of(like, x, dy)), (twin, expected_of(like, other, dy))]
    for one, expected in right if first == "original" else reversed(right):
        same(gradients(one, dy), expected)


@copied
@pytest.mark.parametrize("like", KINDS)
def test_a_copy_goes_on_from_the_forward_of_the_original(
    like: str, make: Callable[[Any], Any], normal: Callable[..., Any]
) -> None:
    """Without a forward of its own, also after the original has had others."""
    layer = FRESH[like][0]()
    x, other, dy = (normal(SHAPE, seed) for seed in (1, 2, 3))
    layer.forward(x)
    twin = make(layer)
    same(gradients(twin, dy), expected_of(like, x, dy))
    for again in (other, x, other):
        layer.forward(again)
    same(gradients(twin, dy), expected_of(like, x, dy))
    same(gradients(layer, dy), expected_of(like, other, dy))


@copied
@pytest.mark.parametrize("like", KINDS)
def test_a_copy_of_a_layer_without_a_forward_has_none(like: str, make: Callable[[Any], Any]) -> None:
    text = "Expected a forward pass before backward but there was none"
    refused(lambda: make(FRESH[like][0]()).backward(X(SHAPE)), RuntimeError, text)


@copied
@pytest.mark.parametrize("like", KINDS)
def test_parameters_are_shared_by_a_shallow_copy_alone_and_gradients_by_none(
    like: str, make: Callable[[Any], Any], normal: Callable[..., Any]
) -> None:
    layer = FRESH[like][0]()
    layer.forward(normal(SHAPE, 1))
    layer.backward(normal(SHAPE, 2))
    twin = make(layer)
    for name in ("gamma", "beta"):
        own = getattr(layer, name)
        assert (getattr(twin, name) is own) == (make is copy.copy or own is None)
        gradient = getattr(layer, f"d{name}")
        if gradient is not None:
            before = gradient.copy()
            getattr(twin, f"d{name}")[...] = 7
            np.testing.assert_array_equal(gradient, before)


@copied
def test_a_copy_has_running_statistics_of_its_own(make: Callable[[Any], Any], normal: Callable[..., Any]) -> None:
    layer, alone = BatchNorm(4), BatchNorm(4)
    for one in (layer, alone):
        one.forward(normal(SHAPE, 1))
    twin = make(layer)
    twin.forward(normal(SHAPE, 2))
    assert (layer.num_batches_tracked, twin.num_batches_tracked) == (1, 2)
    np.testing.assert_array_equal(layer.running_mean, alone.running_mean)
    np.testing.assert_array_equal(layer.running_var, alone.running_var)
    alone.forward(normal(SHAPE, 2))
    np.testing.assert_array_equal(twin.running_mean, alone.running_mean)
    np.testing.assert_array_equal(twin.running_var, alone.running_var)


def test_a_subclass_with_slots_is_copied_whole(normal: Callable[..., Any]) -> None:
    class Slotted(LayerNorm):
        __slots__ = ("note",)

    layer = Slotted(5)
    layer.note = ["mine"]
    layer.forward(normal(SHAPE, 1))
    twin = copy.copy(layer)
    assert twin.note is layer.note
    twin.forward(normal(SHAPE, 2))
    np.testing.assert_array_equal(layer.backward(normal(SHAPE, 3)), expected_of_last_axis(normal))


def expected_of_last_axis(normal: Callable[..., Any]) -> np.ndarray:
    layer = LayerNorm(5)
    layer.forward(normal(SHAPE, 1))
    return layer.backward(normal(SHAPE, 3))


# --- running statistics that cannot follow ----------------------------------------------------------------------------


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


NO_FLOATS = "an array of floats but got dtype"
STATISTICS: list[tuple[str, Any, type[Exception], str]] = [
    ("read-only", read_only(X(4)), ValueError, "to be writeable but got a read-only array"),
    ("a broadcast view", np.broadcast_to(1.0, 4), ValueError, "to be writeable but got a read-only array"),
    ("whole numbers", X(4, np.int64), TypeError, f"to be {NO_FLOATS} int64"),
    ("bools", X(4, bool), TypeError, f"to be {NO_FLOATS} bool"),
    ("complex", X(4, complex), TypeError, f"to be {NO_FLOATS} complex128"),
    ("objects", X(4, object), TypeError, f"to be {NO_FLOATS} object"),
    ("a list", [1.0] * 4, TypeError, "to be a NumPy array but got list"),
    ("a number", 1.0, TypeError, "to be a NumPy array but got float"),
    ("too short", X(3), ValueError, "to have shape (4,) but got (3,)"),
    ("a column", X((4, 1)), ValueError, "to have shape (4,) but got (4, 1)"),
    ("a single one", X(1), ValueError, "to have shape (4,) but got (1,)"),
    (
        "masked",
        np.ma.ones(4),
        TypeError,
        "to be an array without a mask but got MaskedArray: fill it first, as with .filled(0)",
    ),
]


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize(("value", "error", "text"), [pytest.param(*row[1:], id=row[0]) for row in STATISTICS])
def test_statistics_that_cannot_follow_are_refused_before_anything_follows(
    name: str, value: Any, error: type[Exception], text: str, normal: Callable[..., Any]
) -> None:
    layer = BatchNorm(4)
    layer.forward(normal(SHAPE, 1))
    other = "running_var" if name == "running_mean" else "running_mean"
    before, own = getattr(layer, other).copy(), getattr(layer, name)
    setattr(layer, name, value)
    refused(lambda: layer.forward(normal(SHAPE, 2)), error, f"Expected {name} {text}")
    assert layer.num_batches_tracked == 1
    np.testing.assert_array_equal(getattr(layer, other), before)
    assert getattr(layer, name) is value
    setattr(layer, name, own)
    np.testing.assert_array_equal(
        layer.backward(normal(SHAPE, 3)), expected_of("BatchNorm", normal(SHAPE, 1), normal(SHAPE, 3))[0]
    )


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
def test_one_running_statistic_without_the_other_is_refused(name: str, training: bool) -> None:
    layer = BatchNorm(4).train(training)
    setattr(layer, name, None)
    text = f"Expected running_mean and running_var to be arrays, or both None, but got {name}=None"
    refused(lambda: layer.forward(X(SHAPE)), ValueError, text)


def test_one_array_for_both_statistics_is_refused() -> None:
    layer = BatchNorm(4)
    layer.running_var = layer.running_mean
    text = "Expected running_mean and running_var to be two arrays but got one for both"
    refused(lambda: layer.forward(X(SHAPE)), ValueError, text)


def test_where_nothing_follows_read_only_statistics_will_do(normal: Callable[..., Any]) -> None:
    """In eval mode, and where following was switched off, as in torch by the same attribute."""
    layer, x = BatchNorm(4), normal(SHAPE, 1)
    layer.running_mean, layer.running_var = read_only(X(4)), read_only(X(4))
    assert layer.eval().forward(x).shape == SHAPE
    layer.train().track_running_stats = False
    np.testing.assert_array_equal(layer.forward(x), BatchNorm(4).forward(x))
    assert layer.num_batches_tracked == 0


# --- more than memory holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("like", KINDS)
def test_a_view_of_more_numbers_than_memory_holds_is_refused(like: str, dtype: str) -> None:
    """At once: such a view takes no memory, and what is computed of it takes all."""
    x = np.broadcast_to(np.ones((4, 5), dtype), (10**12, 4, 5))
    bytes_each = 8 if dtype == "float64" else 4  # float16 is computed in float32
    text = (
        r"Expected y and what backward needs to fit into the \d+ bytes of memory that can be had but got x of shape "
        rf"\(1000000000000, 4, 5\), for which they take {2 * 20 * 10**12 * bytes_each} bytes"
    )
    layer = FRESH[like][0]()
    layer.forward(X(SHAPE))
    with pytest.raises(MemoryError, match=f"^{text}$"):
        layer.forward(x)
    np.testing.assert_array_equal(layer.backward(X(SHAPE)), expected_of(like, X(SHAPE), X(SHAPE))[0])
    refused(
        lambda: layer.backward(x),
        ValueError,
        f"Expected dy to have the shape of y, {SHAPE}, but got (1000000000000, 4, 5)",
    )


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes there are, and that the fewest are worth a look."""

    def there_are(number: int) -> None:
        monkeypatch.setattr(layer_module, "SMALL", 0)
        monkeypatch.setattr(machine, "SMALL", 0)
        monkeypatch.setattr(machine, "available", lambda: number)

    return there_are


def test_what_just_fits_is_computed(scarce: Callable[[int], None], normal: Callable[..., Any]) -> None:
    """And what backward needs is counted once: the next forward of the same shape has it already."""
    layer, x = LayerNorm(5), normal(SHAPE, 1)
    scarce(2 * x.nbytes - 1)
    with pytest.raises(MemoryError, match=f"fit into the {2 * x.nbytes - 1} bytes .* take {2 * x.nbytes} bytes$"):
        layer.forward(x)
    scarce(2 * x.nbytes)
    layer.forward(x)
    scarce(x.nbytes)
    layer.forward(x)
    with pytest.raises(MemoryError, match="x of shape"):
        layer.forward(normal((3, 3, 5), 1))
    with pytest.raises(MemoryError, match="x of shape"):
        layer.forward(x.astype("float32").repeat(2, 0))


def test_the_wider_pass_is_refused_where_it_does_not_fit(scarce: Callable[[int], None]) -> None:
    layer, x = LayerNorm(5), np.array([[-3e38, 3e38, 0, 0, 0]], "float32")
    scarce(2 * x.nbytes)
    with pytest.raises(MemoryError, match=f"take {4 * x.nbytes} bytes$"):
        layer.forward(x)


@pytest.mark.parametrize(
    ("make", "what", "got", "arrays"),
    [
        (lambda n: LayerNorm(n), "the parameters", "the shape ({n},)", 2),
        (lambda n: LayerNorm(n, bias=False), "the parameters", "the shape ({n},)", 1),
        (lambda n: RMSNorm((n, 1)), "the parameters", "the shape ({n}, 1)", 1),
        (lambda n: GroupNorm(1, n), "the parameters", "the shape ({n},)", 2),
        (lambda n: InstanceNorm(n, affine=True), "the parameters", "the shape ({n},)", 2),
        (lambda n: BatchNorm(n), "parameters and running statistics", "num_features={n}", 4),
        (lambda n: BatchNorm(n, affine=False), "parameters and running statistics", "num_features={n}", 2),
    ],
)
@pytest.mark.parametrize("n", [2**40, 2**62])
def test_parameters_that_memory_does_not_hold_are_refused(make: Any, what: str, got: str, arrays: int, n: int) -> None:
    start, end = f"Expected {what} to fit into the ", f"for which they take {8 * arrays * n} bytes"
    text = rf"{start}\d+ bytes of memory that can be had but got {re.escape(got.format(n=n))}, {end}"
    with pytest.raises(MemoryError, match=f"^{text}$"):
        make(n)


PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
TABLE = "MemTotal: 900 kB\nMemAvailable:      300 kB\nSwapTotal: 90 kB\nSwapFree:   20 kB\n"


@pytest.mark.parametrize(
    ("table", "limits", "expected"),
    [
        pytest.param(TABLE, ("max",), 320 * 1024, id="Linux"),
        pytest.param(TABLE, ("max\n", "100000\n"), 100_000, id="a container with a limit"),
        pytest.param(TABLE, ("9223372036854771712",), 320 * 1024, id="a container without"),
        pytest.param("MemAvailable: kB", (), PHYSICAL, id="no table"),
    ],
)
def test_what_can_be_had(
    table: str, limits: tuple[str, ...], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / str(i) for i in range(3)]
    for path, text in zip(paths, (table, *limits), strict=False):
        path.write_text(text)
    monkeypatch.setattr(machine, "MEMINFO", str(paths[0]))
    monkeypatch.setattr(machine, "LIMITS", tuple(map(str, paths[1:])))
    assert machine.available() == expected


def test_where_nobody_says_what_can_be_had_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(machine, "MEMINFO", str(tmp_path))
    monkeypatch.setattr(machine, "LIMITS", ())
    assert machine.available() is None
    machine.refuse_beyond(10**30, "it", "that")
