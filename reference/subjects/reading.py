"""The first look at a subject: it is built, run once, and looked at, so that its form is known; and what it starts from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reference.cases.case import Case, with_gamma
from reference.cases.probes import BASES
from reference.dtypes import NARROW, is_float
from reference.kinds import Kind, kind_in, kind_named, untold
from reference.subjects.form import Form, complete, signature_form
from reference.subjects.gathering import keys_of, split
from reference.subjects.guard import Attempt, Clock, attempt, attribute, printable
from reference.subjects.observation import Finding
from reference.subjects.places import Found, look
from reference.subjects.subject import PROTOCOL, Subject


class Refused(Exception):
    """The subject cannot be checked at all; the text says why, and what to do about it."""


def name_of(layer: Any) -> str:
    """What a class or factory calls itself, or else its type."""
    name = attribute(layer, "__name__")
    return printable(name) if type(name) is str else type(layer).__name__


def kind_of(name: str, like: str | None = None) -> Kind:
    """The kind of layer that `like` says, or else the name of a class.

    Raises:
        ValueError: there is no kind of that name. Refused: the name does not tell.
    """
    if like is not None:
        return kind_named(like)
    kind = kind_in(name)
    if kind is None:
        raise Refused(untold("the name", name))
    return kind


@dataclass
class Reading:
    """What was seen in one pass, as far as it went.

    Attributes:
        case: that was run. form: of the layer. stages: what was in it when "built", after "forward", after "backward".
        returns: how many gradients backward returned besides dx. has_modes: whether it can be told its mode.
        starts: gamma and beta as the layer was built.
    """

    case: Case
    form: Form = PROTOCOL
    stages: dict[str, list[Found]] = field(default_factory=dict)
    returns: int = 0
    has_modes: bool = False
    starts: dict[str, Any] = field(default_factory=dict)

    @property
    def has_gamma(self) -> bool:
        """Whether a gamma was found, or forward asks for one."""
        return self.form.has("gamma") or "gamma" in self.form.given


def read(subject: Subject, ndims: Sequence[int] | None, dtypes: Sequence[str] | None, clock: Clock) -> Reading:
    """Find the form of a subject, and set it.

    Raises:
        Refused: it cannot be built, or has no forward and backward that can be called.
    """
    best = _best(subject, list(_plain_cases(subject.kind, ndims, dtypes)), clock)
    subject.form = best.form
    if "forward" in best.stages and best.form.has("gamma"):
        stays = attempt(lambda: _stays(subject, best.case), clock).value
        subject.form = best.form = replace(best.form, primed=stays is False)
    return best


def _plain_cases(kind: Kind, ndims: Sequence[int] | None, dtypes: Sequence[str] | None) -> Iterator[Case]:
    """The plainest case of each rank and dtype that may be tried, with a gamma; in 16 bits where nothing else may be."""
    wide = [dtype for dtype in ("float64", "float32") if dtypes is None or dtype in dtypes]
    for rank in (4, 2, 3, 5):
        for dtype in wide or [dtype for dtype in NARROW if dtypes is None or dtype in dtypes]:
            if rank in kind.ranks and (ndims is None or rank in ndims):
                yield with_gamma(replace(BASES[kind][rank], dtype=dtype), True)


def _best(subject: Subject, cases: Sequence[Case], clock: Clock) -> Reading:
    """The reading that goes furthest; with its size as a tuple only where a number does not do.

    Raises:
        Refused: it cannot be built in any case.
    """
    first: Attempt[None] | None = None
    built: Reading | None = None  # one whose forward fails, with its size as a number
    for as_tuple in (False, True):
        subject.constructor = replace(subject.constructor, tuple_shape=as_tuple)
        readings = []
        for case in cases:
            reading = Reading(case)
            tried = attempt(lambda reading=reading: _run(subject, reading), clock)  # type: ignore[misc]
            if isinstance(tried.error, Refused):
                raise tried.error
            first = first or tried
            if "forward" in reading.stages and tried.error is not None and _wants_optimizer(reading, tried.failure):
                raise Refused(
                    f"{subject.name} takes a step in backward, with an optimizer that it was not given ({tried.failure}): wrap "
                    "it in a class whose backward only keeps the gradients"
                )
            readings.append(reading)
            if reading.stages:
                reading.form = complete(reading.form, case, subject.names, reading.stages, reading.returns)
            if tried.timed_out or (tried.error is None and reading.has_gamma):
                break
        # of a rank that it is not made for, a layer that makes its parameters by itself makes others
        best = max(readings, key=lambda reading: (len(reading.stages), reading.has_gamma), default=None)
        if best and "forward" in best.stages:
            return best
        built = built or (best if best and best.stages else None)
    subject.constructor = replace(subject.constructor, tuple_shape=False)
    if built:
        return built
    if first is None:
        raise Refused(
            f"{subject.name} has nothing to try: no rank and dtype that {subject.kind.name} has was asked for"
        )
    arguments = subject.constructor.arguments(cases[0])[1]
    if first.timed_out:
        raise Refused(f"{subject.name} cannot be built with {arguments} within {clock.seconds:g} s")
    raise Refused(f"{subject.name} cannot be built with {arguments}: {first.failure}") from first.error


def _stays(subject: Subject, case: Case) -> bool:
    """Whether a gamma that is set before the first forward is still there after it."""
    layer = subject.build(case)
    before = np.array(subject.form.get(layer, "gamma"))
    subject.forward(layer, case, case.arrays(channels_last=subject.channels_last).x, 0)
    return bool(np.array_equal(np.ravel(before), np.ravel(subject.form.get(layer, "gamma"))))


def _wants_optimizer(reading: Reading, failure: str) -> bool:
    """Whether a backward failed because it takes a step itself, with an optimizer that nobody gave it."""
    absent = any("optim" in entry.place.names[0].lower() and entry.value is None for entry in reading.stages["built"])
    return "optim" in failure.lower() or (absent and "NoneType" in failure)


def _run(subject: Subject, reading: Reading) -> None:
    """One pass in training mode; what is seen goes into `reading` as it comes."""
    case = reading.case
    layer = subject.construct(case)
    found = signature_form(layer, subject.names)
    if isinstance(found, str):
        raise Refused(f"{subject.name} {found}")
    reading.form = found
    reading.stages["built"] = look(layer)
    reading.starts = {
        entry.role: np.array(entry.value)
        for entry in reversed(reading.stages["built"])
        if entry.role in ("gamma", "beta") and isinstance(entry.value, np.ndarray)
    }
    reading.has_modes = found.has_modes(layer)
    x, dy = case.arrays(channels_last=subject.channels_last)
    if found.build:
        getattr(layer, found.build)(x.shape)
        reading.stages["built"] = look(layer)
    parameters = subject.constructor.values(case)
    if case.kind.tracks:
        found.set_mode(layer, True)
    _, cache = found.split_output(found.call_forward(layer, x, True, parameters))
    reading.stages["forward"] = look(layer)
    returned = found.call_backward(layer, dy, cache)
    reading.stages["backward"] = look(layer)
    reading.returns = len(split(returned)) - 1
    reading.form = replace(found, keys=keys_of(returned))


def starting_point(subject: Subject, reading: Reading) -> Iterator[Finding]:
    """Where defaults, or the values that parameters start with, are not torch's."""
    constructor, kind = subject.constructor, subject.kind
    for keyword in ("eps", "momentum"):
        theirs = constructor.defaults.get(keyword)
        ours = kind.optional.get(keyword)
        if ours is None:  # torch's is the machine's epsilon, which nobody writes down
            continue
        if keyword in constructor.defaults and keyword in kind.optional and theirs != ours:
            name = constructor.takes[keyword]
            yield Finding(f"{keyword}-default", "", f"{name} defaults to {theirs!r}, torch's {keyword} to {ours!r}")
    for role, usual in (("gamma", 1.0), ("beta", 0.0)):
        value = reading.starts.get(role)
        if value is not None and role not in constructor.takes and is_float(value.dtype) and (value != usual).any():
            yield Finding(
                "parameters-start-elsewhere", "", f"{role} starts at {value.flat[0]:.3g}, torch's at {usual:g}"
            )
