"""A stranger's layer behind one protocol, whatever form it has, and what it does to a case.

Serves: a class or a factory; gamma of any shape whose size fits; gradients as attributes, or returned from backward as
a tuple or a dict; channels last; keywords that are missing. What the layer does wrong besides its numbers (raising,
writing into its inputs, returning no array...) is a `Finding`, never an exception of ours. This module knows the
protocol and the case; it must not know what the right answer is.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.kinds import Kind
from reference.subjects.guard import Attempt, Clock, attempt
from reference.subjects.observation import GRADIENTS, Observation


class Subject:
    """A layer class or factory under test.

    Args:
        factory: called with torch's keywords; those that its signature lacks are not passed.
        kind: of layer that it is meant to be.
        name: for the report.
        channels_last: whether it takes x as (N, *spatial, C).
    """

    def __init__(self, factory: Callable[..., Any], kind: Kind, name: str, channels_last: bool = False) -> None:
        self.factory, self.kind, self.name, self.channels_last = factory, kind, name, channels_last
        self.keywords = _keywords(factory, kind)

    def build(self, case: Case, parameters: tuple[Array | None, Array | None] | None = None) -> Any:
        """A layer for `case`, with gamma and beta (the case's own by default) in the shapes that the layer's have."""
        layer = self.factory(**{name: value for name, value in case.config if name in self.keywords})
        for name, value in zip(("gamma", "beta"), parameters or case.parameters(), strict=True):
            own = getattr(layer, name, None)
            if value is not None and own is not None and np.size(own) == value.size:
                value = value.reshape(np.shape(own))
            elif value is not None and own is not None and _one_a_group(case, own):
                value = value[: np.size(own)].reshape(np.shape(own))
            if value is not None:
                setattr(layer, name, value)
        return layer

    def forward_of(self, case: Case, x: Array, gamma: Array | None, beta: Array | None) -> Array:
        """y of the last call of `case` for other inputs, unguarded; the calls before it are the case's own."""
        layer = self.build(case, (gamma, beta))
        for call in range(case.calls):
            last = call == case.calls - 1
            if case.kind.tracks:
                _set_mode(layer, case.training_in(call))
            if not last:
                layer.forward(case.arrays(call, self.channels_last).x)
        y = np.asarray(layer.forward(np.moveaxis(x, 1, -1).copy() if self.channels_last else x.copy()))
        return np.moveaxis(y, -1, 1) if self.channels_last else y

    def observe(self, case: Case, clock: Clock | None = None) -> Observation:
        """Run all calls of `case` on a new layer; nothing that the layer does reaches the caller, or escapes."""
        seen = Observation()
        stage = ["constructor"]
        tried = attempt(lambda: self._run(case, seen, stage), clock or Clock(3600))
        if tried.error is not None:
            _note_exception(case, seen, stage[0], tried, clock)
        return seen

    def run(self, case: Case) -> Observation:
        """The same without any protection, for layers that are trusted."""
        seen = Observation()
        self._run(case, seen, [""])
        return seen

    def _run(self, case: Case, seen: Observation, stage: list[str]) -> None:
        layer = self.build(case)
        if _one_a_group(case, getattr(layer, "gamma", None)):
            detail = f"gamma has shape {np.shape(layer.gamma)}, expected {case.parameter_shape}"
            seen.find("gamma-per-group", "y", detail)
        first = np.empty(0)
        for call in range(case.calls):
            last = call == case.calls - 1
            stage[0] = "forward" if call else "first forward"
            if case.kind.tracks:
                _set_mode(layer, case.training_in(call))
            x, dy = case.arrays(call, self.channels_last)
            if case.history == "refilled":
                x = _refilled(first, x) if call else x
                first = x
            x_before, dy_before = x.tobytes(), dy.tobytes()
            y = layer.forward(x)
            if x.tobytes() != x_before:
                seen.find("input-mutated", "y", "x was changed by forward")
            if last:
                self._keep(seen, "y", y, x, case)
                y = y.copy() if isinstance(y, np.ndarray) and case.overwrite != "y" else y
            if case.overwrite:
                _overwrite(x if case.overwrite == "x" else y)
                x_before = x.tobytes()
            if not last and case.history == "forward only":
                continue
            stage[0] = "backward"
            returned = layer.backward(dy)
            if not last:
                continue
            if x.tobytes() != x_before and "input-mutated" not in {finding.id for finding in seen.findings}:
                seen.find("input-mutated", "dx", "x was changed by backward")
            if dy.tobytes() != dy_before:
                seen.find("upstream-gradient-mutated", "dx", "dy was changed by backward")
            self._keep_gradients(seen, layer, returned, dy, case)
            self._keep_state(seen, layer, case)

    def _keep(self, seen: Observation, name: str, value: object, like: Array, case: Case) -> None:
        """Store y or dx, or what is wrong with it as an array."""
        if not isinstance(value, np.ndarray):
            seen.problems[name] = f"got {'None' if value is None else type(value).__name__}, expected an array"
            return
        if value.dtype.kind not in "fiu":
            seen.problems[name] = f"got dtype {value.dtype}, expected {case.dtype}"
            return
        value = value.view(np.ndarray)
        if value.dtype != like.dtype:
            wider = np.promote_types(value.dtype, like.dtype) == value.dtype
            detail = f"{name} has dtype {value.dtype} for an x of {like.dtype}"
            seen.find("dtype-promoted" if wider else "dtype-demoted", name, detail)
        if name == "dx" and np.may_share_memory(value, like):
            seen.find("dx-aliases-dy", "dx", "dx shares its memory with dy")
        if self.channels_last and value.ndim > 1:
            value = np.moveaxis(value, -1, 1)
        seen.outcome[name] = value.copy()

    def _keep_gradients(self, seen: Observation, layer: Any, returned: object, dy: Array, case: Case) -> None:
        given: dict[str, object] = {"dx": returned}
        if isinstance(returned, Mapping):
            given = {name: returned.get(name) for name in GRADIENTS}
        elif isinstance(returned, (tuple, list)) and returned and len(returned) <= 3:
            given = dict(zip(GRADIENTS, returned, strict=False))
        self._keep(seen, "dx", given["dx"], dy, case)
        for name, wanted in (("dgamma", case.has_gamma), ("dbeta", case.has_beta)):
            if not wanted:
                continue
            value = given.get(name)
            if value is None:
                value = getattr(layer, name, None)
            if value is None:
                seen.problems[name] = "got None, expected an array"
            else:
                array, own = np.array(value), _shape(getattr(layer, name.removeprefix("d"), None))
                if array.dtype.kind in "fiu":
                    seen.outcome[name] = _parameter_like(array, own, case)
                else:
                    seen.problems[name] = f"got dtype {array.dtype}, expected {case.dtype}"

    def _keep_state(self, seen: Observation, layer: Any, case: Case) -> None:
        if not case.tracks:
            return
        for name in ("running_mean", "running_var"):
            value = getattr(layer, name, None)
            if value is not None:
                seen.outcome[name] = _parameter_like(np.array(value), np.shape(value), case)
        if not case.training:  # running statistics of a wider dtype may widen what is computed from them
            width = np.asarray(getattr(layer, "running_mean", 0.0)).dtype
            if width == np.float64:
                seen.findings = [finding for finding in seen.findings if finding.id != "dtype-promoted"]


def _note_exception(case: Case, seen: Observation, stage: str, tried: Attempt[None], clock: Clock | None) -> None:
    """What ended a run: the time, a write into a read-only array, a refusal, or an exception of its own."""
    backward = stage == "backward"
    if tried.timed_out:
        seen.find("timeout", "y", f"no answer within {clock.seconds if clock else 0:g} s in {stage} of {case}")
        seen.fail("backward" if backward else "forward", "no answer in time")
        return
    detail = f"raised {tried.failure}"
    read_only = "read-only" in detail
    if read_only and stage != "constructor":
        id = "upstream-gradient-mutated" if backward and case.dy_layout == "read-only" else "input-mutated"
        seen.find(id, "dx" if backward else "y", "tried to write into a read-only array")
    if stage in ("constructor", "first forward") and not read_only:
        seen.refused = tried.failure
    seen.fail("backward" if backward else "forward", detail)


def _parameter_like(value: Array, own: tuple[int, ...], case: Case) -> Array:
    """`value` in the parameters' shape, if it has that shape, the layer's own for them, or either with axes of 1."""
    shape = case.parameter_shape
    squeezed = tuple(size for size in value.shape if size != 1)
    same = (tuple(size for size in other if size != 1) for other in (shape, own))
    if value.size == int(np.prod(shape)) and (value.shape == own or squeezed in tuple(same)):
        return value.reshape(shape)
    return value


def _refilled(array: Array, values: Array) -> Array:
    """`array` itself, with other values."""
    array.flags.writeable = True
    array[...] = values
    return array


def _one_a_group(case: Case, gamma: Any) -> bool:
    """Whether a GroupNorm's own gamma has an entry a group where it should have one a channel."""
    if not case.kind.has_groups or gamma is None:
        return False
    return bool(np.size(gamma) == case.options["num_groups"] != case.shape[1])


def _shape(value: Any) -> tuple[int, ...]:
    return np.shape(value)


def _set_mode(layer: Any, training: bool) -> None:
    method = getattr(layer, "train" if training else "eval", None)
    if callable(method):
        method()
    if hasattr(layer, "training"):
        layer.training = training


def _overwrite(array: object) -> None:
    """Write other numbers into an array of the caller's, as a caller may."""
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        if not array.flags.writeable:
            try:
                array.flags.writeable = True
            except ValueError:
                return
        array[...] = 3 - 2 * array[::-1]


def _keywords(factory: Callable[..., Any], kind: Kind) -> frozenset[str]:
    """Which of torch's keywords a factory takes; all, if its signature cannot be read or has **kwargs."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return frozenset(kind.keywords)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset(kind.keywords)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return frozenset(kind.keywords) & named
