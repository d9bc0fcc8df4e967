"""One pass of a stranger's torch code: arrays in, arrays out, the gradients by autograd. Knows tensors, and no layer.

What reaches the layer is memory of its own, in the order in which the caller's arrays lie, so that what a caller does to an
array later cannot reach torch, which would notice: it counts the writes. What the layer writes into its x or dy is written
into the caller's, where the protocol looks for it.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from reference.cases.case import Array
from reference.dtypes import dtype_named
from reference.subjects.names import role_of
from reference.subjects.observation import Finding

ROUNDING = 1e-3  # of the largest number, up to which two backward passes may differ by the order of their sums alone


class _Given(torch.autograd.Function):
    """x as something that was computed before, as a layer amid a network gets it; what comes back for it is kept."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, x: Array, device: str, received: list[torch.Tensor]) -> torch.Tensor:
        ctx.received = received
        return tensor_of(x, device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.received.append(gradients[0])
        return torch.zeros(()), None, None, None


class Asked(torch.autograd.Function):
    """A number whose gradient with respect to y is dy, this very tensor: so torch need not be handed one, for which it
    imports sympy, and dy reaches the layer as it lies in memory."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        ctx.dy = dy
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.dy, None


class Pass:
    """One forward, and the backward that belongs to it.

    Attributes:
        findings: what the layer was seen to do that only torch's layers can.
        twice: whether each backward is done once more, to see whether it gives the same; a process that tries thousands
            of changes to a layer does without.
    """

    twice: ClassVar[bool] = True

    def __init__(self, x: Array, device: str) -> None:
        self.findings: list[Finding] = []
        self._x, self._device = x, device
        self._received: list[torch.Tensor] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self.x = _Given.apply(self._anchor, x, device, self._received)  # type: ignore[no-untyped-call]
        self._held = self.x.detach()
        self._given = array_of(self._held)

    def returned(self, y: Any, parameters: Mapping[str, torch.Tensor]) -> Any:
        """What forward returned as an array; the first tensor of several."""
        y = y[0] if isinstance(y, (tuple, list)) and y else y
        _write_back(self._held, self._given, self._x)
        if not isinstance(y, torch.Tensor):
            return y
        self._y, self._parameters = y, dict(parameters)
        return array_of(y)

    @property
    def derived(self) -> bool:
        """Whether no step of the backward was written by hand, as that of a torch.autograd.Function."""
        waiting, seen = [self._y.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if isinstance(node, torch.autograd.function.BackwardCFunction) and node is not self.x.grad_fn:
                return False
            waiting += [other for other, _ in node.next_functions]
        return True

    def backward(self, dy: Array) -> tuple[Any, dict[str, Any]]:
        """dx, and the gradients of the parameters by name; None for what has none."""
        if not isinstance(self._y, torch.Tensor) or not self._y.requires_grad:
            return None, {}
        upstream = tensor_of(dy, self._device)
        before = array_of(upstream)
        dx, gradients = self._once(upstream)
        _write_back(upstream, before, dy)
        found = (_or_none(dx), {name: _or_none(gradient) for name, gradient in gradients.items()})
        if self.twice:
            upstream.copy_(tensor_of(before))  # in the same place: where a sum begins in memory changes its order
            self._again(found, upstream)
        return found

    def _once(self, upstream: torch.Tensor) -> tuple[Any, dict[str, Any]]:
        self._received.clear()
        inputs = [self._anchor, *self._parameters.values()]
        asked = Asked.apply(self._y, upstream)  # type: ignore[no-untyped-call]
        try:
            _, *gradients = torch.autograd.grad(asked, inputs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise _as_ours(error) from None
        dx = self._received[0] if self._received else None
        return dx, dict(zip(self._parameters, gradients, strict=True))

    def _again(self, found: tuple[Any, dict[str, Any]], upstream: torch.Tensor) -> None:
        """The same backward pass once more gives the same bits; where not, its sums have no order, or it spoilt what it keeps."""
        try:
            dx, gradients = self._once(upstream)
        except Exception as error:
            detail = (
                f"a second backward of the same forward raises {type(error).__name__}: {str(error).splitlines()[0]}"
            )
            self.findings.append(Finding("backward-not-repeatable", "dx", detail, hazard=True))
            return
        now = {"dx": _or_none(dx), **{name: _or_none(gradient) for name, gradient in gradients.items()}}
        for name, first in {"dx": found[0], **found[1]}.items():
            second = now.get(name)
            if first is None or second is None or first.tobytes() == second.tobytes():
                continue
            with np.errstate(all="ignore"):
                off = float(np.nanmax(np.abs(first - second), initial=0.0))
                size = float(np.nanmax(np.abs(first), initial=0.0))
            quantity = name if name == "dx" else "dgamma" if role_of((name,)) != "beta" else "dbeta"
            detail = f"a second backward of the same forward gives another {quantity}: off by {off:.3g}"
            by_order = off <= ROUNDING * size
            id = "backward-not-repeatable" if by_order else "backward-not-reentrant"
            self.findings.append(Finding(id, quantity, detail, hazard=by_order))
            return


def _as_ours(error: RuntimeError) -> Exception:
    """What torch's autograd found wrong with a gradient's shape, in the words of the other messages."""
    shapes = re.search(
        r"invalid gradient at index \d+ - got (\[.*?\]) but expected shape compatible with (\[.*?\])", str(error)
    )
    return ValueError(f"got shape {shapes[1]}, expected {shapes[2]}") if shapes else error


def tensor_of(array: Array, device: str = "cpu") -> torch.Tensor:
    """A tensor with memory of its own, that lies in it as the array does.

    Raises:
        ValueError: the array has a negative stride, which no tensor has.
    """
    if any(stride < 0 for stride, size in zip(array.strides, array.shape, strict=True) if size > 1):
        raise ValueError("torch has no tensors with a negative stride")
    own = np.array(array)
    flat = torch.from_numpy(own.view(np.int16)).view(torch.bfloat16) if _is_bfloat16(own) else torch.from_numpy(own)
    tensor = torch.empty_strided(array.shape, _strides_of(array), dtype=flat.dtype, device=device)
    return tensor.copy_(flat)


def _strides_of(array: Array) -> list[int]:
    """The strides of a tensor that lies as an array does; of axes of one number, which may have any, those that torch gives.

    torch tells by them whether channels come last, and what has strides that its own tensors never have is misread:
    BatchNorm2d's backward on the CPU gives gradients that have nothing to do with dy (torch 2.13).
    """
    own = [abs(stride) // array.itemsize for stride in array.strides]
    order = list(range(array.ndim))
    orders = [order, [0, *order[2:], 1]] if array.ndim > 2 else [order]
    for axes in orders:  # outermost first
        usual, step = own.copy(), 1
        for axis in reversed(axes):
            usual[axis], step = step, step * max(array.shape[axis], 1)
        if all(a == b for a, b, size in zip(own, usual, array.shape, strict=True) if size > 1):
            return usual
    return own


def array_of(tensor: torch.Tensor) -> Array:
    """A copy of a tensor as an array, in the shape that it has."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(dtype_named("bfloat16")).reshape(tensor.shape).copy()
    return np.array(tensor.resolve_conj().resolve_neg().numpy())


def _is_bfloat16(array: Array) -> bool:
    return array.dtype.name == "bfloat16"


def _or_none(tensor: Any) -> Array | None:
    return array_of(tensor) if isinstance(tensor, torch.Tensor) else None


def _write_back(tensor: torch.Tensor, before: Array, array: Array) -> None:
    """What was written into a tensor is written into the array that it stands for: as NumPy, not if that is read-only."""
    now = array_of(tensor)
    if now.tobytes() != before.tobytes():
        array[...] = now
