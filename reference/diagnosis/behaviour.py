"""Mistakes that are told by what a layer was seen to do, or by trials that differ from a right one in one aspect.

One small explainer each: it looks at its own subset of the evidence, and gives a named mistake or none. Which entry of
the dictionary an experiment tells is said by the entry (`Fault.told_by`). Runs no formula with a mistake in it.
"""

from functools import partial
from math import prod

import numpy as np

from reference.cases.case import ANOTHER
from reference.diagnosis.conditions import conditions
from reference.diagnosis.conventions import IN_BETWEEN
from reference.diagnosis.evidence import ENDS, Evidence
from reference.diagnosis.faults import FAULTS
from reference.diagnosis.named import NamedFault, entry, told_by, unknown
from reference.diagnosis.precision import one_pass_variance
from reference.dtypes import NARROW, roundoff
from reference.truth.compare import compare
from reference.truth.exact import GRADIENTS, Changes, passes
from reference.truth.verdict import Trial, wrong_in

FEWEST = 12  # numbers in a row that make its error's pattern more than chance
WORST = 12  # failing arrays that are looked at for a pattern


def seen_to_do(evidence: Evidence) -> list[NamedFault]:
    """What the layer did: write into its arguments, hand out their memory, change the dtype, not return."""
    spoilt = [t for t in evidence.counted if evidence.told_by_behaviour(t)]
    found = []
    for id, findings in evidence.findings.items():
        quantities = dict.fromkeys(finding.quantity for finding in findings)
        writes = id in FAULTS and FAULTS[id].writes
        # where it could not write, or ran out of time, what comes after is missing, and that is no other mistake
        quantities |= dict.fromkeys(wrong_in(t for t in spoilt if _is_seen(id, t) or (writes and t.seen.raised)))
        first = findings[0].detail
        seen = [trial for trial in evidence.trials if _is_seen(id, trial)]
        words = f"{first} (in {len(seen)} of {len(evidence.trials)} probes)" if seen else f"{first} (in a random case)"
        when = conditions(evidence.trials, partial(_is_seen, id)) if id in ENDS else []
        words += f", only {' and '.join(when)}" if when else ""
        if id in FAULTS:
            found.append(entry(FAULTS[id], quantities, words))
        else:
            found.append(unknown(tuple(quantities), words, f"{id}: {first}"))
    return found


def _is_seen(id: str, trial: Trial) -> bool:
    return trial.seen.has(id)


def eval_backward_missing(evidence: Evidence) -> list[NamedFault]:
    """BatchNorm's backward in eval mode: it raises or returns None each time, while in training mode it does not."""
    trials = evidence.no_eval_backward
    if not trials:
        return []
    missing = [name for name in GRADIENTS if name in wrong_in(trials)]
    return [entry(told_by("eval mode"), missing, f"in eval mode: {trials[0].seen.problems['dx']}")]


def another_alive(left: list[Trial]) -> list[NamedFault]:
    """Wrong only where another layer of the class is at work between forward and backward."""
    beside = [t for t in left if t.case.history == ANOTHER]
    if not beside:
        return []
    words = f"right alone, wrong while another layer of the class is in use: {beside[0].case}"
    return [entry(told_by("another layer alive"), wrong_in(beside), words)]


def computed_in_16_bits(evidence: Evidence) -> list[NamedFault]:
    """Wrong in 16 bits alone, and right in all wider dtypes: by roundings in between, or by more than roundings can be."""
    wrong = [trial for trial in evidence.counted if trial.wrong]
    wider = [trial for trial in evidence.counted if trial.case.dtype not in NARROW]
    if not wrong or any(trial.case.dtype not in NARROW for trial in wrong):
        return []
    worst = max((_in_roundings(trial, name), str(trial.case)) for trial in wrong for name in trial.wrong)
    first = "right in wider dtypes, " if wider else ""
    dtypes = " and ".join(dict.fromkeys(trial.case.dtype for trial in wrong))
    words = f"{first}off by up to {worst[0]:.3g} roundings of the terms in {dtypes}: {worst[1]}"
    told = "rounding" if worst[0] <= IN_BETWEEN else "half precision"
    return [entry(told_by(told), wrong_in(wrong), words)]


