"""What normalization must satisfy by itself, whatever any reference says: identities that need no torch.

Two results that come of different roundings are held together within 16 roundoffs each of the largest terms that they
are made of (`terms`), never within a chosen rtol.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

Array = NDArray[Any]
Make = Callable[..., Any]
Shape = tuple[int, ...]

SHAPES = {"2D": (3, 4), "3D": (2, 4, 5), "4D": (2, 4, 3, 5), "5D": (1, 4, 2, 3, 2)}

LAYERS: dict[str, Make] = {  # a layer for x of some shape with 4 channels
    "GroupNorm": lambda shape, **more: GroupNorm(2, shape[1], **more),
    "LayerNorm of the last axis": lambda shape, **more: LayerNorm(shape[-1], **more),
    "LayerNorm of the sample": lambda shape, **more: LayerNorm(shape[1:], **more),
    "RMSNorm": lambda shape, **more: RMSNorm(shape[1:], **{"eps": 1e-5, **more}),
    "BatchNorm": lambda shape, **more: BatchNorm(shape[1], **more),
    "InstanceNorm": lambda shape, **more: InstanceNorm(shape[1], **{"affine": True, **more}),
}


def everywhere(*left_out: str) -> pytest.MarkDecorator:
    """Every layer at every rank that it takes, without those left out."""
    pairs = [
        pytest.param(name, shape, id=f"{name}-{rank}")
        for name in LAYERS
        for rank, shape in SHAPES.items()
        if name not in left_out and not (name == "InstanceNorm" and rank == "2D")
    ]
    return pytest.mark.parametrize(("name", "shape"), pairs)


spatial = pytest.mark.parametrize("shape", [pytest.param(SHAPES[rank], id=rank) for rank in ("3D", "4D", "5D")])
ranks = pytest.mark.parametrize("shape", [pytest.param(shape, id=rank) for rank, shape in SHAPES.items()])
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


def build(name: str, shape: Shape, dtype: str = "float64", **options: Any) -> Any:
    """A layer for x of `shape`, with random gamma and beta where it has them."""
    layer = LAYERS[name](shape, **options)
    rng = np.random.default_rng(5)
    if layer.gamma is not None:
        layer.gamma = (rng.uniform(0.5, 2, layer.gamma.shape) * rng.choice((-1, 1), layer.gamma.shape)).astype(dtype)
    if layer.beta is not None:
        layer.beta = rng.standard_normal(layer.beta.shape).astype(dtype)
    return layer


def view(name: str, array: Array) -> tuple[Array, tuple[int, ...]]:
    """The array with the axes that share a mean."""
    ndim = array.ndim
    if name == "GroupNorm":
        return array.reshape(array.shape[0], 2, -1), (2,)
    if name == "BatchNorm":
        return array, (0, *range(2, ndim))
    return array, {"LayerNorm of the last axis": (ndim - 1,), "InstanceNorm": tuple(range(2, ndim))}.get(
        name, tuple(range(1, ndim))
    )


def terms(name: str, layer: Any, x: Array, dy: Array, roundoffs: int = 32) -> dict[str, float]:
    """So many roundoffs of the largest terms that make an entry of each quantity."""
    rows, axes = view(name, x.astype(float))
    centred = rows if name == "RMSNorm" else rows - rows.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(axes, keepdims=True) + layer.eps)
    xhat = max(1.0, float(np.abs(centred * rstd).max()))
    gamma = 1.0 if layer.gamma is None else float(np.abs(layer.gamma).max())
    beta = 0.0 if layer.beta is None else float(np.abs(layer.beta).max())
    unit = roundoffs * float(np.finfo(x.dtype).eps) / 2
    return {
        "y": unit * (gamma * xhat + beta),
        "dx": unit * float(rstd.max()) * gamma * float(np.abs(dy).max()) * (2 + xhat**2),
        "dgamma": unit * float(np.abs(dy).sum()) * xhat,
        "dbeta": unit * float(np.abs(dy).sum()),
    }


def one_pass(layer: Any, x: Array, dy: Array) -> dict[str, Array]:
    """All that one forward and backward pass gives."""
    found = {"y": layer(x), "dx": layer.backward(dy), "dgamma": layer.dgamma, "dbeta": layer.dbeta}
    return {name: value for name, value in found.items() if value is not None}


def assert_close(got: dict[str, Array], expected: dict[str, Array], allowed: dict[str, float]) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.shape == expected[name].shape, name
        difference = float(np.abs(value.astype(float) - expected[name]).max(initial=0))
        assert difference <= allowed[name], f"{name} differs by {difference}, may by {allowed[name]}"


# --- one layer is another ---------------------------------------------------------------------------------------------


@dtypes
@ranks
def test_group_norm_of_one_group_is_layer_norm_of_the_sample(shape: Shape, dtype: str, normal: Make) -> None:
    x, dy, channels = 2 * normal(shape, 1, dtype) + 3, normal(shape, 2, dtype), shape[1]
    group, layer = GroupNorm(1, channels), LayerNorm(shape[1:])
    group.gamma, group.beta = normal(channels, 3, dtype), normal(channels, 4, dtype)
    each_position = (channels, *(1,) * (len(shape) - 2))
    layer.gamma = np.broadcast_to(group.gamma.reshape(each_position), shape[1:])
    layer.beta = np.broadcast_to(group.beta.reshape(each_position), shape[1:])
    got, expected = one_pass(group, x, dy), one_pass(layer, x, dy)
    for name in ("dgamma", "dbeta"):  # gamma is one number a channel: the gradients of its positions add up
        expected[name] = expected[name].sum(tuple(range(1, len(shape) - 1)))
    assert_close(got, expected, terms("LayerNorm of the sample", group, x, dy))


@dtypes
@spatial
def test_group_norm_of_c_groups_is_instance_norm(shape: Shape, dtype: str, normal: Make) -> None:
    x, dy, channels = 2 * normal(shape, 1, dtype) + 3, normal(shape, 2, dtype), shape[1]
    group, instance = GroupNorm(channels, channels), InstanceNorm(channels, affine=True)
    for layer in (group, instance):
        layer.gamma, layer.beta = normal(channels, 3, dtype), normal(channels, 4, dtype)
    assert_close(one_pass(group, x, dy), one_pass(instance, x, dy), terms("InstanceNorm", group, x, dy))


@spatial
def test_instance_norm_is_batch_norm_of_one_sample(shape: Shape, normal: Make) -> None:
    x, dy, channels = normal((1, *shape[1:]), 1), normal((1, *shape[1:]), 2), shape[1]
    instance, batch = InstanceNorm(channels), BatchNorm(channels, affine=False)
    assert_close(one_pass(instance, x, dy), one_pass(batch, x, dy), terms("BatchNorm", batch, x, dy))


@dtypes
@ranks
def test_rms_norm_of_rows_without_a_mean_is_layer_norm(shape: Shape, dtype: str, normal: Make) -> None:
    """Integers that come with their negatives have a mean of exactly 0."""
    half = np.round(3 * normal((*shape[:-1], 4), 1, dtype))
    x = np.concatenate([half, -half], axis=-1)
    rms, layer = RMSNorm(8, eps=1e-5), LayerNorm(8, bias=False)
    rms.gamma = layer.gamma = normal(8, 3, dtype)
    layer_y, allowed = layer(x), terms("LayerNorm of the last axis", layer, x, x)
    assert_close({"y": rms(x)}, {"y": layer_y}, allowed)


# --- invariances ------------------------------------------------------------------------------------------------------


@dtypes
@everywhere("RMSNorm")
def test_a_shift_of_x_changes_nothing(name: str, shape: Shape, dtype: str, normal: Make) -> None:
    """The shift is 1000 deviations, and exact: x are multiples of 1/16."""
    x, dy = np.round(16 * normal(shape, 1, dtype)) / 16, normal(shape, 2, dtype)
    shifted = x + x.dtype.type(1000)
    layer = build(name, shape, dtype)
    expected, got = one_pass(layer, x, dy), one_pass(layer, shifted, dy)
    assert_close(got, expected, terms(name, layer, x, dy))
    assert not np.array_equal(x, shifted)


@pytest.mark.parametrize("factor", [2.0**10, 2.0**-10, 3.0])
@dtypes
@everywhere()
def test_a_scale_of_x_is_taken_out(name: str, shape: Shape, dtype: str, factor: float, normal: Make) -> None:
    """y of factor * x with eps * factor**2 is y of x, and dx is smaller by factor. x are small integers: exact."""
    x, dy = np.round(9 * normal(shape, 1, dtype)), normal(shape, 2, dtype)
    first, scaled = (build(name, shape, dtype, eps=eps) for eps in (2.0**-7, 2.0**-7 * factor**2))
    expected, got = one_pass(first, x, dy), one_pass(scaled, x.dtype.type(factor) * x, dy)
    got["dx"] = got["dx"] * factor
    assert_close(got, expected, terms(name, first, x, dy))


@everywhere()
def test_the_sign_of_x_goes_through(name: str, shape: Shape, normal: Make) -> None:
    x, dy = normal(shape, 1), normal(shape, 2)
    layer = build(name, shape)
    if layer.beta is not None:
        layer.beta = np.zeros_like(layer.beta)
    expected, got = one_pass(layer, x, dy), one_pass(layer, -x, -dy)
    got |= {"y": -got["y"], "dx": -got["dx"]}
    if "dbeta" in got:
        got["dbeta"] = -got["dbeta"]
    assert_close(got, expected, terms(name, layer, x, dy))


@everywhere("BatchNorm", "InstanceNorm", "LayerNorm of the last axis")
def test_the_output_has_mean_zero_and_variance_one(name: str, shape: Shape, normal: Make) -> None:
    """Without gamma and beta and with an eps far below the variance; of RMSNorm the mean square is one."""
    affine = "affine" if name == "GroupNorm" else "elementwise_affine"
    layer = LAYERS[name](shape, eps=1e-30, **{affine: False})
    x = 5 * normal(shape, 1) + 2
    y, axes = view(name, layer(x))
    allowed = terms(name, layer, x, x)["y"]
    if name != "RMSNorm":
        assert np.abs(y.mean(axes)).max() <= allowed
    assert np.abs((y**2).mean(axes) - 1).max() <= 2 * allowed * np.abs(y).max()


# --- the gradient with respect to x -----------------------------------------------------------------------------------


@dtypes
@everywhere("RMSNorm")
def test_dx_sums_to_zero_over_what_shares_a_mean(name: str, shape: Shape, dtype: str, normal: Make) -> None:
    """Since a shift changes nothing. dy is all positive: an upstream gradient without a mean would hide it."""
    x, dy = 2 * normal(shape, 1, dtype) + 3, np.abs(normal(shape, 2, dtype)) + 1
    layer = build(name, shape, dtype)
    layer(x)
    dx, axes = view(name, layer.backward(dy).astype(float))
    count = np.prod([dx.shape[axis] for axis in axes])
    assert np.abs(dx.sum(axes)).max() <= count * terms(name, layer, x, dy, roundoffs=16)["dx"]
    assert np.abs(dy.sum()) > 1  # what comes in does not sum to zero


@dtypes
@everywhere()
def test_dx_is_orthogonal_to_x(name: str, shape: Shape, dtype: str, normal: Make) -> None:
    """Since a scale changes nothing, where eps is nothing beside the variance."""
    x, dy = normal(shape, 1, dtype), np.abs(normal(shape, 2, dtype)) + 1
    layer = build(name, shape, dtype, eps=1e-30)
    layer(x)
    dx, axes = view(name, layer.backward(dy).astype(float))
    rows, _ = view(name, x.astype(float))
    allowed = terms(name, layer, x, dy, roundoffs=16)["dx"]
    assert (np.abs((dx * rows).sum(axes)) <= 2 * allowed * np.abs(rows).sum(axes)).all()


@everywhere()
@settings(max_examples=settings.default.max_examples // 5)
@given(data=st.data())
def test_backward_is_linear(name: str, shape: Shape, data: st.DataObject) -> None:
    """Of small integers a combination is exact, so only the roundings of the three backwards are left."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**16), "seed"))
    a, b = data.draw(st.integers(-8, 8), "a"), data.draw(st.integers(-8, 8), "b")
    dtype = data.draw(st.sampled_from(["float64", "float32"]), "dtype")
    layer = build(name, shape, dtype)
    x, first, second = draw.standard_normal(shape).astype(dtype), *draw.integers(-9, 10, (2, *shape)).astype(dtype)
    layer(x)
    results, sizes = [], []
    for dy in (first, second, a * first + b * second):
        results.append({"dx": layer.backward(dy), "dgamma": layer.dgamma})
        sizes.append(terms(name, layer, x, dy, roundoffs=16))
    expected = {key: a * results[0][key].astype(float) + b * results[1][key] for key in ("dx", "dgamma")}
    allowed = {key: abs(a) * sizes[0][key] + abs(b) * sizes[1][key] + sizes[2][key] for key in expected}
    assert_close(results[2], expected, allowed)


