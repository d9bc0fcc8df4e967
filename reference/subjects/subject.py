"""A stranger's layer behind one protocol, and what it does to a case.

What the layer does besides its numbers (raising, writing into its inputs, returning no array...) is a `Finding`, never
an exception of ours. This module knows the protocol and the case; it must not know what the right answer is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import numpy as np

from reference.cases.case import ANOTHER, Array, Case
from reference.dtypes import NARROW, is_float
from reference.kinds import Kind
from reference.subjects.constructor import constructor_of
from reference.subjects.form import ROLES, Form, Mode
from reference.subjects.gathering import is_oversized, keep_array, keep_gradients, keep_state, split
from reference.subjects.guard import Attempt, Clock, attempt, attribute
from reference.subjects.observation import GRADIENTS, Finding, Observation
from reference.subjects.places import Place

PROTOCOL = Form(
    places={role: (Place.attribute(role),) for role in ROLES},
    attributes=(Mode("training"),),
)
HAZARDS = {"x": "input-not-saved", "y": "output-not-saved"}  # by what the caller overwrites before backward


class Subject:
    """A layer class or factory under test.

    Args:
        factory: called with torch's keywords, under the names that its signature has for them.
        kind: of layer that it is meant to be.
        name: for the report.
        channels_last: whether it takes x as (N, *spatial, C).
        names: what its keywords, methods and attributes are called, where that is said outright: from our name to theirs.

    Attributes:
        constructor: how it is built. form: how it is spoken to: as the protocol has it, until it is known better.
        compiles: whether each new shape costs it seconds, which it counts itself in `factory.compiling`.
        on_stage: told how far a case has come, before each step that runs the layer's code.
        lost: why nothing more can be tried; one in this process is never lost.
    """

    lost = ""

    def __init__(
        self,
        factory: Callable[..., Any],
        kind: Kind,
        name: str,
        channels_last: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.factory, self.kind, self.name, self.channels_last = factory, kind, name, channels_last
        self.names: Mapping[str, str] = names or {}
        self.constructor = constructor_of(factory, kind, self.names)
        self.form = PROTOCOL
        self.compiles = attribute(factory, "compiles") is True
        self.on_stage: Callable[[str, Case], None] = _nobody_asks

    @property
    def keywords(self) -> frozenset[str]:
        """The keywords of torch's that it takes."""
        return self.constructor.keywords(self.kind)

    @property
    def read_as(self) -> tuple[str, ...]:
        """What has another name here than in torch, as "epsilon = eps"."""
        return (*self.constructor.read_as(), *self.form.read_as)

    def construct(self, case: Case) -> Any:
        """A new layer for `case`, with the parameters that it starts with."""
        positional, named = self.constructor.arguments(case)
        layer = self.factory(*positional, **named)
        if self.form.build:
            shape = case.shape_of(0)
            getattr(layer, self.form.build)((shape[0], *shape[2:], shape[1]) if self.channels_last else shape)
        return layer

    def build(self, case: Case, parameters: tuple[Array | None, Array | None] | None = None) -> Any:
        """A layer for `case`, with gamma and beta (the case's own by default) in the shapes that the layer's have."""
        layer = self.construct(case)
        if self.form.primed:
            self._prime(layer, case)
        for role, value in zip(("gamma", "beta"), parameters or case.parameters(), strict=True):
            if value is None or role in self.form.given:
                continue
            own = self.form.get(layer, role)
            if own is not None and np.size(own) == value.size:
                value = value.reshape(np.shape(own))
            elif own is not None and _one_a_group(case, own):
                value = value[: np.size(own)].reshape(np.shape(own))
            self.form.set(layer, role, value)
        return layer

    def _prime(self, layer: Any, case: Case) -> None:
        """A first forward, for layers that make their parameters in it; the running statistics start anew."""
        self.forward(layer, case, case.arrays(0, self.channels_last).x, 0)
        for role, start in (("running_mean", 0.0), ("running_var", 1.0)):
            value = self.form.get(layer, role)
            if isinstance(value, np.ndarray):
                self.form.set(layer, role, np.full_like(value, start))

    def forward(self, layer: Any, case: Case, x: Array, call: int) -> Any:
        """layer's y for x in one call of a case, in the mode of that call, or y with a cache."""
        training = case.training_in(call)
        if case.kind.tracks:
            self.form.set_mode(layer, training)
        parameters = self.constructor.values(case) if self.form.given else {}
        return self.form.call_forward(layer, x, training, parameters)

    def forward_of(self, case: Case, x: Array, gamma: Array | None, beta: Array | None) -> Array:
        """y of the last call of `case` for other inputs, unguarded; the calls before it are the case's own."""
        layer = self.build(case, (gamma, beta))
        for call in range(case.calls - 1):
            self.forward(layer, case, case.arrays(call, self.channels_last).x, call)
        moved = np.moveaxis(x, 1, -1).copy() if self.channels_last else x.copy()
        y = np.asarray(self.form.split_output(self.forward(layer, case, moved, case.calls - 1))[0])
        return np.moveaxis(y, -1, 1) if self.channels_last else y

    def prepare(self, cases: Sequence[Case]) -> None:
        """Nothing: a case is run when it is observed."""

    def observe(self, case: Case, clock: Clock | None = None) -> Observation:
        """Run all calls of `case` on a new layer; nothing that the layer does reaches the caller, or escapes."""
        seen = Observation()
        stage, begun = self._stage_of(case), self._spent()
        tried = attempt(lambda: self._run(case, seen, stage), clock or Clock(3600))
        if tried.error is not None:
            if stage.name == "forward" and not tried.timed_out:
                alone = self.observe(replace(case, calls=1, resize=False, history=""), clock)
                if alone.refused:  # whatever was called before: it takes no such x, or not in this mode
                    stage.name = "first forward"
            _note_exception(case, seen, stage, tried, clock)
        seen.seconds = self._spent() - begun
        if case.overwrite:
            return self._compared_with_untouched(case, seen, clock)
        return seen

    def _spent(self) -> float:
        """Seconds of this process but for compiling, which tell what a case takes that is like another but larger."""
        return process_time() - (self.factory.compiling if self.compiles else 0.0)  # type: ignore[attr-defined]

    def run(self, case: Case) -> Observation:
        """The same without any protection, for layers that are trusted."""
        seen = Observation()
        self._run(case, seen, self._stage_of(case))
        return seen

    def _stage_of(self, case: Case) -> "_Stage":
        return _Stage(lambda name: self.on_stage(name, case))

    def _compared_with_untouched(self, case: Case, seen: Observation, clock: Clock | None) -> Observation:
        """What the layer gives where the caller leaves x and y alone, and whether overwriting them made a difference."""
        untouched = self.observe(replace(case, overwrite=""), clock)
        changed = [name for name, value in untouched.outcome.items() if not _same(value, seen.outcome.get(name))]
        for name in changed if "y" not in changed else ():
            detail = f"{name} is another one once the caller has changed {case.overwrite} in place before backward"
            untouched.find(HAZARDS[case.overwrite], name, detail, hazard=True)
        return untouched

    def _run(self, case: Case, seen: Observation, stage: "_Stage") -> None:
        stage.enter("constructor")
        layer = self.build(case)
        gamma = self.form.get(layer, "gamma")
        if _one_a_group(case, gamma):
            detail = f"gamma has shape {np.shape(gamma)}, expected {case.parameter_shape}"
            seen.find("gamma-per-group", "y", detail)
        other = self.build(replace(case, seed=case.seed + 1)) if case.history == ANOTHER else None
        held: list[tuple[str, Array, Array]] = []  # what was handed out before, and a copy of it
        first = np.empty(0)
        for call in range(case.calls):
            last = call == case.calls - 1
            stage.training = case.training_in(call) or not case.tracks
            stage.enter("forward" if call else "first forward")
            x, dy = case.arrays(call, self.channels_last)
            if case.history == "refilled":
                x = _refilled(first, x) if call else x
                first = x
            x_before, dy_before = x.tobytes(), dy.tobytes()
            y, cache = self.form.split_output(self.forward(layer, case, x, call))
            if x.tobytes() != x_before:
                seen.find("input-mutated", "y", "x was changed by forward")
            if last:
                # only 16 bits are held to another scale by it, and finding it out takes as long as a small pass
                seen.derived = case.dtype in NARROW and attribute(layer, "derived") is True
                keep_array(seen, "y", y, x, case, self.channels_last)
            if other is not None:
                stage.enter("backward")
                self._use(other, case, call)
            y_before = y.copy() if isinstance(y, np.ndarray) and not is_oversized(y, x) else None
            if case.overwrite:
                _overwrite(x if case.overwrite == "x" else y)
                x_before = x.tobytes()
            if not last and case.history == "forward only":
                continue
            stage.enter("backward")
            returned = self.form.call_backward(layer, dy, cache)
            given = split(returned)
            # what lies in x's memory changes with x, which is the caller's to change
            if y_before is not None and not case.overwrite and not np.may_share_memory(y, x):
                held.append(("y", y, y_before))
            if not last:
                dx = given.get("dx")
                if isinstance(dx, np.ndarray) and not is_oversized(dx, x) and not np.may_share_memory(dx, x):
                    held.append(("dx", dx, dx.copy()))
                continue
            if x.tobytes() != x_before and not seen.has("input-mutated"):
                seen.find("input-mutated", "dx", "x was changed by backward")
            if dy.tobytes() != dy_before:
                seen.find("upstream-gradient-mutated", "dx", "dy was changed by backward")
            _note_shared_memory(seen, given.get("dx"), dy, y)
            keep_array(seen, "dx", given.get("dx"), dy, case, self.channels_last)
            keep_gradients(seen, layer, given, self.form, x, case)
            keep_state(seen, layer, self.form, x, case)
        seen.findings += [finding for finding in getattr(layer, "findings", ()) if type(finding) is Finding]
        _note_overwritten(seen, held)

    def _use(self, other: Any, case: Case, call: int) -> None:
        """Another layer of the same class at work, between forward and backward of the one that is judged."""
        x, dy = case.arrays(call, self.channels_last)
        _, cache = self.form.split_output(self.forward(other, case, 1 - 2 * x, call))
        self.form.call_backward(other, 1 - dy, cache)
        if case.kind.tracks:
            self.form.set_mode(other, not case.training_in(call))


