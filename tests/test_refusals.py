"""What the layers refuse, by the text of the refusal; and what they do not refuse but answer as torch does.

A row is a refusal: what is done, and the sentence that comes of it. Each sentence says what was expected and what came.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import npnorm
from npnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from reference.truth import torch_layers

X = np.ones
KINDS = ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm")


def refused(act: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$") as caught:
        act()
    assert type(caught.value) is error


# --- constructors -----------------------------------------------------------------------------------------------------

NUMBER, INT, BOOL = "a number", "an int", "a bool"  # refused with a TypeError, that names the type too
ONE, EPS, FRACTION = "at least 1", "finite and at least 0", "from 0 to 1"  # with a ValueError
ARGUMENTS: list[tuple[type, dict[str, Any], str, Any, str]] = [  # the layer, what is right, what is wrong, its value
    (GroupNorm, {"num_channels": 4}, "num_groups", 0, ONE),
    (GroupNorm, {"num_channels": 4}, "num_groups", 2.0, INT),
    (GroupNorm, {"num_channels": 4}, "num_groups", "2", INT),
    (GroupNorm, {"num_channels": 4}, "num_groups", True, INT),
    (GroupNorm, {"num_groups": 1}, "num_channels", 0, ONE),
    (GroupNorm, {"num_groups": 2}, "num_channels", -4, ONE),
    (GroupNorm, {"num_groups": 2}, "num_channels", None, INT),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "eps", -1e-5, EPS),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "eps", np.nan, EPS),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "eps", np.inf, EPS),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "eps", "1e-5", NUMBER),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "eps", True, NUMBER),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "eps", None, NUMBER),
    (GroupNorm, {"num_groups": 2, "num_channels": 4}, "affine", 1, BOOL),
    (LayerNorm, {}, "normalized_shape", 0, ONE),
    (LayerNorm, {}, "normalized_shape", -3, ONE),
    (LayerNorm, {}, "normalized_shape", 4.0, INT),
    (LayerNorm, {}, "normalized_shape", "43", INT),
    (LayerNorm, {}, "normalized_shape", None, INT),
    (LayerNorm, {"normalized_shape": 4}, "eps", -1, EPS),
    (LayerNorm, {"normalized_shape": 4}, "elementwise_affine", "no", BOOL),
    (LayerNorm, {"normalized_shape": 4}, "bias", None, BOOL),
    (RMSNorm, {}, "normalized_shape", 0, ONE),
    (RMSNorm, {}, "normalized_shape", 2.5, INT),
    (RMSNorm, {"normalized_shape": 4}, "eps", -0.5, EPS),
    (RMSNorm, {"normalized_shape": 4}, "elementwise_affine", 0, BOOL),
    (BatchNorm, {}, "num_features", 0, ONE),
    (BatchNorm, {}, "num_features", (4,), INT),
    (BatchNorm, {"num_features": 4}, "eps", -1.0, EPS),
    (BatchNorm, {"num_features": 4}, "momentum", 1.5, FRACTION),
    (BatchNorm, {"num_features": 4}, "momentum", -0.1, FRACTION),
    (BatchNorm, {"num_features": 4}, "momentum", np.nan, FRACTION),
    (BatchNorm, {"num_features": 4}, "momentum", "0.1", NUMBER),
    (BatchNorm, {"num_features": 4}, "affine", None, BOOL),
    (BatchNorm, {"num_features": 4}, "track_running_stats", 1, BOOL),
    (InstanceNorm, {}, "num_features", -1, ONE),
    (InstanceNorm, {"num_features": 4}, "eps", -1e-3, EPS),
    (InstanceNorm, {"num_features": 4}, "affine", "True", BOOL),
]


@pytest.mark.parametrize(
    ("layer", "right", "name", "value", "expected"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[2]}={row[3]!r}") for row in ARGUMENTS],
)
def test_an_argument_is_refused(layer: type, right: dict[str, Any], name: str, value: Any, expected: str) -> None:
    text = f"Expected {name} to be {expected} but got {name}={value!r}"
    if expected in (NUMBER, INT, BOOL):
        refused(lambda: layer(**right, **{name: value}), TypeError, f"{text} (type {type(value).__name__})")
    else:
        refused(lambda: layer(**right, **{name: value}), ValueError, text)


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm])
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ((3, 0), ValueError, "[1] to be at least 1 but got normalized_shape[1]=0"),
        ([4, 2.5], TypeError, "[1] to be an int but got normalized_shape[1]=2.5 (type float)"),
        ((), ValueError, " to have at least one entry but got normalized_shape=()"),
    ],
    ids=repr,
)
def test_a_normalized_shape_is_refused(layer: type, value: Any, error: type[Exception], text: str) -> None:
    refused(lambda: layer(value), error, f"Expected normalized_shape{text}")


@pytest.mark.parametrize(("groups", "channels"), [(4, 6), (8, 4)], ids=str)
def test_channels_that_make_no_whole_groups_are_refused(groups: int, channels: int) -> None:
    text = (
        f"Expected num_channels to be divisible by num_groups but got num_channels={channels} and num_groups={groups}"
    )
    refused(lambda: GroupNorm(groups, channels), ValueError, text)


def test_a_mode_that_is_no_bool_is_refused() -> None:
    text = "Expected mode to be a bool but got mode='yes' (type str)"
    refused(lambda: BatchNorm(4).train("yes"), TypeError, text)  # type: ignore[arg-type]


# --- inputs -----------------------------------------------------------------------------------------------------------

FRESH: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {  # a layer, and the shape of an x that it takes
    "GroupNorm": (lambda: GroupNorm(2, 4), (3, 4, 5)),
    "LayerNorm": (lambda: LayerNorm((4, 5)), (3, 4, 5)),
    "RMSNorm": (lambda: RMSNorm((4, 5)), (3, 4, 5)),
    "BatchNorm": (lambda: BatchNorm(4), (3, 4, 5)),
    "InstanceNorm": (lambda: InstanceNorm(4, affine=True), (3, 4, 5)),
}

N4, UP_TO_3 = "of shape (N, 4, *spatial)", "with 0 to 3 spatial axes "
SHAPES: list[tuple[str, tuple[int, ...], str]] = [
    ("GroupNorm", (4,), f"x {N4} but got (4,)"),
    ("GroupNorm", (), f"x {N4} but got ()"),
    ("GroupNorm", (3, 5), f"x {N4} but got (3, 5)"),
    ("GroupNorm", (3, 5, 4), f"x {N4} but got (3, 5, 4)"),
    ("LayerNorm", (5,), "x of shape (*, 4, 5) but got (5,)"),
    ("LayerNorm", (3, 5, 4), "x of shape (*, 4, 5) but got (3, 5, 4)"),
    ("LayerNorm", (4, 5, 1), "x of shape (*, 4, 5) but got (4, 5, 1)"),
    ("RMSNorm", (3, 4), "x of shape (*, 4, 5) but got (3, 4)"),
    ("BatchNorm", (4,), f"x {N4} {UP_TO_3}but got (4,)"),
    ("BatchNorm", (3, 5), f"x {N4} {UP_TO_3}but got (3, 5)"),
    ("BatchNorm", (2, 4, 1, 1, 1, 1), f"x {N4} {UP_TO_3}but got (2, 4, 1, 1, 1, 1)"),
    ("BatchNorm", (1, 4), "more than 1 value per channel when training but got x of shape (1, 4)"),
    ("BatchNorm", (1, 4, 1, 1), "more than 1 value per channel when training but got x of shape (1, 4, 1, 1)"),
    ("InstanceNorm", (3, 4), f"x {N4} with 1 to 3 spatial axes but got (3, 4)"),
    ("InstanceNorm", (3, 5, 4), f"x {N4} with 1 to 3 spatial axes but got (3, 5, 4)"),
    ("InstanceNorm", (2, 4, 1), "more than 1 spatial position but got x of shape (2, 4, 1)"),
]

NOT_FLOATS = [
    ("whole numbers", lambda shape: X(shape, np.int64), "an array of floats but got dtype int64"),
    ("bools", lambda shape: X(shape, bool), "an array of floats but got dtype bool"),
    ("complex numbers", lambda shape: X(shape, np.complex128), "an array of floats but got dtype complex128"),
    ("objects", lambda shape: X(shape, object), "an array of floats but got dtype object"),
    ("a list", lambda shape: X(shape).tolist(), "a NumPy array but got list"),
    ("a number", lambda shape: 1.0, "a NumPy array but got float"),
    ("None", lambda shape: None, "a NumPy array but got NoneType"),
]


@pytest.mark.parametrize(("like", "shape", "text"), [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in SHAPES])
def test_a_shape_is_refused(like: str, shape: tuple[int, ...], text: str) -> None:
    refused(lambda: FRESH[like][0]().forward(X(shape)), ValueError, f"Expected {text}")


@pytest.mark.parametrize(
    ("shape", "ok"), [((1, 2), False), ((1, 2, 1), False), ((2, 2), True), ((1, 2, 2), True)], ids=str
)
def test_group_norm_refuses_a_single_value_where_torch_does(shape: tuple[int, ...], ok: bool) -> None:
    for layer in (GroupNorm(2, 2), torch_layers.LAYERS["GroupNorm"](2, 2)):
        if ok:
            assert layer(X(shape)).shape == shape
        else:
            with pytest.raises(ValueError, match="Expected more than 1 value per"):
                layer(X(shape))


@pytest.mark.parametrize("act", ["forward", "call", "backward"])
@pytest.mark.parametrize(("make", "text"), [pytest.param(*row[1:], id=row[0]) for row in NOT_FLOATS])
@pytest.mark.parametrize("like", KINDS)
def test_what_is_no_array_of_floats_is_refused(like: str, make: Callable[..., Any], text: str, act: str) -> None:
    build, shape = FRESH[like]
    layer = build()
    if act == "backward":
        layer.forward(X(shape))
        refused(lambda: layer.backward(make(shape)), TypeError, f"Expected dy to be {text}")
    else:
        refused(lambda: (layer if act == "call" else layer.forward)(make(shape)), TypeError, f"Expected x to be {text}")


@pytest.mark.parametrize("like", KINDS)
def test_backward_before_forward_is_refused(like: str) -> None:
    build, shape = FRESH[like]
    text = "Expected a forward pass before backward but there was none"
    refused(lambda: build().backward(X(shape)), RuntimeError, text)


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (1, 4, 5), (3, 4, 5, 1), (60,), ()], ids=str)
@pytest.mark.parametrize("like", KINDS)
def test_a_gradient_of_another_shape_is_refused(like: str, shape: tuple[int, ...]) -> None:
    build, right = FRESH[like]
    layer = build()
    layer(X(right))
    text = f"Expected dy to have the shape of y, (3, 4, 5), but got {shape}"
    refused(lambda: layer.backward(X(shape)), ValueError, text)


@pytest.mark.parametrize("name", ["gamma", "beta"])
@pytest.mark.parametrize("like", KINDS)
def test_a_parameter_of_another_shape_or_kind_is_refused(like: str, name: str) -> None:
    build, shape = FRESH[like]
    layer = build()
    own = getattr(layer, name)
    if own is None:
        return
    wrong: list[tuple[Any, type[Exception], str]] = [
        (X(7), ValueError, f"Expected {name} to have shape {own.shape} but got (7,)"),
        (X((1, *own.shape)), ValueError, f"Expected {name} to have shape {own.shape} but got {(1, *own.shape)}"),
        (X(own.shape, int), TypeError, f"Expected {name} to be an array of floats but got dtype int64"),
        (1.0, TypeError, f"Expected {name} to be a NumPy array but got float"),
    ]
    for value, error, text in wrong:
        setattr(layer, name, value)
        refused(lambda: layer.forward(X(shape)), error, text)
    setattr(layer, name, own)
    assert layer.forward(X(shape)).shape == shape


# --- after a refusal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("like", KINDS)
def test_nothing_is_lost_by_a_refusal(like: str, normal: Callable[..., Any]) -> None:
    """A refused forward or backward leaves the pass before it, the gradients and the running statistics alone."""
    build, shape = FRESH[like]
    x, dy, layer, twin = normal(shape, 1), normal(shape, 2), build(), build()
    for one in (layer, twin):
        one.forward(x)
    for bad in (X((7, 7)), X(shape, int), None):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(bad)
        with pytest.raises((TypeError, ValueError)):
            layer.backward(bad)
    assert layer.dgamma is None
    assert layer.dbeta is None
    assert np.array_equal(layer.backward(dy), twin.backward(dy))
    assert np.array_equal(layer.forward(2 * x), twin.forward(2 * x))
    assert np.array_equal(layer.backward(dy), twin.backward(dy))
    for name in ("dgamma", "dbeta", "running_mean", "running_var", "num_batches_tracked"):
        assert np.array_equal(getattr(layer, name, 0), getattr(twin, name, 0)), name


def test_a_refused_batch_is_not_counted() -> None:
    layer = BatchNorm(4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(X((1, 4)))
    layer.gamma = X(3)
    with pytest.raises(ValueError, match="gamma"):
        layer(X((3, 4)))
    assert layer.num_batches_tracked == 0
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()


# --- not refused: empty batches, NaN and inf --------------------------------------------------------------------------

QUANTITIES = ("y", "dx", "dgamma", "dbeta", "running_mean", "running_var")
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "GroupNorm": {"": {"num_groups": 2, "num_channels": 4}, "C groups": {"num_groups": 4, "num_channels": 4}},
    "LayerNorm": {"": {"normalized_shape": 5}},
    "RMSNorm": {"": {"normalized_shape": 5}},
    "BatchNorm": {
        "": {"num_features": 4},
        "average": {"num_features": 4, "momentum": None},
        "eval": {"num_features": 4},
        "untracked": {"num_features": 4, "track_running_stats": False},
    },
    "InstanceNorm": {"": {"num_features": 4, "affine": True}},
}
SUBJECTS = [
    pytest.param(like, name, id=f"{like}-{name}" if name else like) for like in KINDS for name in OPTIONS[like]
]  # fmt: skip


def answers(layer: Any, name: str, x: np.ndarray, dy: np.ndarray) -> dict[str, np.ndarray]:
    """All that a layer gives for x and dy after one ordinary batch."""
    if name == "eval":
        layer.forward(np.random.default_rng(9).normal(size=(3, *x.shape[1:])).astype(x.dtype))
        layer.training = False
    if layer.gamma is not None:
        layer.gamma = np.linspace(-1, 2, layer.gamma.size).astype(x.dtype)
    found = {"y": layer.forward(x), "dx": layer.backward(dy)}
    found |= {key: getattr(layer, key, None) for key in QUANTITIES[2:]}
    return {key: value for key, value in found.items() if value is not None}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> None:
    """NaN and inf in the same places, the signs of inf too; and the numbers beside them."""
    assert got.keys() == expected.keys()
    for name, value in got.items():
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(value, expected[name], **tolerance, err_msg=name)


@pytest.mark.parametrize("shape", [(0, 4, 5), (0, 4, 3, 5)], ids=str)
@pytest.mark.parametrize(("like", "name"), SUBJECTS)
def test_an_empty_batch_is_answered_as_torch_does(like: str, name: str, shape: tuple[int, ...]) -> None:
    x, dy, options = np.empty(shape), np.empty(shape), OPTIONS[like][name]
    got = answers(getattr(npnorm, like)(**options), name, x, dy)
    assert got["y"].shape == got["dx"].shape == shape
    if like == "InstanceNorm":  # torch fails on it with an IndexError
        assert not got["dgamma"].any()
        assert not got["dbeta"].any()
        return
    assert_same(got, answers(torch_layers.LAYERS[like](**options), name, x, dy), "float64")


def test_an_empty_batch_is_counted_and_teaches_nothing(normal: Callable[..., Any]) -> None:
    """As in torch, where the average over all batches divides by a number that includes the empty ones."""
    x, ours, theirs = normal((3, 4), 1), BatchNorm(4, momentum=None), torch_layers.LAYERS["BatchNorm"](4, momentum=None)
    for batch in (np.empty((0, 4)), x, np.empty((0, 4)), 2 * x):
        ours(batch)
        theirs(batch)
    assert ours.num_batches_tracked == 4
    assert ours.running_mean == pytest.approx(theirs.running_mean, rel=1e-6)
    assert ours.running_var == pytest.approx(theirs.running_var, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 5), (3, 4, 2, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("values", [(np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf), (np.nan, np.inf)], ids=str)
@pytest.mark.parametrize(("like", "name"), SUBJECTS)
def test_a_nonfinite_x_is_answered_as_torch_does(
    like: str, name: str, values: tuple[float, ...], dtype: str, shape: tuple[int, ...], normal: Callable[..., Any]
) -> None:
    x, dy, options = normal(shape, 1, dtype).copy(), normal(shape, 2, dtype), OPTIONS[like][name]
    x.flat[7 : 7 + len(values)] = values
    got = answers(getattr(npnorm, like)(**options), name, x, dy)
    assert_same(got, answers(torch_layers.LAYERS[like](**options), name, x, dy), dtype)
    assert np.isfinite(got["y"]).any()
    assert not np.isfinite(got["y"]).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("like", "name"), SUBJECTS)
def test_a_nan_in_the_upstream_gradient_is_answered_as_torch_does(
    like: str, name: str, dtype: str, normal: Callable[..., Any]
) -> None:
    shape, options = (2, 4, 5), OPTIONS[like][name]
    x, dy = normal(shape, 1, dtype), normal(shape, 2, dtype).copy()
    dy.flat[7] = np.nan
    got = answers(getattr(npnorm, like)(**options), name, x, dy)
    assert_same(got, answers(torch_layers.LAYERS[like](**options), name, x, dy), dtype)
    assert np.isfinite(got["dx"]).any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("like", "name"), SUBJECTS)
def test_an_infinite_upstream_gradient_spoils_no_more_than_in_torch(
    like: str, name: str, dtype: str, normal: Callable[..., Any]
) -> None:
    """Whether inf or NaN comes of it depends on the order of torch's terms, and differs between its own dtypes."""
    shape, options = (2, 4, 5), OPTIONS[like][name]
    x, dy = normal(shape, 1, dtype), normal(shape, 2, dtype).copy()
    dy.flat[7] = np.inf
    got = answers(getattr(npnorm, like)(**options), name, x, dy)
    expected = answers(torch_layers.LAYERS[like](**options), name, x, dy)
    for key, value in expected.items():
        assert np.array_equal(np.isfinite(got[key]), np.isfinite(value)), key
