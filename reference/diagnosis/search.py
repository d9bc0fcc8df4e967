"""The search for the entries of the dictionary that reproduce a layer's numbers.

Quantity after quantity, in the order in which a layer computes them, the formula is changed by as few entries as make
it give the subject's numbers on every probe, to rounding; what is found for one quantity holds for the next. This module
knows formulas and numbers, not what a layer does besides, nor how a finding is put into words.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations

import numpy as np

from reference.cases.case import Array, Case
from reference.diagnosis.conventions import own_constant
from reference.diagnosis.faults import FAULTS, Variant
from reference.kinds import Kind
from reference.truth import exact
from reference.truth.compare import error_units
from reference.truth.convention import Convention
from reference.truth.exact import GRADIENTS, Pass, merged
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial, wrong_in

REPRODUCED = 1e4  # units: a formula that agrees to twelve digits is the layer's; wrong ones differ in the first few
BRANCHES = 32  # explanations of equal length that are followed side by side
PAIRED = 4  # of them, for how many pairs of suspects are tried
SMALL = 130  # numbers of x up to which the true derivative of a changed forward is taken
DIFFERENTIATED = 3  # on how many cases of each mode and rank
RUNNING = ("running_mean", "running_var")

# How the backward of a layer whose forward is wrong may go.
MODES = ("follows", "derivative", "right", "node by node")
# The last one takes xhat to have no mean of its own, as backpropagation through every node does not: its mean term is
# that of all that comes before the mean's node.
NODE_BY_NODE: Variant = {
    "mean_term": lambda p, term: (
        0 * term
        if p.backward_constant
        else p.backward_average(p.d - p.backward_xhat * p.backward_average(p.d * p.backward_xhat))
    )
}


@dataclass(frozen=True)
class Suspect:
    """One way of making one mistake."""

    id: str
    variant: int
    changes: Variant = field(compare=False)
    forward: bool = field(compare=False)
    stateful: bool = field(compare=False)


@dataclass(frozen=True)
class Explanation:
    """The mistakes found so far, and the quantities that none explains."""

    suspects: tuple[Suspect, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(suspect.id for suspect in self.suspects)


class Search:
    """The search for an explanation of the numbers of some trials."""

    def __init__(self, kind: Kind, trials: list[Trial], convention: Convention) -> None:
        self.base = convention.changes
        self.trials = sorted(trials, key=lambda trial: (not trial.wrong, np.prod(trial.case.shape) * trial.case.calls))
        self.suspects = [
            Suspect(fault.id, number, variant, fault.forward, fault.stateful)
            for fault in FAULTS.values()
            if kind.name in fault.layers
            for number, variant in enumerate(fault.variants)
        ]
        for fault in FAULTS.values():
            own = own_constant(fault, trials, self.base) if fault.constant and kind.name in fault.layers else None
            if own:
                self.suspects.append(Suspect(fault.id, 0, own, fault.forward, fault.stateful))
        self._passes: dict[object, list[Pass]] = {}
        self._derivatives: dict[object, dict[str, Array]] = {}
        self._differentiable = self._few_small_ones()

    def _few_small_ones(self) -> set[Case]:
        """The cases on which true derivatives are taken: the smallest of each mode and rank."""
        kinds: dict[tuple[bool, int], list[Case]] = {}
        for case in sorted((t.case for t in self.trials), key=lambda c: np.prod(c.shape)):
            if np.prod(case.shape) <= SMALL and case.data != "large":
                kinds.setdefault((case.training, len(case.shape)), []).append(case)
        return {case for cases in kinds.values() for case in cases[:DIFFERENTIATED]}

    def explain(self) -> list[Explanation]:
        """The shortest explanations; several if they tie."""
        training = [t for t in self.trials if t.case.training]
        evaluation = [t for t in self.trials if not t.case.training]
        single, sequences = [t for t in training if t.case.calls == 1], [t for t in training if t.case.calls > 1]
        stages = [(part, "y") for part in (single, sequences)]
        stages += [(part, name) for part in (single, sequences) for name in RUNNING]
        stages += [(evaluation, name) for name in (*RUNNING, "y")]
        stages += [(part, name) for name in GRADIENTS for part in (single, sequences, evaluation)]
        branches = [Explanation()]
        for part, name in stages:
            part = [t for t in part if name in t.comparisons]
            if part:
                branches = _distinct(self._grown(branches, part, name))[:BRANCHES]
        whole = [b for b in branches if self._holds(b)]
        if not whole:
            wrong = wrong_in(self.trials)
            return [Explanation(unknown=wrong)]
        whole = [self._without_idle(b) for b in whole]
        best = min((len(b.unknown), len(b.ids)) for b in whole)
        return _by_ids([b for b in whole if (len(b.unknown), len(b.ids)) == best])

    def _grown(self, branches: list[Explanation], part: list[Trial], name: str) -> list[Explanation]:
        """The branches, made longer by as few suspects as it takes to reproduce `name` in these trials.

        Where one of them needs no more, or fewer than others, the others are given up.
        """
        found = [b for b in branches if name in b.unknown or self.reproduces(b.suspects, part, name)]
        if found:
            return found
        if not part[0].case.training:
            if all(set(RUNNING) & set(b.unknown) for b in branches):
                return [replace(b, unknown=(*b.unknown, name)) for b in branches]  # a consequence
            found = [b for branch in branches for b in _in_training_only(branch)]
            found = [b for b in found if self.reproduces(b.suspects, part, name)]
        elif name in GRADIENTS and not any(name in trial.wrong for trial in part):
            found = [b for b in branches if "y" in b.unknown]  # right, though nothing is known of the forward
        if found:
            return found
        if name in ("dx", "dgamma") and all("y" in b.unknown for b in branches):
            return [replace(b, unknown=(*b.unknown, name)) for b in branches]  # made from a forward that is not known
        for size in (1, 2):
            for branch in branches[: BRANCHES if size == 1 else PAIRED]:
                fresh = self._fresh(branch, part, name)
                found += [
                    replace(branch, suspects=branch.suspects + more)
                    for more in combinations(fresh, size)
                    if len({s.id for s in more}) == size and self.reproduces(branch.suspects + more, part, name)
                ]
            if found:
                return found
        return [replace(branch, unknown=(*branch.unknown, name)) for branch in branches]

    def _fresh(self, branch: Explanation, part: list[Trial], name: str) -> list[Suspect]:
        """The suspects that may explain `name` in these trials, beyond those of the branch."""
        fresh = [s for s in self.suspects if s.id not in branch.ids and self._touches(s, name)]
        if not any(name in t.wrong and not _unfit(t.case) for t in part):
            fresh = [s for s in fresh if not FAULTS[s.id].cached]  # nothing here shows a stale cache
        if not part[0].case.training:
            fresh = [s for s in fresh if "view" not in s.changes]  # nothing here shows over what statistics run
        return fresh

    def _touches(self, suspect: Suspect, name: str) -> bool:
        """Whether a suspect may change a quantity at all; the formula would say so too, only later."""
        if name in ("y", *RUNNING):
            return suspect.forward and name in FAULTS[suspect.id].quantities
        if suspect.forward:
            return False  # what changes the forward has been found in the forward
        return not suspect.changes.keys().isdisjoint(_STEPS_OF[name])

    def _without_idle(self, branch: Explanation) -> Explanation:
        """The branch without suspects that only explain a part of what is unknown after all."""
        if not branch.unknown:
            return branch
        for suspect in branch.suspects:
            fewer = replace(branch, suspects=tuple(s for s in branch.suspects if s is not suspect))
            if self._holds(fewer):
                branch = fewer
        return branch

    def _holds(self, branch: Explanation) -> bool:
        """Whether all that it does not call unknown is reproduced in all trials."""
        for name in exact.QUANTITIES:
            part = [t for t in self.trials if name in t.comparisons]
            if name not in branch.unknown and part and not self.reproduces(branch.suspects, part, name):
                return False
        return True

    def reproduces(self, suspects: tuple[Suspect, ...], part: list[Trial], name: str) -> bool:
        """Whether the formula with these mistakes gives the subject's `name` in each of these trials."""
        forward = [s for s in suspects if s.forward]
        if any("view" in s.changes for s in forward) and part[0].case.kind.tracks:
            # statistics of another shape: how they are averaged further, for eval mode, is anybody's guess
            part = [t for t in part if t.case.training and name not in RUNNING]
        modes = MODES if forward and name in GRADIENTS else MODES[:1]
        return any(all(self._agrees(suspects, trial, name, mode) for trial in part) for mode in modes)

    def worst_error(self, suspects: tuple[Suspect, ...], names: list[str]) -> float:
        """How far the formula with these mistakes is from the subject at worst, over a few trials."""
        cases = self._differentiable if any(s.forward for s in suspects) else {t.case for t in self.trials[:12]}
        few = [t for t in self.trials if t.case in cases]
        pairs = [(trial, name) for trial in few for name in names if name in trial.comparisons]
        return max((min(self._error(suspects, *pair, mode) for mode in MODES) for pair in pairs), default=0.0)

    def _agrees(self, suspects: tuple[Suspect, ...], trial: Trial, name: str, mode: str) -> bool:
        conditioning = trial.expected.truth.conditioning
        limit = REPRODUCED * max(1.0, tolerance_of(name, conditioning) / tolerance_of(name, 1.0))
        if mode == "derivative" and trial.case not in self._differentiable:
            return True  # too dear, and the others tell
        return self._error(suspects, trial, name, mode) <= limit

    def _error(self, suspects: tuple[Suspect, ...], trial: Trial, name: str, mode: str) -> float:
        case, got = trial.case, trial.seen.outcome.get(name)
        if _unfit(case) and name in GRADIENTS and any(FAULTS[s.id].cached for s in suspects):
            return 0.0
        if got is None:
            absent = any(FAULTS[s.id].absent and name in FAULTS[s.id].quantities for s in suspects)
            return 0.0 if absent else np.inf
        try:
            predicted = self._predicted(suspects, case, name, mode)
        except (ValueError, IndexError):  # two changes whose shapes do not go together
            return np.inf
        scale = trial.expected.truth.scale[name]
        return reproduction_error(got, predicted, scale, case.dtype)

    def _predicted(self, suspects: tuple[Suspect, ...], case: Case, name: str, mode: str) -> Array:
        forward = tuple(s for s in suspects if s.forward) if mode != "right" else ()
        backward = tuple(s for s in suspects if not s.forward)
        nodes = [NODE_BY_NODE] if mode == "node by node" else []
        changes = merged(self.base, *nodes, *(s.changes for s in (*forward, *backward)))
        if name not in GRADIENTS:
            return _quantity(self._last(case, forward), name)
        if mode == "derivative" and forward:
            return self._derivative(case, forward, backward, name)
        if any(s.stateful for s in backward) and case.calls > 1:
            return _quantity(exact.passes(case, changes)[-1], name)
        last = self._last(case, forward)
        return _quantity(last.with_backward(changes) if backward or nodes else last, name)

    def _derivative(self, case: Case, forward: tuple[Suspect, ...], backward: tuple[Suspect, ...], name: str) -> Array:
        """The true derivative of a changed forward; of the backward's changes those apply that change the result."""
        key = (case, tuple((s.id, s.variant) for s in forward))
        if key not in self._derivatives:
            self._derivatives[key] = exact.derivative(case, merged(self.base, *(s.changes for s in forward)))
        value = self._derivatives[key].get(name)
        if value is None:
            return np.empty(0)
        for suspect in backward:
            if name in suspect.changes:
                last = self._last(case, forward)
                shape = last.view.shape if name == "dx" else last.view.gamma_shape
                if value.size != np.prod(shape):
                    return np.empty(0)  # two changes of the shape
                value = np.asarray(suspect.changes[name](last, value.reshape(shape)))
        return value

    def _last(self, case: Case, forward: tuple[Suspect, ...]) -> Pass:
        if not forward and not self.base:
            return _right_passes(case)[-1]
        key = (case, tuple((s.id, s.variant) for s in forward))
        if key not in self._passes:
            self._passes[key] = exact.passes(case, merged(self.base, *(s.changes for s in forward)))
        return self._passes[key][-1]