def _note_shared_memory(seen: Observation, dx: object, dy: Array, y: object) -> None:
    """dx in dy's memory is a hazard; where dy was changed by it, that is said already."""
    if not isinstance(dx, np.ndarray) or not np.may_share_memory(dx, dy):
        return
    if not seen.has("upstream-gradient-mutated"):
        seen.find("dx-aliases-dy", "dx", "dx shares its memory with dy", hazard=True)


def _note_overwritten(seen: Observation, held: list[tuple[str, Array, Array]]) -> None:
    """What the layer had handed out, and has changed under the caller since."""
    for name, array, before in held:
        if not _same(array, before):
            detail = f"the {name} that was handed out has changed since, by a later call or by backward"
            seen.find("result-overwritten", name, detail)
            return


def _same(one: object, other: object) -> bool:
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)) or one.shape != other.shape:
        return False
    if one.dtype == other.dtype and one.tobytes() == other.tobytes():  # mostly, and in half the time
        return True
    return bool(np.array_equal(one, other, equal_nan=is_float(one.dtype) and is_float(other.dtype)))


def _note_exception(case: Case, seen: Observation, stage: "_Stage", tried: Attempt[None], clock: Clock | None) -> None:
    """What ended a run: the time, a write into a read-only array, a refusal, or an exception of its own.

    Whose backward wants more memory than there is refuses that x, as one of eval mode may refuse all.
    """
    backward = stage.name == "backward"
    if tried.timed_out:
        seen.find(
            "never-returns", "y", f"no answer within {clock.seconds if clock else 0:g} s in {stage.name} of {case}"
        )
        seen.fail("backward" if backward else "forward", "no answer in time")
        return
    if "read-only" in tried.failure and stage.name != "constructor":
        id = "upstream-gradient-mutated" if backward and case.dy_layout == "read-only" else "input-mutated"
        seen.find(id, "dx" if backward else "y", "tried to write into a read-only array")
    elif stage.name in ("constructor", "first forward") or (_is_refusal(tried) and not backward):
        seen.refused = tried.failure
    elif backward and (not stage.training or _is_refusal(tried)):
        seen.refused, seen.raised = tried.failure, "backward"
        return
    else:
        place = f", in {tried.where}" if tried.where else ""
        for name in GRADIENTS if backward else ("y",):
            if name == "dx" or (case.has_gamma if name == "dgamma" else case.has_beta if name == "dbeta" else True):
                seen.find(f"{stage.name.split()[-1]}-raises", name, f"{stage.name} raised {tried.failure}{place}")
    seen.fail("backward" if backward else "forward", f"raised {tried.failure}")


def _is_refusal(tried: Attempt[None]) -> bool:
    """Whether what was raised says that such arrays are not taken: too large, or in an order that torch does not take."""
    words = ("negative stride", "not implemented for '")  # torch's: of an order in memory, and of a dtype
    return isinstance(tried.error, MemoryError) or any(word in tried.failure for word in words)


@dataclass
class _Stage:
    """How far a run has come: "constructor", "first forward", "forward" or "backward", and in which mode."""

    tell: Callable[[str], None]
    name: str = "constructor"
    training: bool = True

    def enter(self, name: str) -> None:
        self.name = name
        self.tell(name)


def _nobody_asks(stage: str, case: Case) -> None:
    pass


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


def _overwrite(array: object) -> None:
    """Write other numbers into an array of the caller's, as a caller may."""
    if isinstance(array, np.ndarray) and is_float(array.dtype):
        if not array.flags.writeable:
            try:
                array.flags.writeable = True
            except ValueError:
                return
        array[...] = 3 - 2 * array[::-1]
