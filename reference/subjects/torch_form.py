"""torch's modules and functions in the form of the protocol: arrays in, arrays out, the gradients by autograd.

Imported when a stranger's code is torch's. It knows how torch's layers are built and hold their parameters, and not what one
should compute; `torch_pass` runs them.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reference.cases.case import Array
from reference.kinds import Kind, kind_said
from reference.subjects.frameworks import takes_data
from reference.subjects.functions import from_functions
from reference.subjects.names import role_of
from reference.subjects.observation import Finding
from reference.subjects.torch_pass import Pass, array_of, tensor_of


def from_torch(layer: Any, like: str | None = None, device: str = "cpu") -> Any:
    """A layer of torch's as a layer class of the protocol, for `check` and the others.

    Args:
        layer: a subclass of torch.nn.Module that takes torch's keywords, or a factory of such modules; a subclass of
            torch.autograd.Function, or a function, (x, weight, bias, eps...) -> y with arguments that their names tell.
        like: which layer it is; by default what its name says. The class remembers it.
        device: where it computes, "cpu", "cuda"...

    Raises:
        ValueError: there is no such kind of layer, or no such device. TypeError: it asks for something that nothing stands
            for, or is no layer.
    """
    name = getattr(layer, "__name__", type(layer).__name__)
    kind = kind_said("the layer", name, like)
    if isinstance(layer, torch.nn.Module):
        raise TypeError(f"Expected a class or a factory of modules but got a module, a {type(layer).__name__}")
    _refuse_device(device)
    if isinstance(layer, type) and issubclass(layer, torch.autograd.Function):
        return _of_function(layer.apply, _arguments_of(layer), layer, kind, device)
    if isinstance(layer, type) or not takes_data(layer):
        return _of_module(layer, kind, device)
    return _of_function(layer, inspect.signature(layer), layer, kind, device)


def _refuse_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"Expected a device that torch has here but got {device!r}: {error}") from None


def _arguments_of(function: type[torch.autograd.Function]) -> inspect.Signature:
    """What `apply` takes: forward's arguments, without the context where there is one."""
    signature = inspect.signature(function.forward)
    parameters = list(signature.parameters.values())
    old_style = function.setup_context is torch.autograd.Function.setup_context
    return signature.replace(parameters=parameters[1:] if old_style else parameters)


# --- functions --------------------------------------------------------------------------------------------------------


def _of_function(call: Callable[..., Any], signature: inspect.Signature, own: Any, kind: Kind, device: str) -> Any:
    """A function of tensors as a pair of functions of arrays with a cache, which `from_functions` knows how to read."""

    def forward(x: Array, **given: Any) -> Any:
        done = Pass(x, device)
        tensors: dict[str, Any] = {}
        leaves: dict[str, torch.Tensor] = {}
        state: dict[str, torch.Tensor] = {}
        for name, value in given.items():
            if isinstance(value, np.ndarray):
                tensor = tensor_of(value.astype(x.dtype), device)
                if role_of((name,)) in ("running_mean", "running_var"):
                    state[name] = tensor
                else:
                    leaves[name] = tensor.requires_grad_()
                tensors[name] = tensor
            elif isinstance(value, int) and role_of((name,)) is None and "shape" in name:
                tensors[name] = (value,)  # as torch's own functions want it
            else:
                tensors[name] = value
        bound = signature.bind(done.x, **tensors)
        bound.apply_defaults()
        y = done.returned(call(*bound.args, **bound.kwargs), leaves)
        for name, tensor in state.items():
            given[name][...] = array_of(tensor)
        return y, done

    def backward(dy: Array, cache: Pass) -> Any:
        dx, gradients = cache.backward(dy)
        by_role = {role_of((name,)): gradient for name, gradient in gradients.items()}
        return (dx, *(by_role[role] for role in ("gamma", "beta") if role in by_role))

    functools.update_wrapper(forward, own if inspect.isfunction(own) else own.forward)
    forward.__name__ = getattr(own, "__name__", kind.name)
    forward.__signature__ = signature  # type: ignore[attr-defined]
    made = from_functions(forward, backward, kind.name)
    made.adapts, made.device = own, device
    return made


# --- modules ----------------------------------------------------------------------------------------------------------


class _Parameter:
    """A parameter of a module whose name does not say it all: where it is kept, and its gradient."""

    def __init__(self, layer: "ModuleLayer", name: str) -> None:
        self._of = (layer, name)
        self.grad: Array | None = None

    @property
    def data(self) -> Array:
        layer, name = self._of
        return layer.tensor(name)

    @data.setter
    def data(self, value: Array) -> None:
        layer, name = self._of
        layer.put(name, value)


