"""A pair of functions with a cache, forward and backward, as a layer class."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from reference.cases.case import Array
from reference.kinds import kind_named


def from_functions(forward: Callable[..., Any], backward: Callable[..., Any], like: str, **fixed: Any) -> Any:
    """A pair of functions with a cache as a layer class, for `check` and the others.

    Args:
        forward: (x, gamma, beta, **config) -> (y, cache). Of gamma, beta and torch's options it gets those that its
            signature names. For BatchNorm it may also name `training`, `running_mean` and `running_var`, two arrays
            that it is to update in place.
        backward: (dy, cache) -> (dx, dgamma, dbeta), or without the gradients that there are not.
        like: which layer it is.
        fixed: further arguments of forward.
    """
    kind = kind_named(like)
    parameters = inspect.signature(forward).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    gamma_optional = "gamma" in parameters and parameters["gamma"].default is None
    affine = {"affine", "elementwise_affine"}
    keywords = [
        name
        for name in kind.keywords
        if name in kind.required
        or ((takes_all or name in parameters) and name not in affine)
        or (name in affine and gamma_optional)
    ]

    class FunctionLayer:
        def __init__(self, **config: Any) -> None:
            self.config = config
            features: Any = config.get("normalized_shape", config.get("num_channels", config.get("num_features")))
            has_gamma = "gamma" in parameters and config.get("affine", config.get("elementwise_affine", True))
            self.gamma: Array | None = np.ones(features) if has_gamma else None
            self.beta: Array | None = np.zeros(features) if has_gamma and "beta" in parameters else None
            self.dgamma: Any = None
            self.dbeta: Any = None
            if "running_mean" in parameters:
                self.running_mean = np.zeros(features)
                self.running_var = np.ones(features)
            if "training" in parameters:
                self.training = True

        def forward(self, x: Array) -> Any:
            given = {name: getattr(self, name) for name in _STATE if name in parameters and hasattr(self, name)}
            config = {name: value for name, value in self.config.items() if takes_all or name in parameters}
            y, self.cache = forward(x, **given, **config, **fixed)
            return y

        def backward(self, dy: Array) -> Any:
            returned = backward(dy, self.cache)
            gradients = returned if isinstance(returned, (tuple, list)) else (returned,)
            dx, self.dgamma, self.dbeta = (*gradients, None, None)[:3]
            return dx

    name = getattr(forward, "__name__", like)  # where that does not tell what it is like, `like` is the better name
    FunctionLayer.__name__ = FunctionLayer.__qualname__ = (
        name if like.lower() in name.replace("_", "").lower() else like
    )
    FunctionLayer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in keywords]
    )
    return FunctionLayer


_STATE = ("gamma", "beta", "training", "running_mean", "running_var")
