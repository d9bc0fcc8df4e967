"""A user's class made wrong as an entry of the dictionary says: what it gives, plus what the entry's formula changes.

For mistakes that no edit of its source is known to make. Its methods are wrapped; the entry's formula and the right one are
computed beside each pass, and their difference is added to what the layer gives. Runs in the process in which mutants are
judged, and in those of the user's tests, from `hook`; whatever it cannot follow stays as it is, and is noted.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.diagnosis.faults import FAULTS, Variant
from reference.dtypes import DTYPES
from reference.kinds import Kind
from reference.subjects.form import Form
from reference.subjects.gathering import keys_of
from reference.subjects.observation import GRADIENTS
from reference.subjects.subject import Subject
from reference.truth.arithmetic import wide, wide_precision
from reference.truth.exact import Inputs, Pass, merged

MARK = "__normcheck_planted__"  # the attribute in which an object remembers its passes
STATE = ("running_mean", "running_var")
KEPT = 40  # passes of an object that its mistake may look back at


class Unclear(Exception):
    """The layer was used in a way in which its mistake cannot be made."""


@dataclass(frozen=True)
class Address:
    """How the objects of a class are spoken to, as data that another process reads.

    Attributes:
        name: of the class in its module. kind: of layer. takes: from torch's keyword to its constructor's.
        form: of its objects. channels_last: whether x comes so.
    """

    name: str
    kind: Kind
    takes: Mapping[str, str]
    form: Form
    channels_last: bool


def address_of(subject: Subject) -> tuple[Address, str] | None:
    """The address of a subject's class, and the file that defines it; None if it is none that can be planted in."""
    owner = subject.factory
    if not isinstance(owner, type) or hasattr(owner, "functions") or subject.constructor.everything:
        return None
    module = inspect.getmodule(owner)
    if module is None or getattr(module, owner.__name__, None) is not owner or not getattr(module, "__file__", None):
        return None
    if subject.form.given or subject.form.build or subject.form.primed:
        return None
    takes = {ours: theirs for ours, theirs in subject.constructor.takes.items() if ours in subject.kind.keywords}
    address = Address(owner.__name__, subject.kind, takes, subject.form, subject.channels_last)
    return address, os.path.realpath(str(module.__file__))


def mistakes_of(kind: Kind) -> Iterator[tuple[str, int]]:
    """The entries that are a mistake in a formula for a kind of layer, each with the numbers of its ways."""
    for fault in FAULTS.values():
        if fault.kind != "mistake" or kind.name not in fault.layers or fault.absent or fault.cached or fault.writes:
            continue
        for number in range(len(fault.variants)):
            yield fault.id, number


@dataclass
class Passes:
    """What an object remembers: the options that it was made with, and its last passes, wrong and right.

    Where the mistake is in the backward alone, they are not computed before that is called: `later` does so. `calls` and `case`
    are a witness's.
    """

    options: dict[str, Any]
    busy: bool = False
    wrong: list[Pass] = field(default_factory=list)
    right: Pass | None = None
    later: Callable[[], None] | None = None
    calls: int = 0
    case: Case | None = None


