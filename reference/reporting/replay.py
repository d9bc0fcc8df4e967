"""One case done again by plain functions: torch's answer, what the layer gives, and how far apart the two may be.

The sources of these functions are what a script to paste consists of, so each does one thing and calls no other of this
file: a script takes those that its case needs. They take arrays, modules and layers, and must not know this project: no
case, no subject, no tolerance but the number that is given.

PYTEST_DONT_REWRITE: what its assertions say is what the script says, also where pytest knows this package by its plugin.
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
        own.data = torch.tensor(np.asarray(value, np.float64))
    for x, dy in zip(xs, dys, strict=True):
        t, upstream = (torch.tensor(np.asarray(array, np.float64)) for array in (x, dy))
        y = module(t.requires_grad_())
    gradients = torch.autograd.grad(y, [t, *module.parameters()], upstream)
    found = zip(("y", "dx", "dgamma", "dbeta"), (y, *gradients), strict=False)
    return {name: value.detach().numpy() for name, value in found}


def answer_of(
    call: Any,
    xs: Iterable[Any],
    dys: Iterable[Any],
    modes: Iterable[bool],
    parameters: Mapping[str, np.ndarray],
    roles: Mapping[str, str],
) -> dict[str, np.ndarray]:
    """What a module, or a function of x and parameters, gives in the last of the calls, in the dtype of x, as float64.

    `parameters` are by their own names, `roles` say what is which: of them, and of a module's buffers.
    """
    import torch

    def tensor(array: np.ndarray) -> torch.Tensor:  # that lies in memory as the array does
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    leaves: dict[str, Any] = {name: tensor(value.copy()).requires_grad_() for name, value in parameters.items()}
    if isinstance(call, torch.nn.Module):
        call.to(tensor([*xs][-1]).dtype)
        for name, leaf in leaves.items():
            own = call.get_parameter(name)
            own.data = leaf.detach().reshape(own.shape)
            leaves[name] = own
    for x, training in zip(xs, modes, strict=True):
        t = tensor(x).requires_grad_()
        if isinstance(call, torch.nn.Module):
            call.train(training)
            y = call(t)
        else:
            y = call(t, **leaves)
        y = y if isinstance(y, torch.Tensor) else y[0]
    gradients = torch.autograd.grad(y, [t, *leaves.values()], tensor([*dys][-1]), allow_unused=True)
    found = {"y": y, "dx": gradients[0]}
    found |= {f"d{roles[name]}": gradient for name, gradient in zip(leaves, gradients[1:], strict=True)}
    found |= {role: call.get_buffer(name) for name, role in roles.items() if role.startswith("running")}
    return {name: value.detach().double().numpy() for name, value in found.items() if value is not None}


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


def set_entry(entries: Any, key: Any, value: np.ndarray) -> None:
    """The same in a dict or list that the layer keeps them in."""
    own: Any = entries[key]
    entries[key] = value.reshape(np.shape(own)) if np.size(own) == value.size else value


def run(forward: Any, backward: Any, xs: Iterable[np.ndarray], dys: Iterable[np.ndarray | None]) -> tuple[Any, Any]:
    """y of the last call and what its backward returned; where dy is None a call is a forward alone."""
    for x, dy in zip(xs, dys, strict=True):
        result = forward(x)
        y = result.copy() if isinstance(result, np.ndarray) else result
        returned = None if dy is None else backward(dy)
    return y, returned


def run_with_cache(
    forward: Any, backward: Any, xs: Iterable[np.ndarray], dys: Iterable[np.ndarray | None]
) -> tuple[Any, Any]:
    """The same where forward returns y and what it keeps for backward, which is given that after dy."""
    for x, dy in zip(xs, dys, strict=True):
        result, *cache = forward(x)
        y = result.copy() if isinstance(result, np.ndarray) else result
        returned = None if dy is None else backward(dy, *cache)
    return y, returned


def in_modes(layer: Any, modes: Iterable[bool], xs: Iterable[np.ndarray], **attributes: Any) -> Iterator[np.ndarray]:
    """The x of each call, once the layer is in its mode: by methods, or attributes with their two values."""
    for training, x in zip(modes, xs, strict=True):
        method = getattr(layer, "train" if training else "eval", None)
        if callable(method):
            method()
        for name, values in attributes.items():
            if hasattr(layer, name):
                setattr(layer, name, values[0] if training else values[1])
        yield x


def telling(forward: Any, **modes: Iterable[Any]) -> Any:
    """forward, which is told its mode in an argument: what that is in each call."""
    left = {name: iter(values) for name, values in modes.items()}
    return lambda x: forward(x, **{name: next(values) for name, values in left.items()})


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


def untouched(function: Any, arrays: Sequence[np.ndarray], otherwise: str) -> Any:
    """forward or backward, which must not write into these arrays."""

    def watched(given: np.ndarray) -> Any:
        before = [array.tobytes() for array in arrays]
        result = function(given)
        assert [array.tobytes() for array in arrays] == before, otherwise
        return result

    return watched


def remembering(function: Any, held: list[Any]) -> Any:
    """forward or backward, whose result is kept in `held` beside a copy of it."""

    def watched(*given: Any) -> Any:
        result = function(*given)
        first = result[0] if isinstance(result, tuple) else result
        held.append((first, np.array(first)))
        return result

    return watched


def check_held(held: Iterable[Any], otherwise: str) -> None:
    """Raise an AssertionError if a result is not what it was when it was handed out."""
    assert all(np.array_equal(result, before, equal_nan=True) for result, before in held), otherwise


def by_name(returned: Any) -> dict[str, Any]:
    """What backward returned: dx alone, or with dgamma and dbeta as a tuple."""
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], (tuple, list)):
        returned = (returned[0], *returned[1])
    parts = returned if isinstance(returned, (tuple, list)) and 0 < len(returned) <= 3 else [returned]
    return {name: part for name, part in zip(("dx", "dgamma", "dbeta"), parts, strict=False) if part is not None}


def by_key(returned: Any, **keys: str) -> dict[str, Any]:
    """What backward returned as a dict with these keys, alone or after dx."""
    found = {"dx": returned[0]} if isinstance(returned, tuple) else {}
    entries = returned[1] if isinstance(returned, tuple) else returned
    return found | {name: entries[key] for name, key in keys.items() if entries.get(key) is not None}


def at(value: Any, *steps: Any) -> Any:
    """What is there by these attributes and keys, one inside of the other; None if nothing is."""
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list):
            value = value[step]
        else:
            value = getattr(value, step, None)
    return value


def parameter_gradient(value: Any, own: Any, wanted: np.ndarray) -> Any:
    """dgamma or dbeta in torch's shape, if it is flat or has that or the own parameter's."""
    shapes = [[size for size in np.shape(array) if size != 1] for array in (value, own, wanted)]  # axes of 1 are none
    fits = np.size(value) == wanted.size and (np.ndim(value) == 1 or shapes[0] in shapes[1:])
    return np.reshape(value, wanted.shape) if fits else value


def check_update(name: str, gradient: Any, own: Any) -> None:
    """Raise an AssertionError if a step by this gradient would change the parameter's size."""
    try:
        size = np.prod(np.broadcast_shapes(np.shape(gradient), np.shape(own)))
    except ValueError:
        size = None
    assert size == np.size(own), f"{name}: got shape {np.shape(gradient)}, expected {np.shape(own)}"


def check_size(name: str, own: Any, wanted: int) -> None:
    """Raise an AssertionError if gamma has not one number for each channel."""
    assert own is None or np.size(own) == wanted, f"{name} has shape {np.shape(own)}, expected ({wanted},)"


# --- the two side by side ---------------------------------------------------------------------------------------------


def compare(got: Mapping[str, Any], expected: Mapping[str, np.ndarray], tolerances: Mapping[str, float]) -> None:
    """Raise an AssertionError that names what is wrong; what has a tolerance is compared."""
    for name, tolerance in tolerances.items():
        value, wanted = got.get(name), expected[name]
        assert isinstance(value, np.ndarray), f"{name}: got {type(value).__name__}, expected an array"
        assert value.dtype.kind in "fiuV", f"{name}: got dtype {value.dtype}, expected numbers"
        value = value.astype(np.float64)  # bfloat16 is of kind V
        assert value.shape == wanted.shape, f"{name}: got shape {value.shape}, expected {wanted.shape}"
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance, err_msg=name)
