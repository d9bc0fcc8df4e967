"""Properties of the kernel that a test of one layer on one array would not show: where it cuts, what it adds, what it
allocates, and whose memory it keeps.

The kernel works in tiles and adds in short runs. Here tiles and runs are made small, so that arrays of a few hundred
numbers have many, with all the ways to be cut; and once they are left as they are, under arrays that exceed them.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm, kernel, summing

Array = NDArray[Any]
Shape = tuple[int, ...]

TILE, RUN, ROWS, COMBINED, STRETCH = 24, 5, 3, 4, 3  # numbers, in place of the kernel's own

LAYERS: dict[str, tuple[Callable[[Shape], Any], int]] = {  # how to build it, and the least rank of x
    "GroupNorm": (lambda shape: GroupNorm(2, shape[1]), 2),
    "GroupNorm, one group": (lambda shape: GroupNorm(1, shape[1]), 2),
    "InstanceNorm": (lambda shape: InstanceNorm(shape[1], affine=True), 3),
    "LayerNorm": (lambda shape: LayerNorm(shape[1:]), 2),
    "LayerNorm, last axis": (lambda shape: LayerNorm(shape[-1]), 2),
    "RMSNorm": (lambda shape: RMSNorm(shape[1:]), 2),
    "BatchNorm": (lambda shape: BatchNorm(shape[1]), 2),
}

# Below, at and above a tile of 24, a run of 5 and 3 rows, along each axis in turn.
SHAPES = [(batch, 2, 2) for batch in (2, 5, 6, 7, 13)]
SHAPES += [(batch, 4) for batch in (2, 3, 4, 5, 6, 7, 9, 10, 28)]
SHAPES += [(3, channels) for channels in (2, 4, 6, 22, 24, 26, 50)]
SHAPES += [(2, 2, space) for space in (4, 5, 6, 9, 10, 11, 23, 24, 25, 49, 53)]
SHAPES += [(1, 2, 6, 4), (1, 2, 5, 5), (4, 6, 2, 2), (2, 26, 3), (7, 4, 7)]

everything = pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, id=f"{name}-{shape}")
        for name, (_, rank) in LAYERS.items()
        for shape in SHAPES
        if len(shape) >= rank
    ],
)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets the sizes that the kernel cuts by; what it remembers of other sizes is forgotten, before and after."""

    def forget() -> None:
        kernel.tiling.cache_clear()
        summing._runs.cache_clear()

    def by(**sizes: int) -> None:
        for name, size in sizes.items():
            monkeypatch.setattr(kernel if hasattr(kernel, name) else summing, name, size)
        forget()

    yield by
    forget()


@pytest.fixture
def small_tiles(cut: Callable[..., None]) -> None:
    cut(TILE=TILE, RUN=RUN, ROWS=ROWS, COMBINED=COMBINED, LARGE=0, STRETCH=STRETCH)


def build(name: str, shape: Shape, dtype: str = "float64") -> Any:
    layer = LAYERS[name][0](shape)
    rng = np.random.default_rng(5)
    for parameter in ("gamma", "beta"):
        value = getattr(layer, parameter)
        if value is not None:
            setattr(layer, parameter, rng.normal(1.0, 0.5, value.shape).astype(dtype))
    return layer


def answers(layer: Any, x: Array, dy: Array) -> dict[str, Array]:
    found = {"y": layer.forward(x), "dx": layer.backward(dy), "dgamma": layer.dgamma, "dbeta": layer.dbeta}
    found |= {name: getattr(layer, name, None) for name in ("running_mean", "running_var")}
    return {quantity: value for quantity, value in found.items() if value is not None}


