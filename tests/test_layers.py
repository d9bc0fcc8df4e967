"""How the layers behave towards their caller: dtypes, memory, state, and the calls one after the other.

What they compute is held against the references elsewhere; here a layer is mostly held against itself, so that equal
means equal to the last bit.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import npnorm
from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from reference.cases.case import LAYOUTS, make
from reference.kinds import KINDS
from reference.truth import torch_layers
from reference.truth.compare import compare
from reference.truth.exact import truth

SHAPE = (3, 4, 5)
FRESH: dict[str, Callable[[], Any]] = {
    "GroupNorm": lambda: GroupNorm(2, 4),
    "LayerNorm": lambda: LayerNorm((4, 5)),
    "RMSNorm": lambda: RMSNorm((4, 5)),
    "BatchNorm": lambda: BatchNorm(4),
    "InstanceNorm": lambda: InstanceNorm(4, affine=True),
    "BatchNorm eval": lambda: trained().eval(),
}
every_layer = pytest.mark.parametrize("name", FRESH)
QUANTITIES = ("y", "dx", "dgamma", "dbeta", "running_mean", "running_var")


def trained() -> BatchNorm:
    layer = BatchNorm(4)
    layer(np.random.default_rng(3).normal(2, 3, (6, 4)))
    return layer


def fresh(name: str, dtype: str = "float64") -> Any:
    """A new layer with random gamma and beta, the same each time."""
    layer, rng = FRESH[name](), np.random.default_rng(4)
    layer.gamma = (rng.uniform(0.5, 2, layer.gamma.shape) * rng.choice((-1, 1), layer.gamma.shape)).astype(dtype)
    if layer.beta is not None:
        layer.beta = rng.standard_normal(layer.beta.shape).astype(dtype)
    return layer


def answers(layer: Any, x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """Copies of all that one forward and backward pass gives."""
    found = {"y": layer.forward(x), "dx": layer.backward(dy)}
    found |= {name: getattr(layer, name, None) for name in QUANTITIES[2:]}
    return {name: value.copy() for name, value in found.items() if value is not None}


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == expected[name].dtype, name
        assert np.array_equal(value, expected[name]), name


# --- dtypes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", ["float64", "float32", "float16"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@every_layer
def test_y_and_dx_have_the_dtype_of_x_and_gradients_that_of_their_parameters(
    name: str, dtype: str, parameters: str, normal: Callable[..., Any]
) -> None:
    layer = fresh(name, parameters)
    found = answers(layer, normal(SHAPE, 1, dtype), normal(SHAPE, 2, dtype))
    for key in ("y", "dx"):
        assert found[key].dtype == dtype, key
    for key in {"dgamma", "dbeta"} & found.keys():
        assert found[key].dtype == parameters, key
    for key in {"running_mean", "running_var"} & found.keys():
        assert found[key].dtype == np.float64, key


@every_layer
def test_dy_of_another_dtype_gives_dx_of_that_of_x(name: str, normal: Callable[..., Any]) -> None:
    layer = fresh(name)
    layer(normal(SHAPE, 1, "float32"))
    assert layer.backward(normal(SHAPE, 2, "float64")).dtype == np.float32


@pytest.mark.parametrize("like", KINDS)
def test_float16_is_computed_in_float32(like: str) -> None:
    """But for the rounding of what comes out, nothing is lost; computed in float16 the errors were 100 times these."""
    affine = {"affine": True} if like == "InstanceNorm" else {}
    case = make(like, (4, 4, 50), groups=2, axes=2, dtype="float16", data="shifted", **affine)
    exact, layer, (x, dy) = truth(case), getattr(npnorm, like)(**case.options), case.arrays()
    layer.gamma, layer.beta = (None if value is None else value.astype("float32") for value in case.parameters())
    found = answers(layer, x, dy)
    for quantity, value in found.items():
        dtype = "float16" if quantity in ("y", "dx") else "float32"
        # y and dx are rounded once at the end, to half a unit in the last place of float16
        allowed = 1.01 if dtype == "float16" else 16.0
        verdict = compare(quantity, value, exact.exact[quantity], exact.terms[quantity], dtype, allowed)
        assert verdict.passed, f"{verdict} in {case}"


@pytest.mark.parametrize("like", KINDS)
def test_a_float16_sum_does_not_overflow(like: str) -> None:
    """The squares of 300 are beyond float16, and so is the sum of a thousand of them."""
    case = make(like, (4, 4, 300), groups=2, axes=2, dtype="float16")
    x, dy = case.arrays()
    found = answers(getattr(npnorm, like)(**case.options), (300 * x).astype("float16"), dy)
    assert np.isfinite(found["y"]).all()
    assert np.isfinite(found["dx"]).all()
    assert float(np.abs(found["y"]).max()) > 2


# --- memory: what is passed in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("like", KINDS)
def test_the_layout_in_memory_does_not_matter(like: str, layout: str, dtype: str) -> None:
    results = []
    for each in ("C", layout):
        case = make(like, (3, 4, 5, 2), groups=2, axes=2, layout=each, dy_layout=each, dtype=dtype)
        layer = getattr(npnorm, like)(**case.options)
        layer.gamma, layer.beta = case.parameters()
        results.append(answers(layer, *case.arrays()))
    assert_equal(results[1], results[0])
    assert results[1]["y"].flags.c_contiguous


@every_layer
def test_what_the_caller_passes_is_not_written_to(name: str, normal: Callable[..., Any]) -> None:
    """`normal` hands out read-only arrays already; here they are writeable, and nobody would notice."""
    x, dy, layer = normal(SHAPE, 1).copy(), normal(SHAPE, 2).copy(), fresh(name)
    gamma, beta = layer.gamma.copy(), None if layer.beta is None else layer.beta.copy()
    layer(x)
    layer.backward(dy)
    layer.backward(dy)
    assert np.array_equal(x, normal(SHAPE, 1))
    assert np.array_equal(dy, normal(SHAPE, 2))
    assert np.array_equal(layer.gamma, gamma)
    assert beta is None or np.array_equal(layer.beta, beta)


@every_layer
def test_read_only_parameters_will_do(name: str, normal: Callable[..., Any]) -> None:
    layer, expected = fresh(name), answers(fresh(name), normal(SHAPE, 1), normal(SHAPE, 2))
    for value in (layer.gamma, layer.beta):
        if value is not None:
            value.flags.writeable = False
    assert_equal(answers(layer, normal(SHAPE, 1), normal(SHAPE, 2)), expected)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("victim", ["x", "y", "gamma", "beta", "dy, then again", "dx, then again"])
@every_layer
def test_the_caller_may_overwrite_any_array_between_the_calls(
    name: str, victim: str, dtype: str, normal: Callable[..., Any]
) -> None:
    """Each backward belongs to the forward before it, with the x and the gamma that it had."""
    expected = answers(fresh(name, dtype), normal(SHAPE, 1, dtype), normal(SHAPE, 2, dtype))
    layer, x, dy = fresh(name, dtype), normal(SHAPE, 1, dtype).copy(), normal(SHAPE, 2, dtype).copy()
    y = layer(x)
    arrays = {"x": x, "y": y, "gamma": layer.gamma, "beta": layer.beta}
    if arrays.get(victim) is not None:
        arrays[victim][...] = 1e3
    dx = layer.backward(dy)
    if victim.endswith("again"):
        (dy if victim.startswith("dy") else dx)[...] = 1e3
        dx = layer.backward(normal(SHAPE, 2, dtype))
    got = {"dx": dx, "dgamma": layer.dgamma, "dbeta": layer.dbeta}
    assert_equal(
        {key: value for key, value in got.items() if value is not None}, {k: expected[k] for k in expected if k in got}
    )


@every_layer
def test_what_comes_out_shares_no_memory(name: str, normal: Callable[..., Any]) -> None:
    """Not with what went in, and not with what comes out at another time."""
    x, dy, layer = normal(SHAPE, 1).copy(), normal(SHAPE, 2).copy(), fresh(name)
    first = [layer(x), layer.backward(dy), layer.dgamma, layer.dbeta]
    second = [layer(x), layer.backward(dy), layer.dgamma, layer.dbeta]
    arrays = [x, dy, layer.gamma, layer.beta, *first, *second]
    arrays = [array for array in arrays if array is not None]
    for i, one in enumerate(arrays):
        for other in arrays[:i]:
            assert not np.shares_memory(one, other)
        assert one.flags.writeable


# --- gradients, parameters, calls one after the other -----------------------------------------------------------------


@every_layer
def test_gradients_are_set_and_not_accumulated(name: str, normal: Callable[..., Any]) -> None:
    layer = fresh(name)
    layer(normal(SHAPE, 1))
    once = [layer.backward(normal(SHAPE, 2)), layer.dgamma, layer.dbeta]
    twice = [layer.backward(normal(SHAPE, 2)), layer.dgamma, layer.dbeta]
    layer.backward(normal(SHAPE, 3))
    for one, other, third in zip(once, twice, [None, layer.dgamma, layer.dbeta], strict=True):
        assert np.array_equal(one, other)
        assert third is None or not np.array_equal(one, third)


@every_layer
def test_a_call_is_a_forward(name: str, normal: Callable[..., Any]) -> None:
    assert np.array_equal(fresh(name)(normal(SHAPE, 1)), fresh(name).forward(normal(SHAPE, 1)))


@every_layer
def test_parameters_are_pairs_of_value_and_gradient(name: str, normal: Callable[..., Any]) -> None:
    layer = fresh(name)
    names = ["gamma"] if name == "RMSNorm" else ["gamma", "beta"]
    assert [gradient for _, gradient in layer.parameters()] == [None] * len(names)
    layer(normal(SHAPE, 1))
    layer.backward(normal(SHAPE, 2))
    for (value, gradient), parameter in zip(layer.parameters(), names, strict=True):
        assert value is getattr(layer, parameter)
        assert gradient is getattr(layer, f"d{parameter}")
        assert gradient.shape == value.shape


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (GroupNorm(2, 4), "gamma beta"),
        (GroupNorm(2, 4, affine=False), ""),
        (LayerNorm((4, 5)), "gamma beta"),
        (LayerNorm((4, 5), bias=False), "gamma"),
        (LayerNorm((4, 5), elementwise_affine=False), ""),
        (RMSNorm((4, 5)), "gamma"),
        (RMSNorm((4, 5), elementwise_affine=False), ""),
        (BatchNorm(4), "gamma beta"),
        (BatchNorm(4, affine=False), ""),
        (InstanceNorm(4), ""),
        (InstanceNorm(4, affine=True), "gamma beta"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value or "none",
)
def test_what_is_not_asked_for_is_absent(layer: Any, names: str, normal: Callable[..., Any]) -> None:
    """And what is there starts as torch's: gamma at 1, beta at 0."""
    assert [name for name in ("gamma", "beta") if getattr(layer, name) is not None] == names.split()
    assert layer.gamma is None or (layer.gamma == 1).all()
    assert layer.beta is None or (layer.beta == 0).all()
    y = layer(normal(SHAPE, 1))
    layer.backward(normal(SHAPE, 2))
    assert [name for name in ("gamma", "beta") if getattr(layer, f"d{name}") is not None] == names.split()
    assert len(layer.parameters()) == len(names.split())
    assert np.abs(y).max() > 0.5


