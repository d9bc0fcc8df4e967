"""From what a layer returned and holds after a pass to arrays in torch's shapes and axes, or to what stands in their place.

Knows forms and shapes; not what the right numbers are.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.dtypes import carried, is_float, is_real
from reference.subjects.form import Form
from reference.subjects.names import flat, role_of
from reference.subjects.observation import GRADIENTS, Observation

_DX = (
    "dx",
    "gradx",
    "gradinput",
    "dinput",
    "x",
    "input",
    "gradin",
    "inputgrad",
    "xgrad",
    "dinputs",
    "gradinputs",
    "out",
)

MOST = 16  # times the numbers of x: what has more of them is of a wrong shape, and its numbers are of no use


def keys_of(returned: object) -> dict[str, str]:
    """What dx, dgamma and dbeta are called in a dict that backward returned, alone or beside dx; {} if it returned none."""
    if isinstance(returned, tuple) and len(returned) == 2:
        returned = returned[1]
    found: dict[str, str] = {}
    for key in returned if isinstance(returned, Mapping) else ():
        role = "dx" if flat(str(key)) in _DX else role_of((str(key),))
        if role in ("gamma", "beta"):
            role = f"d{role}"
        if role in GRADIENTS:
            found.setdefault(role, key)
    return found


def split(returned: object) -> dict[str, object]:
    """What backward returned as dx, dgamma, dbeta: an array, a dict by name, or dx followed by the others in order."""
    if isinstance(returned, Mapping):
        return {role: returned[key] for role, key in keys_of(returned).items()}
    if isinstance(returned, (tuple, list)) and returned:
        flattened: list[object] = []
        for value in returned:
            if isinstance(value, (tuple, list)):
                flattened += value
            else:
                flattened.append(value)
        if isinstance(flattened[-1], Mapping) and len(flattened) == 2:
            return {"dx": flattened[0], **split(flattened[-1])}
        if len(flattened) <= len(GRADIENTS):
            return dict(zip(GRADIENTS, flattened, strict=False))
    return {"dx": returned}


def is_oversized(value: Array, like: Array) -> bool:
    """Whether an array is far larger than anything that a layer gives for x, so that it is not to be copied."""
    return value.size > MOST * (like.size + MOST)


def keep_array(seen: Observation, name: str, value: object, like: Array, case: Case, channels_last: bool) -> None:
    """Store y or dx, or what is wrong with it as an array."""
    if not isinstance(value, np.ndarray):
        seen.problems[name] = f"got {'None' if value is None else type(value).__name__}, expected an array"
        return
    if not is_real(value.dtype):
        seen.problems[name] = f"got dtype {value.dtype}, expected {case.dtype}"
        return
    if is_oversized(value, like):
        seen.problems[name] = f"got shape {value.shape}, expected {case.shape}"
        return
    value = value.view(np.ndarray)
    dtype = value.dtype.newbyteorder("=")
    if dtype != like.dtype:
        wider = is_float(dtype) and dtype.itemsize > like.dtype.itemsize
        detail = f"{name} has dtype {value.dtype} for an x of {like.dtype}"
        seen.find("dtype-promoted" if wider else "dtype-demoted", name, detail, hazard=wider)
    if channels_last and value.ndim > 1:
        value = np.moveaxis(value, -1, 1)
    seen.outcome[name] = carried(value.astype(dtype))  # a copy of its own


def keep_gradients(
    seen: Observation, layer: Any, given: Mapping[str, object], form: Form, like: Array, case: Case
) -> None:
    """Store the gradients of the parameters: what backward returned, or else what the layer holds."""
    for name, wanted in (("dgamma", case.has_gamma), ("dbeta", case.has_beta)):
        if not wanted:
            continue
        value = given.get(name)
        if value is None:
            value = form.get(layer, name)
        if value is None:
            seen.problems[name] = "got None, expected an array"
            continue
        if isinstance(value, np.ndarray) and is_oversized(value, like):
            seen.problems[name] = f"got shape {value.shape}, expected {case.parameter_shape}"
            continue
        array = np.array(value)
        if not is_real(array.dtype):
            seen.problems[name] = f"got dtype {array.dtype}, expected {case.dtype}"
            continue
        own = form.get(layer, name.removeprefix("d"))
        expected = case.parameter_shape if own is None else np.shape(own)
        seen.outcome[name] = parameter_like(carried(array), expected, case)
        if seen.outcome[name].shape == case.parameter_shape and not _updates(array.shape, expected):
            seen.find("parameter-gradients-misshapen", name, f"got shape {array.shape}, expected {expected}")


def keep_state(seen: Observation, layer: Any, form: Form, like: Array, case: Case) -> None:
    """Store the running statistics, where the layer has them."""
    if not case.tracks:
        return
    for name in ("running_mean", "running_var"):
        value = form.get(layer, name)
        if isinstance(value, np.ndarray) and is_oversized(value, like):
            seen.problems[name] = f"got shape {value.shape}, expected {case.parameter_shape}"
        elif value is not None:
            array = np.array(value)
            if is_real(array.dtype):
                seen.outcome[name] = parameter_like(carried(array), np.shape(value), case)
            else:
                seen.problems[name] = f"got dtype {array.dtype}, expected {case.dtype}"
    if not case.training:  # running statistics of a wider dtype may widen what is computed from them
        mean = form.get(layer, "running_mean")
        if np.asarray(0.0 if mean is None else mean).dtype == np.float64:
            seen.findings = [finding for finding in seen.findings if finding.id != "dtype-promoted"]


def _updates(gradient: tuple[int, ...], parameter: tuple[int, ...]) -> bool:
    """Whether parameter - rate * gradient has as many numbers as the parameter."""
    if gradient == parameter:  # as in any right layer; what follows takes a while
        return True
    try:
        return prod(np.broadcast_shapes(gradient, parameter)) == prod(parameter)
    except ValueError:
        return False


def parameter_like(value: Array, own: tuple[int, ...], case: Case) -> Array:
    """`value` in the parameters' shape, where only axes of 1 or a flattening of several axes tell them apart."""
    shape = case.parameter_shape
    if value.size != prod(shape):
        return value
    squeezed = tuple(size for size in value.shape if size != 1)
    same = (tuple(size for size in other if size != 1) for other in (shape, own))
    return value.reshape(shape) if value.shape == own or value.ndim == 1 or squeezed in tuple(same) else value
