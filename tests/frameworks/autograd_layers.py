"""The textbook's formulas under HIPS autograd: what a gradient is worth that nobody wrote by hand."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.frameworks.row import Array, Call, Ran, Row, layer_of

KEYWORDS = {
    "GroupNorm": ("eps", "affine"),
    "LayerNorm": ("eps", "elementwise_affine", "bias"),
    "RMSNorm": ("eps", "elementwise_affine"),
    "BatchNorm": ("eps", "affine"),
    "InstanceNorm": ("eps", "affine"),
}


def _formula(like: str, options: Mapping[str, Any], x: Any, own: Mapping[str, Any]) -> Any:
    import autograd.numpy as np

    shape, eps = x.shape, options["eps"]
    size = options.get("normalized_shape")
    features = 1 if isinstance(size, int) else len(size or ())
    lying = size if size is not None else (1, shape[1], *[1] * (x.ndim - 2))
    seen = np.reshape(x, (shape[0], options["num_groups"], -1)) if like == "GroupNorm" else x
    axes = {
        "GroupNorm": (2,),
        "LayerNorm": tuple(range(x.ndim - features, x.ndim)),
        "RMSNorm": tuple(range(x.ndim - features, x.ndim)),
        "BatchNorm": (0, *range(2, x.ndim)),
        "InstanceNorm": tuple(range(2, x.ndim)),
    }[like]
    centred = seen if like == "RMSNorm" else seen - np.mean(seen, axis=axes, keepdims=True)
    xhat = np.reshape(centred / np.sqrt(np.mean(centred**2, axis=axes, keepdims=True) + eps), shape)
    y = xhat * np.reshape(own["gamma"], lying) if "gamma" in own else xhat
    return y + np.reshape(own["beta"], lying) if "beta" in own else y


def _run(like: str, call: Call) -> Ran:
    from autograd import make_vjp

    options, x, parameters, *_ = call
    roles = tuple(parameters)

    def forward(inputs: Any) -> Any:
        return _formula(like, options, inputs[0], dict(zip(roles, inputs[1:], strict=True)))

    pull, y = make_vjp(forward)((x, *(parameters[role] for role in roles)))

    def backward(dy: Array) -> tuple[Array, Mapping[str, Array]]:
        dx, *own = pull(dy)
        return dx, dict(zip(roles, own, strict=True))

    return y, {}, backward


ROWS = [
    Row(
        "autograd",
        f"{like} by its formula",
        like,
        partial(layer_of, like, KEYWORDS[like], partial(_run, like)),
        ("autograd",),
        ("float64", "float32"),
    )
    for like in KEYWORDS
]