@pytest.mark.parametrize("how", ["reassigned", "changed in place"])
@every_layer
def test_gamma_and_beta_count_from_the_next_forward_on(name: str, how: str, normal: Callable[..., Any]) -> None:
    layer, twin, x, dy = fresh(name), fresh(name), normal(SHAPE, 1), normal(SHAPE, 2)
    layer(x)
    for parameter in ("gamma", "beta"):
        value = getattr(layer, parameter)
        if value is None:
            continue
        setattr(twin, parameter, 3 * value - 1)
        if how == "reassigned":
            setattr(layer, parameter, 3 * value - 1)
        else:
            value *= 3
            value -= 1
    got, expected = answers(layer, x, dy), answers(twin, x, dy)
    for statistic in ("running_mean", "running_var"):  # of which the twin has seen one batch less
        got.pop(statistic, None), expected.pop(statistic, None)
    assert_equal(got, expected)


@every_layer
def test_one_object_takes_one_shape_after_the_other(name: str, normal: Callable[..., Any]) -> None:
    shapes = [(3, 4, 5), (7, 4, 5), (1, 4, 5), (3, 4, 5)]
    if name == "GroupNorm" or name.startswith("BatchNorm"):
        shapes += [(6, 4), (2, 4, 3, 2), (2, 4, 1, 2, 3)]
    if name in ("LayerNorm", "RMSNorm"):
        shapes += [(4, 5), (2, 3, 4, 5)]
    layer = fresh(name)
    for seed, shape in enumerate(shapes):
        for dtype in ("float64", "float32"):
            x, dy = normal(shape, seed, dtype), normal(shape, seed + 50, dtype)
            got, expected = answers(layer, x, dy), answers(fresh(name), x, dy)
            for key in ("y", "dx", "dgamma", "dbeta"):
                assert key not in expected or np.array_equal(got[key], expected[key]), (shape, key)


