"""The layers once more in extended precision: one formula for all of them, the arbiter of every verdict.

The formula is a sequence of named steps, each computed from those before it:

    mean = avg(x)    centred = x - mean    var = avg(centred**2)    rstd = 1 / sqrt(var + eps)
    xhat = centred * rstd                  y = gamma * xhat + beta

    d = gamma * dy   mean_term = avg(d)    projection = xhat * avg(d * xhat)
    dx = rstd * (d - mean_term - projection)
    dgamma = sum(dy * xhat)                dbeta = sum(dy)

where avg runs over what shares a mean (the *view* says what), and sum over all that shares a gamma. RMSNorm has no mean
and no mean term; in eval mode BatchNorm's mean and var are its running ones, and both terms are zero.

A *change* replaces the value of a step, one of `STEPS`, by a function of the pass so far and of that value. Without
changes the formula is the truth; with one it is the layer that makes one mistake, or follows another convention. That a
change is given from outside is all that this module knows of mistakes.

Precision. The arithmetic is wide (`reference.truth.arithmetic`), and the mean is corrected once (as npnorm's kernel
does, and explains), so that no digits are lost at any mean. The tests prove all of it against the definition at 140
digits.
"""

from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from reference.cases.case import Array, Case
from reference.dtypes import NARROW, computing_dtype, roundoff
from reference.truth.arithmetic import STEP, imaginary, sqrt, wide, wide_precision, widened_complex
from reference.truth.tolerance import scale_of

GRADIENTS = ("dx", "dgamma", "dbeta")
QUANTITIES = ("y", "dx", "dgamma", "dbeta", "running_mean", "running_var")
MEAN_IS_OFF = 64  # roundoffs of |x|, at most, in a right layer

Change = Callable[["Pass", Any], Any]
Changes = Mapping[str, tuple[Change, ...]]


