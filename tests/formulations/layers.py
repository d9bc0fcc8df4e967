"""Layers put together from one way for each part: with torch's keywords, for every kind and rank.

`corpus` gives so many of each kind that every way of every part is in one of them; `drawn` any other combination.
Shares no code with `reference` or `npnorm`.
"""

from math import prod
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from tests.formulations import parts
from tests.formulations.parts import PARAMETER, ROW, Array

CENTRED = {
    "total": parts.TOTAL,
    "var": parts.VAR,
    "rstd": parts.RSTD,
    "xhat": parts.XHAT,
    "y": parts.Y,
    "dx": parts.DX,
    "dgamma": parts.DGAMMA,
    "dbeta": parts.DBETA,
}
TRACKED = CENTRED | {
    "constant dx": parts.CONSTANT_DX,
    "running": parts.RUNNING,
    "unbiased": parts.UNBIASED,
    "state": {"of x": True, "float64": False},
}
ROOTED = {name: ways for name, ways in CENTRED.items() if name != "dbeta"} | {
    "var": parts.SQUARES,
    "dx": parts.RMS_DX,
}


class Formulation:
    """What all kinds have in common; `ways` says how each part is computed."""

    parts: ClassVar[dict[str, dict[str, Any]]] = CENTRED
    ways: ClassVar[dict[str, str]] = {}
    center: ClassVar[bool] = True
    eps: float | None
    training = True
    running_mean = running_var = None

    def _have(self, shape: tuple[int, ...], eps: float | None, gamma: bool, beta: bool) -> None:
        self.eps = eps
        self.gamma, self.beta = np.ones(shape) if gamma else None, np.zeros(shape) if beta else None
        self.dgamma = self.dbeta = None
        self.batches = 0

    def way(self, part: str) -> Any:
        return self.parts[part][self.ways[part]]

    def seen(self, x: Array) -> Array:
        """A copy of x as (A, G, K, S)."""
        raise NotImplementedError

    def given(self, t: Array) -> Array:
        """(A, G, K, S) as x was."""
        return t.reshape(self.shape)

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        t = self.seen(x)
        p = self.p = SimpleNamespace(x=t, n=t.shape[2] * t.shape[3], dtype=x.dtype)
        total = self.way("total")
        p.total, p.added = (lambda a: total(a, ROW)), (lambda a: total(a, PARAMETER))
        p.share = lambda a: p.total(a) / p.n
        p.eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        p.gamma, p.beta = (
            default if value is None else value.astype(x.dtype).reshape(1, t.shape[1], t.shape[2], 1)
            for value, default in ((self.gamma, 1.0), (self.beta, 0.0))
        )
        p.constant = not self.training and self.running_mean is not None
        if p.constant:
            p.mean, p.var = (np.asarray(r).astype(x.dtype).reshape(1, -1, 1, 1) for r in self.running())
            p.c = p.x - p.mean
        else:
            p.mean = p.share(p.x) if self.center else np.zeros((1, 1, 1, 1), x.dtype)
            p.c = p.x - p.mean if self.center else p.x
            p.var = self.way("var")(p)
            if self.running_mean is not None:
                self.follow(p)
        p.rstd = self.way("rstd")(p)
        p.std = np.sqrt(p.var + p.eps)
        p.xhat = self.way("xhat")(p)
        return self.given(self.way("y")(p))

    def running(self) -> tuple[Any, Any]:
        return self.running_mean, self.running_var

    def follow(self, p: SimpleNamespace) -> None:
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        p = self.p
        p.dy = self.seen(dy)
        p.d = p.gamma * p.dy
        if self.gamma is not None:
            self.dgamma = self.way("dgamma")(p).reshape(self.gamma.shape)
        if self.beta is not None:
            self.dbeta = self.way("dbeta")(p).reshape(self.beta.shape)
        return self.given(self.way("constant dx" if p.constant else "dx")(p))


class GroupNorm(Formulation):
    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        self._have((num_channels,), eps, affine, affine)
        self.groups = num_groups

    def seen(self, x: Array) -> Array:
        return x.reshape(x.shape[0], self.groups, x.shape[1] // self.groups, prod(x.shape[2:])).copy()


class InstanceNorm(Formulation):
    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        self._have((num_features,), eps, affine, affine)

    def seen(self, x: Array) -> Array:
        return x.reshape(x.shape[0], x.shape[1], 1, prod(x.shape[2:])).copy()


class LayerNorm(Formulation):
    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self._have(shape, eps, elementwise_affine, elementwise_affine and bias)
        self.sizes = shape

    def seen(self, x: Array) -> Array:
        return x.reshape(prod(x.shape[: x.ndim - len(self.sizes)]), 1, prod(self.sizes), 1).copy()


class RMSNorm(Formulation):
    parts = ROOTED
    center = False

    def __init__(self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True) -> None:
        shape = tuple(np.atleast_1d(normalized_shape).tolist())
        self._have(shape, eps, elementwise_affine, False)
        self.sizes = shape

    def seen(self, x: Array) -> Array:
        return x.reshape(prod(x.shape[: x.ndim - len(self.sizes)]), 1, prod(self.sizes), 1).copy()


class BatchNorm(Formulation):
    parts = TRACKED

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self._have((num_features,), eps, affine, affine)
        self.momentum = momentum
        if track_running_stats:
            self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)

    def seen(self, x: Array) -> Array:
        return np.moveaxis(x, 1, 0).reshape(1, x.shape[1], 1, x.size // x.shape[1]).copy()

    def given(self, t: Array) -> Array:
        shape = self.shape
        return np.moveaxis(t.reshape(shape[1], shape[0], *shape[2:]), 0, 1)

    def follow(self, p: SimpleNamespace) -> None:
        self.batches += 1
        fraction = 1 / self.batches if self.momentum is None else self.momentum
        dtype = p.dtype if self.way("state") else np.float64
        new = (p.mean.reshape(-1), self.way("unbiased")(p).reshape(-1))
        blend = self.way("running")
        self.running_mean, self.running_var = (
            np.asarray(blend(old.astype(dtype), value.astype(dtype), fraction), dtype)
            for old, value in zip(self.running(), new, strict=True)
        )


KINDS: dict[str, type[Formulation]] = {
    layer.__name__: layer for layer in (GroupNorm, LayerNorm, RMSNorm, BatchNorm, InstanceNorm)
}


def layer_of(kind: str, ways: dict[str, str]) -> type[Formulation]:
    """A layer that computes each part in the way of that name."""
    base = KINDS[kind]
    return type(kind, (base,), {"ways": ways, "__init__": base.__init__})


def corpus(kind: str) -> list[dict[str, str]]:
    """Ways for as many layers as the part with the most ways has; each way of each part is in one of them."""
    of = KINDS[kind].parts
    most = max(len(ways) for ways in of.values())
    found = []
    for i in range(most):
        # each part goes through its ways, and begins them anew with another shift, so that others meet
        ways = {}
        for place, (part, names) in enumerate(of.items()):
            names = list(names)
            ways[part] = names[(i + (i // len(names)) * (place + 1)) % len(names)]
        found.append(ways)
    return found


def drawn(kind: str, rng: np.random.Generator) -> dict[str, str]:
    """Any way of each part."""
    return {part: str(rng.choice(list(ways))) for part, ways in KINDS[kind].parts.items()}
