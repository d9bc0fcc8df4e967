"""What the layers have in common: parameters, the memory between forward and backward, and the refusals.

A layer says in `_tiling` how its input is seen as the kernel's (A, G, K, S); the arithmetic is the kernel's.
This module must not know which numbers share a mean, nor how a mean is taken.
"""

from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

from npnorm import kernel
from npnorm.arguments import Array, float_array


class Memory(NamedTuple):
    """What a backward pass needs of the forward pass before it; nothing in it is shared with the caller."""

    shape: tuple[int, ...]
    dtype: np.dtype
    tiling: kernel.Tiling
    gamma: Array | None
    kept: Array
    statistics: list[kernel.Statistics]
    constant: bool  # mean and variance were given, not computed from x


class Normalization:
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, and its gradient.

    Attributes:
        gamma, beta: arrays of `parameter_shape`, or None where the layer has none. They may be reassigned or changed in
            place between calls; each backward uses the values of the forward before it.
        dgamma, dbeta: their gradients, set anew by each backward, in the parameters' dtype; None before the first.
        eps: what is added to the variance.

    y and dx have the dtype of x; float16 is computed in float32 inside. The arrays that the caller passes are never
    written to, and may be read-only and of any memory layout.
    """

    centred: ClassVar[bool] = True

    gamma: Array | None
    beta: Array | None

    def __init__(self, parameter_shape: tuple[int, ...], eps: float | None, gamma: bool, beta: bool) -> None:
        self.parameter_shape = parameter_shape
        self.eps = eps
        self.gamma = np.ones(parameter_shape) if gamma else None
        self.beta = np.zeros(parameter_shape) if beta else None
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self._memory: Memory | None = None

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    @np.errstate(all="ignore")  # as torch: NaN and inf are answers, not warnings
    def forward(self, x: Array) -> Array:
        """The normalized array, of x's shape and dtype.

        Raises:
            TypeError: x is not an array of floats.
            ValueError: x has a shape that the layer does not take, or gamma or beta has not `parameter_shape`.
        """
        x = float_array("x", x)
        tiling = self._tiling(x.shape)
        dtype = _computing_dtype(x.dtype)
        gamma = self._parameter("gamma", dtype, tiling)
        beta = self._parameter("beta", dtype, tiling)
        given = self._given_statistics(dtype, tiling)
        kept = self._room(x.shape, dtype)
        source, y = _contiguous(x, dtype)
        statistics = kernel.normalize(
            source.reshape(tiling.shape),
            y.reshape(tiling.shape),
            kept.reshape(tiling.shape),
            tiling,
            gamma,
            beta,
            float(np.finfo(dtype).eps) if self.eps is None else self.eps,
            self.centred,
            given,
        )
        self._memory = Memory(x.shape, x.dtype, tiling, gamma, kept, statistics, given is not None)
        self._follow(statistics, tiling.count)
        return y.astype(x.dtype, copy=False)

    @np.errstate(all="ignore")
    def backward(self, dy: Array) -> Array:
        """The gradient with respect to x of the forward before; sets `dgamma` and `dbeta`.

        Raises:
            RuntimeError: there was no forward.
            TypeError: dy is not an array of floats.
            ValueError: dy has not the shape of the forward's output.
        """
        memory = self._memory
        if memory is None:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        dy = float_array("dy", dy)
        if dy.shape != memory.shape:
            raise ValueError(f"Expected dy to have the shape of y, {memory.shape}, but got {dy.shape}")
        tiling = memory.tiling
        source, dx = _contiguous(dy, memory.kept.dtype)
        dgamma, dbeta = kernel.gradients(
            source.reshape(tiling.shape),
            dx.reshape(tiling.shape),
            memory.kept.reshape(tiling.shape),
            tiling,
            memory.gamma,
            memory.statistics,
            self.centred,
            memory.constant,
        )
        if self.gamma is not None:
            self.dgamma = dgamma.reshape(self.parameter_shape).astype(self.gamma.dtype, copy=False)
        if self.beta is not None:
            self.dbeta = dbeta.reshape(self.parameter_shape).astype(self.beta.dtype, copy=False)
        return dx.astype(memory.dtype, copy=False)

    def parameters(self) -> list[tuple[Array, Array | None]]:
        """(value, gradient) of each parameter that the layer has: gamma first, then beta."""
        pairs = ((self.gamma, self.dgamma), (self.beta, self.dbeta))
        return [(value, gradient) for value, gradient in pairs if value is not None]

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        """How an input of `shape` is seen by the kernel; refuses a shape that the layer does not take."""
        raise NotImplementedError

    def _given_statistics(self, dtype: np.dtype, tiling: kernel.Tiling) -> tuple[Array, Array] | None:
        """The mean and the variance to take in place of those of x, as the kernel takes them."""
        return None

    def _follow(self, statistics: list[kernel.Statistics], count: int) -> None:
        """Learn from the statistics of a batch, each over `count` numbers."""

    def _room(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """An array for what backward needs: that of the forward before, where it fits, for fresh memory is slow."""
        memory, self._memory = self._memory, None
        if memory is not None and memory.shape == shape and memory.kept.dtype == dtype:
            return memory.kept
        return kernel.room(shape, dtype)

    def _parameter(self, name: str, dtype: np.dtype, tiling: kernel.Tiling) -> Array | None:
        """A copy of gamma or beta, or a running statistic, as the kernel takes it."""
        value = getattr(self, name)
        if value is None:
            return None
        value = float_array(name, value)
        if value.shape != self.parameter_shape:
            raise ValueError(f"Expected {name} to have shape {self.parameter_shape} but got {value.shape}")
        return value.astype(dtype).reshape(*tiling.shape[1:3], 1)


@lru_cache(maxsize=16)
def _computing_dtype(dtype: np.dtype) -> np.dtype:
    return np.result_type(dtype, np.float32)  # float16 is computed in float32


def _contiguous(array: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """`array` as the kernel reads it, and room for its result: the very copy, where it had to be copied."""
    if array.flags.c_contiguous and array.dtype == dtype:
        return np.asarray(array), kernel.room(array.shape, dtype)
    copy = kernel.room(array.shape, dtype)
    np.copyto(copy, array)
    return copy, copy