# --- batches ----------------------------------------------------------------------------------------------------------


@dtypes
@everywhere("BatchNorm")
def test_samples_do_not_know_each_other(name: str, shape: Shape, dtype: str, normal: Make) -> None:
    """A batch gives what its samples give one by one, and the parameters' gradients add up."""
    shape = (3, *shape[1:])
    x, dy = 2 * normal(shape, 1, dtype) + 3, normal(shape, 2, dtype)
    layer = build(name, shape, dtype)
    alone = [one_pass(layer, x[i : i + 1], dy[i : i + 1]) for i in range(3)]
    expected = {key: np.concatenate([found[key] for found in alone]) for key in ("y", "dx")}
    expected |= {key: sum(found[key] for found in alone) for key in alone[0] if key not in expected}
    assert_close(one_pass(layer, x, dy), expected, terms(name, layer, x, dy))


@everywhere("LayerNorm of the last axis")
def test_the_order_of_the_samples_does_not_matter(name: str, shape: Shape, normal: Make) -> None:
    shape = (4, *shape[1:])
    x, dy, order = normal(shape, 1), normal(shape, 2), [2, 0, 3, 1]
    layer = build(name, shape)
    expected, got = one_pass(layer, x, dy), one_pass(layer, x[order], dy[order])
    expected |= {key: expected[key][order] for key in ("y", "dx")}
    assert_close(got, expected, terms(name, layer, x, dy))