@every_layer
def test_two_objects_do_not_know_each_other(name: str, normal: Callable[..., Any]) -> None:
    one, other = fresh(name), fresh(name)
    expected = answers(fresh(name), normal(SHAPE, 1), normal(SHAPE, 2))
    y = one(normal(SHAPE, 1))
    other(normal(SHAPE, 3))
    dx = one.backward(normal(SHAPE, 2))
    other.backward(normal(SHAPE, 4))
    assert np.array_equal(y, expected["y"])
    assert np.array_equal(dx, expected["dx"])
    assert np.array_equal(one.dgamma, expected["dgamma"])


# --- BatchNorm's state ------------------------------------------------------------------------------------------------


def test_train_and_eval_set_the_mode_and_return_the_layer() -> None:
    layer = BatchNorm(4)
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert layer.train(False).training is False


def test_running_statistics_start_at_0_and_1_and_are_absent_if_so_asked() -> None:
    layer, without = BatchNorm(4), BatchNorm(4, track_running_stats=False)
    assert layer.running_mean.tolist() == [0, 0, 0, 0]
    assert layer.running_var.tolist() == [1, 1, 1, 1]
    assert layer.num_batches_tracked == 0
    assert without.running_mean is without.running_var is None


@pytest.mark.parametrize("momentum", [0.1, 0.0, 0.25, 1.0, 1])
def test_momentum_is_the_fraction_of_the_new(momentum: float) -> None:
    """Two values a channel: the mean of 1 and 3 is 2, and the unbiased variance is 2."""
    layer = BatchNorm(1, momentum=momentum)
    layer(np.array([[1.0], [3.0]]))
    assert layer.running_mean == pytest.approx(2 * momentum)
    assert layer.running_var == pytest.approx((1 - momentum) + 2 * momentum)
    assert layer.num_batches_tracked == 1