class View(NamedTuple):
    """How the formula sees x: which numbers share a mean and which share a gamma, as axes of one reshaped array."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]  # over these run the mean and the variance
    gamma_shape: tuple[int, ...]  # gamma's, to broadcast over `shape`
    gamma_axes: tuple[int, ...]  # over these run the sums of the parameters' gradients


@lru_cache(maxsize=1024)
def view_of(case: Case, shape: tuple[int, ...]) -> View:
    """The right view of an x of `shape`."""
    kind = case.kind
    sizes, roles = kind.axes(shape, case.options)
    placed = tuple(enumerate(zip(sizes, roles, strict=True)))
    return View(
        sizes,
        tuple(axis for axis, (_, role) in placed if role in kind.statistics),
        tuple(size if role in kind.parameters else 1 for _, (size, role) in placed),
        tuple(axis for axis, (_, role) in placed if role not in kind.parameters),
    )


def merged(*parts: "Changes | Mapping[str, Change]") -> Changes:
    """Several changes as one, applied in their order."""
    found: dict[str, tuple[Change, ...]] = {}
    for part in parts:
        for step, change in part.items():
            found[step] = found.get(step, ()) + (change if isinstance(change, tuple) else (change,))
    return found


class Inputs(NamedTuple):
    """What a pass is given, in the wide arithmetic; gamma and beta are None where the layer has none."""

    x: Array
    dy: Array
    gamma: Array | None
    beta: Array | None


class Steps:
    """The steps of the formula: what a change may change, and what a later change can read, in their order."""

    view: View
    initial_mean: Array  # of the running statistics
    initial_var: Array
    eps: float
    gamma: Array
    beta: Array
    constant: bool  # whether the statistics do not depend on x
    follows: bool  # whether the running statistics follow this batch
    fraction: Array  # of the new in the running statistics
    stored_var: Array
    running_mean: Array
    running_var: Array
    used_mean: Array  # the running statistics, where they normalize
    used_var: Array
    mean: Array
    centred: Array
    var: Array
    rstd: Array
    xhat: Array
    y: Array
    backward_gamma: Array
    backward_xhat: Array
    backward_rstd: Array
    backward_average: Callable[[Array], Array]
    backward_constant: bool
    d: Array
    mean_term: Array
    projection_mean: Array
    projection: Array
    dx: Array
    parameter_sum: Callable[[Array], Array]
    dgamma_factor: Array
    dgamma: Array
    dbeta: Array


STEPS = tuple(Steps.__annotations__)


class Pass(Steps):
    """One forward and backward pass: the named arrays of the formula, in the view's shape.

    A change sees it as its first argument, with every step before its own, the inputs (`x`, `dy`, `gamma`, `beta`,
    `eps`, `case`), the statistics of the batch, the state before the pass (`old_mean`, `old_var`) and `previous`, the
    pass before it.
    """

    old_mean: Array
    old_var: Array
    batches: int

    def __init__(self, case: Case, changes: Changes, call: int, previous: "Pass | None", inputs: Inputs) -> None:
        self.case, self.changes, self.previous = case, changes, previous
        self.training = case.training_in(call)
        self.input_shape = inputs.x.shape
        self.batch: int = inputs.x.shape[0]
        self.momentum = case.options.get("momentum", 0.1)
        self.tracks = case.tracks
        self.step("view", view_of(case, inputs.x.shape))
        self.x, self.dy = inputs.x.reshape(self.view.shape), inputs.dy.reshape(self.view.shape)
        if self.tracks:
            channels = self.view.gamma_shape
            self.batches = previous.batches if previous else 0
            initial_mean = self.step("initial_mean", wide(np.zeros(channels)))
            initial_var = self.step("initial_var", wide(np.ones(channels)))
            self.running_mean = previous.running_mean if previous else initial_mean
            self.running_var = previous.running_var if previous else initial_var
        self._forward(inputs)

    def step(self, name: str, value: Any) -> Any:
        """Set the step `name` to `value`, as the changes have it."""
        for change in self.changes.get(name, ()):
            value = change(self, value)
        self.__dict__[name] = value
        return value

    def average(self, array: Array) -> Array:
        """The mean over what shares one, kept as an axis of length 1."""
        axes = self.view.axes
        if not axes:
            return array
        # what `array.mean` does, without its bookkeeping, which takes longer than the sum of few numbers
        return np.asarray(np.add.reduce(array, axes, keepdims=True) / prod([array.shape[axis] for axis in axes]))

    @property
    def count(self) -> int:
        """How many numbers share a mean."""
        return prod(self.view.shape[axis] for axis in self.view.axes)

    def _forward(self, inputs: Inputs) -> None:
        """The steps from x to y, and the running statistics."""
        x, step, parameters = self.x, self.step, self.view.gamma_shape
        step("eps", self.case.eps)
        step("gamma", wide(np.ones(parameters)) if inputs.gamma is None else inputs.gamma.reshape(parameters))
        step("beta", wide(np.zeros(parameters)) if inputs.beta is None else inputs.beta.reshape(parameters))
        step("constant", self.tracks and not self.training)
        step("follows", self.tracks and self.training)
        self._batch_statistics(x)
        if self.tracks:
            self.old_mean, self.old_var = self.running_mean, self.running_var
        if self.follows:
            self._follow()
        if self.constant:
            step("mean", step("used_mean", self.running_mean))
            step("centred", x - self.mean)
            step("var", step("used_var", self.running_var))
        else:
            step("mean", self.batch_mean)
            step("centred", self.batch_centred)
            step("var", self.batch_var if "centred" not in self.changes else self.average(self.centred**2))
        step("rstd", 1 / sqrt(self.var + self.eps))
        step("xhat", self.centred * self.rstd)
        step("y", self.gamma * self.xhat + self.beta)

    def _batch_statistics(self, x: Array) -> None:
        if not self.case.kind.centred:
            self.batch_mean, self.batch_centred = wide(np.zeros((1,) * x.ndim)), x
        else:
            rough = self.average(x)
            off = x - rough
            correction = self.average(off)
            self.batch_mean, self.batch_centred = rough + correction, off - correction
        self.batch_var = self.average(self.batch_centred**2)

    def _follow(self) -> None:
        """The running statistics after this pass; torch stores the unbiased variance."""
        step, old_mean, old_var = self.step, self.old_mean, self.old_var
        self.batches += 1
        fraction = 1 / wide(np.array(self.batches)) if self.momentum is None else wide(np.array(self.momentum))
        step("fraction", fraction)
        axes = self.view.gamma_axes  # one number a channel, however many the batch has
        step("stored_var", self.batch_var.mean(axes, keepdims=True) * self.count / max(self.count - 1, 1))
        batch_mean = self.batch_mean.mean(axes, keepdims=True)
        step("running_mean", (1 - self.fraction) * old_mean + self.fraction * batch_mean)
        step("running_var", (1 - self.fraction) * old_var + self.fraction * self.stored_var)

    def backward(self) -> None:
        """The steps from dy to the gradients."""
        dy, step = self.dy, self.step
        step("backward_gamma", self.gamma)
        step("backward_xhat", self.xhat)
        step("backward_rstd", self.rstd)
        step("backward_average", self.average)
        step("backward_constant", self.constant)
        step("d", self.backward_gamma * dy)
        centred = not self.backward_constant and self.case.kind.centred
        step("mean_term", self.backward_average(self.d) if centred else 0 * self.d)
        step("projection_mean", 0 if self.backward_constant else self.backward_average(self.d * self.backward_xhat))
        step("projection", self.backward_xhat * self.projection_mean)
        step("dx", self.backward_rstd * (self.d - self.mean_term - self.projection))
        step("parameter_sum", lambda array: array.sum(self.view.gamma_axes, keepdims=True))
        step("dgamma_factor", self.backward_xhat)
        step("dgamma", self.parameter_sum(dy * self.dgamma_factor))
        step("dbeta", self.parameter_sum(dy))

    def with_backward(self, changes: Changes) -> "Pass":
        """The same forward pass with other changes to the backward steps."""
        other = copy(self)
        other.changes = changes
        with np.errstate(all="ignore"), wide_precision():
            other.backward()
        return other

    def quantity(self, name: str) -> Array | None:
        """One quantity in the shape in which a layer gives it; None where the layer has none."""
        case = self.case
        if name in ("y", "dx"):
            return np.asarray(getattr(self, name)).reshape(self.input_shape)
        if name in ("running_mean", "running_var"):
            return np.asarray(getattr(self, name)).reshape(-1) if self.tracks else None
        if not (case.has_gamma if name == "dgamma" else case.has_beta):
            return None
        gradient = np.asarray(getattr(self, name))
        if gradient.size == prod(case.parameter_shape):
            return gradient.reshape(case.parameter_shape)
        return gradient  # a change left it another shape, which is a mistake of its own


def passes(case: Case, changes: Changes | None = None, judged_alone: bool = False) -> list[Pass]:
    """All passes of a case, in order; the last is the one that is judged.

    Args:
        judged_alone: leave out what a right layer's last pass does not depend on: the backward passes before it, and the
            forward ones too unless there are running statistics.
    """
    done: list[Pass] = []
    gamma, beta = (None if value is None else wide(value) for value in case.parameters())
    last = case.calls - 1
    with np.errstate(all="ignore"), wide_precision():
        for call in range(last if judged_alone and not case.tracks else 0, case.calls):
            x, dy = case.arrays(call)
            inputs = Inputs(wide(x), wide(dy), gamma, beta)
            done.append(Pass(case, changes or {}, call, done[-1] if done else None, inputs))
            if call == last or not judged_alone:
                done[-1].backward()
    return done


def derivative(case: Case, changes: Changes | None = None) -> dict[str, Array]:
    """The true gradients of the forward steps with `changes`, whatever their backward steps say.

    By the complex step: f(x + ih) has the imaginary part h f'(x), with no difference taken and so no digits lost, for
    h as small as one likes (Squire and Trapp, SIAM Review 40, 1998). One forward pass for each number of x, gamma and
    beta; meant for small cases. Only for changes to forward steps that are analytic.
    """
    *before, last = passes(case, changes)
    x, dy = case.arrays()
    real = [wide(x), *(None if value is None else wide(value) for value in case.parameters())]
    found = {}
    with np.errstate(all="ignore"), wide_precision():
        for place, name in enumerate(("dx", "dgamma", "dbeta")):
            array = real[place]
            if array is None:
                continue
            gradient = np.empty_like(array)
            for index in np.ndindex(array.shape):
                stepped = [None if value is None else widened_complex(value) for value in real]
                stepped[place][index] += STEP  # type: ignore[index]
                inputs = Inputs(stepped[0], wide(dy), stepped[1], stepped[2])  # type: ignore[arg-type]
                y = Pass(case, changes or {}, case.calls - 1, before[-1] if before else None, inputs).y
                gradient[index] = (imaginary(y) * last.dy).sum()
            found[name] = gradient
    return found


class Truth(NamedTuple):
    """What a case must give: each quantity with its scale, and how badly conditioned the case is.

    The scale is what an error is measured by (`reference.truth.tolerance`), made of the magnitudes of each element's terms.
    `conditioning` is 1 + |mean| / sqrt(var + eps), the worst of all rows: how many times more than a roundoff a
    layer may lose that subtracts a rounded mean, as everybody's does. `terms` are there in 16 bits, where the scale is not
    made of them alone.
    """

    exact: dict[str, Array]
    scale: dict[str, Array]
    conditioning: float
    terms: dict[str, Array]


def truth(case: Case, changes: Changes | None = None) -> Truth:
    """The exact quantities of the last call of `case`, of the layer with `changes` if there are any."""
    exact: dict[str, Array] = {}
    with np.errstate(all="ignore"), wide_precision():
        done = passes(case, changes, judged_alone=not changes)
        last = done[-1]
        for name in QUANTITIES:
            value = last.quantity(name)
            if value is not None:
                exact[name] = value
        terms, conditioning = _terms(done), _conditioning(done)
        scale = {name: scale_of(name, case, exact[name], terms[name], conditioning) for name in exact}
        kept = {name: terms[name] for name in exact} if case.dtype in NARROW else {}
        return Truth(exact, scale, conditioning, kept)


def _terms(done: list[Pass]) -> dict[str, Array]:
    """For each quantity the sum of the magnitudes of the terms that make each element of it.

    What xhat contributes is never taken for less than one unit of it: a layer rounds xhat before it is added up.

    Statistics that are given come with the rounding of all that they followed, which may be far larger than they are:
    old + 1 * (new - old) leaves of a new variance of 1e-5 what 1 + 1e-5 does, and new + 1 * (old - new) of an old one
    what is left beside the new. A variance off by its scale's roundoff moves rstd, as (var + eps)**-0.5 has it, by
    scale / (2 (var + eps)) roundoffs: so many units of xhat, and of dx, join what they have by themselves.

    In float64: of what an error is measured by a few digits do, and the wide arithmetic takes several times as long.
    """
    p = done[-1]
    u = roundoff(computing_dtype(p.case.dtype))
    mean, var = (_size(p.initial_mean), _size(p.initial_var)) if p.tracks else (np.zeros(()), np.ones(()))
    for q in done:
        if q.follows:
            # |old| + |new| whatever the momentum: running += momentum * (new - running) rounds both
            x = _size(q.x)
            mean = np.maximum(mean, q.average(x))
            # what the mean may be off by is left in each distance, to be squared
            var = np.maximum(var, _size(q.stored_var) + MEAN_IS_OFF**2 * u * q.average(x**2))
    magnitude, d, xhat, rstd, shape = _size(p.dy), _size(p.d), _size(p.xhat), _size(p.rstd), p.input_shape
    if p.constant:
        # With given statistics xhat is the difference of two given numbers, not the distance from their mean.
        doubt = var / (2 * (_size(p.var) + p.eps))
        size = np.maximum((_size(p.x) + mean) * rstd + xhat * doubt, 1)
        dx = d + d * doubt
    else:
        size = np.maximum(xhat, 1)
        dx = d + p.average(d) + size * p.average(d * size)
    terms = {
        "y": (_size(p.gamma) * size + _size(p.beta)).reshape(shape),
        "dx": (rstd * dx).reshape(shape),
        "dgamma": (magnitude * size).sum(p.view.gamma_axes).reshape(p.case.parameter_shape),
        "dbeta": magnitude.sum(p.view.gamma_axes).reshape(p.case.parameter_shape),
    }
    if p.tracks:
        terms["running_mean"] = np.broadcast_to(mean, p.running_mean.shape).reshape(-1)
        terms["running_var"] = np.broadcast_to(var, p.running_var.shape).reshape(-1)
    return terms


def _size(array: Array) -> Array:
    """The magnitudes of wide numbers, in float64."""
    return np.abs(array.astype(np.float64))


def _conditioning(done: list[Pass]) -> float:
    """1 + the worst |mean| / sqrt(var + eps), over the calls before too where the last uses what they left.

    Where what the mean may be off by is a deviation, a layer may find any variance; eps is left.
    """
    relevant = done if done[-1].tracks else done[-1:]
    means = np.concatenate([np.ravel(_size(p.mean)) for p in relevant])
    rows = np.concatenate([np.ravel(abs(p.mean) * p.rstd).astype(np.float64) for p in relevant])
    case = done[-1].case
    off = MEAN_IS_OFF * roundoff(computing_dtype(case.dtype))
    if not done[
        -1
    ].changes:  # with another eps, or one outside of the root, the rstd that is found is the largest there is
        rows = np.where(off * rows < 1, rows, means / np.sqrt(case.eps))
    worst = float(np.max(rows, initial=0, where=np.isfinite(rows)))
    return 1 + worst