_BACKWARD_STEPS = {"backward_gamma", "backward_xhat", "backward_rstd", "backward_average", "backward_constant"}
_STEPS_OF = {
    "dx": _BACKWARD_STEPS | {"d", "mean_term", "projection_mean", "projection", "dx"},
    "dgamma": {"backward_xhat", "parameter_sum", "dgamma_factor", "dgamma"},
    "dbeta": {"parameter_sum", "dbeta"},
}


@lru_cache(maxsize=600)
def _right_passes(case: Case) -> list[Pass]:
    """The passes of the formula without changes, which every search starts from."""
    return exact.passes(case)


def _quantity(p: Pass, name: str) -> Array:
    value = p.quantity(name)
    return np.empty(0) if value is None else value


def reproduction_error(got: Array, predicted: Array, scale: Array, dtype: str) -> float:
    """The distance of a formula from a subject, in units of the larger of the natural scale and the prediction."""
    if predicted.size == 1 and got.size > 1:
        predicted = np.broadcast_to(predicted.reshape(()), got.shape)
    if got.size != predicted.size:
        return float("inf")
    if not got.size:
        return 0.0
    got, predicted = got.reshape(-1), predicted.reshape(-1)
    widest = float(np.max(scale, initial=0)) if scale.size != got.size else scale.reshape(-1)
    with np.errstate(all="ignore"):
        magnitude = np.abs(predicted).astype(np.float64)
        spread = np.fmax.reduce(magnitude) if np.isfinite(np.fmax.reduce(magnitude)) else 0.0
        units = np.maximum(np.asarray(widest, dtype=np.float64), spread)
    return float(error_units(got, predicted, np.broadcast_to(units, got.shape), dtype).max())