@everywhere("RMSNorm", "GroupNorm", "LayerNorm of the last axis", "LayerNorm of the sample", "InstanceNorm")
def test_the_samples_of_a_batch_norm_know_each_other(name: str, shape: Shape, normal: Make) -> None:
    """So that the test above could fail: a change of one sample changes the output of the others."""
    x = normal((3, *shape[1:]), 1)
    layer = build(name, x.shape)
    changed = np.concatenate([x[:2], x[2:] + 1])
    assert (layer(x)[:2] != layer(changed)[:2]).any()


# --- BatchNorm in eval mode -------------------------------------------------------------------------------------------


def trained(shape: Shape, normal: Make, dtype: str = "float64") -> Any:
    layer = build("BatchNorm", shape, dtype)
    for seed in range(3):
        layer(3 * normal((4, *shape[1:]), seed, dtype) + 2)
    return layer.eval()


@dtypes
@ranks
def test_eval_batch_norm_is_affine(shape: Shape, dtype: str, normal: Make) -> None:
    """f((x + z) / 2) is (f(x) + f(z)) / 2, entry by entry, for x and z that share nothing."""
    layer = trained(shape, normal, dtype)
    x, z = (np.round(16 * normal(shape, seed, dtype)) for seed in (7, 8))
    middle, ends = layer((x + z) / 2), (layer(x).astype(float) + layer(z)) / 2
    gamma, rstd = np.abs(layer.gamma).max(), 1 / np.sqrt(layer.running_var.min() + layer.eps)
    size = gamma * rstd * (max(np.abs(x).max(), np.abs(z).max()) + np.abs(layer.running_mean).max())
    assert np.abs(middle - ends).max() <= 32 * np.finfo(dtype).eps / 2 * (size + np.abs(layer.beta).max())


