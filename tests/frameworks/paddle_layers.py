"""Paddle's layers on its CPU, by the functions that its modules call; gradients by `paddle.grad`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tests.frameworks.row import Array, Call, Known, Ran, Row, layer_of

DTYPES = ("float64", "float32")
KEYWORDS = {
    "GroupNorm": ("eps", "affine"),
    "LayerNorm": ("eps", "elementwise_affine", "bias"),
    "BatchNorm": ("eps", "momentum", "affine"),
    "InstanceNorm": ("eps", "affine"),
}

ONE_PASS = Known("the variance is mean(x**2) - mean(x)**2", ("one-pass-variance",))
WITHOUT_GAMMA = Known(
    "the variance is mean(x**2) - mean(x)**2, and without a gamma dx is another; in float32 the first hides the second",
    ("one-pass-variance", "unknown"),
)
CONSTANTS = Known("eps, and the momentum, are numbers of float32", ("dtype-demoted",))


def _called(
    like: str, options: Mapping[str, Any], x: Any, own: Mapping[str, Any], state: Mapping[str, Any], training: bool
) -> Any:
    from paddle.nn import functional

    weight, bias, eps = own.get("gamma"), own.get("beta"), options["eps"]
    if like == "GroupNorm":
        return functional.group_norm(x, options["num_groups"], eps, weight, bias)
    if like == "LayerNorm":
        return functional.layer_norm(x, options["normalized_shape"], weight, bias, eps)
    if like == "InstanceNorm":
        return functional.instance_norm(x, weight=weight, bias=bias, eps=eps)
    mean, var = state["running_mean"], state["running_var"]
    return functional.batch_norm(
        x, mean, var, weight, bias, training=training, momentum=options["momentum"], epsilon=eps
    )


def _run(like: str, call: Call) -> Ran:
    import paddle

    options, x, parameters, state, training = call
    paddle.set_device("cpu")

    def tensor(array: Array) -> Any:
        made = paddle.to_tensor(np.ascontiguousarray(array))
        made.stop_gradient = False
        return made

    given, own = tensor(x), {role: tensor(value) for role, value in parameters.items()}
    kept = {role: paddle.to_tensor(value) for role, value in state.items()}
    y = _called(like, options, given, own, kept, training)

    def backward(dy: Array) -> tuple[Array, Mapping[str, Array]]:
        dx, *gradients = paddle.grad([y], [given, *own.values()], [paddle.to_tensor(dy)], retain_graph=True)
        return dx.numpy(), dict(zip(own, (gradient.numpy() for gradient in gradients), strict=True))

    return y.numpy(), {role: value.numpy() for role, value in kept.items()}, backward


ROWS = [
    Row(
        "paddle",
        like,
        like,
        partial(layer_of, like, KEYWORDS[like], partial(_run, like)),
        ("paddlepaddle",),
        DTYPES,
        {"float64": WITHOUT_GAMMA, "float32": ONE_PASS} if like == "GroupNorm" else {"float64": CONSTANTS},
        ("momentum-inverted", "running-var-biased") if like == "BatchNorm" else (),
    )
    for like in KEYWORDS
]
