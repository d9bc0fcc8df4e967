"""MLX' layers on its CPU, which have the channels last; gradients by `mlx.core.vjp`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tests.frameworks.row import Array, Call, Known, Ran, Row, first, last, layer_of

DTYPES = ("float64", "float32", "float16", "bfloat16")
KEYWORDS = {
    "GroupNorm": ("eps", "affine"),
    "LayerNorm": ("eps", "elementwise_affine", "bias"),
    "RMSNorm": ("eps",),
    "BatchNorm": ("eps", "momentum", "affine", "track_running_stats"),
    "InstanceNorm": ("eps", "affine"),
}
NAMES = {"gamma": "weight", "beta": "bias"}

DEMOTED = Known("its fast kernels, and InstanceNorm, compute in float32", ("dtype-demoted",))
IN_BETWEEN = Known("what is made of the statistics is rounded to 16 bits at each step", ("rounded-in-between",))
IN_16_BITS = Known("it squares and adds in x's own dtype", ("computed-in-16-bits",))
FAST = {"float64": DEMOTED, "float16": IN_BETWEEN, "bfloat16": IN_BETWEEN}


def _to_mlx(array: Array) -> Any:
    import mlx.core as mx

    if array.dtype.name == "bfloat16":  # a buffer of which mlx takes for something else
        return mx.array(array.astype(np.float32)).astype(mx.bfloat16)
    return mx.array(array, dtype=getattr(mx, array.dtype.name))


def _to_numpy(array: Any) -> Array:
    import mlx.core as mx

    if array.dtype == mx.bfloat16:
        return np.array(array.astype(mx.float32)).astype("bfloat16")
    return np.array(array)


def _module(like: str, options: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    from mlx import nn

    eps = {"eps": options["eps"]}
    affine = options.get("affine", options.get("elementwise_affine", True))
    if like == "GroupNorm":
        return nn.GroupNorm(
            options["num_groups"], options["num_channels"], affine=affine, pytorch_compatible=True, **eps
        )
    if like == "BatchNorm":
        tracks = options.get("track_running_stats", True)
        return nn.BatchNorm(
            options["num_features"], momentum=options["momentum"], affine=affine, track_running_stats=tracks, **eps
        )
    if like == "InstanceNorm":
        return nn.InstanceNorm(options["num_features"], affine=affine, **eps)
    size = options["normalized_shape"]
    if not isinstance(size, int):
        raise ValueError("Expected one normalized axis")
    if like == "RMSNorm":
        return nn.RMSNorm(size, **eps)
    return nn.LayerNorm(size, affine=affine, bias=options.get("bias", True), **eps)


def _run(like: str, call: Call) -> Ran:
    import mlx.core as mx

    options, x, parameters, state, training = call
    mx.set_default_device(mx.cpu)
    module = _module(like, options, x.shape)
    module.train(training)
    for role, value in state.items():
        if role in module:
            module[role] = _to_mlx(value)
    has_space = "normalized_shape" not in options
    roles = tuple(parameters)
    inputs = [_to_mlx(last(x) if has_space else x), *(_to_mlx(parameters[role]) for role in roles)]

    def forward(x: Any, *own: Any) -> Any:
        for role, value in zip(roles, own, strict=True):
            module[NAMES[role]] = value
        return module(x)

    y = forward(*inputs)
    new = {role: _to_numpy(module[role]) for role in state if role in module}

    def backward(dy: Array) -> tuple[Array, Mapping[str, Array]]:
        for role, value in state.items():
            if role in module:
                module[role] = _to_mlx(value)
        _, (dx, *own) = mx.vjp(forward, inputs, [_to_mlx(last(dy) if has_space else dy)])
        found = _to_numpy(dx)
        return first(found) if has_space else found, {r: _to_numpy(g) for r, g in zip(roles, own, strict=True)}

    found = _to_numpy(y)
    return first(found) if has_space else found, new, backward


ROWS = [
    Row(
        "mlx",
        like,
        like,
        partial(layer_of, like, KEYWORDS[like], partial(_run, like)),
        ("mlx",),
        DTYPES,
        dict.fromkeys(("float16", "bfloat16"), IN_16_BITS) if like == "BatchNorm" else FAST,
    )
    for like in KEYWORDS
]
