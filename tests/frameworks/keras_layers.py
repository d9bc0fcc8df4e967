"""Keras' layers on its JAX backend, each built for x and called without state, in x's own dtype."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.frameworks.row import Known, Row

DTYPES = ("float64", "float32", "float16", "bfloat16")


def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    return keras


def _called(
    layer: Any, x: Any, parameters: list[Any], state: list[Any] | None = None, **mode: Any
) -> tuple[Any, list[Any]]:
    layer.build(x.shape)
    y, new = layer.stateless_call(parameters, state or [], x, **mode)
    return y, new


def group_norm(x: Any, gamma: Any, beta: Any, num_groups: int, eps: float) -> Any:
    layer = _keras().layers.GroupNormalization(num_groups, epsilon=eps, dtype=x.dtype.name)
    return _called(layer, x, [gamma, beta])[0]


def instance_norm(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    layer = _keras().layers.GroupNormalization(
        -1, epsilon=eps, dtype=x.dtype.name
    )  # a group a channel, as its page says
    return _called(layer, x, [gamma, beta])[0]


def layer_norm(x: Any, gamma: Any, beta: Any, normalized_shape: Any, eps: float) -> Any:
    axes = list(range(-gamma.ndim, 0))
    return _called(_keras().layers.LayerNormalization(axes, epsilon=eps, dtype=x.dtype.name), x, [gamma, beta])[0]


def rms_norm(x: Any, gamma: Any, normalized_shape: Any, eps: float) -> Any:
    if eps is None:
        raise ValueError("Keras has no epsilon of None")
    axes = list(range(-gamma.ndim, 0))
    return _called(_keras().layers.RMSNormalization(axes, epsilon=eps, dtype=x.dtype.name), x, [gamma])[0]


def batch_norm(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> Any:
    layer = _keras().layers.BatchNormalization(momentum=momentum, epsilon=eps, dtype=x.dtype.name)
    y, new = _called(layer, x, [gamma, beta], [running_mean, running_var], training=training)
    return y, new


def _made(f: Callable[..., Any], like: str) -> Any:
    from reference import from_jax

    _keras()
    return from_jax(f, like, channels_last=True)


DEMOTED = Known("it computes in float32, whatever its dtype", ("dtype-demoted",))
HALF_STATE = Known(
    "of the dtype float16 its moving variance is float16 too, and ends at 65504; of the policy mixed_float16 it is not",
    ("computed-in-16-bits",),
)
_LAYERS: list[tuple[str, str, Callable[..., Any]]] = [
    ("GroupNormalization", "GroupNorm", group_norm),
    ("LayerNormalization", "LayerNorm", layer_norm),
    ("RMSNormalization", "RMSNorm", rms_norm),
    ("BatchNormalization", "BatchNorm", batch_norm),
    ("GroupNormalization(groups=-1)", "InstanceNorm", instance_norm),
]
ROWS = [
    Row(
        "keras",
        name,
        like,
        partial(_made, f, like),
        ("keras", "jax"),
        DTYPES,
        {"float64": DEMOTED} | ({"float16": HALF_STATE} if like == "BatchNorm" else {}),
        ("momentum-inverted", "running-var-biased") if like == "BatchNorm" else (),
        compiled=True,
    )
    for name, like, f in _LAYERS
]
