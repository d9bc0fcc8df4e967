"""tinygrad's layers on its CPU device, which needs clang; gradients by `Tensor.gradient`."""

import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any

from reference.kinds import kind_named
from tests.frameworks.row import Array, Call, Known, Ran, Row, layer_of

DTYPES = ("float64", "float32", "float16")
KEYWORDS = {
    "GroupNorm": ("eps", "affine"),
    "LayerNorm": ("eps", "elementwise_affine"),
    "RMSNorm": ("eps", "elementwise_affine"),
    "BatchNorm": ("eps", "momentum", "affine", "track_running_stats"),
    "InstanceNorm": ("eps", "affine"),
}
DEMOTED = Known("it converts to float32, whatever x is", ("dtype-demoted",))
IN_BETWEEN = Known("what is made of the statistics is rounded to 16 bits at each step", ("rounded-in-between",))
IN_16_BITS = Known("steps of its statistics are of 16 bits", ("computed-in-16-bits",))
KNOWN = {
    "GroupNorm": {"float16": IN_16_BITS},
    "LayerNorm": {"float16": IN_BETWEEN},
    "RMSNorm": {"float64": DEMOTED, "float16": IN_BETWEEN},
    "BatchNorm": {"float16": IN_16_BITS},
    "InstanceNorm": {"float16": IN_16_BITS},
}
NAMES = {"gamma": "weight", "beta": "bias"}


def _module(like: str, options: Mapping[str, Any]) -> Any:
    from tinygrad import nn

    size = options.get("normalized_shape")
    if like == "RMSNorm" and not isinstance(size, int):
        raise ValueError("Expected one normalized axis")
    kind = kind_named(like)
    rest = {word: value for word, value in options.items() if word not in kind.required}
    return getattr(nn, like)(*(options[word] for word in kind.required), **rest)


def _run(like: str, call: Call) -> Ran:
    from tinygrad import Context, Tensor

    options, x, parameters, state, training = call
    module = _module(like, options)
    for role, value in parameters.items():
        setattr(module, NAMES[role], Tensor(value))
    for role, value in state.items():
        if getattr(module, role, None) is not None:
            setattr(module, role, Tensor(value))
    given = Tensor(x)
    given.requires_grad = True
    with Context(TRAINING=int(training)):
        y = module(given)
    new = {role: getattr(module, role).numpy() for role in state if getattr(module, role, None) is not None}
    roles = tuple(parameters)

    def backward(dy: Array) -> tuple[Array, Mapping[str, Array]]:
        wanted = [given, *(getattr(module, NAMES[role]) for role in roles)]
        dx, *own = (gradient.numpy() for gradient in y.gradient(*wanted, gradient=Tensor(dy)))
        return dx, dict(zip(roles, own, strict=True))

    return y.numpy(), new, backward


def _made(like: str) -> Any:
    if not (shutil.which("clang") or shutil.which("gcc")):
        raise RuntimeError("tinygrad's CPU device needs clang")
    return layer_of(like, KEYWORDS[like], partial(_run, like), compiles=True)


# each new shape is some ten kernels, each a run of clang
ROWS = [
    Row("tinygrad", like, like, partial(_made, like), ("tinygrad",), DTYPES, KNOWN[like], compiled=True)
    for like in KEYWORDS
]
