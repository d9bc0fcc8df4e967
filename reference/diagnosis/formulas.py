"""What the formula gives with some mistakes in it, and how far that is from what a layer gave.

Every question of the search is one of these: does the formula with these suspects give the layer's number, here? So all
that was computed once is kept. This module knows formulas and numbers; it decides nothing.
"""

from enum import Enum
from functools import lru_cache
from math import isfinite, prod

import numpy as np

from reference.cases.case import Array, Case
from reference.diagnosis.faults import Constant, Variant
from reference.diagnosis.suspects import Suspect
from reference.truth import exact
from reference.truth.compare import error_units
from reference.truth.exact import GRADIENTS, Changes, Pass, merged
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial

REPRODUCED = 1e4  # units: a formula that agrees to twelve digits is the layer's; wrong ones differ in the first few
SMALL = 130  # numbers of x up to which the true derivative of a changed forward is taken
DIFFERENTIATED = 3  # on how many cases of each mode and rank
PREDICTED = 20_000  # arrays that are kept for the next layer, of some hundred numbers each
LARGEST = 1_500  # numbers in one of them

Suspects = tuple[Suspect, ...]


class Backward(Enum):
    """How the backward of a layer whose forward is wrong may go; `Formulas.predicted` has a formula for each."""

    FOLLOWS = "the right backward's formula, made with the arrays of the wrong forward, as most layers are written"
    DERIVATIVE = "the true derivative of the wrong forward, as automatic differentiation gives it"
    RIGHT = "the backward of the right forward, which computes its own arrays"
    NODE_BY_NODE = "as FOLLOWS, but through every node, so that the mean term has what comes before the mean's node"

    __hash__ = object.__hash__  # there is one of each; Enum's own hashes the name each time


# FOLLOWS takes xhat to have no mean of its own, so that mean(d - xhat * ...) is mean(d). Backpropagation node by node
# does not: its mean term is that of all that flows into the mean's node. The two differ where the forward is wrong.
_NODE_BY_NODE: Variant = {
    "mean_term": lambda p, term: (
        0 * term
        if p.backward_constant
        else p.backward_average(p.d - p.backward_xhat * p.backward_average(p.d * p.backward_xhat))
    )
}


_PREDICTED: dict[tuple[Suspects, Case, str, Backward], Array] = {}