def test_without_momentum_all_batches_count_alike() -> None:
    layer = BatchNorm(1, momentum=None)
    for low, high in ((1.0, 3.0), (5.0, 5.0), (0.0, 4.0)):
        layer(np.array([[low], [high]]))
    assert layer.running_mean == pytest.approx((2 + 5 + 2) / 3)
    assert layer.running_var == pytest.approx((2 + 0 + 8) / 3)
    assert layer.num_batches_tracked == 3


def test_eval_uses_what_training_left_and_backward_belongs_to_its_forward(normal: Callable[..., Any]) -> None:
    """A change of mode between forward and backward changes nothing."""
    x, dy = normal(SHAPE, 1), normal(SHAPE, 2)
    training, evaluated = fresh("BatchNorm"), fresh("BatchNorm eval")
    expected = {True: answers(training, x, dy), False: answers(evaluated, x, dy)}
    for mode, name in ((True, "BatchNorm"), (False, "BatchNorm eval")):
        layer = fresh(name)
        layer(x)
        layer.train(not mode)
        assert np.array_equal(layer.backward(dy), expected[mode]["dx"])
    assert not np.array_equal(expected[True]["dx"], expected[False]["dx"])


def test_running_statistics_may_be_assigned_and_overwritten_after_the_forward(normal: Callable[..., Any]) -> None:
    layer, x, dy = BatchNorm(4, eps=0.0).eval(), normal(SHAPE, 1), normal(SHAPE, 2)
    layer.running_mean, layer.running_var = np.full(4, 2.0), np.full(4, 16.0)
    assert np.array_equal(layer(x), (x - 2) / 4)
    layer.running_var[...] = 1e6
    assert np.array_equal(layer.backward(dy), dy / 4)