class ModuleLayer:
    """A module in the form of the protocol; its parameters and buffers under their own names, weight and bias as gamma and
    beta."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        self._held = (module.to(device), device)  # in a tuple, in which nobody looks for arrays
        self._pass: tuple[Pass, ...] = ()
        self._gradients: dict[str, Any] = {}
        self._role_of_name = _roles(module)
        for name in self._role_of_name:
            if self._role_of_name[name] is None:
                setattr(self, name.replace(".", "_"), _Parameter(self, name))

    @property
    def adapted(self) -> torch.nn.Module:
        """The module itself."""
        return self._held[0]

    @property
    def findings(self) -> list[Finding]:
        return self._pass[0].findings if self._pass else []

    @property
    def derived(self) -> bool:
        """Whether its backward is autograd's own."""
        return bool(self._pass) and self._pass[0].derived

    def names_by_role(self) -> dict[str, str]:
        """What its parameters and buffers are, those that are known."""
        return {name: role for name, role in self._role_of_name.items() if role is not None}

    def _named(self, role: str) -> str | None:
        return next((name for name, own in self._role_of_name.items() if own == role), None)

    def tensor(self, name: str) -> Array:
        """A copy of a parameter or buffer."""
        owner, _, own = name.rpartition(".")
        return array_of(getattr(self._held[0].get_submodule(owner), own))

    def put(self, name: str, value: Array) -> None:
        """Set a parameter or buffer, dtype and all."""
        module, device = self._held
        owner, _, own = name.rpartition(".")
        place, tensor = module.get_submodule(owner), tensor_of(np.ascontiguousarray(value), device)
        old = getattr(place, own)
        if isinstance(old, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
        setattr(place, own, tensor)

    def _get(self, role: str) -> Array | None:
        name = self._named(role)
        return None if name is None else self.tensor(name)

    def _set(self, role: str, value: Array) -> None:
        name = self._named(role)
        if name is None:
            raise AttributeError(f"the module has no {role}")
        self.put(name, value)

    gamma = property(lambda self: self._get("gamma"), lambda self, value: self._set("gamma", value))
    beta = property(lambda self: self._get("beta"), lambda self, value: self._set("beta", value))
    dgamma = property(lambda self: self._gradients.get(self._named("gamma") or ""))
    dbeta = property(lambda self: self._gradients.get(self._named("beta") or ""))

    def forward(self, x: Array) -> Any:
        """The module's y, computed in the dtype of x: the module is converted to it, as .to(dtype) does."""
        module, device = self._held
        done = Pass(x, device)
        wanted = done.x.dtype
        held = [*module.parameters(), *module.buffers()]
        if any(tensor.is_floating_point() and tensor.dtype != wanted for tensor in held):
            module.to(wanted)
        self._pass = (done,)
        y = module(done.x)
        parameters = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
        return done.returned(y, parameters)

    def backward(self, dy: Array) -> Any:
        """torch's gradient with respect to x; the parameters' gradients are kept."""
        if not self._pass:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        dx, self._gradients = self._pass[0].backward(dy)
        for name, gradient in self._gradients.items():
            own = getattr(self, name.replace(".", "_"), None)
            if isinstance(own, _Parameter):
                own.grad = gradient
        return dx


class _WithModes(ModuleLayer):
    """One of a kind that has running statistics."""

    running_mean = property(
        lambda self: self._get("running_mean"), lambda self, value: self._set("running_mean", value)
    )
    running_var = property(lambda self: self._get("running_var"), lambda self, value: self._set("running_var", value))

    @property
    def training(self) -> bool:
        return self._held[0].training

    @training.setter
    def training(self, value: bool) -> None:
        self._held[0].train(value)


def _roles(module: torch.nn.Module) -> dict[str, str | None]:
    """What each parameter and buffer is: by torch's own name, or else, where one alone starts so, by what it starts from.

    Those that nothing tells are None: they stand under their own names, to be found or to be named.
    """
    floats = {
        name: tensor
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if tensor.is_floating_point() and tensor.ndim
    }
    roles: dict[str, str | None] = dict.fromkeys(floats)
    for name in floats:
        role = role_of((name.rpartition(".")[2],))
        if role is not None and role not in roles.values():
            roles[name] = role
    for role, start in (("gamma", 1), ("beta", 0)):
        alone = [
            name
            for name, tensor in module.named_parameters()
            if roles.get(name, "") is None and (tensor == start).all()
        ]
        if role not in roles.values() and len(alone) == 1:
            roles[alone[0]] = role
    return roles


def _of_module(factory: Callable[..., Any], kind: Kind, device: str) -> Any:
    base = _WithModes if kind.tracks else ModuleLayer

    class Layer(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            module = factory(*args, **kwargs)
            if not isinstance(module, torch.nn.Module):
                raise TypeError(f"Expected a torch.nn.Module but got a {type(module).__name__}")
            super().__init__(module, device)

    Layer.__name__ = Layer.__qualname__ = getattr(factory, "__name__", kind.name)
    Layer.__module__ = getattr(factory, "__module__", __name__)
    Layer.like = kind.name
    Layer.adapts, Layer.device = factory, device
    Layer.__signature__ = inspect.signature(factory)
    return Layer