def _in_roundings(trial: Trial, name: str) -> float:
    """How far a quantity is off, in roundings of the terms that make it."""
    truth, got = trial.expected.truth, trial.seen.outcome.get(name)
    return compare(name, got, truth.exact[name], truth.terms[name], trial.case.dtype, IN_BETWEEN).error


def one_pass(evidence: Evidence, changes: Changes) -> list[NamedFault]:
    """A variance that cancels at a large mean: no formula is wrong, digits are lost."""
    words = one_pass_variance(evidence.trials, changes)
    return [entry(told_by("large mean"), evidence.wrong, words)] if words else []


def layout_dependent(left: list[Trial]) -> list[NamedFault]:
    """Wrong only where x or dy lies in memory in another order."""
    strided = [t for t in left if not t.case.contiguous]
    if not strided:
        return []
    layouts = sorted({t.case.layout if t.case.layout != "C" else f"dy {t.case.dy_layout}" for t in strided})
    words = f"right for contiguous arrays, wrong for these: {', '.join(layouts)}"
    return [entry(told_by("memory layout"), wrong_in(strided), words)]


def precision_lost(evidence: Evidence) -> list[NamedFault]:
    """float64 with float32's precision: errors of that size everywhere, without a pattern, and none in float32."""
    core = [t for t in evidence.core if t.case.data not in ("large", "tiny")]  # float32 does not reach as far
    wrong = [(t, t.comparisons[name]) for t in core for name in t.wrong]
    unit = roundoff("float32") / roundoff("float64")
    if not wrong or any(c.problem or c.error > 64 * unit * t.expected.truth.conditioning**2 for t, c in wrong):
        return []
    if any(t.wrong for t in evidence.numbers if t.case.dtype == "float32"):
        return []
    if len({t.case for t, _ in wrong}) < len(core) / 3:
        return []
    worst = max(c.error / t.expected.truth.conditioning for t, c in wrong)
    # a rounded rstd leaves an error that follows its row, but not one of many roundoffs, as a wrong constant does
    largest = sorted(wrong, key=lambda pair: -prod(pair[0].case.shape))[:WORST]
    patterns = [_patterned(t, c.quantity) for t, c in largest]
    if worst < 0.1 * unit or (worst > 2 * unit and sum(patterns) > len(patterns) / 2):
        return []
    quantities = tuple(dict.fromkeys(c.quantity for _, c in wrong))
    words = f"errors up to {worst:.2g} u in float64, that is {worst / unit:.2g} u of float32; none in float32"
    return [entry(told_by("precision"), quantities, words)]


def _patterned(trial: Trial, name: str) -> bool:
    """Whether an array's error follows the terms that it is made of, as that of a constant that is a little off does.

    Rounding does not: row by row, it is nearly orthogonal to any few terms.
    """
    if name not in ("y", "dx"):
        return False
    p = passes(trial.case)[-1]
    if p.count < FEWEST:
        return False
    shape = p.view.shape
    terms = [p.d, p.mean_term + 0 * p.d, p.projection] if name == "dx" else [p.gamma * p.xhat, p.gamma + 0 * p.xhat]
    rows = tuple(axis for axis in range(len(shape)) if axis not in p.view.axes)

    def in_rows(array: np.ndarray) -> np.ndarray:
        """One row for each set of numbers that share a mean."""
        full = np.zeros(shape) + array.reshape(array.shape or (1,) * len(shape)).astype(np.float64)
        return full.transpose(*rows, *p.view.axes).reshape(-1, p.count)

    error = in_rows((trial.seen.outcome[name] - trial.expected.truth.exact[name]).reshape(shape))
    left = 0.0
    for row, *features in zip(error, *map(in_rows, terms), strict=True):
        matrix = np.stack(features, axis=1)
        left += float(np.sum((row - matrix @ np.linalg.lstsq(matrix, row, rcond=None)[0]) ** 2))
    return left < 1e-2 * float(np.sum(error**2))
