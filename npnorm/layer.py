"""What the layers have in common: parameters, the memory between forward and backward, and the refusals.

A layer says in `_canonical` how its input is seen as the kernel's (A, G, K, S); the arithmetic is the kernel's.
This module must not know which numbers share a mean, nor how a mean is taken.
"""

from typing import ClassVar, NamedTuple

import numpy as np

from npnorm import kernel
from npnorm.arguments import Array, float_array


class Canonical(NamedTuple):
    """How an input of one shape is seen by the kernel."""

    shape: tuple[int, int, int, int]  # of the array in the order of its memory
    gamma_shape: tuple[int, int]
    across_batch: bool = False  # the first axis shares the statistics: the kernel sees it as third

    def view(self, array: Array) -> Array:
        """`array` as the kernel sees it; a copy only where the memory order asks for one."""
        array = np.ascontiguousarray(array).reshape(self.shape)
        return array.transpose(2, 1, 0, 3) if self.across_batch else array

    def restore(self, array: Array, shape: tuple[int, ...]) -> Array:
        """The kernel's array back in the layer's `shape`, contiguous."""
        if self.across_batch:
            array = array.transpose(2, 1, 0, 3)
        return np.ascontiguousarray(array).reshape(shape)


class Memory(NamedTuple):
    """What a backward pass needs of the forward pass before it; nothing in it is shared with the caller."""

    shape: tuple[int, ...]
    dtype: np.dtype
    canonical: Canonical
    gamma: Array | None
    xhat: Array
    rstd: Array
    constant: bool  # mean and rstd were given, not computed from x


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

    def forward(self, x: Array) -> Array:
        """The normalized array, of x's shape and dtype.

        Raises:
            TypeError: x is not an array of floats.
            ValueError: x has a shape that the layer does not take, or gamma or beta has not `parameter_shape`.
        """
        x = float_array("x", x)
        canonical = self._canonical(x.shape)
        dtype = np.result_type(x.dtype, np.float32)  # float16 is computed in float32
        gamma, beta = (self._parameter(name, dtype, canonical.gamma_shape) for name in ("gamma", "beta"))
        with np.errstate(all="ignore"):  # as torch: NaN and inf are answers, not warnings
            out = self._normalize(canonical.view(x.astype(dtype, copy=False)), gamma, beta)
            y = canonical.restore(out.y, x.shape).astype(x.dtype, copy=False)
        self._memory = Memory(
            x.shape, x.dtype, canonical, gamma, out.xhat, out.rstd, self._constant_statistics()
        )
        return y

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
        canonical, gamma, xhat, rstd = memory.canonical, memory.gamma, memory.xhat, memory.rstd
        with np.errstate(all="ignore"):
            d = canonical.view(dy.astype(xhat.dtype, copy=False))
            if memory.constant:
                dx = kernel.input_gradient_with(d, gamma, rstd)
            else:
                dx = kernel.input_gradient(d, gamma, xhat, rstd, self.centred)
            if self.gamma is not None or self.beta is not None:
                dgamma, dbeta = kernel.parameter_gradients(d, xhat, canonical.gamma_shape)
                if self.gamma is not None:
                    self.dgamma = dgamma.reshape(self.parameter_shape).astype(self.gamma.dtype)
                if self.beta is not None:
                    self.dbeta = dbeta.reshape(self.parameter_shape).astype(self.beta.dtype)
            return canonical.restore(dx, memory.shape).astype(memory.dtype, copy=False)

    def parameters(self) -> list[tuple[Array, Array | None]]:
        """(value, gradient) of each parameter that the layer has: gamma first, then beta."""
        pairs = ((self.gamma, self.dgamma), (self.beta, self.dbeta))
        return [(value, gradient) for value, gradient in pairs if value is not None]

    def _canonical(self, shape: tuple[int, ...]) -> Canonical:
        """How an input of `shape` is seen by the kernel; refuses a shape that the layer does not take."""
        raise NotImplementedError

    def _normalize(self, x: Array, gamma: Array | None, beta: Array | None) -> kernel.Normalized:
        eps = float(np.finfo(x.dtype).eps) if self.eps is None else self.eps
        return kernel.normalize(x, gamma, beta, eps, self.centred)

    def _constant_statistics(self) -> bool:
        return False

    def _parameter(self, name: str, dtype: np.dtype, shape: tuple[int, int]) -> Array | None:
        """A copy of gamma or beta as the kernel takes it."""
        value = getattr(self, name)
        if value is None:
            return None
        value = float_array(name, value)
        if value.shape != self.parameter_shape:
            raise ValueError(f"Expected {name} to have shape {self.parameter_shape} but got {value.shape}")
        return value.astype(dtype).reshape(shape)
