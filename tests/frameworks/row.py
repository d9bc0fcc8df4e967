"""One layer of a framework as a row of data, and its adapter: NumPy in, NumPy out, the framework's own gradients.

Knows the judge's protocol; must not know what is right, nor which framework it is.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.kinds import kind_named

Array = NDArray[Any]
Backward = Callable[[Array], tuple[Array, Mapping[str, Array]]]  # dy -> dx and the gradients by "gamma" and "beta"


@dataclass(frozen=True)
class Known:
    """What is known to be wrong with a layer in one dtype: the ids of the mistakes, and why."""

    why: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A layer of a framework.

    Attributes:
        framework, layer: as the framework calls itself and it, with what options that matter.
        like: the kind of layer.
        make: gives the factory; it is called where the framework is installed, and imports it.
        packages: what must be installed, by their names in the index; the first has the version of the row.
        dtypes: those that the framework has.
        known: by dtype what is known to be wrong.
        accept: the conventions that the framework has chosen.
        compiled: whether each new shape costs seconds: then only the designed cases of one shape are tried, of rank 2 where
            features are normalized, else of rank 4.
        ndims: the ranks that are tried, by default 2 and 4.
    """

    framework: str
    layer: str
    like: str
    make: Callable[[], Any]
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    known: Mapping[str, Known] = field(default_factory=dict)
    accept: tuple[str, ...] = ()
    compiled: bool = False
    ndims: tuple[int, ...] | None = None

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        return f"{self.framework}-{self.layer}"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks in which it is tried."""
        kind = kind_named(self.like)
        if self.ndims:
            return self.ndims
        if self.compiled:
            return (2,) if kind.normalizes_features else (4,)
        return tuple(rank for rank in (2, 4) if rank in kind.ranks)

    @property
    def absent(self) -> str:
        """Why it cannot be tried here, in a sentence; "" if it can."""
        for package in self.packages:
            try:
                version(package)
            except PackageNotFoundError:
                return f"{self.framework} is not installed: pip install {package}"
        return ""

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(f"{package} {version(package)}" for package in self.packages)


class Call(NamedTuple):
    """What one forward is given: parameters by "gamma" and "beta", running statistics by their names."""

    options: Mapping[str, Any]
    x: Array
    parameters: Mapping[str, Array]
    state: Mapping[str, Array]
    training: bool


Ran = tuple[Array, Mapping[str, Array], Backward]  # y, the new running statistics, and the backward
Run = Callable[[Call], Ran]


def layer_of(like: str, keywords: tuple[str, ...], run: Run, *, compiles: bool = False) -> Any:
    """A factory of layers from one function that runs a framework.

    Args:
        like: the kind of layer. keywords: those of torch's that it takes; with a momentum it has running statistics.
        run: one forward. compiles: whether each new shape costs seconds.
    """
    kind, tracks = kind_named(like), "momentum" in keywords

    class FrameworkLayer:
        compiling = 0.0

        def __init__(self, **config: Any) -> None:
            features: Any = next(config[word] for word in reversed(kind.required))
            affine = config.get(kind.affine_keyword, True)
            self.config = config
            self.gamma: Array | None = np.ones(features) if affine else None
            self.beta: Array | None = np.zeros(features) if affine and config.get("bias", kind.has_beta) else None
            self.dgamma: Array | None = None
            self.dbeta: Array | None = None
            if tracks:
                self.training = True
                self.running_mean, self.running_var = np.zeros(features), np.ones(features)

        def forward(self, x: Array) -> Array:
            training = getattr(self, "training", True)
            wide = np.promote_types(x.dtype, np.float32)
            state = {r: getattr(self, r).astype(wide) for r in ("running_mean", "running_var")} if tracks else {}
            own = {"gamma": self.gamma, "beta": self.beta}
            given = {role: np.array(value) for role, value in own.items() if value is not None}
            y, new, self._backward = run(Call(self.config, np.array(x, order="C"), given, state, training))
            for role, value in new.items() if training else ():
                setattr(self, role, np.array(value))
            return np.array(y)

        def backward(self, dy: Array) -> Array:
            dx, own = self._backward(np.array(dy, order="C"))
            self.dgamma, self.dbeta = own.get("gamma"), own.get("beta")
            return np.array(dx)

    FrameworkLayer.__name__ = FrameworkLayer.__qualname__ = FrameworkLayer.like = like  # type: ignore[attr-defined]
    FrameworkLayer.compiles = compiles  # type: ignore[attr-defined]
    words = [word for word in kind.keywords if word in kind.required or word in keywords]
    FrameworkLayer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(word, inspect.Parameter.KEYWORD_ONLY) for word in words]
    )
    return FrameworkLayer


def last(array: Array) -> Array:
    """Channels last."""
    return np.moveaxis(array, 1, -1)


def first(array: Array) -> Array:
    """Channels in the second axis again."""
    return np.moveaxis(array, -1, 1)