@ranks
def test_eval_batch_norm_has_one_gradient_everywhere(shape: Shape, normal: Make) -> None:
    """dx does not depend on x, and not on what else is in dy: dx = dy * gamma / sqrt(running_var + eps)."""
    layer = trained(shape, normal)
    dy, whole = normal(shape, 9), (1, shape[1], *(1,) * (len(shape) - 2))
    found = []
    for seed in (7, 8):
        layer(normal(shape, seed))
        found.append(layer.backward(dy))
    slope = (layer.gamma / np.sqrt(layer.running_var + layer.eps)).reshape(whole)
    assert np.array_equal(found[0], found[1])
    assert (np.abs(found[0] - dy * slope) <= 16 * np.finfo(float).eps / 2 * np.abs(dy * slope)).all()


@ranks
def test_eval_batch_norm_leaves_its_state_alone(shape: Shape, normal: Make) -> None:
    layer = trained(shape, normal)
    before = layer.running_mean.copy(), layer.running_var.copy(), layer.num_batches_tracked
    layer(normal(shape, 7))
    layer.backward(normal(shape, 8))
    assert np.array_equal(layer.running_mean, before[0])
    assert np.array_equal(layer.running_var, before[1])
    assert layer.num_batches_tracked == before[2] == 3


@ranks
def test_a_batch_norm_that_only_sees_one_batch_learns_it(shape: Shape, normal: Make) -> None:
    """momentum 1 keeps the last batch alone: in eval mode it is then normalized but for (n - 1) / n in the variance."""
    x = 3 * normal((4, *shape[1:]), 1) + 2
    layer = BatchNorm(shape[1], momentum=1.0, eps=0.0, affine=False)
    trained_y = layer(x)
    count = x.size // shape[1]
    eval_y = layer.eval()(x)
    assert_close({"y": eval_y * np.sqrt(count / (count - 1))}, {"y": trained_y}, terms("BatchNorm", layer, x, x))
