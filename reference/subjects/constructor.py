"""How a stranger's layer is built: torch's keywords under the names, or at the positions, that its signature has.

Reads signatures; builds nothing, and refuses nothing: what a constructor asks for that no keyword of torch's can be is
kept as `unknown`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reference.cases.case import Case
from reference.kinds import KINDS, Kind
from reference.subjects.guard import attempt
from reference.subjects.names import KEYWORDS, PARAMETERS, flat, is_feature_count

_SIZES = {keyword for kind in KINDS.values() for keyword in kind.required}  # of any kind: one of another is not ours
_DATA = {
    "x",
    "X",
    "inputs",
    "input",
    "a",
    "array",
    "data",
    "tensor",
    "dy",
    "dout",
    "grad",
}  # what a pass is given, not a size


@dataclass(frozen=True)
class Constructor:
    """A factory and what of torch's keywords it takes.

    Attributes:
        factory: what is called.
        takes: from torch's keyword, or "gamma", "beta"... for arrays that it asks for, to the parameter's name.
        by_position: the parameters that can only be given by position, in their order.
        unknown: the required parameters that nothing stands for.
        everything: whether it takes any keyword, or its signature cannot be read: then those that a case names are passed.
        defaults: of the parameters in `takes` that have one.
        tuple_shape: whether a single number is passed as a tuple of one.
        one_number: whether its size is annotated as an int.
    """

    factory: Callable[..., Any]
    takes: Mapping[str, str]
    by_position: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    everything: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tuple_shape: bool = False
    one_number: bool = False

    def keywords(self, kind: Kind) -> frozenset[str]:
        """The keywords of torch's that it takes."""
        return frozenset(kind.keywords) if self.everything else frozenset(self.takes) & frozenset(kind.keywords)

    @property
    def takes_several_axes(self) -> bool:
        """Whether a `normalized_shape` of several sizes is meant: where it is called a shape, and not a dim or a size."""
        return self.everything or ("shape" in flat(self.takes.get("normalized_shape", "")) and not self.one_number)

    def values(self, case: Case) -> dict[str, Any]:
        """What torch's keywords, and the arrays that a constructor may ask for, are in a case."""
        gamma, beta = case.parameters()
        shape = case.parameter_shape
        values: dict[str, Any] = dict(case.kind.optional) | case.options
        values |= {
            "gamma": np.ones(shape, case.dtype) if gamma is None else gamma,
            "beta": np.zeros(shape, case.dtype) if beta is None else beta,
            "running_mean": np.zeros(shape),
            "running_var": np.ones(shape),
        }
        for keyword in ("normalized_shape", "num_features") if self.tuple_shape else ():
            if isinstance(values.get(keyword), int):
                values[keyword] = (values[keyword],)
        return values

    def arguments(self, case: Case) -> tuple[list[Any], dict[str, Any]]:
        """What it is called with for a case: every keyword that it has, booleans and torch's defaults too."""
        values = self.values(case)
        named = {theirs: values[ours] for ours, theirs in self.takes.items()}
        if self.everything:
            named |= {name: values[name] for name in case.options if name not in self.takes}
        return [named.pop(name) for name in self.by_position], named

    def read_as(self) -> list[str]:
        """The keywords that have another name here, as "epsilon = eps"."""
        return [f"{theirs} = {ours}" for ours, theirs in self.takes.items() if theirs != ours]


def constructor_of(factory: Callable[..., Any], kind: Kind, names: Mapping[str, str]) -> Constructor:
    """How `factory` is called for a kind of layer; `names` says outright what a keyword is called."""
    signature = attempt(lambda: inspect.signature(factory)).value
    if signature is None:
        return Constructor(factory, {}, everything=True)
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    everything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    said = {ours: theirs for ours, theirs in names.items() if ours in (*kind.keywords, *PARAMETERS)}
    takes = {ours: theirs for ours, theirs in said.items() if theirs in signature.parameters}
    open_ones = [p for p in parameters if p.name not in takes.values()]
    for keyword in kind.keywords:  # their own word first, whatever else could be meant
        match = next((p for p in open_ones if p.name == keyword and keyword not in takes), None)
        if match:
            takes[keyword] = match.name
            open_ones.remove(match)
    for keyword in kind.keywords:
        match = None if keyword in takes else _best(open_ones, KEYWORDS[keyword], required=keyword in kind.required)
        if match is None and keyword in kind.required and keyword not in takes and keyword != "num_groups":
            match = next((p for p in open_ones if is_feature_count(p.name)), None)
        if match and not (_is_flag(match) and not isinstance(kind.optional.get(keyword), bool)):
            takes[keyword] = match.name
            open_ones.remove(match)
    for role, spelled in PARAMETERS.items():
        match = None if role in takes else _best([p for p in open_ones if not _is_flag(p)], spelled, required=False)
        if match and match.default in (match.empty, None):
            takes[role] = match.name
            open_ones.remove(match)
    required = [p.name for p in open_ones if p.default is p.empty]
    missing = [keyword for keyword in kind.required if keyword not in takes and not everything]
    if len(required) == 1 == len(missing) and required[0] not in _SIZES | _DATA:  # nothing else can be meant
        takes[missing[0]] = required.pop()
    annotation = signature.parameters[takes["normalized_shape"]].annotation if "normalized_shape" in takes else None
    one_number = annotation in (int, "int")
    by_position = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in takes.values())
    defaults = {
        ours: signature.parameters[theirs].default
        for ours, theirs in takes.items()
        if signature.parameters[theirs].default is not inspect.Parameter.empty
    }
    return Constructor(factory, takes, by_position, tuple(required), everything, defaults, one_number=one_number)


def _is_flag(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.default, bool)


def _best(parameters: list[inspect.Parameter], spelled: tuple[str, ...], required: bool) -> inspect.Parameter | None:
    """The parameter whose name comes first in the list of spellings; one letter only tells where it must be given."""
    order = {word: place for place, word in reversed(list(enumerate(spelled)))}
    fitting = [p for p in parameters if flat(p.name) in order and (len(p.name) > 1 or required or p.default is p.empty)]
    return min(fitting, key=lambda p: order[flat(p.name)], default=None)
