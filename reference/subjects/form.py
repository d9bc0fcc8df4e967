"""The form that a layer has: which of its methods, attributes and arguments are forward, gamma, dgamma, training...

Found by looking at one layer before and after a pass, only where one thing fits; what has another name than ours is said
in `read_as`. Knows objects and names; not what the right numbers are.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.dtypes import is_float
from reference.subjects.names import (
    BACKWARDS,
    BUILDS,
    CACHES,
    EVAL_WORDS,
    FLUSHES,
    FORWARDS,
    MODE_WORDS,
    MODES,
    PARAMETERS,
    RATES,
    flat,
    quoted_in,
)
from reference.subjects.places import Found, Place, chosen, look

PARAMETER_ROLES = ("gamma", "beta", "dgamma", "dbeta")
STATE_ROLES = ("running_mean", "running_var")
ROLES = (*PARAMETER_ROLES, *STATE_ROLES)


@dataclass(frozen=True)
class Mode:
    """One way to tell a layer its mode.

    Attributes:
        name: of the attribute, the method or forward's argument.
        training, evaluation: what it is set to in the two modes.
    """

    name: str
    training: Any = True
    evaluation: Any = False

    def value(self, training: bool) -> Any:
        return self.training if training else self.evaluation


@dataclass(frozen=True)
class Form:
    """How a layer is spoken to.

    Attributes:
        forward, backward: the methods.
        places: where each role's array is; several places that hold one and the same array are all set.
        attributes, arguments: the ways to tell it its mode, beside methods train() and eval(); arguments are forward's.
        given: what forward asks for besides x, as gamma and beta: the role and the argument's name.
        rate: the argument of a backward that takes a step, which is given 0.
        build: the method that is told the shape of x before anything else.
        flush: the method that clears gradients between steps, called before each forward as a training loop does.
        primed: whether the parameters are only there, and stay as they are set, after a first forward.
        cache: whether forward returns (y, cache), and backward takes the cache.
        keys: what dx, dgamma and dbeta are called where backward returns a dict.
        strange: what a layer holds whose gamma or gradients were not found: arrays of gamma's size that nobody knows, or a
            gamma of another name.
        read_as: what has another name here.
    """

    forward: str = "forward"
    backward: str = "backward"
    places: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)
    attributes: tuple[Mode, ...] = ()
    arguments: tuple[Mode, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    rate: str = ""
    build: str = ""
    flush: str = ""
    cache: bool = False
    primed: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    strange: tuple[str, ...] = ()
    read_as: tuple[str, ...] = ()

    def get(self, layer: Any, role: str) -> Any:
        """The array of a role, or None."""
        for place in self.places.get(role, ()):
            value = place.get(layer)
            if value is not None:
                return value
        return None

    def set(self, layer: Any, role: str, value: Array) -> None:
        first, *aliases = self.places.get(role, (Place.attribute(role),))
        first.set(layer, value)
        for place in aliases:  # the same array under another name, where that is there already
            if place.get(layer) is not None:
                place.set(layer, value)

    def has(self, role: str) -> bool:
        return role in self.places

    def has_modes(self, layer: Any) -> bool:
        """Whether there is a way to tell a layer its mode."""
        told = any(hasattr(layer, mode.name) for mode in self.attributes)
        return told or bool(self.arguments) or callable(getattr(layer, "eval", None))

    def set_mode(self, layer: Any, training: bool) -> None:
        """Put a layer into training or eval mode, in every way that it has."""
        method = getattr(layer, "train" if training else "eval", None)
        if callable(method):
            method()
        for mode in self.attributes:
            if hasattr(layer, mode.name):
                setattr(layer, mode.name, mode.value(training))

    def call_forward(self, layer: Any, x: Array, training: bool, parameters: Mapping[str, Any]) -> Any:
        """layer's y for x."""
        if self.flush and (training or not self.has("running_mean")):  # without them a mode means nothing
            getattr(layer, self.flush)()
        extra = {mode.name: mode.value(training) for mode in self.arguments}
        extra |= {name: parameters[role] for role, name in self.given.items()}
        return getattr(layer, self.forward)(x, **extra)

    def call_backward(self, layer: Any, dy: Array, cache: tuple[Any, ...] = ()) -> Any:
        """What layer's backward returns for dy; `cache` is what forward returned beside y."""
        return getattr(layer, self.backward)(dy, *cache, **({self.rate: 0.0} if self.rate else {}))

    def split_output(self, returned: Any) -> tuple[Any, tuple[Any, ...]]:
        """y, and the cache that came with it."""
        if self.cache and isinstance(returned, tuple) and returned:
            return returned[0], returned[1:]
        return returned, ()