class Planted:
    """A class with a mistake.

    Args:
        owner: the class. address: how its objects are spoken to. changes: to the formula.
        note: told that a pass could not be followed. in_backward: whether the changes are of the backward alone.
    """

    def __init__(
        self, owner: type, address: Address, changes: Variant, note: Callable[[], None], in_backward: bool = False
    ) -> None:
        self.owner, self.address, self.note = owner, address, note
        self.changes, self._in_backward = changes, in_backward
        self._before: dict[str, Any] = {}
        self._signature = inspect.signature(owner)

    def put_on(self) -> None:
        form = self.address.form
        makers = {"__init__": self._init, form.forward: self._forward, form.backward: self._backward}
        for name, maker in makers.items():
            original = inspect.getattr_static(self.owner, name)
            wrapped = maker(original)
            for alias in dir(self.owner):  # `__call__ = forward`
                if alias == name or (name != "__init__" and inspect.getattr_static(self.owner, alias) is original):
                    self._before[alias] = vars(self.owner).get(alias, MARK)
                    setattr(self.owner, alias, wrapped)

    def take_off(self) -> None:
        for name, value in self._before.items():
            delattr(self.owner, name) if value is MARK else setattr(self.owner, name, value)
        self._before.clear()

    # --- the wrapped methods ------------------------------------------------------------------------------------------

    def _init(self, original: Any) -> Any:
        @wraps(original)
        def construct(layer: Any, *args: Any, **kwargs: Any) -> None:
            try:
                bound = self._signature.bind(*args, **kwargs)
                bound.apply_defaults()
                options = {ours: bound.arguments[theirs] for ours, theirs in self.address.takes.items()}
                object.__setattr__(layer, MARK, Passes(options))
            except (TypeError, KeyError, AttributeError):  # it says so itself, or has no room for it
                pass
            original(layer, *args, **kwargs)

        return construct

    def _forward(self, original: Any) -> Any:
        parameters = list(inspect.signature(original).parameters)

        @wraps(original)
        def forward(layer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            given = dict(zip(parameters[2:], args, strict=False)) | kwargs
            return self._followed(layer, x, lambda: original(layer, x, *args, **kwargs), self._after_forward, given)

        return forward

    def _backward(self, original: Any) -> Any:
        @wraps(original)
        def backward(layer: Any, dy: Any, *args: Any, **kwargs: Any) -> Any:
            return self._followed(layer, dy, lambda: original(layer, dy, *args, **kwargs), self._after_backward, {})

        return backward

    def _followed(
        self, layer: Any, array: Any, work: Callable[[], Any], after: Callable[..., Any], given: Mapping[str, Any]
    ) -> Any:
        """What a method returns, made wrong; as it is where that cannot be done, and within another of the methods."""
        passes: Passes | None = getattr(layer, MARK, None)
        if passes is not None and passes.busy:
            return work()
        if passes is None or not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            self.note()
            return work()
        passes.busy = True
        try:
            form = self.address.form
            before = array.copy(), {role: np.array(form.get(layer, role)) for role in STATE if form.has(role)}
            returned = work()
            try:
                with np.errstate(all="ignore"), wide_precision():
                    return after(layer, passes, *before, returned, given)
            except (Unclear, ValueError, IndexError, KeyError, TypeError, AttributeError):
                self.note()
                return returned
        finally:
            passes.busy = False

    def _after_forward(
        self, layer: Any, passes: Passes, x: Array, state: dict[str, Array], returned: Any, given: Mapping[str, Any]
    ) -> Any:
        address, form = self.address, self.address.form
        x = np.moveaxis(x, -1, 1) if address.channels_last else x
        case = self._case(layer, passes, x, given)
        gamma, beta = (None if value is None else wide(np.ravel(value)) for value in self._parameters(layer, case))
        inputs = Inputs(wide(x), wide(np.zeros_like(x)), gamma, beta)

        def compute() -> None:
            passes.later = None
            if len(passes.wrong) == KEPT:
                passes.wrong.pop(0)
                passes.wrong[0].previous = None
            old = passes.wrong[-1] if passes.wrong else None
            if old is not None and not hasattr(old, "dx"):
                old.backward()  # of a dy of zeros: what is added up stays
            passes.right = Pass(case, {}, 0, self._earlier(case, old, state, alone=True), inputs)
            passes.wrong.append(Pass(case, merged(self.changes), 0, self._earlier(case, old, state), inputs))

        passes.later = compute
        if self._in_backward:
            return returned
        compute()
        for role in STATE if case.tracks else ():
            change = self._change(passes, role)
            if change is not None:
                own = form.get(layer, role)
                form.set(layer, role, own + change.reshape(np.shape(own)).astype(np.asarray(own).dtype))
        change = self._change(passes, "y")
        if change is None:
            return returned
        y, cache = form.split_output(returned)
        change = np.moveaxis(change, 1, -1) if address.channels_last else change
        return (self._plus(y, change), *cache) if form.cache else self._plus(y, change)

    def _after_backward(
        self, layer: Any, passes: Passes, dy: Array, state: Any, returned: Any, given: Mapping[str, Any]
    ) -> Any:
        if passes.later is not None:
            passes.later()
        if passes.right is None:
            raise Unclear
        dy = np.moveaxis(dy, -1, 1) if self.address.channels_last else dy
        for one in (passes.wrong[-1], passes.right):
            one.dy = wide(dy).reshape(one.view.shape)
            one.backward()
        changes = {name: change for name in GRADIENTS if (change := self._change(passes, name)) is not None}
        if "dx" in changes and self.address.channels_last:
            changes["dx"] = np.moveaxis(changes["dx"], 1, -1)
        form = self.address.form
        for name in changes.keys() & {"dgamma", "dbeta"}:
            own = form.get(layer, name)
            if own is not None:
                form.set(layer, name, self._plus(np.asarray(own), changes[name]))
        return self._returned(returned, changes, iter(GRADIENTS)) if changes else returned

    # --- what they are made of ----------------------------------------------------------------------------------------

    def _case(self, layer: Any, passes: Passes, x: Array, given: Mapping[str, Any]) -> Case:
        kind, options = self.address.kind, dict(passes.options)
        for keyword in kind.required:
            if keyword not in options:
                if kind.has_groups:
                    raise Unclear
                options |= kind.options_for(x.shape)
        for keyword in kind.required:
            value = options[keyword]
            sizes = tuple(int(size) for size in value) if np.ndim(value) else (int(value),)
            options[keyword] = sizes if kind.normalizes_features and len(sizes) > 1 else sizes[0]
        dtype = x.dtype.name if x.dtype.name in DTYPES else "float64"
        return Case(kind, x.shape, tuple(sorted(options.items())), dtype, training=self._mode(layer, given), calls=1)

    def _mode(self, layer: Any, given: Mapping[str, Any]) -> bool:
        form = self.address.form
        told = [bool(given[mode.name] == mode.training) for mode in form.arguments if mode.name in given]
        told += [
            bool(getattr(layer, mode.name) == mode.training) for mode in form.attributes if hasattr(layer, mode.name)
        ]
        if self.address.kind.tracks and not told and (form.arguments or not form.attributes):
            raise Unclear
        return told[0] if told else True

    def _parameters(self, layer: Any, case: Case) -> tuple[Any, Any]:
        form = self.address.form
        return (
            form.get(layer, "gamma") if case.has_gamma else None,
            form.get(layer, "beta") if case.has_beta else None,
        )

    def _earlier(self, case: Case, old: Pass | None, state: Mapping[str, Array], alone: bool = False) -> Any:
        """The pass before, with the running statistics that the layer has now, wherever it has them from.

        Args:
            alone: whether only those matter.
        """
        if not case.tracks:
            return None if alone else old
        if state.keys() != set(STATE):
            raise Unclear
        starts = (state["running_mean"] == 0).all() and (state["running_var"] == 1).all()
        if old is None and starts:
            return None
        found: Any = SimpleNamespace(batches=old.batches if old else 0) if alone or old is None else old
        for role, value in state.items():
            setattr(found, role, wide(value).reshape(1, -1, *[1] * (len(case.shape) - 2)))
        return found

    def _change(self, passes: Passes, name: str) -> Array | None:
        """What the mistake adds to a quantity; None if nothing."""
        assert passes.right is not None
        wrong, right = passes.wrong[-1].quantity(name), passes.right.quantity(name)
        if wrong is None or right is None or np.array_equal(wrong, right, equal_nan=True):
            return None
        if wrong.shape != right.shape:
            raise Unclear
        return wrong - right

    def _plus(self, own: Any, change: Array) -> Array:
        if not isinstance(own, np.ndarray) or own.size != change.size:
            raise Unclear
        return np.asarray((own + change.reshape(own.shape)).astype(own.dtype))

    def _returned(self, returned: Any, changes: Mapping[str, Array], roles: Iterator[str]) -> Any:
        """What backward returned, with its gradients changed: an array, a dict by name, or several in their order."""
        if isinstance(returned, Mapping):
            by_key = {key: role for role, key in keys_of(returned).items()}
            return {
                k: self._plus(v, changes[by_key[k]]) if by_key.get(k) in changes else v for k, v in returned.items()
            }
        if isinstance(returned, (tuple, list)):
            return type(returned)([self._returned(value, changes, roles) for value in returned])
        role = next(roles, "")
        return self._plus(returned, changes[role]) if role in changes and returned is not None else returned


def with_mistake(owner: type, address: Address, id: str, way: int, note: Callable[[], None]) -> Planted:
    """A class with a mistake of the dictionary, by one of its ways."""
    fault = FAULTS[id]
    return Planted(owner, address, fault.variants[way], note, not (fault.forward or fault.stateful))


__all__ = ["Address", "Passes", "Planted", "Unclear", "address_of", "mistakes_of", "with_mistake"]