def axes_of(name: str, shape: Shape) -> tuple[Shape, tuple[int, ...], tuple[int, ...], Shape]:
    """x's shape with groups apart, the axes that share a mean, those that share a gamma, gamma's shape among them."""
    inner = tuple(range(1, len(shape)))
    per_channel = (shape[1], *[1] * (len(shape) - 2))
    if name.startswith("GroupNorm"):
        groups = 1 if "one" in name else 2
        split = (shape[0], groups, shape[1] // groups, *shape[2:])
        return (
            split,
            tuple(range(2, len(split))),
            (0, *range(3, len(split))),
            (groups, shape[1] // groups, *per_channel[1:]),
        )
    match name:
        case "BatchNorm":
            return shape, (0, *inner[1:]), (0, *inner[1:]), per_channel
        case "InstanceNorm":
            return shape, inner[1:], (0, *inner[1:]), per_channel
        case "LayerNorm, last axis":
            return shape, inner[-1:], tuple(range(len(shape) - 1)), shape[-1:]
    return shape, inner, (0,), shape[1:]


def worst_errors(name: str, shape: Shape, layer: Any, x: Array, dy: Array) -> dict[str, float]:
    """The layer's errors in roundoffs of the sum of the magnitudes of an element's terms, against longdouble."""
    split, shared, summed, gamma_shape = axes_of(name, shape)
    wide_x, wide_dy = (array.astype(np.longdouble).reshape(split) for array in (x, dy))
    gamma = layer.gamma.astype(np.longdouble).reshape(gamma_shape)
    beta = 0 * gamma if layer.beta is None else layer.beta.astype(np.longdouble).reshape(gamma_shape)
    eps = np.longdouble(np.finfo(x.dtype).eps if layer.eps is None else layer.eps)

    def mean(array: Array) -> Array:
        return array.mean(shared, keepdims=True)

    centred = wide_x
    if name != "RMSNorm":
        centred = wide_x - mean(wide_x)
        centred = centred - mean(centred)
    rstd = 1 / np.sqrt(mean(centred**2) + eps)
    xhat = centred * rstd
    d = gamma * wide_dy
    level = mean(d) if name != "RMSNorm" else 0
    size = np.maximum(abs(xhat), 1)
    exact = {  # value, magnitude of its terms
        "y": (gamma * xhat + beta, abs(gamma) * size + abs(beta)),
        "dx": (rstd * (d - level - xhat * mean(d * xhat)), rstd * (abs(d) + mean(abs(d)) + size * mean(abs(d) * size))),
        "dgamma": ((wide_dy * xhat).sum(summed), (abs(wide_dy) * size).sum(summed)),
        "dbeta": (wide_dy.sum(summed), abs(wide_dy).sum(summed)),
    }
    roundoff = np.finfo(x.dtype).eps / 2
    found = answers(layer, x, dy)
    errors = {
        quantity: np.max(abs(found[quantity].reshape(value.shape) - value) / (roundoff * terms))
        for quantity, (value, terms) in exact.items()
        if quantity in found
    }
    return {quantity: np.inf if np.isnan(error) else float(error) for quantity, error in errors.items()}


# --- cutting ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("across_batch", [False, True])
@pytest.mark.parametrize(
    "shape", [(a, g, k, s) for a in (1, 7) for g in (1, 3) for k in (1, 4, 26) for s in (1, 5, 25, 49)]
)
def test_tiles_cover_the_array_once_and_parts_hold_their_statistics(shape: Shape, across_batch: bool) -> None:
    if across_batch:
        shape = (shape[0], 1, *shape[2:])
    tiling = kernel.Tiling(shape, across_batch)
    times, places = np.zeros(shape, int), np.arange(np.prod(shape)).reshape(shape)
    for part in tiling.parts:
        whole = np.zeros(shape, int)
        for tile, _, start in part:
            assert times[tile].size <= 2 * TILE + RUN
            if tiling.combines:
                assert np.array_equal(places[tile].reshape(-1), start + np.arange(places[tile].size)), (
                    "not in one piece"
                )
            times[tile] += 1
            whole[tile] = 1
        shares = whole.any(axis=(0, 1, 3)) if across_batch else whole.any(axis=(2, 3))
        assert whole.sum() == shares.sum() * tiling.count, "a part ends amid numbers that share statistics"
    assert (times == 1).all()


@everything
def test_the_answers_do_not_depend_on_the_tiles(
    name: str, shape: Shape, normal: Callable[..., Array], request: pytest.FixtureRequest
) -> None:
    x, dy = normal(shape, 1), normal(shape, 2)
    expected = answers(build(name, shape), x, dy)
    request.getfixturevalue("small_tiles")
    found = answers(build(name, shape), x, dy)
    assert found.keys() == expected.keys()
    for quantity, value in found.items():
        np.testing.assert_allclose(value, expected[quantity], rtol=1e-12, atol=1e-12, err_msg=quantity)


@pytest.mark.usefixtures("small_tiles")
@everything
def test_cut_anywhere_the_error_stays_small(name: str, shape: Shape, normal: Callable[..., Array]) -> None:
    for dtype in ("float32", "float64"):
        for mean in (0.9, 1e6):  # centred about zero, and about the mean
            x = (normal(shape, 3) + mean).astype(dtype)
            errors = worst_errors(name, shape, build(name, shape, dtype), x, normal(shape, 4, dtype))
            assert max(errors.values()) <= 16, (dtype, mean, errors)


# --- accuracy of what is really long ----------------------------------------------------------------------------------

LONG = [
    pytest.param("LayerNorm", (2, 70_001), id="a row beyond a tile, and no multiple of a run"),
    pytest.param("LayerNorm", (10_003, 8), id="many rows"),
    pytest.param("GroupNorm, one group", (1, 8, 96, 97), id="a group beyond a tile"),
    pytest.param("BatchNorm", (10_003, 8), id="columns"),
    pytest.param("BatchNorm", (40, 2, 50, 51), id="channels beyond a tile"),
]
DATA: dict[str, Callable[[Array], Array]] = {
    "mean 1e6": lambda z: z + 1e6,
    "mean almost a deviation": lambda z: z + 0.95,
    "deviation 3e-3": lambda z: 3e-3 * z,
    "deviation 3e-3, mean 3e3": lambda z: 3e-3 * z + 3e3,
    "two values": lambda z: np.where(z > 0, 0.1, 0.3),
    "all equal": lambda z: np.full_like(z, 0.1),
    "outliers": lambda z: np.where(np.arange(z.size).reshape(z.shape) % 997 == 0, 1e4, z),
    "in order": lambda z: np.sort(z, axis=None).reshape(z.shape),
    "magnitude 1e15": lambda z: 1e15 * z,
}


@pytest.mark.parametrize("upstream", ["of both signs", "positive", "all equal"])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("name", "shape"), LONG)
def test_long_sums_in_float32_stay_small(
    name: str, shape: Shape, data: str, upstream: str, normal: Callable[..., Array]
) -> None:
    """Naive sums lose hundreds of roundoffs here: those of positive numbers drift, those of equal ones all one way."""
    x = DATA[data](normal(shape, 5)).astype("float32")
    dy = {"of both signs": normal(shape, 6), "positive": abs(normal(shape, 6)), "all equal": np.full(shape, 0.1)}[
        upstream
    ]
    errors = worst_errors(name, shape, build(name, shape, "float32"), x, dy.astype("float32"))
    assert max(errors.values()) <= 16, errors


@pytest.mark.parametrize("shape", [(10_003, 64), (2, 64, 127), (2, 64, 32, 32), (2, 64, 45, 91)], ids=str)
def test_equal_terms_do_not_drift(shape: Shape, normal: Callable[..., Array]) -> None:
    """The sum of equal terms is where rounding errors agree in sign; 64 values, so that some of them are unlucky."""
    values = np.random.default_rng(12).uniform(0.5, 1, 64).astype("float32")
    dy = np.broadcast_to(values.reshape(1, 64, *[1] * (len(shape) - 2)), shape)
    for layer in (BatchNorm(64), GroupNorm(8, 64)):
        layer.forward(normal(shape, 5, "float32"))
        layer.backward(dy)
        exact = values.astype("float64") * (dy.size // 64)
        error = np.max(abs(layer.dbeta / exact - 1)) * 2**24
        assert error <= 16


def test_the_sums_of_many_tiles_do_not_drift(cut: Callable[..., None]) -> None:
    """Hundreds of tiles, each with the same sum: adding those up in float32 would round the same way each time."""
    cut(TILE=1 << 10)
    shape = (3, 8, 96, 1001)
    x = np.random.default_rng(11).normal(size=shape).astype("float32")
    errors = worst_errors("BatchNorm", shape, build("BatchNorm", shape, "float32"), x, np.full_like(x, 0.7))
    assert max(errors.values()) <= 16, errors


@pytest.mark.parametrize("name", ["GroupNorm", "LayerNorm"])
def test_the_gradients_of_many_parts_do_not_drift(name: str, cut: Callable[..., None]) -> None:
    """The same where the parts hold their statistics whole, and share gamma and beta alone."""
    cut(TILE=1 << 6)
    shape = (6000, 8, 2, 2)
    x = np.random.default_rng(12).normal(size=shape).astype("float32")
    errors = worst_errors(name, shape, build(name, shape, "float32"), x, np.full_like(x, 0.7))
    assert max(errors.values()) <= 16, errors


@pytest.mark.usefixtures("small_tiles")
def test_an_infinity_is_the_mean_of_its_channel() -> None:
    """And y of that channel is NaN; the channels beside it, in the same part or not, do not notice."""
    shape = (6, 5, 7)
    x = np.random.default_rng(12).normal(size=shape)
    expected = build("BatchNorm", shape)
    y = expected.forward(x)
    x[3, 1, 2], x[0, 4, 0] = np.inf, -np.inf
    layer = build("BatchNorm", shape)
    found = layer.forward(x)
    others = [0, 2, 3]
    assert layer.running_mean[1] == np.inf
    assert layer.running_mean[4] == -np.inf
    assert np.isnan(found[:, [1, 4]]).all()
    np.testing.assert_allclose(found[:, others], y[:, others], rtol=1e-13)
    np.testing.assert_allclose(layer.running_mean[others], expected.running_mean[others], rtol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 / 3])
def test_equal_numbers_have_no_variance_at_all(name: str, value: float) -> None:
    """With eps 0 that is 0 / 0: NaN, as in torch, and not some number made of roundoff."""
    if name == "RMSNorm":
        return
    shape = (6, 8, 7)
    for dtype in ("float32", "float64"):
        layer = build(name, shape, dtype)
        layer.eps = 0.0
        assert np.isnan(layer.forward(np.full(shape, value, dtype))).all()


# --- memory -----------------------------------------------------------------------------------------------------------

LARGE: dict[str, Shape] = {
    "GroupNorm": (8, 16, 64, 64),
    "GroupNorm, one group": (1, 8, 256, 256),
    "InstanceNorm": (2, 4, 256, 256),
    "LayerNorm": (512, 1024),
    "LayerNorm, last axis": (512, 1024),
    "RMSNorm": (512, 1024),
    "BatchNorm": (512, 1024),
}


def peak(work: Callable[[], Array]) -> tuple[int, Array]:
    tracemalloc.start()
    try:
        result = work()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", LARGE)
def test_no_full_size_temporaries(name: str, normal: Callable[..., Array], cut: Callable[..., None]) -> None:
    """Forward makes y and what backward needs, once; backward makes dx. The rest is a tile's product, and tiles' sums."""
    cut(TILE=1 << 15)
    shape = LARGE[name]
    x = normal(shape, 7, "float32")
    layer = build(name, shape, "float32")
    tiles = 3 * 4 * kernel.TILE
    assert 5 * tiles <= x.nbytes
    first, _ = peak(lambda: layer.forward(x))
    second, _ = peak(lambda: layer.forward(x))
    backward, _ = peak(lambda: layer.backward(x))
    assert first <= 2 * x.nbytes + tiles
    assert second <= x.nbytes + tiles, "what backward needs did not go where the last forward had it"
    assert backward <= x.nbytes + tiles


@pytest.mark.parametrize("tiles", ["as they are", "small"])
@pytest.mark.parametrize("shape", [(1, 4, 2), (6, 4, 5), (64, 32, 64)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_nothing_is_shared_with_the_caller(name: str, shape: Shape, tiles: str, cut: Callable[..., None]) -> None:
    """Whatever the caller does to its arrays between and after the calls, the answers are those of the first time."""
    if tiles == "small":
        cut(TILE=max(TILE, shape[0] * shape[1] * shape[2] // 5), COMBINED=COMBINED, LARGE=0)
    rng = np.random.default_rng(8)
    x, dy = rng.normal(size=(2, *shape))
    layer = build(name, shape)
    expected = {quantity: value.copy() for quantity, value in answers(build(name, shape), x.copy(), dy.copy()).items()}
    y = layer.forward(x)
    np.testing.assert_array_equal(y, expected["y"])
    for mine in (x, y, layer.gamma, layer.beta):
        if mine is not None:
            mine[...] = 7.0
    for _ in range(2):
        upstream = dy.copy()
        dx = layer.backward(upstream)
        upstream[...] = 9.0
        for quantity, value in (("dx", dx), ("dgamma", layer.dgamma), ("dbeta", layer.dbeta)):
            if value is not None:
                np.testing.assert_array_equal(value, expected[quantity], err_msg=quantity)
                value[...] = 5.0


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("shape", "across_batch"), [((5, 2, 3, 7), False), ((5, 1, 20, 1), False), ((5, 1, 8, 7), True)]
)
def test_what_was_in_the_memory_before_is_no_part_of_the_answer(shape: Shape, across_batch: bool) -> None:
    """Fresh memory may hold anything, NaN included, which times 0 is NaN."""
    tiling = kernel.Tiling(shape, across_batch)
    x, dy = np.random.default_rng(13).normal(size=(2, *shape))
    found = []
    for before in (0.0, np.nan):
        memory, y, dx = np.full(tiling.memory, before), np.full(shape, before), np.full(shape, before)
        statistics = kernel.normalize(x, y, memory, tiling, None, None, 1e-5)
        gradients = kernel.gradients(dy, dx, memory, tiling, None, statistics)
        found.append((y, dx, gradients.dgamma, gradients.dbeta))
    for clean, spoilt in zip(*found, strict=True):
        np.testing.assert_array_equal(clean, spoilt)


@pytest.mark.parametrize("name", LAYERS)
def test_the_results_are_two_arrays_each_time(name: str) -> None:
    shape = (64, 32, 64)
    layer = build(name, shape)
    x = np.random.default_rng(9).normal(size=shape)
    results = [layer.forward(x), layer.forward(x), layer.backward(x), layer.backward(x)]
    for i, one in enumerate(results):
        assert one.flags.c_contiguous
        assert one.flags.writeable
        assert not np.shares_memory(one, x)
        assert not any(np.shares_memory(one, other) for other in results[:i])


def test_large_arrays_start_on_a_cache_line() -> None:
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        held = [kernel.room((3, 5, 1 + 7000 * i), dtype) for i in range(1, 9)]
        assert all(array.ctypes.data % kernel.CACHE_LINE == 0 for array in held)
        assert all(array.shape == (3, 5, 1 + 7000 * i) for i, array in enumerate(held, 1))


def test_the_buffer_of_numpy_is_as_it_was() -> None:
    """The kernel asks NumPy for a short buffer while it works on long rows, and must not leave it so."""
    before = np.getbufsize()
    layer = LayerNorm(2048)
    layer.backward(layer.forward(np.random.default_rng(10).normal(size=(64, 2048))))
    assert np.getbufsize() == before


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "raises"])
@pytest.mark.parametrize(("shape", "across_batch"), [((4, 1, 600, 1), False), ((2, 1, 3, 600), True)], ids=str)
def test_called_directly_the_kernel_leaves_numpy_as_it_was(
    shape: Shape, across_batch: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its short buffer does not depend on the caller to be undone."""
    tiling = kernel.tiling(shape, across_batch)
    x, dy = np.random.default_rng(10).normal(size=(2, *shape))
    memory, y, dx = np.empty(tiling.memory), np.empty(shape), np.empty(shape)
    with np.errstate():
        statistics = kernel.normalize(x, y, memory, tiling, None, None, 1e-5)
    y.flags.writeable = dx.flags.writeable = not fails

    during: list[int] = []
    divided = kernel._divided
    monkeypatch.setattr(kernel, "_divided", lambda *of: during.append(np.getbufsize()) or divided(*of))
    for call in (
        lambda: kernel.normalize(x, y, memory, tiling, None, None, 1e-5),
        lambda: kernel.gradients(dy, dx, memory, tiling, None, statistics),
    ):
        with np.errstate(over="raise", under="warn"):
            np.setbufsize(4096)
            before = np.geterr()
            with pytest.raises(ValueError, match="read-only") if fails else nullcontext():
                call()
            assert np.getbufsize() == 4096
            assert np.geterr() == before
            assert during.pop() < 4096, "the rows are long, and yet the buffer was as ever"
