"""Numbers near the largest of their dtype: their squares and sums leave its range, and the answers do not.

The layers then compute in a wider dtype. Where that is so must cost nothing where it is not, and NaN and inf that came
with the input stay what they are in torch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import npnorm
from npnorm import BatchNorm, InstanceNorm, LayerNorm, RMSNorm, kernel, summing
from npnorm import layer as layer_module
from reference.truth import torch_layers
from tests.test_kernel import LAYERS, Array, answers, build, worst_errors

WIDER = np.finfo(np.longdouble).maxexp > np.finfo(np.float64).maxexp
DTYPES = [
    "float32",
    pytest.param("float64", marks=pytest.mark.skipif(not WIDER, reason="nothing is wider than float64")),
]
SHAPE = (6, 4, 5)

# x from a z of +-1: where squares overflow, where sums do, where differences do, and far from zero
SIZES: dict[str, Callable[[Array, float], Array]] = {
    "twice the root of the largest": lambda z, largest: 2 * largest**0.5 * z,
    "half the largest": lambda z, largest: largest / 2 * z,
    "the largest": lambda z, largest: largest * z,
    "half the largest, all of one sign": lambda z, largest: largest / 2 * (1 + z / 8),
    "tiny rows beside": lambda z, largest: z * np.where(np.arange(6) % 2, largest / 2, largest**-0.25)[:, None, None],
}


@pytest.fixture
def z() -> Array:
    """Numbers from -1 to 1, some of them both."""
    found = np.random.default_rng(1).uniform(-1, 1, SHAPE)
    found[:, :, :2] = np.sign(found[:, :, :2])
    return found


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(kernel, "TILE", 24)
    monkeypatch.setattr(kernel, "COMBINED", 4)
    monkeypatch.setattr(kernel, "LARGE", 0)
    monkeypatch.setattr(summing, "RUN", 5)
    kernel.tiling.cache_clear()
    summing._runs.cache_clear()
    yield
    kernel.tiling.cache_clear()
    summing._runs.cache_clear()


def largest(dtype: str) -> float:
    return float(np.finfo(dtype).max)


@pytest.mark.parametrize("tiles", ["one", "many"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LAYERS)
def test_the_answers_are_exact(
    name: str, size: str, dtype: str, tiles: str, z: Array, request: pytest.FixtureRequest
) -> None:
    """Rounded once, from the wider dtype. dy is large, so that dx is not below the smallest number."""
    if tiles == "many":
        request.getfixturevalue("small_tiles")
    x = SIZES[size](z, largest(dtype)).astype(dtype)
    dy = (np.random.default_rng(2).normal(size=SHAPE) * largest(dtype) ** 0.5).astype(dtype)
    errors = worst_errors(name, SHAPE, build(name, SHAPE, dtype), x, dy)
    assert max(errors.values()) <= 2, errors


HALVES = np.where(np.arange(6) < 3, 1, -1)[:, None, None]
ROWS = ("LayerNorm", "LayerNorm, last axis", "RMSNorm")  # where rows share a mean and columns a gamma
UPSTREAM: dict[str, tuple[Callable[[Array], Array], tuple[str, ...]]] = {  # dy from such a z, in the largest number
    "of both signs": (lambda z: z / 40, tuple(LAYERS)),
    "of one sign": (lambda z: (4 + z) / 160, tuple(LAYERS)),
    "large in one row": (lambda z: np.where(np.arange(24).reshape(6, 4, 1) == 18, 1 / 3, z / 1000), ROWS),
    "cancelling in columns": (lambda z: HALVES * [1e-3, 0.5, -0.5, 0.5, -0.5] * np.ones(SHAPE), ROWS),
}


@pytest.mark.parametrize("tiles", ["one", "many"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "dy"), [(name, dy) for dy, (_, names) in UPSTREAM.items() for name in names])
def test_an_upstream_gradient_may_be_as_large(
    name: str, dy: str, dtype: str, tiles: str, z: Array, request: pytest.FixtureRequest
) -> None:
    """Each sum of it may overflow alone: those over what shares a mean, and those over what shares a gamma."""
    if tiles == "many":
        request.getfixturevalue("small_tiles")
    x = (3 * np.random.default_rng(3).normal(size=SHAPE)).astype(dtype)
    if dy == "cancelling in columns":
        x[...] = x[0, 0]  # so that dgamma cancels too
    upstream = (UPSTREAM[dy][0](z) * largest(dtype)).astype(dtype)
    errors = worst_errors(name, SHAPE, build(name, SHAPE, dtype), x, upstream)
    assert max(errors.values()) <= 16, errors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_gamma_times_an_upstream_gradient_may_overflow(name: str, dtype: str, normal: Callable[..., Array]) -> None:
    """Where what they are multiplied with brings them back."""
    tenth = largest(dtype) ** 0.1
    x, dy = ((normal(SHAPE, i) * size).astype(dtype) for i, size in ((1, tenth), (2, tenth**4)))
    layer = build(name, SHAPE, dtype)
    layer.gamma = (layer.gamma * tenth**6.2).astype(dtype)
    errors = worst_errors(name, SHAPE, layer, x, dy)
    assert max(errors.values()) <= 16, errors


OPTIONS: dict[str, dict[str, Any]] = {
    "GroupNorm": {"num_groups": 2, "num_channels": 4},
    "LayerNorm": {"normalized_shape": 5},
    "RMSNorm": {"normalized_shape": 5, "eps": 1e-5},
    "BatchNorm": {"num_features": 4},
    "InstanceNorm": {"num_features": 4, "affine": True},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("like", OPTIONS)
def test_float32_is_what_torch_gives_in_float64(like: str, size: str, z: Array) -> None:
    x = SIZES[size](z, largest("float32")).astype("float32")
    dy = (np.random.default_rng(2).normal(size=SHAPE) * largest("float32") ** 0.5).astype("float32")
    found = answers(getattr(npnorm, like)(**OPTIONS[like]), x, dy)
    expected = answers(torch_layers.LAYERS[like](**OPTIONS[like]), x.astype("float64"), dy.astype("float64"))
    for name in ("y", "dx", "dgamma", "dbeta"):
        if name in expected:
            scale = np.max(abs(expected[name]))
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_running_statistics_follow(size: str, z: Array) -> None:
    """In float64, which holds the variance of any float32; in eval mode they are what is computed with."""
    x = SIZES[size](z, largest("float32")).astype("float32")
    layer = BatchNorm(4)
    layer.forward(x)
    wide = x.astype("float64")
    np.testing.assert_allclose(layer.running_mean, 0.1 * wide.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * wide.var((0, 2), ddof=1), rtol=1e-6)
    mean, std = layer.running_mean[:, None], np.sqrt(layer.running_var[:, None] + layer.eps)
    dy = np.full(SHAPE, 1e30, "float32")
    np.testing.assert_allclose(layer.eval().forward(x), (wide - mean) / std, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.backward(dy), dy / std, rtol=1e-6)


def test_in_eval_mode_a_difference_may_overflow() -> None:
    layer = BatchNorm(2).eval()
    x = np.full((3, 2), 3e38, "float32")
    layer.running_mean, layer.running_var = x[0] * [-1.0, 1.0], np.array([1e38, 1e38])
    np.testing.assert_allclose(layer.forward(x), [[6e19, 0]] * 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_statistics_overflow_as_in_torch(dtype: str, z: Array) -> None:
    layer = BatchNorm(4)
    layer.running_mean, layer.running_var = np.zeros(4, dtype), np.ones(4, dtype)
    layer.forward((largest(dtype) / 2 * z).astype(dtype))
    assert np.isfinite(layer.running_mean).all()
    assert np.isinf(layer.running_var).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(("layer", "spoilt"), [(LayerNorm(5), (2, 3)), (RMSNorm(5), (2, 3)), (InstanceNorm(4), (2, 3)),
                                               (BatchNorm(4), (slice(None), 3))], ids=lambda it: type(it).__name__)  # fmt: skip
def test_what_is_no_number_spoils_its_own_alone(layer: Any, spoilt: Any, value: float, z: Array) -> None:
    """Beside it numbers that overflow are normalized all the same."""
    x = (largest("float32") / 2 * z).astype("float32")
    expected, dx = layer.forward(x), layer.backward(np.ones_like(x))
    x[2, 3, 1] = value
    y = layer.forward(x)
    others = np.ones(SHAPE, bool)
    others[spoilt] = False
    assert not np.isfinite(y[2, 3, 1])
    np.testing.assert_array_equal(y[others], expected[others])
    np.testing.assert_array_equal(layer.backward(np.ones_like(x))[others], dx[others])


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the kernel is asked for, and in which dtype."""
    seen = []
    for name in ("normalize", "gradients"):
        work = getattr(kernel, name)
        monkeypatch.setattr(
            kernel, name, lambda x, *rest, n=name, w=work: seen.append((n, str(x.dtype))) or w(x, *rest)
        )
    return seen