def methods_of(layer: Any, names: Mapping[str, str]) -> tuple[str, str]:
    """The names of a layer's forward and backward, "" for one that is not there."""

    def method(role: str, candidates: Iterable[str]) -> str:
        wanted = [names[role]] if role in names else candidates
        return next((name for name in wanted if callable(getattr(layer, name, None))), "")

    forward, backward = method("forward", FORWARDS), method("backward", BACKWARDS)
    return forward, "" if backward == forward else backward


def signature_form(layer: Any, names: Mapping[str, str]) -> Form | str:
    """What the methods' signatures and the attributes tell before anything is run; or why it cannot be spoken to."""
    forward, backward = methods_of(layer, names)
    for role, found in (("forward", forward), ("backward", backward)):
        if not found:
            what = f"no method {names[role]}" if role in names else f"no method {role}"
            return (
                f"has {what}: expected forward(x) and backward(dy) (for a pair of functions name both: "
                "FILE.py:forward_function+backward_function, or see reference.from_functions)"
            )
    arguments: list[Mode] = []
    given: dict[str, str] = {}
    for parameter in _further(getattr(layer, forward)):
        mode = _mode_of(parameter.name, parameter.default, layer, forward, names)
        asked = next((role for role, spelled in PARAMETERS.items() if flat(parameter.name) in spelled), "")
        if mode:
            arguments.append(mode)
        elif asked and parameter.default is parameter.empty:
            given[asked] = parameter.name
        elif parameter.default is parameter.empty:
            return f"asks for {parameter.name} in {forward}(...): expected {forward}(x)"
    rate, cache = "", False
    for parameter in _further(getattr(layer, backward)):
        if parameter.default is not parameter.empty:
            continue
        if flat(parameter.name) in RATES:
            rate = parameter.name
        elif flat(parameter.name) in CACHES:
            cache = True
        else:
            return f"asks for {parameter.name} in {backward}(...): expected {backward}(dy)"
    attributes = [
        mode
        for found in look(layer)
        if len(found.place.steps) == 1
        and isinstance(found.value, (bool, str))
        and (mode := _mode_of(found.place.names[0], found.value, layer, forward, names))
    ]
    # what a property keeps under its own name with an underscore is no other mode
    public = {mode.name for mode in attributes if not mode.name.startswith("_")}
    attributes = [mode for mode in attributes if mode.name in public or mode.name.lstrip("_") not in public]
    return Form(
        forward,
        backward,
        {},
        tuple(attributes),
        tuple(arguments),
        given,
        rate,
        _build_of(layer),
        _flush_of(layer),
        cache,
    )


def _build_of(layer: Any) -> str:
    """The method that a layer is told the shape of x by, "" if there is none."""
    for name in BUILDS:
        method = getattr(layer, name, None)
        if callable(method):
            try:
                required = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
            except (TypeError, ValueError):
                continue
            if len(required) == 1 and "shape" in required[0].name.lower():
                return name
    return ""


def _flush_of(layer: Any) -> str:
    """The method that clears gradients, "" if there is none."""
    return next((name for name in FLUSHES if callable(getattr(layer, name, None))), "")


