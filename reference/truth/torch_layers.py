"""torch.nn's layers behind the protocol of the NumPy ones: arrays in, arrays out. The verdict's only way to torch.

Either side can stand in the other's place: same constructors, `forward`, `backward`, `gamma`, `beta`, `dgamma`,
`dbeta`, `training`, `running_mean`, `running_var`. The gradients are those of torch's own autograd. Nothing else
of the verdict imports torch, and this file knows no case, formula or tolerance.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from reference.dtypes import carried
from reference.kinds import KINDS, Kind
from reference.subjects.torch_pass import Asked, array_of, tensor_of

Array = NDArray[Any]


class TorchLayer:
    """One kind of torch's layers; the module is made for the rank of x, and the state moves with the rank.

    Takes torch's options, the required ones also by position.
    """

    kind: ClassVar[Kind]
    derived: ClassVar[bool] = True  # its gradients are autograd's own

    def __init__(self, *required: Any, **options: Any) -> None:
        self._options = dict(zip(self.kind.required, required, strict=False)) | options
        self.module = self._made_for(self.kind.ranks[-1])
        self.gamma = _array_of(self.module, "weight")
        self.beta = _array_of(self.module, "bias")
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self.training = True
        self._x: torch.Tensor | None = None
        self._y: torch.Tensor | None = None

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    @property
    def running_mean(self) -> Array | None:
        return _array_of(self.module, "running_mean")

    @property
    def running_var(self) -> Array | None:
        return _array_of(self.module, "running_var")

    def forward(self, x: Array) -> Array:
        """torch's output for x, in x's dtype; gamma and beta are taken in that dtype too."""
        self._x = _tensor(x).requires_grad_()
        self._follow_rank(x.ndim)
        for name, value in (("weight", self.gamma), ("bias", self.beta)):
            if value is not None:
                self.module.register_parameter(name, torch.nn.Parameter(_tensor(value.astype(x.dtype))))
        self.module.train(self.training)
        self._y = self.module(self._x)
        assert isinstance(self._y, torch.Tensor)
        return carried(array_of(self._y))

    def backward(self, dy: Array) -> Array:
        """torch's gradient with respect to x; sets `dgamma` and `dbeta`."""
        if self._x is None or self._y is None:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        names = [name for name in ("weight", "bias") if getattr(self.module, name, None) is not None]
        inputs = [self._x, *(getattr(self.module, name) for name in names)]
        upstream = _tensor(dy).to(self._x.dtype)
        asked = Asked.apply(self._y, upstream)  # type: ignore[no-untyped-call]
        dx, *gradients = torch.autograd.grad(asked, inputs, retain_graph=True)
        found = {name: carried(array_of(gradient)) for name, gradient in zip(names, gradients, strict=True)}
        self.dgamma, self.dbeta = found.get("weight"), found.get("bias")
        return carried(array_of(dx))

    def _made_for(self, rank: int) -> torch.nn.Module:
        module: torch.nn.Module = getattr(torch.nn, self.kind.torch[rank])(**self._options)
        return module

    def _follow_rank(self, rank: int) -> None:
        """Exchange the module where torch has another one for this rank; running statistics take x's dtype."""
        assert self._x is not None
        if not self.kind.normalizes_features and rank not in self.kind.torch:
            raise ValueError(f"Expected x of rank {list(self.kind.torch)} but got rank {rank}")
        if len(set(self.kind.torch.values())) == 1:
            return
        if type(self.module).__name__ != self.kind.torch[rank]:
            module = self._made_for(rank)
            module.load_state_dict(self.module.state_dict())
            self.module = module
        self.module.to(self._x.dtype)


LAYERS: dict[str, type[TorchLayer]] = {
    name: type(
        name, (TorchLayer,), {"kind": kind, "__doc__": f"`torch.nn`'s {name}, of any rank.", "__module__": __name__}
    )
    for name, kind in KINDS.items()
}


def _array_of(module: torch.nn.Module, name: str) -> Array | None:
    tensor = getattr(module, name, None)
    return None if tensor is None else carried(array_of(tensor))


def _tensor(array: Array) -> torch.Tensor:
    """A copy of an array as a tensor, the numbers one after the other; in 16 bits as they lie, where torch can.

    Its CPU has other code in 16 bits for tensors that lie otherwise, which rounds otherwise.
    """
    if array.dtype.kind == "f" and array.itemsize > 2:
        return torch.from_numpy(np.array(array, order="C"))
    return tensor_of(np.array(array, order="C") if any(stride < 0 for stride in array.strides) else array)