def test_without_running_statistics_eval_is_training(normal: Callable[..., Any]) -> None:
    layer, x, dy = BatchNorm(4, track_running_stats=False), normal(SHAPE, 1), normal(SHAPE, 2)
    expected = answers(layer, x, dy)
    assert_equal(answers(layer.eval(), x, dy), expected)


def test_one_value_a_channel_is_enough_in_eval_mode(normal: Callable[..., Any]) -> None:
    assert trained().eval()(normal((1, 4), 1)).shape == (1, 4)


# --- either side in the other's place ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.3, 50.0], ids=["mean of a part of a deviation", "mean of many"])
@pytest.mark.parametrize("affine", [False, True], ids=["without gamma", "with gamma"])
def test_layer_norm_is_its_definition(affine: bool, mean: float, normal: Callable[..., Any]) -> None:
    """Whether gamma is there and where the mean lies are two ways through the kernel each."""
    x = mean + normal((4, 7))
    layer = LayerNorm(7, elementwise_affine=affine)
    xhat = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(x), xhat, atol=1e-12)
    dy = normal((4, 7), seed=1)
    dx = dy - dy.mean(1, keepdims=True) - xhat * (dy * xhat).mean(1, keepdims=True)
    np.testing.assert_allclose(layer.backward(dy), dx / np.sqrt(x.var(1, keepdims=True) + 1e-5), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 5), (2, 4, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("like", KINDS)
def test_torch_and_npnorm_speak_the_same_protocol(like: str, shape: tuple[int, ...], dtype: str) -> None:
    """The same code drives either: built, given parameters, trained twice, evaluated.

    Each answer of the one is that of the other within the sum of what both are allowed against the exact one.
    """
    if like == "InstanceNorm" and len(shape) == 2:
        return
    affine = {"affine": True} if like == "InstanceNorm" else {}
    case = make(like, shape, groups=2, dtype=dtype, data="shifted", **affine)
    layers = getattr(npnorm, like)(**case.options), torch_layers.LAYERS[like](**case.options)
    for call, training in enumerate((True, True, False)):
        now = replace(case, calls=call + 1, training=training)
        exact, found = truth(now), []
        for layer in layers:
            layer.gamma, layer.beta = now.parameters()
            layer.training = training
            found.append(answers(layer, *now.arrays()))
        got, expected = found
        assert got.keys() == expected.keys() == exact.exact.keys()
        for name, value in got.items():
            allowed = 16 + 64 * exact.conditioning ** (2 if name == "dx" else 1)
            verdict = compare(name, value, expected[name].astype(np.longdouble), exact.scale[name], dtype, allowed)
            assert verdict.passed, f"{verdict} in {now}"
            assert value.dtype == expected[name].dtype or name.startswith("running"), name