def _further(method: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a method beyond its first."""
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return []
    return [p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _mode_of(name: str, value: Any, layer: Any, forward: str, names: Mapping[str, str]) -> Mode | None:
    """The mode that an attribute or argument of this name and value is, if it is one."""
    own = flat(name)
    if names.get("training") == name:
        return Mode(name)
    if own in MODE_WORDS and (isinstance(value, str) or value is inspect.Parameter.empty):
        training = value if isinstance(value, str) and value.lower().startswith("train") else "train"
        return Mode(name, training, _eval_word(layer, forward))
    if own in MODES and not isinstance(value, str):
        return Mode(name, MODES[own], not MODES[own])
    return None


def _eval_word(layer: Any, forward: str) -> str:
    """The word for eval mode that stands in the method's source; "eval" if none does."""
    try:
        source = inspect.getsource(getattr(layer, forward))
    except (OSError, TypeError):
        return "eval"
    return quoted_in(source, EVAL_WORDS) or "eval"


def complete(form: Form, case: Case, names: Mapping[str, str], stages: Mapping[str, list[Found]], returns: int) -> Form:
    """`form` with the places of parameters, gradients and running statistics.

    Args:
        form: what the signatures told. case: the one that was run. names: what the user said outright.
        stages: what was in the layer when "built", after its "forward", and after its "backward".
        returns: how many gradients backward returned besides dx.
    """
    size = int(np.prod(case.parameter_shape))
    places: dict[str, tuple[Place, ...]] = {}
    for role in ROLES:
        if role in names:
            places[role] = (Place.parse(names[role]),)
            continue
        fitting = [
            found
            for stage in ("backward", "forward", "built")
            for found in stages.get(stage, [])
            if found.role == role and _may_be(found, role, size, case)
        ]
        best = chosen(fitting, role)
        if best:
            places[role] = tuple(dict.fromkeys(found.place for found in best))
    if "backward" not in stages:  # it was not seen to the end: what is not there yet is looked for under our names
        places = {role: (Place.attribute(role),) for role in ("dgamma", "dbeta")} | places
    missing = [role for role in ("gamma", "dgamma") if role not in places and role not in form.given]
    strange: tuple[str, ...] = ()
    if "gamma" in missing and not form.given:
        strange = _strange(stages.get("built", []), [], places, size) or _of_last_axis(stages.get("backward", []), case)
    elif "dgamma" in missing and not returns:
        strange = _strange(stages.get("backward", []), stages.get("forward", []), places, size)
        if not strange and "backward" in stages and "gamma" in places and str(places["gamma"][0]) != "gamma":
            strange = (f"{places['gamma'][0]}, and no gradient of it",)
    read_as = [
        f"{place} = {role}" for role, found in places.items() if str(place := found[0]) != role and role not in names
    ]
    read_as += [f"{name} = {role}" for role, name in form.given.items() if name != role]
    for ours, theirs in (("forward", form.forward), ("backward", form.backward)):
        read_as += [f"{theirs} = {ours}"] if theirs not in (ours, names.get(ours)) else []
    if case.kind.tracks:
        read_as += [
            f"{mode.name} = {'training' if mode.training is True else 'not training' if mode.training is False else 'mode'}"
            for mode in dict.fromkeys((*form.attributes, *form.arguments))
            if mode.name != "training"
        ]
    return replace(form, places=places, strange=strange, read_as=tuple(dict.fromkeys(read_as)))


def _may_be(found: Found, role: str, size: int, case: Case) -> bool:
    """Whether a value can be what its name says: an array of the parameters' size, or not there yet.

    The case that was run asks for gamma and beta: where they are None in all of it, the layer has none.
    """
    if found.value is None:
        return role not in ("gamma", "beta")
    if str(found.place) == role:
        return True
    if isinstance(found.value, (bool, str)):
        return False
    sizes = {size, case.options["num_groups"]} if case.kind.has_groups else {size}
    if role in ("dgamma", "dbeta"):
        return isinstance(found.value, (np.ndarray, np.generic, int, float))  # of the wrong shape, perhaps
    return np.size(found.value) in sizes and isinstance(found.value, (np.ndarray, np.generic))


def _of_last_axis(now: list[Found], case: Case) -> tuple[str, ...]:
    """A gamma that the layer made for the last axis of x, where the channels are another one."""
    if case.kind.normalizes_features or case.shape[-1] == case.shape[1]:
        return ()
    return tuple(
        f"{found.place} {np.shape(found.value)}, made for x's last axis (--channels-last, if its channels are there)"
        for found in now
        if found.role == "gamma" and isinstance(found.value, np.ndarray) and found.value.size == case.shape[-1]
    )


def _strange(
    now: list[Found], before: list[Found], known: Mapping[str, tuple[Place, ...]], size: int
) -> tuple[str, ...]:
    """The arrays of gamma's size that are new or changed and that nobody knows."""
    taken = {place for places in known.values() for place in places}
    old = {found.place: found.value for found in before}
    return tuple(
        f"{found.place} {np.shape(found.value)}"
        for found in now
        if isinstance(found.value, np.ndarray)
        and is_float(found.value.dtype)
        and found.value.size == size
        and found.place not in taken
        and old.get(found.place) is not found.value
    )