class Formulas:
    """The formula with any suspects in it, on the cases of some trials.

    Args:
        trials: what the layer gave. base: changes that the layer is held to anyway, the conventions that were accepted.
    """

    def __init__(self, trials: list[Trial], base: Changes) -> None:
        self.base = base
        # A true derivative is one forward pass for each number of x: it is taken on few cases, and small ones.
        self.differentiable = _few_small_ones([trial.case for trial in trials])
        self._passes: dict[object, Pass] = {}
        self._derivatives: dict[object, dict[str, Array]] = {}
        self._errors: dict[object, float] = {}

    def agrees(self, suspects: Suspects, trial: Trial, name: str, backward: Backward) -> bool:
        """Whether the formula with these mistakes gives the subject's `name` in this trial, to rounding."""
        if backward is Backward.DERIVATIVE and trial.case not in self.differentiable:
            return True  # not taken there; the trials in which it is tell
        # A right layer may lose more where the case is badly conditioned, and so may one with a mistake.
        conditioning = trial.expected.truth.conditioning
        limit = REPRODUCED * max(1.0, tolerance_of(name, conditioning) / tolerance_of(name, 1.0))
        return self.error(suspects, trial, name, backward) <= limit

    def error(self, suspects: Suspects, trial: Trial, name: str, backward: Backward) -> float:
        """How far the formula with these mistakes is from the subject's `name`, in units."""
        key = (suspects, trial.case, name, backward)
        if key not in self._errors:
            self._errors[key] = self._error(suspects, trial, name, backward)
        return self._errors[key]

    def _error(self, suspects: Suspects, trial: Trial, name: str, backward: Backward) -> float:
        case, got = trial.case, trial.seen.outcome.get(name)
        if name in GRADIENTS and any(s.fault.cached for s in suspects) and cache_does_not_fit(case):
            return 0.0  # whatever came out, or raised, can come of a cache that does not fit
        if got is None:
            absent = any(s.fault.absent and name in s.fault.quantities for s in suspects)
            return 0.0 if absent and not trial.seen.raised else np.inf
        try:
            predicted = self.predicted(suspects, case, name, backward)
        except (ValueError, IndexError):  # two changes whose shapes do not go together
            return np.inf
        return reproduction_error(got, predicted, trial.expected.truth.scale[name], case.dtype)

    def predicted(self, suspects: Suspects, case: Case, name: str, backward: Backward) -> Array:
        """The value of `name` that the formula with these mistakes gives; empty where it has none."""
        if self.base:
            return self._predicted(suspects, case, name, backward)
        key = (suspects, case, name, backward)  # it is the same for every layer that is held to torch's formula
        value = _PREDICTED.get(key)
        if value is None:
            value = self._predicted(suspects, case, name, backward)
            if value.size <= LARGEST:
                if len(_PREDICTED) >= PREDICTED:
                    del _PREDICTED[next(iter(_PREDICTED))]
                _PREDICTED[key] = value
        return value

    def _predicted(self, suspects: Suspects, case: Case, name: str, backward: Backward) -> Array:
        forward = tuple(s for s in suspects if s.forward)
        own = tuple(s for s in suspects if not s.forward)  # the backward's own mistakes
        if name not in GRADIENTS:
            return _quantity(self._last(case, forward), name)
        if backward is Backward.DERIVATIVE and forward:
            return self._derivative(case, forward, own, name)
        if backward is Backward.RIGHT:
            forward = ()
        steps = (_NODE_BY_NODE,) if backward is Backward.NODE_BY_NODE else ()
        return self._backward_formula(case, forward, own, steps, name)

    def eps_that_gives(self, suspects: Suspects, trial: Trial) -> float | None:
        """The eps with which the formula with these mistakes gives y in a trial; None if no single one does.

        y is a straight line in rstd, whatever else is wrong with it, and 1 / rstd**2 one in eps, or 1 / rstd where eps or
        the root are out of place. So two passes tell the two lines, and every row of y tells the eps.
        """
        case, got = trial.case, trial.seen.outcome.get("y")
        changes = merged(self.base, *(s.changes for s in suspects))
        one, two = case.eps, 2 * case.eps + 1e-4
        p, q = (exact.passes(case, merged(changes, {"eps": Constant(eps)}))[-1] for eps in (one, two))
        if got is None or got.size != p.y.size or not p.view.axes:
            return None
        with np.errstate(all="ignore"):
            slope = (q.y - p.y) / (q.rstd - p.rstd)
            rstd = (p.rstd + (got.reshape(p.y.shape) - p.y) / slope).astype(np.float64)
            rstd = np.median(rstd, axis=p.view.axes, keepdims=True)
            first, second = p.rstd.astype(np.float64), q.rstd.astype(np.float64)
            for power in (-2, -1):
                if np.allclose(second**power - first**power, two - one, rtol=1e-6):
                    rows = one + rstd**power - first**power
                    eps = float(f"{np.median(rows):.2g}") if np.isfinite(rows).all() else 0.0
                    return eps if eps > 1e-16 and (abs(rows - eps) <= 1e-3 * eps).all() else None
        return None

    def _backward_formula(
        self, case: Case, forward: Suspects, own: Suspects, steps: tuple[Variant, ...], name: str
    ) -> Array:
        """A gradient by the backward's steps, with its own mistakes and other `steps`, from the arrays of a forward."""
        changes = merged(self.base, *steps, *(s.changes for s in (*forward, *own)))
        if case.calls > 1 and any(s.fault.stateful for s in own):
            return _quantity(exact.passes(case, changes)[-1], name)  # what the backward left behind matters: all calls
        last = self._last(case, forward)
        return _quantity(last.with_backward(changes) if own or steps else last, name)

    def _derivative(self, case: Case, forward: Suspects, own: Suspects, name: str) -> Array:
        """The true derivative of a changed forward. Of the backward's mistakes those apply that change the result itself:
        the derivative has no steps inside that could be changed.
        """
        key = (case, forward)
        if key not in self._derivatives:
            self._derivatives[key] = exact.derivative(case, merged(self.base, *(s.changes for s in forward)))
        value = self._derivatives[key].get(name)
        if value is None:
            return np.empty(0)
        for suspect in own:
            if name in suspect.changes:
                last = self._last(case, forward)
                shape = last.view.shape if name == "dx" else last.view.gamma_shape
                if value.size != prod(shape):
                    return np.empty(0)  # a change of the shape before this one
                value = np.asarray(suspect.changes[name](last, value.reshape(shape)))
        return value

    def _last(self, case: Case, forward: Suspects) -> Pass:
        """The last pass of a case with mistakes of the forward alone, all of its calls made with them."""
        if not forward and not self.base:
            return _right_pass(case)
        key = (case, forward)
        if key not in self._passes:
            self._passes[key] = exact.passes(case, merged(self.base, *(s.changes for s in forward)))[-1]
        return self._passes[key]


@lru_cache(maxsize=600)
def _right_pass(case: Case) -> Pass:
    """The last pass of the formula without changes, which every search starts from."""
    return exact.passes(case)[-1]


def _few_small_ones(cases: list[Case]) -> set[Case]:
    """The smallest cases of each mode and rank."""
    kinds: dict[tuple[bool, int], list[Case]] = {}
    for case in sorted(cases, key=lambda case: prod(case.shape)):
        if prod(case.shape) <= SMALL and case.data != "large":  # the step of the derivative would not be seen there
            kinds.setdefault((case.training, len(case.shape)), []).append(case)
    return {case for found in kinds.values() for case in found[:DIFFERENTIATED]}


def cache_does_not_fit(case: Case) -> bool:
    """Whether a layer that works on an earlier call's arrays finds none here, or some of another size."""
    return (case.calls == 1 and not case.training) or (case.calls > 1 and case.resize)


def _quantity(p: Pass, name: str) -> Array:
    value = p.quantity(name)
    return np.empty(0) if value is None else value


def reproduction_error(got: Array, predicted: Array, scale: Array, dtype: str) -> float:
    """The distance of a formula from a subject, in units of the larger of the natural scale and the prediction.

    The prediction's own size counts because a wrong formula may give numbers that are larger by any factor than the right
    ones, and then their rounding is larger by that factor too.
    """
    if predicted.size == 1 and got.size > 1:
        predicted = np.broadcast_to(predicted.reshape(()), got.shape)
    if got.size != predicted.size:
        return float("inf")
    if not got.size:
        return 0.0
    got, predicted = got.reshape(-1), predicted.reshape(-1)
    # where a change left another shape, no element has a scale of its own: the widest is each one's
    widest = float(np.max(scale, initial=0)) if scale.size != got.size else scale.reshape(-1)
    with np.errstate(all="ignore"):
        largest = float(np.fmax.reduce(np.abs(predicted)))
        spread = largest if isfinite(largest) else 0.0
        units = np.maximum(np.asarray(widest, dtype=np.float64), spread)
    return float(error_units(got, predicted, units, dtype).max())
