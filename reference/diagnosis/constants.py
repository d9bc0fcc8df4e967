"""An eps that is another than was asked for, where no formula is searched for: beside lost precision, and in float32 alone.

Knows the formula and what a layer gave; it decides no verdict.
"""

from dataclasses import replace

import numpy as np

from reference.diagnosis.evidence import Evidence
from reference.diagnosis.faults import FAULTS, Constant
from reference.diagnosis.formulas import Formulas
from reference.diagnosis.named import NamedFault, entry
from reference.dtypes import roundoff
from reference.truth.exact import Changes, merged, passes
from reference.truth.tolerance import tolerance_of
from reference.truth.verdict import Trial, wrong_in

STATE = ("running_mean", "running_var")  # which have constants of their own


def eps_for_none(evidence: Evidence, changes: Changes) -> list[NamedFault]:
    """Where eps is None a constant of the layer's own, told by rows so small that y shows little else."""
    fault = next((f for f in FAULTS.values() if f.constant and f.where and evidence.kind.name in f.layers), None)
    if fault is None or fault.where is None:
        return []
    trials = [t for t in evidence.numbers if t.wrong and fault.where(t.case)]
    formulas = Formulas(trials, changes)
    estimates = {formulas.eps_that_gives((), trial) for trial in trials if trial.case.data == "tiny"}
    eps = estimates.pop() if len(estimates) == 1 else None
    if eps is None or not all(_is_made_with(eps, trial, trial.wrong, "float32", changes) for trial in trials):
        return []
    words = f"wrong in {len(trials)} of the probes in which eps is None, as an eps of {eps:g} gives: {trials[0].case}"
    return [entry(fault, wrong_in(trials), words)]


def with_rounded_eps(fault: NamedFault, evidence: Evidence, changes: Changes) -> NamedFault:
    """What is said of lost precision, with a word more where an eps that was rounded to float32 accounts for all of it."""
    wrong = [(trial, [name for name in trial.wrong if name not in STATE]) for trial in evidence.core]
    wrong = [(trial, names) for trial, names in wrong if names]
    if not wrong:
        return fault
    if not all(_is_made_with(float(np.float32(t.case.eps)), t, names, "float64", changes) for t, names in wrong):
        return fault
    return replace(
        fault, evidence=f"{fault.evidence}; in {', '.join(wrong_in(evidence.core))} as eps rounded to float32 gives"
    )


def _is_made_with(eps: float, trial: Trial, names: tuple[str, ...] | list[str], dtype: str, changes: Changes) -> bool:
    """Whether an eps gives some numbers of a layer, to the roundings of a dtype."""
    last = passes(trial.case, merged(changes, {"eps": Constant(eps)}))[-1]
    limit = tolerance_of("dx", trial.expected.truth.conditioning, dtype) * roundoff(dtype)
    for name in names:
        got, made = trial.seen.outcome.get(name), last.quantity(name)
        if got is None or made is None or got.size != made.size:
            return False
        largest = float(np.max(np.abs(made), initial=0.0))
        if not np.allclose(got.ravel(), made.ravel().astype(np.float64), rtol=limit, atol=limit * largest):
            return False
    return True