@pytest.mark.parametrize("data", ["ordinary", "nan", "all nan", "inf", "infinite dy", "far from zero", "constant"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_does_not_overflow_is_computed_once(name: str, data: str, passes: list, z: Array) -> None:
    x, dy = z.astype("float32"), z.astype("float32")
    at = slice(None) if data == "all nan" else (2, 3, 1)
    match data:
        case "nan" | "all nan" | "inf":
            x[at] = np.inf if data == "inf" else np.nan
        case "infinite dy":
            dy[at] = np.inf
        case "far from zero":
            x += 1e6
        case "constant":
            x[...] = 0.1
    layer = build(name, SHAPE, "float32")
    for _ in range(2):
        layer.forward(x)
        layer.backward(dy)
    assert passes == [("normalize", "float32"), ("gradients", "float32")] * 2


@pytest.mark.parametrize("name", LAYERS)
def test_after_an_overflow_all_is_as_before(name: str, passes: list, z: Array) -> None:
    x, layer = z.astype("float32"), build(name, SHAPE, "float32")
    expected = layer.forward(x), layer.backward(x)
    layer.forward(largest("float32") / 2 * x)
    layer.backward(x)
    assert passes[2:] == [("normalize", "float32"), ("normalize", "float64"), ("gradients", "float64")]
    found = layer.forward(x), layer.backward(x)
    assert passes[5:] == [("normalize", "float32"), ("gradients", "float32")]
    np.testing.assert_array_equal(found, expected)


def test_where_nothing_is_wider_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch: an infinite variance leaves 0 of x."""
    monkeypatch.setattr(layer_module, "_wider", lambda dtype: None)
    x = np.array([[-1e200, 1e200], [3e200, 5e200]])
    for layer in (LayerNorm(2), RMSNorm(2), BatchNorm(2)):
        assert not layer.forward(x).any()
        assert not layer.backward(x / 1e200).any()
