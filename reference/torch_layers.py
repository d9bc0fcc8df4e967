"""torch.nn's layers behind the protocol of the NumPy ones: arrays in, arrays out. The verdict's only door to torch.

Either side can stand in the other's place: same constructors, `forward`, `backward`, `gamma`, `beta`, `dgamma`,
`dbeta`, `training`, `running_mean`, `running_var`. The gradients are those of torch's own autograd. Nothing else
of the verdict imports torch (the lab's twin, `torch_mlp`, does), and this file knows no case, formula or tolerance.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: on arrays this small, handing work to others costs more than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TorchLayer:
    """What the wrappers share: the module, the parameters as arrays, and one pass through autograd."""

    module: torch.nn.Module

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.gamma = _array_of(module, "weight")
        self.beta = _array_of(module, "bias")
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self.training = True
        self._x: torch.Tensor | None = None
        self._y: torch.Tensor | None = None

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    def forward(self, x: Array) -> Array:
        """torch's output for x, in x's dtype; gamma and beta are taken in that dtype too."""
        self._x = torch.from_numpy(np.array(x, order="C")).requires_grad_()
        module = self._module_for(x.ndim)
        for name, value in (("weight", self.gamma), ("bias", self.beta)):
            if value is not None:
                module.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value.astype(x.dtype))))
        module.train(self.training)
        self._y = module(self._x)
        assert isinstance(self._y, torch.Tensor)
        return self._y.detach().numpy().copy()

    def backward(self, dy: Array) -> Array:
        """torch's gradient with respect to x; sets `dgamma` and `dbeta`."""
        if self._x is None or self._y is None:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        names = [name for name in ("weight", "bias") if getattr(self.module, name, None) is not None]
        inputs = [self._x, *(getattr(self.module, name) for name in names)]
        upstream = torch.from_numpy(np.array(dy, order="C", dtype=_dtype_of(self._x)))
        dx, *gradients = torch.autograd.grad(self._y, inputs, upstream, retain_graph=True)
        found = {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}
        self.dgamma, self.dbeta = found.get("weight"), found.get("bias")
        return np.asarray(dx.numpy())

    def _module_for(self, ndim: int) -> torch.nn.Module:
        return self.module


class GroupNorm(TorchLayer):
    """`torch.nn.GroupNorm`."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(torch.nn.GroupNorm(num_groups, num_channels, eps, affine))


class LayerNorm(TorchLayer):
    """`torch.nn.LayerNorm`."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(torch.nn.LayerNorm(_sizes(normalized_shape), eps, elementwise_affine, bias))


class RMSNorm(TorchLayer):
    """`torch.nn.RMSNorm`."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        super().__init__(torch.nn.RMSNorm(_sizes(normalized_shape), eps, elementwise_affine))


class _ByRank(TorchLayer):
    """A layer that torch has as three modules, one for each rank of x; the state moves with the rank."""

    kinds: ClassVar[dict[int, type[torch.nn.Module]]]

    def __init__(self, **options: Any) -> None:
        self._options = options
        super().__init__(self.kinds[3](**options))

    def _module_for(self, ndim: int) -> torch.nn.Module:
        if ndim not in self.kinds:
            raise ValueError(f"Expected x of rank {sorted(self.kinds)} but got rank {ndim}")
        if type(self.module) is not self.kinds[ndim]:
            module = self.kinds[ndim](**self._options)
            module.load_state_dict(self.module.state_dict())
            self.module = module
        assert self._x is not None
        return self.module.to(self._x.dtype)


class BatchNorm(_ByRank):
    """`torch.nn.BatchNorm1d` for x of rank 2 and 3, `BatchNorm2d` for 4, `BatchNorm3d` for 5."""

    kinds: ClassVar = {
        2: torch.nn.BatchNorm1d,
        3: torch.nn.BatchNorm1d,
        4: torch.nn.BatchNorm2d,
        5: torch.nn.BatchNorm3d,
    }

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(
            num_features=num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
        )

    @property
    def running_mean(self) -> Array | None:
        return _array_of(self.module, "running_mean")

    @property
    def running_var(self) -> Array | None:
        return _array_of(self.module, "running_var")


class InstanceNorm(_ByRank):
    """`torch.nn.InstanceNorm1d` for x of rank 3, `InstanceNorm2d` for 4, `InstanceNorm3d` for 5."""

    kinds: ClassVar = {3: torch.nn.InstanceNorm1d, 4: torch.nn.InstanceNorm2d, 5: torch.nn.InstanceNorm3d}

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        super().__init__(num_features=num_features, eps=eps, affine=affine)


LAYERS: dict[str, type[TorchLayer]] = {
    layer.__name__: layer for layer in (GroupNorm, LayerNorm, RMSNorm, BatchNorm, InstanceNorm)
}


def _array_of(module: torch.nn.Module, name: str) -> Array | None:
    tensor = getattr(module, name, None)
    return None if tensor is None else np.array(tensor.detach().numpy())


def _dtype_of(tensor: torch.Tensor) -> np.dtype:
    return np.dtype(str(tensor.dtype).removeprefix("torch."))


def _sizes(normalized_shape: int | Sequence[int]) -> int | list[int]:
    return normalized_shape if isinstance(normalized_shape, int) else list(normalized_shape)
