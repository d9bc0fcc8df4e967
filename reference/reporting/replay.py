"""One case done again by plain functions: torch's answer, what the layer gives, and how far apart the two may be.

The sources of these functions are what a script to paste consists of, so each does one thing and calls no other of this
file: a script takes those that its case needs. They take arrays, modules and layers, and must not know this project: no
case, no subject, no tolerance but the number that is given.
"""

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# --- how an array lies in memory --------------------------------------------------------------------------------------


def read_only(a: np.ndarray) -> np.ndarray:
    """A copy that must not be written to."""
    a = a.copy()
    a.flags.writeable = False
    return a


def fortran(a: np.ndarray) -> np.ndarray:
    """A copy whose first axis is the dense one."""
    return a.copy(order="F")


def transposed(a: np.ndarray) -> np.ndarray:
    """A copy whose last two axes have changed places in memory."""
    return a.swapaxes(-1, -2).copy(order="C").swapaxes(-1, -2) if a.ndim > 1 else a.copy()


def flipped(a: np.ndarray) -> np.ndarray:
    """A copy that runs backwards through memory."""
    return a[..., ::-1].copy(order="C")[..., ::-1]


def strided(a: np.ndarray) -> np.ndarray:
    """Every second number of a longer array; those between are far off."""
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 1e3, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def sliced(a: np.ndarray) -> np.ndarray:
    """The rows of a longer array, from its second on."""
    longer = np.full((a.shape[0] + 2, *a.shape[1:]), -1e3, a.dtype)
    longer[1:-1] = a
    return longer[1:-1]


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_answer(module: Any, xs: Iterable[Any], dys: Iterable[Any], *parameters: np.ndarray) -> dict[str, np.ndarray]:
    """What torch gives in the last of the calls, in float64."""
    import torch

    for own, value in zip(module.double().parameters(), parameters, strict=True):
        own.data = torch.tensor(value, dtype=torch.float64)
    for x, dy in zip(xs, dys, strict=True):
        t, upstream = torch.tensor(x, dtype=torch.float64, requires_grad=True), torch.tensor(dy, dtype=torch.float64)
        y = module(t)
    gradients = torch.autograd.grad(y, [t, *module.parameters()], upstream)
    found = zip(("y", "dx", "dgamma", "dbeta"), (y, *gradients), strict=False)
    return {name: value.detach().numpy() for name, value in found}


# --- the layer --------------------------------------------------------------------------------------------------------


def load(path: str) -> Any:
    """The module in a file, which finds its neighbours."""
    sys.path.insert(0, str(Path(path).parent))
    spec: Any = importlib.util.spec_from_file_location("layer_under_test", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_parameter(layer: Any, name: str, value: np.ndarray) -> None:
    """Set gamma or beta, in the shape that the layer's own has."""
    own: Any = getattr(layer, name, None)
    setattr(layer, name, value.reshape(np.shape(own)) if own is not None and np.size(own) == value.size else value)


def run(forward: Any, backward: Any, xs: Iterable[np.ndarray], dys: Iterable[np.ndarray | None]) -> tuple[Any, Any]:
    """y of the last call and what its backward returned; where dy is None a call is a forward alone."""
    for x, dy in zip(xs, dys, strict=True):
        result = forward(x)
        y = result.copy() if isinstance(result, np.ndarray) else result
        returned = None if dy is None else backward(dy)
    return y, returned


def in_modes(layer: Any, modes: Iterable[bool], xs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The x of each call, once the layer is in the mode of that call."""
    for training, x in zip(modes, xs, strict=True):
        method = getattr(layer, "train" if training else "eval", None)
        if callable(method):
            method()
        if hasattr(layer, "training"):
            layer.training = training
        yield x


def refilled(xs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """One and the same array for all calls, with the numbers of each."""
    first = None
    for x in xs:
        if first is None:
            first = x
        else:
            first.flags.writeable = True
            first[...] = x
        yield first


def overwriting_x(forward: Any) -> Any:
    """forward for a caller who writes other numbers into x before the backward."""

    def forward_then_overwrite(x: np.ndarray) -> Any:
        y = forward(x)
        x.flags.writeable = True
        x[...] = 3 - 2 * x[::-1]
        return y

    return forward_then_overwrite


def overwriting_y(forward: Any) -> Any:
    """forward for a caller who writes other numbers into y before the backward."""

    def forward_then_overwrite(x: np.ndarray) -> Any:
        y = forward(x)
        kept = y.copy()
        y.flags.writeable = True
        y[...] = 3 - 2 * y[::-1]
        return kept

    return forward_then_overwrite


def untouched(function: Any, arrays: Sequence[np.ndarray], otherwise: str) -> Any:
    """forward or backward, which must not write into these arrays."""

    def watched(given: np.ndarray) -> Any:
        before = [array.tobytes() for array in arrays]
        result = function(given)
        assert [array.tobytes() for array in arrays] == before, otherwise
        return result

    return watched


def by_name(returned: Any, names: Sequence[str] = ("dx", "dgamma", "dbeta")) -> dict[str, Any]:
    """What backward returned: dx alone, or with dgamma and dbeta as a tuple or a dict."""
    if isinstance(returned, (tuple, list)) and 0 < len(returned) <= 3:
        returned = dict(zip(names, returned, strict=False))
    return dict(returned) if isinstance(returned, Mapping) else {names[0]: returned}


def parameter_gradient(returned: Any, layer: Any, name: str, own: str, wanted: np.ndarray) -> Any:
    """dgamma or dbeta, returned or left in an attribute; in torch's shape, if it has that or the own parameter's."""
    value: Any = getattr(layer, name, None) if returned is None else returned
    arrays: tuple[Any, ...] = (value, getattr(layer, own, None), wanted)
    shapes = [[size for size in np.shape(array) if size != 1] for array in arrays]  # axes of 1 are no difference
    return np.reshape(value, wanted.shape) if np.size(value) == wanted.size and shapes[0] in shapes[1:] else value


def running_statistics(layer: Any, names: Sequence[str] = ("running_mean", "running_var")) -> dict[str, Any]:
    """What the layer has stored, or torch's module, in torch's shape."""
    pairs = zip(("running_mean", "running_var"), names, strict=True)
    return {ours: np.ravel(getattr(layer, name)) for ours, name in pairs if getattr(layer, name, None) is not None}


def check_size(name: str, own: Any, wanted: int) -> None:
    """Raise an AssertionError if gamma has not one number for each channel."""
    assert own is None or np.size(own) == wanted, f"{name} has shape {np.shape(own)}, expected ({wanted},)"


# --- the two side by side ---------------------------------------------------------------------------------------------


def compare(got: Mapping[str, Any], expected: Mapping[str, np.ndarray], tolerances: Mapping[str, float]) -> None:
    """Raise an AssertionError that names what is wrong; what has a tolerance is compared."""
    for name, tolerance in tolerances.items():
        value, wanted = got.get(name), expected[name]
        assert isinstance(value, np.ndarray), f"{name}: got {type(value).__name__}, expected an array"
        assert value.dtype.kind in "fiu", f"{name}: got dtype {value.dtype}, expected numbers"
        assert value.shape == wanted.shape, f"{name}: got shape {value.shape}, expected {wanted.shape}"
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance, err_msg=name)
