"""Whether a stranger's layer is another framework's, told without importing any; and the adapter that reads it.

A framework that a layer is written in has been imported by the layer's own file: what is not in `sys.modules` is not meant.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

import numpy as np


class Framework(NamedTuple):
    """A framework, by the packages that its layers derive from, and where its adapter `from_...` is."""

    name: str
    packages: frozenset[str]
    adapter: str


FRAMEWORKS = (
    Framework("torch", frozenset({"torch"}), "reference.subjects.torch_form"),
    Framework("jax", frozenset({"jax", "jaxlib", "flax", "equinox"}), "reference.subjects.jax_form"),
)
# What the first argument of a function of arrays is called.
DATA = frozenset(["x", "X", "input", "inputs", "hidden_states", "tensor", "t", "a", "h"])


def framework_of(layer: Any) -> Framework | None:
    """The framework that a class or function is written in; None if it is NumPy's, or cannot be told.

    A class, and an object that is called, by what it derives from. A function by what it calls; and one of arrays, which
    may need no more than their methods, by what its file has imported.
    """
    if hasattr(layer, "adapts"):
        return None
    function = inspect.unwrap(layer) if callable(layer) and not isinstance(layer, type) else layer
    if not inspect.isfunction(function) or function is not layer:
        owner = layer if isinstance(layer, type) else type(layer)
        found = _of_packages({base.__module__.partition(".")[0] for base in owner.__mro__})
        if found or not inspect.isfunction(function):
            return found
    known = {name: package for name, value in function.__globals__.items() if (package := _package_of(value))}
    called = _of_packages({known[name] for name in _names_in(function.__code__) if name in known})
    return called or (_of_packages(set(known.values())) if takes_data(function) else None)


def takes_data(function: Any) -> bool:
    """Whether a function is one of arrays, and no factory of layers: its first argument is called as x is."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return bool(names) and names[0] in DATA


def adapted(layer: Any, like: str | None, device: str = "cpu") -> Any:
    """`layer` in the form of the protocol: by the adapter of its framework, or as it is.

    Args:
        layer: anybody's class, factory or function. like: which layer it is. device: where it computes.

    Raises:
        ValueError, TypeError: as the adapter.
    """
    framework = framework_of(layer)
    if framework is None:
        return layer
    return getattr(importlib.import_module(framework.adapter), f"from_{framework.name}")(layer, like, device)


def plain(value: Any) -> Any:
    """A framework's array as NumPy's, a copy; anything else as it is."""
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach().cpu()
        return np.array(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)
    return value


def in_torch(value: Any) -> Any:
    """A NumPy array as a tensor, where torch has been imported; anything else as it is."""
    return sys.modules["torch"].from_numpy(value) if isinstance(value, np.ndarray) else value


def one_backward() -> None:
    """From now on no backward is done twice to compare the two."""
    adapter = sys.modules.get("reference.subjects.torch_pass")
    if adapter is not None:
        adapter.Pass.twice = False


def held_by(owner: Any) -> list[tuple[str, Any]]:
    """The parameters and buffers of a module, by the names under which its code reads them."""
    places = (getattr(owner, name, None) for name in ("_parameters", "_buffers"))
    return [item for place in places if isinstance(place, dict) for item in place.items()]


def _of_packages(packages: set[str]) -> Framework | None:
    return next((framework for framework in FRAMEWORKS if framework.packages & packages), None)


def _package_of(value: Any) -> str:
    """The framework's package that a global of a file is from, or derives from; "" for anything else."""
    homes = [value.__name__] if inspect.ismodule(value) else [getattr(value, "__module__", None)]
    if isinstance(value, type):
        homes = [base.__module__ for base in value.__mro__]
    known = {package for framework in FRAMEWORKS for package in framework.packages}
    return next((root for home in homes if isinstance(home, str) and (root := home.partition(".")[0]) in known), "")


def _names_in(code: CodeType) -> Iterator[str]:
    """The names that a function uses, those inside of it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
