"""Where in a stranger's object an array lives, and what by its name it stands for.

A place is a way through attributes and keys, as `gamma`, `params["W"]` or `weight.data`. Knows objects and names, not
what a layer does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.subjects.names import rank_of, role_of

INNER = ("data", "value", "val", "array", "_data")  # where an object keeps its array
INNER_GRADIENTS = ("grad", "gradient", "_grad")  # and its gradient
FEW = 8  # entries of a list that are looked at
_MISSING = object()

Step = tuple[str, Any]  # ("attribute", name) or ("item", key)


@dataclass(frozen=True)
class Place:
    """A way from a layer to one of its values."""

    steps: tuple[Step, ...]

    @classmethod
    def attribute(cls, name: str) -> "Place":
        """An attribute of the layer itself."""
        return cls((("attribute", name),))

    @classmethod
    def parse(cls, text: str) -> "Place":
        """`params["W"]`, `params[W]`, `gamma.data`, `grads[0]` as a place.

        Raises:
            ValueError: it is no such expression.
        """
        steps: list[Step] = []
        rest = text.strip()
        while rest:
            found = re.match(r"\.?([^\W\d]\w*)|\[\s*(?:(['\"])(.*?)\2|(-?\d+)|(\w+))\s*\]", rest)
            if not found or (not steps and rest.startswith((".", "["))):
                raise ValueError(f'Expected a name as gamma, params["W"] or weight.data but got {text!r}')
            attribute, _, quoted, number, bare = found.groups()
            if attribute is not None:
                steps.append(("attribute", attribute))
            else:
                steps.append(("item", int(number) if number is not None else quoted if quoted is not None else bare))
            rest = rest[found.end() :]
        if not steps:
            raise ValueError(f'Expected a name as gamma, params["W"] or weight.data but got {text!r}')
        return cls(tuple(steps))

    def __str__(self) -> str:
        return "".join(f".{key}" if way == "attribute" else f"[{key!r}]" for way, key in self.steps).removeprefix(".")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(key) for _, key in self.steps)

    def get(self, layer: Any) -> Any:
        """What is there, or None."""
        for step in self.steps:
            layer = _inside(layer, step)
            if layer is _MISSING:
                return None
        return layer

    def set(self, layer: Any, value: Any) -> None:
        """Put a value there."""
        for step in self.steps[:-1]:
            layer = _inside(layer, step)
        if layer is _MISSING:
            raise AttributeError(f"there is no {self}")
        way, key = self.steps[-1]
        if way == "attribute":
            setattr(layer, key, value)
        else:
            layer[key] = value


@dataclass(frozen=True)
class Found:
    """A value that was come across, and the role that its names tell."""

    place: Place
    value: Any
    role: str | None


def _inside(value: Any, step: Step) -> Any:
    way, key = step
    if way == "attribute":
        return getattr(value, key, _MISSING)
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        return _MISSING


def look(layer: Any) -> list[Found]:
    """All arrays and numbers of a layer's attributes, one level into dicts, lists and parameter objects.

    A list of arrays has no names: where a list of parameters has just two of them, they are gamma and beta in this order.
    """
    found = []
    for name, value in _attributes(layer):
        for place, inner in _within(Place.attribute(name), value):
            found.append(Found(place, inner, role_of(place.names)))
    return [*found, *_in_lists(layer)]


def _attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """Instance attributes, slots and properties, without methods; what cannot be read is left out."""
    names = dict.fromkeys(getattr(layer, "__dict__", {}))
    for owner in type(layer).__mro__[:-1]:
        slots = owner.__dict__.get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else slots)
        names |= dict.fromkeys(name for name, value in vars(owner).items() if not callable(value))
    for name in names:
        if name.startswith("__"):
            continue
        try:
            value = getattr(layer, name)
        except Exception:  # theirs to raise
            continue
        if not callable(value) or isinstance(value, np.ndarray):
            yield name, value


def _within(place: Place, value: Any, depth: int = 2) -> Iterator[tuple[Place, Any]]:
    if value is None or isinstance(value, (np.ndarray, np.generic, bool, int, float, str)):
        yield place, value
    elif depth and isinstance(value, Mapping):
        for key, inner in list(value.items())[: 4 * FEW]:
            if isinstance(key, str):
                yield from _within(Place((*place.steps, ("item", key))), inner, depth - 1)
    elif depth and not isinstance(value, (list, tuple, set, type)) and hasattr(value, "__dict__"):
        for name, inner in list(vars(value).items()):
            if isinstance(inner, Mapping):
                yield from _within(Place((*place.steps, ("attribute", name))), inner, depth - 1)
        for name in (*INNER, *INNER_GRADIENTS):
            inner = _inside(value, ("attribute", name))
            if inner is None or isinstance(inner, (np.ndarray, np.generic)):
                yield Place((*place.steps, ("attribute", name))), inner


def _in_lists(layer: Any) -> Iterator[Found]:
    for name, value in _attributes(layer):
        if not isinstance(value, list) or not 0 < len(value) <= FEW:
            continue
        outer = name.lower()
        if not any(word in outer for word in ("param", "weight", "grad")):
            continue
        roles = ("dgamma", "dbeta") if "grad" in outer or outer.startswith("d") else ("gamma", "beta")
        for index, (inner, role) in enumerate(zip(value, roles, strict=False)):
            if isinstance(inner, np.ndarray):
                yield Found(Place((("attribute", name), ("item", index))), inner, role)


def chosen(candidates: list[Found], role: str) -> list[Found]:
    """Of several values with a role the places of the one that its name tells best: all that are the same array."""
    if not candidates:
        return []

    def order(found: Found) -> tuple[int, int]:
        return (len(found.place.steps), min(rank_of(name, role) for name in found.place.names))

    best = min(candidates, key=order)
    return [best, *(c for c in candidates if c is not best and c.value is best.value and c.value is not None)]