def _unfit(case: Case) -> bool:
    """Whether a stale cache may do anything here: there is no earlier call, or one of another size."""
    return (case.calls == 1 and not case.training) or (case.calls > 1 and case.resize)


def _in_training_only(branch: Explanation) -> list[Explanation]:
    """The branch with some of its mistakes made in training mode alone, as in layers with two separate formulas."""
    suspects = branch.suspects
    subsets = (chosen for size in range(1, len(suspects) + 1) for chosen in combinations(suspects, size))
    return [
        replace(branch, suspects=tuple(_training_only(s) if s in chosen else s for s in suspects)) for chosen in subsets
    ]


def _training_only(suspect: Suspect) -> Suspect:
    def limited(change: exact.Change) -> exact.Change:
        return lambda p, value: value if p.tracks and not p.training else change(p, value)

    changes = {step: limited(change) for step, change in suspect.changes.items()}
    return replace(suspect, variant=suspect.variant - 1000, changes=changes)  # a variant of its own


def _distinct(branches: list[Explanation]) -> list[Explanation]:
    return list(dict.fromkeys(branches))


def _by_ids(branches: list[Explanation]) -> list[Explanation]:
    """One branch for each set of names; the ways to make the same mistakes need not be told apart."""
    return list({(b.ids, b.unknown): b for b in reversed(branches)}.values())[::-1]
