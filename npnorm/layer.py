"""What the layers have in common: parameters, the memory between forward and backward, and the refusals.

A layer says in `_tiling` how its input is seen as the kernel's (A, G, K, S); the arithmetic is the kernel's.
This module must not know which numbers share a mean, nor how a mean is taken.
"""

from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from npnorm import kernel
from npnorm.arguments import Array, checked, epsilon, flag, float_array, positive_ints, shown
from npnorm.machine import SMALL, refuse_beyond


class Memory(NamedTuple):
    """What a backward pass needs of the forward pass before it; nothing in it is shared with the caller."""

    shape: tuple[int, ...]
    dtype: np.dtype
    tiling: kernel.Tiling
    gamma: Array | None
    parameter_dtypes: tuple[np.dtype | None, np.dtype | None]  # of gamma and beta, where there are
    kept: Array  # the kernel's `memory`
    statistics: list[kernel.Statistics]
    constant: bool  # mean and variance were given, not computed from x


class Normalization:
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, and its gradient.

    Attributes:
        gamma, beta: arrays of `parameter_shape`, or None where the layer has none. They may be reassigned or changed in
            place between calls; each backward uses the values of the forward before it.
        dgamma, dbeta: their gradients, set anew by each backward, in the parameters' dtype; None before the first.
        eps: what is added to the variance.

    y and dx have the dtype of x; float16 is computed in float32 inside, and numbers whose squares or sums are beyond
    the range of their dtype in the next wider one, where there is one. The arrays that the caller passes are never
    written to, and may be read-only and of any memory layout.

    A layer made by `copy.copy` has the very gamma and beta of the original, as ever with a shallow copy; what forward
    and backward write to is its own. Copies of all kinds, and pickles, remember the forward pass.
    """

    centred: ClassVar[bool] = True
    _written: ClassVar[tuple[str, ...]] = ("dgamma", "dbeta")  # arrays that a copy must have for itself

    parameter_shape: tuple[int, ...] = checked("parameter_shape", positive_ints, fixed=True)
    eps: float | None = checked("eps", epsilon)
    gamma: Array | None
    beta: Array | None
    dgamma: Array | None
    dbeta: Array | None

    def __init__(self, parameter_shape: tuple[int, ...], eps: float | None, gamma: bool, beta: bool) -> None:
        self.parameter_shape = parameter_shape
        self.eps = eps
        needed = 8 * prod(self.parameter_shape) * (flag("gamma", gamma) + flag("beta", beta))
        refuse_beyond(needed, "the parameters", f"the shape {shown(self.parameter_shape)}")
        self.gamma = np.ones(self.parameter_shape) if gamma else None
        self.beta = np.zeros(self.parameter_shape) if beta else None
        self.dgamma = None
        self.dbeta = None
        self._memory: Memory | None = None

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    def __getstate__(self) -> Any:
        """What `copy` and `pickle` take: nothing in it is written to by a later pass of this layer."""
        state = super().__getstate__()
        values, slots = state if isinstance(state, tuple) else (state, None)  # slots are those of a subclass
        values = dict(values or {})
        for name in self._written:
            if isinstance(values.get(name), np.ndarray):
                values[name] = values[name].copy()
        memory = values.get("_memory")
        if memory is not None:
            values["_memory"] = memory._replace(kept=memory.kept.copy())
        return values if slots is None else (values, slots)

    @np.errstate(all="ignore")  # as torch: NaN and inf are answers, not warnings
    def forward(self, x: Array) -> Array:
        """The normalized array, of x's shape and dtype.

        Raises:
            TypeError: x is not an array of floats, or has a mask.
            ValueError: x has a shape that the layer does not take, or gamma or beta has not `parameter_shape`.
            MemoryError: y and what backward needs do not fit into memory.
        """
        x = float_array("x", x)
        dtype = _computing_dtype(x.dtype)
        if x.nbytes > SMALL:
            self._refuse_beyond(x, dtype)
        tiling = self._tiling(x.shape)
        y, memory = self._normalize(x, tiling, dtype)
        wider = _wider(dtype) if kernel.any_lost(memory.statistics) and _overflows(x, dtype) else None
        if wider is not None:
            del y, memory
            self._refuse_beyond(x, wider)
            y, memory = self._normalize(x, tiling, wider)
        y = y.astype(x.dtype, copy=False)
        self._memory = memory
        self._follow(memory.statistics, tiling.count)
        return y

    def _normalize(self, x: Array, tiling: kernel.Tiling, dtype: np.dtype) -> tuple[Array, Memory]:
        """y, and what to remember, as computed in `dtype`."""
        gamma = self._parameter("gamma", dtype, tiling)
        beta = self._parameter("beta", dtype, tiling)
        given = self._given_statistics(dtype, tiling)
        kept = self._room(tiling, dtype)
        source, y = _contiguous(x, dtype)
        statistics = kernel.normalize(
            source.reshape(tiling.shape),
            y.reshape(tiling.shape),
            kept,
            tiling,
            gamma,
            beta,
            _machine_epsilon(x.dtype) if self.eps is None else self.eps,
            self.centred,
            given,
        )
        dtypes = (None if self.gamma is None else self.gamma.dtype, None if self.beta is None else self.beta.dtype)
        return y, Memory(x.shape, x.dtype, tiling, gamma, dtypes, kept, statistics, given is not None)

    @np.errstate(all="ignore")
    def backward(self, dy: Array) -> Array:
        """The gradient with respect to x of the forward before; sets `dgamma` and `dbeta`.

        Raises:
            RuntimeError: there was no forward.
            TypeError: dy is not an array of floats, or has a mask.
            ValueError: dy has not the shape of the forward's output.
        """
        memory = self._memory
        if memory is None:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        dy = float_array("dy", dy)
        if dy.shape != memory.shape:
            raise ValueError(f"Expected dy to have the shape of y, {memory.shape}, but got {dy.shape}")
        dx, gradients = self._gradients(dy, memory)
        wider = (
            _wider(memory.kept.dtype)
            if gradients.lost and _overflows(dy, memory.kept.dtype, memory.statistics)
            else None
        )
        if wider is not None:
            dx, gradients = self._gradients(dy, _widened(memory, wider))
        of_gamma, of_beta = memory.parameter_dtypes
        shape = self.parameter_shape
        self.dgamma = None if of_gamma is None else gradients.dgamma.reshape(shape).astype(of_gamma, copy=False)
        self.dbeta = None if of_beta is None else gradients.dbeta.reshape(shape).astype(of_beta, copy=False)
        return dx.astype(memory.dtype, copy=False)

    def _gradients(self, dy: Array, memory: Memory) -> tuple[Array, kernel.Gradients]:
        """dx, and the gradients of the parameters, in the dtype of what is remembered."""
        tiling = memory.tiling
        source, dx = _contiguous(dy, memory.kept.dtype)
        return dx, kernel.gradients(
            source.reshape(tiling.shape),
            dx.reshape(tiling.shape),
            memory.kept,
            tiling,
            memory.gamma,
            memory.statistics,
            self.centred,
            memory.constant,
        )

    def parameters(self) -> list[tuple[Array, Array | None]]:
        """(value, gradient) of each parameter that the layer has: gamma first, then beta."""
        pairs = ((self.gamma, self.dgamma), (self.beta, self.dbeta))
        return [(value, gradient) for value, gradient in pairs if value is not None]

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        """How an input of `shape` is seen by the kernel; refuses a shape that the layer does not take."""
        raise NotImplementedError("Expected one of the layers but got what they have in common")

    def _given_statistics(self, dtype: np.dtype, tiling: kernel.Tiling) -> tuple[Array, Array] | None:
        """The mean and the variance to take in place of those of x, as the kernel takes them."""
        return None

    def _follow(self, statistics: list[kernel.Statistics], count: int) -> None:
        """Learn from the statistics of a batch, each over `count` numbers."""

    def _refuse_beyond(self, x: Array, dtype: np.dtype) -> None:
        """Refuses an x whose pass in `dtype` takes more memory than there is: a view may be larger than what it shows."""
        memory = self._memory
        kept = memory is not None and memory.shape == x.shape and memory.kept.dtype == dtype
        arrays = 1 if kept else 2
        refuse_beyond(arrays * x.size * dtype.itemsize, "y and what backward needs", f"x of shape {x.shape}")

    def _room(self, tiling: kernel.Tiling, dtype: np.dtype) -> Array:
        """An array for what backward needs: that of the forward before, where it fits, for fresh memory is slow."""
        memory, self._memory = self._memory, None
        if memory is not None and memory.tiling is tiling and memory.kept.dtype == dtype:
            return memory.kept
        return kernel.room((tiling.memory,), dtype)

    def _parameter(self, name: str, dtype: np.dtype, tiling: kernel.Tiling) -> Array | None:
        """A copy of gamma or beta, or a running statistic, as the kernel takes it."""
        value = self._array(name)
        return None if value is None else value.astype(dtype).reshape(tiling.parameters)

    def _array(self, name: str) -> Array | None:
        """gamma, beta or a running statistic, if it is what its name says."""
        value = getattr(self, name)
        if value is None:
            return None
        value = float_array(name, value)
        if value.shape != self.parameter_shape:
            raise ValueError(f"Expected {name} to have shape {self.parameter_shape} but got {value.shape}")
        return value


@lru_cache(maxsize=16)
def _computing_dtype(dtype: np.dtype) -> np.dtype:
    return np.result_type(dtype, np.float32)  # float16 is computed in float32


@lru_cache(maxsize=16)
def _machine_epsilon(dtype: np.dtype) -> float:
    return float(np.finfo(_computing_dtype(dtype)).eps)


@lru_cache(maxsize=16)
def _wider(dtype: np.dtype) -> np.dtype | None:
    """The next dtype of a greater range, where the machine has one."""
    for wider in (np.float64, np.longdouble):
        if np.finfo(wider).maxexp > np.finfo(dtype.type).maxexp:
            return np.dtype(wider)
    return None


def _overflows(array: Array, dtype: np.dtype, statistics: Iterable[kernel.Statistics] = ()) -> bool:
    """Whether what was lost was lost on the way: the array has more than the NaN and inf that come of NaN and inf."""
    if not all(np.isfinite(part.var + part.rstd).all() for part in statistics):
        return False
    finite = np.isfinite(array)
    return bool(finite.all() or np.abs(array[finite]).max(initial=0) > float(np.finfo(dtype).max) ** 0.25)


def _widened(memory: Memory, dtype: np.dtype) -> Memory:
    """What is remembered, in another dtype."""
    gamma = None if memory.gamma is None else memory.gamma.astype(dtype)
    statistics = [part.astype(dtype) for part in memory.statistics]
    return memory._replace(gamma=gamma, kept=memory.kept.astype(dtype), statistics=statistics)


def _contiguous(array: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """`array` as the kernel reads it, and room for its result: the very copy, where it had to be copied."""
    if array.flags.c_contiguous and array.dtype == dtype:
        return array, kernel.room(array.shape, dtype)
    copy = kernel.room(array.shape, dtype)
    np.copyto(copy, array)
    return copy, copy
