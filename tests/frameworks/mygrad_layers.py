"""MyGrad's `batchnorm`, a function with a gradient of its own, in training mode: it has no running statistics."""

from collections.abc import Mapping
from typing import Any

from tests.frameworks.row import Array, Call, Known, Ran, Row, layer_of


def _run(call: Call) -> Ran:
    import mygrad

    given = mygrad.tensor(call.x)
    own = {role: mygrad.tensor(value) for role, value in call.parameters.items()}
    y = mygrad.nnet.layers.batchnorm(given, gamma=own.get("gamma"), beta=own.get("beta"), eps=call.options["eps"])

    def backward(dy: Array) -> tuple[Array, Mapping[str, Array]]:
        y.backward(dy)
        return given.grad, {role: tensor.grad for role, tensor in own.items()}

    return y.data, {}, backward


def _made() -> Any:
    import mygrad.nnet.layers  # noqa: F401

    return layer_of("BatchNorm", ("eps", "affine"), _run)


IN_16_BITS = Known("it squares and adds in x's own dtype", ("computed-in-16-bits",))
ROWS = [
    Row(
        "mygrad",
        "batchnorm",
        "BatchNorm",
        _made,
        ("mygrad",),
        ("float64", "float32", "float16"),
        {"float16": IN_16_BITS},
    )
]
