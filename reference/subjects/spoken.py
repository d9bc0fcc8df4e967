"""How a program speaks to a stranger's layer, as text: the lines that build it, its forward and backward, its arrays.

Reads a subject's form and constructor; what takes more than a few plain lines is not spoken of at all, and is shown by
the arrays that the layer gave. Runs nothing but the constructor's own questions; knows no verdict.
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reference.cases.case import ANOTHER, Case
from reference.subjects.form import Form
from reference.subjects.guard import printable
from reference.subjects.names import CACHES
from reference.subjects.places import Place
from reference.subjects.subject import Subject


@dataclass(frozen=True)
class Spoken:
    """One layer in the words of a program, in which `x`, `gamma`, `beta` and `their_module` are there.

    Attributes:
        path: of the layer's file. build: the lines that make `layer`. form: of the layer.
        forward, backward: what is called with x and with dy.
        cache: whether forward returns (y, cache), which backward takes. modes: what `in_modes` is told of attributes.
        roles: of a layer of torch's, which stands in `layer`: what its parameters and buffers are, by their own names.
    """

    path: str
    build: tuple[str, ...]
    forward: str
    backward: str
    form: Form
    cache: bool = False
    modes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)

    def setting(self, parameters: Iterable[str]) -> list[str]:
        """The lines that set gamma and beta, wherever the layer keeps them."""
        places = [(role, place) for role in parameters for place in self.form.places.get(role, ())]
        return [
            f"set_{'parameter' if place.steps[-1][0] == 'attribute' else 'entry'}"
            f"(layer{_rest(place.steps[:-1])}, {literal(place.steps[-1][1])}, {role})"
            for role, place in places
            if role not in self.form.given
        ]

    def value(self, role: str) -> str:
        """The expression of an array that the layer holds, or is given; None where there is none."""
        if not self.form.places.get(role):
            return role if role in self.form.given else "None"
        steps = self.form.places[role][0].steps
        if len(steps) == 1:
            return f"getattr(layer, {literal(steps[0][1])}, None)"
        return f"at(layer, {', '.join(literal(key) for _, key in steps)})"

    def name(self, role: str) -> str:
        """What the layer calls it."""
        return str(self.form.places[role][0])

    def gradients(self, wanted: Iterable[str]) -> str:
        """The expression of what backward returned, by our names, before what the layer holds of it."""
        held = ", ".join(f'"{name}": {self.value(name)}' for name in wanted if self.form.places.get(name))
        keys = "".join(f", {ours}={literal(theirs)}" for ours, theirs in self.form.keys.items())
        return f"{f'{{{held}}} | ' if held else ''}by_{'key' if keys else 'name'}(returned{keys})"


def spoken(subject: Subject, case: Case, parameters: Iterable[str]) -> Spoken | None:
    """How a program speaks to a layer in a case; None if that takes more than a few lines, or its file is not at hand."""
    if subject.channels_last or subject.form.primed or case.history == ANOTHER:
        return None
    if hasattr(subject.factory, "adapts"):
        return _adapted(subject, case, subject.factory.adapts)
    functions = getattr(subject.factory, "functions", None)
    return _pair(subject, case, *functions) if functions else _layer(subject, case, parameters)


def literal(value: Any) -> str:
    """A text in double quotes, without what cannot be seen, and any other plain value."""
    if not isinstance(value, str):
        return repr(value)
    quoted = json.dumps(value, ensure_ascii=False)
    return printable(quoted, most=10 * len(quoted))


def _rest(steps: tuple[Any, ...]) -> str:
    return f".{Place(steps)}" if steps else ""


def _layer(subject: Subject, case: Case, parameters: Iterable[str]) -> Spoken | None:
    form, constructor = subject.form, subject.constructor
    place = _place(subject.factory)
    held = {role: role for role in parameters} | {role: "" for role in constructor.takes if role.startswith("running")}
    if place is None or any(
        role not in held for role in ("gamma", "beta") if role in (*constructor.takes, *form.given)
    ):
        return None
    positional, named = constructor.arguments(case)
    ours = {theirs: ours for ours, theirs in constructor.takes.items()}
    order = (*case.kind.keywords, *held)
    values = list(zip(constructor.by_position, positional, strict=True))
    values += sorted(named.items(), key=lambda pair: order.index(ours.get(pair[0], pair[0])))
    texts = []
    for name, value in values:
        role, by_position = ours.get(name, name), name in constructor.by_position
        if isinstance(value, np.ndarray):
            text = held.get(role) or f"np.{'ones' if role == 'running_var' else 'zeros'}({value.shape})"
        elif not by_position and role in constructor.defaults and np.array_equal(constructor.defaults[role], value):
            continue
        else:
            text = literal(value)
        texts.append(text if by_position else f"{name}={text}")
    lines = [f"layer = their_module.{place[1]}({', '.join(texts)})"]
    if form.build:
        lines.append(f"layer.{form.build}({case.shape_of(0)})")
    forward, backward = f"layer.{form.forward}", f"layer.{form.backward}"
    if form.given:
        forward = f"lambda x: {forward}(x, {', '.join(f'{name}={role}' for role, name in form.given.items())})"
    if form.arguments:
        modes = {
            mode.name: [mode.value(case.training_in(call)) for call in range(case.calls)] for mode in form.arguments
        }
        forward = f"telling({forward}, {', '.join(f'{name}={values}' for name, values in modes.items())})"
    if form.rate:
        given = "dy, *cache" if form.cache else "dy"
        backward = f"lambda {given}: {backward}({given}, {form.rate}=0.0)"
    attributes = {mode.name: (mode.training, mode.evaluation) for mode in form.attributes}
    return Spoken(place[0], tuple(lines), forward, backward, form, form.cache, attributes)


def _adapted(subject: Subject, case: Case, own: Any) -> Spoken | None:
    """A module, which is built, or a function, which is told its parameters by name."""
    place, layer = _place(own), subject.construct(case)
    if place is None or case.history:
        return None
    if hasattr(layer, "adapted"):
        _, named = subject.constructor.arguments(case)
        texts = [f"{name}={literal(value)}" for name, value in named.items() if not isinstance(value, np.ndarray)]
        roles = layer.names_by_role()
        built = f"layer = their_module.{place[1]}({', '.join(texts)})"
    else:
        given = {name: value for name, value in layer.given().items() if value is not None}
        roles = {
            name: role for name, value in given.items() for role in ("gamma", "beta") if value is getattr(layer, role)
        }
        texts = [f"{name}={name if name in roles else literal(value)}" for name, value in given.items()]
        if any(isinstance(value, np.ndarray) and name not in roles for name, value in given.items()):
            return None
        called = f"their_module.{place[1]}{'' if inspect.isroutine(own) else '.apply'}"
        if not inspect.isroutine(own):  # whose arguments have no names
            texts = [text.partition("=")[2] for text in texts]
        built = f"layer = lambda {', '.join(['x', *roles])}: {called}({', '.join(['x', *texts])})"
    return Spoken(place[0], (built,), "", "", subject.form, roles=roles)


def _pair(subject: Subject, case: Case, forward: Any, backward: Any) -> Spoken | None:
    """A pair of functions, where the options and gamma and beta are all that it is given."""
    places = [_place(function) for function in (forward, backward)]
    if places[0] is None or places[1] is None or case.kind.tracks:
        return None
    needed = [p.name for p in inspect.signature(backward).parameters.values() if p.default is p.empty]
    if len(needed) != 2 or places[0][0] != places[1][0]:
        return None
    layer = subject.construct(case)
    if layer.in_channels or layer.returns != 1:
        return None
    texts = []
    for name, value in layer.given().items():
        role = (
            next((role for role in ("gamma", "beta") if value is getattr(layer, role)), "") if value is not None else ""
        )
        if isinstance(value, np.ndarray) and not role:
            return None
        texts.append(f"{name}={role or literal(value)}")
    called = f"lambda x: their_module.{places[0][1]}(x{''.join(f', {text}' for text in texts)})"
    back = f"their_module.{places[1][1]}"
    if needed[0] in CACHES:
        back = f"lambda dy, cache: {back}(cache, dy)"
    form = Form(keys=subject.form.keys, given={"gamma": "gamma", "beta": "beta"})
    return Spoken(places[0][0], (), called, back, form, cache=True)


def _place(factory: Any) -> tuple[str, str] | None:
    """The file and the name under which a class or function can be had again."""
    name = getattr(factory, "__qualname__", "")
    if not name.isidentifier():
        return None
    try:
        path = inspect.getsourcefile(factory)
    except (TypeError, OSError):
        return None
    # Of two modules of one name Python remembers one file, for the classes of both.
    methods = [value for value in vars(factory).values() if inspect.isfunction(value)]
    if methods and path not in {method.__code__.co_filename for method in methods}:
        return None
    if path is None or not Path(path).is_file() or (Path(path).parent / "__init__.py").exists():
        return None
    return str(Path(path).resolve()), name
