"""The dictionary: every id that it must have, every entry complete, and every formula one that changes a number.

That each entry is found in layers which know nothing of its formula is test_diagnosis's.
"""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from reference.cases.case import Case
from reference.cases.probes import probes
from reference.diagnosis.faults import FAULTS, Fault, Variant, table
from reference.kinds import KINDS
from reference.truth import exact
from reference.truth.compare import error_units
from reference.truth.exact import GRADIENTS, QUANTITIES, merged

CONVENTIONS = {
    "eps-outside-sqrt", "eps-argument-ignored", "eps-default-for-none", "gamma-plus-one", "running-var-biased",
    "momentum-inverted", "running-statistics-replaced-by-first-batch", "running-statistics-start-at-zero",
    "running-statistics-bias-corrected", "eps-default", "momentum-default", "parameters-start-elsewhere", "rounded-in-between",
}  # fmt: skip
HAZARDS = {"input-not-saved", "output-not-saved", "dtype-promoted", "dx-aliases-dy", "backward-not-repeatable"}

WANTED = {  # the ids that there must be, by what they spoil or touch
    "statistics and forward": """
        variance-unbiased eps-outside-sqrt eps-missing eps-argument-ignored std-not-rooted variance-is-std
        training-uses-running-statistics mean-not-subtracted mean-subtracted groups-interleaved
        groups-and-channels-swapped statistics-per-channel statistics-per-position statistics-over-batch
        statistics-per-sample statistics-last-axis-only gamma-not-applied gamma-per-group beta-not-applied
        beta-before-gamma one-pass-variance variance-divided-by-batch eps-default-for-none variance-squared
        divided-by-rstd rms-uses-variance gamma-plus-one
    """,
    "input gradient": """
        dx-mean-term-missing dx-mean-term-sign dx-mean-term-doubled dx-mean-term-added dx-projection-term-missing
        dx-projection-term-sign dx-statistics-held-constant dx-projection-uses-x dx-gamma-missing dx-gamma-twice
        dx-projection-term-without-gamma dx-mean-term-without-gamma
        dx-rstd-missing dx-rstd-squared dx-eps-missing dx-divides-by-n-minus-1 dx-sum-not-mean dx-last-axis-only
        dx-divided-by-batch dx-sign dx-gamma-outside-means dx-projection-term-doubled dx-diagonal-only
        dx-divides-by-batch-only dx-times-std dx-is-dy
        dx-mean-term-sum dx-projection-term-sum
    """,
    "parameter gradients": """
        dgamma-uses-x dgamma-uses-centred-x dgamma-uses-y dgamma-times-gamma dgamma-mean-not-sum
        dgamma-divided-by-batch dgamma-sign dgamma-batch-axis-only dbeta-batch-axis-only dbeta-mean-not-sum
        dbeta-times-gamma dgamma-dbeta-swapped dgamma-without-xhat parameter-gradients-over-normalized-axes
        parameter-gradients-summed-to-scalar parameter-gradients-accumulate parameter-gradients-missing
        parameter-gradients-misshapen
    """,
    "state, memory, dtype": """
        running-var-biased momentum-inverted running-statistics-updated-in-eval running-statistics-not-updated
        eval-uses-batch-statistics eval-dx-uses-training-formula eval-dx-uses-training-cache eval-backward-missing
        running-statistics-replaced-by-first-batch running-var-decayed-twice stale-cache input-mutated
        upstream-gradient-mutated dx-aliases-dy input-not-saved layout-dependent dtype-promoted dtype-demoted
        running-var-includes-eps running-mean-unbiased running-statistics-start-at-zero
        running-statistics-bias-corrected eval-eps-missing computed-in-16-bits rounded-in-between
    """,
    "protocol and defaults": """
        backward-raises forward-raises result-overwritten instances-share-state output-not-saved eps-default
        momentum-default parameters-start-elsewhere backward-not-reentrant backward-not-repeatable
    """,
}

APPLIES = {  # where not to all layers
    "GroupNorm": """
        groups-interleaved groups-and-channels-swapped statistics-per-channel statistics-over-batch gamma-per-group
    """,
    "GroupNorm BatchNorm": "statistics-per-position dx-divides-by-batch-only",
    "GroupNorm LayerNorm RMSNorm": "dx-last-axis-only",
    "LayerNorm RMSNorm": "statistics-last-axis-only parameter-gradients-over-normalized-axes",
    "RMSNorm": "mean-subtracted dx-mean-term-added rms-uses-variance eps-default-for-none",
    "BatchNorm": """
        training-uses-running-statistics statistics-per-sample running-var-biased momentum-inverted
        running-statistics-updated-in-eval running-statistics-not-updated eval-uses-batch-statistics
        eval-dx-uses-training-formula eval-dx-uses-training-cache eval-backward-missing
        running-statistics-replaced-by-first-batch running-var-decayed-twice variance-divided-by-batch
        running-var-includes-eps running-mean-unbiased running-statistics-start-at-zero
        running-statistics-bias-corrected eval-eps-missing momentum-default
    """,
    "GroupNorm LayerNorm RMSNorm BatchNorm": "variance-squared divided-by-rstd gamma-plus-one",
    "GroupNorm LayerNorm BatchNorm": """
        mean-not-subtracted dx-mean-term-missing dx-mean-term-sign dx-mean-term-doubled dx-statistics-held-constant
        dx-mean-term-sum dx-projection-term-sum one-pass-variance
    """,
}

# Told by what a layer does, not by a formula.
BY_BEHAVIOUR = {
    "eps-argument-ignored", "eval-backward-missing", "input-mutated", "upstream-gradient-mutated", "dx-aliases-dy",
    "input-not-saved", "layout-dependent", "dtype-promoted", "dtype-demoted", "one-pass-variance",
    "parameter-gradients-misshapen", "eps-default-for-none", "computed-in-16-bits", "rounded-in-between", "backward-raises",
    "backward-not-reentrant", "backward-not-repeatable",
    "forward-raises", "result-overwritten", "instances-share-state", "output-not-saved", "eps-default",
    "momentum-default", "parameters-start-elsewhere", "process-ended", "never-returns",
}  # fmt: skip
# Nothing that is computed is another one: what a layer starts from is.
SPOIL_NOTHING = {"eps-default", "momentum-default", "parameters-start-elsewhere"}


@pytest.mark.parametrize("id", [id for ids in WANTED.values() for id in ids.split()])
def test_wanted_id_is_in_the_dictionary(id):
    assert FAULTS[id].id == id
    kind = "convention" if id in CONVENTIONS else "hazard" if id in HAZARDS else "mistake"
    assert FAULTS[id].kind == kind


@pytest.mark.parametrize(
    ("likes", "id"), [pytest.param(likes, id, id=id) for likes, ids in APPLIES.items() for id in ids.split()]
)
def test_entry_applies_to(likes, id):
    """InstanceNorm may come on top: it is a GroupNorm with one channel a group."""
    assert set(FAULTS[id].layers) - {"InstanceNorm"} == set(likes.split())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_entry_is_complete(fault):
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", fault.id)
    assert fault.kind in ("mistake", "convention", "hazard")
    for text in (fault.summary, fault.fix):
        assert len(text.split()) > 1
        assert text[0].isupper() or re.match(r"[a-z_]+\b", text)
        assert text.endswith(".")
        assert "\n" not in text
    assert fault.wrong
    assert fault.right
    assert fault.wrong != fault.right
    assert fault.layers
    assert set(fault.layers) <= set(KINDS)
    assert len(set(fault.layers)) == len(fault.layers)
    assert bool(fault.quantities) != (fault.id in SPOIL_NOTHING)
    assert set(fault.quantities) <= set(QUANTITIES)
    assert bool(fault.variants) != (fault.id in BY_BEHAVIOUR)


def test_summaries_tell_entries_apart():
    assert len({fault.summary for fault in FAULTS.values()}) == len(FAULTS)


# --- what is refused -------------------------------------------------------------------------------------------------


def _right_step(p, value):
    return value


REFUSED = {
    "a step": ({"variants": ({"projection": _right_step}, {"projecton": _right_step})}, "a step of .*'projecton'"),
    "the step of a constant": ({"constant": "epsilon"}, "a step of .*'epsilon'"),
    "a layer": ({"layers": ("LayerNorm", "WeightNorm")}, "a layer of .*'WeightNorm'"),
    "a quantity": ({"quantities": ("dx", "dweight")}, "a quantity of .*'dweight'"),
    "a class": ({"kind": "warning"}, "a class of mistake, convention, hazard but got 'warning'"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_entry_that_names_what_there_is_not_is_refused(fields, message):
    """A change to a step that is never computed changes nothing: without this it would be there and never be found."""
    with pytest.raises(ValueError, match=f"dx-sign: Expected {message}"):
        replace(FAULTS["dx-sign"], **fields)


def test_two_entries_of_one_id_are_refused():
    with pytest.raises(ValueError, match="dx-sign: Expected an id of its own"):
        table([*FAULTS.values(), FAULTS["dx-sign"]])


def test_entry_that_covers_none_of_the_dictionary_is_refused():
    with pytest.raises(ValueError, match=r"dx-sign: Expected to cover an id of the dictionary but got 'dx-sing'"):
        table([replace(FAULTS["dx-sign"], covers=("dx-sing",))])


# --- the formulas of a kind ---------------------------------------------------------------------------------------


RMS, LAYER = KINDS["RMSNorm"], KINDS["LayerNorm"]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS.values() if RMS.name in fault.layers], ids=lambda f: f.id)
def test_formulas_of_rms_norm_have_no_mean_no_variance_and_no_beta(fault):
    """Who follows what is said to be right must not be accused of the next mistake: a mean term that RMSNorm has not."""
    alone = fault.layers == (RMS.name,)  # it is about what RMSNorm has not
    for text in [fault.right_for(RMS), *([] if alone else [fault.wrong_for(RMS)])]:
        assert not re.search(r"\bmean\(dy?\)|\bsum\(d\)|- mean\b|\bvar\b|\bbeta\b|\bdbeta\b", text), text
    assert fault.wrong_for(RMS) != fault.right_for(RMS)


def test_formulas_of_a_kind():
    fault = FAULTS["dx-projection-term-missing"]
    assert fault.wrong_for(RMS) == "dx = rstd * d"
    assert fault.right_for(RMS) == "dx = rstd * (d - xhat * mean(d * xhat)), d = gamma * dy"
    assert (fault.wrong_for(LAYER), fault.right_for(LAYER)) == (fault.wrong, fault.right)
    assert FAULTS["gamma-not-applied"].right_for(RMS) == "y = gamma * xhat"
    assert FAULTS["variance-unbiased"].wrong_for(RMS) == "ms = sum(x**2) / (n - 1)"
    assert FAULTS["std-not-rooted"].fix_for(RMS) == "Divide by sqrt(mean(x**2) + eps)."
    added = FAULTS["dx-mean-term-added"]
    assert added.wrong_for(RMS) == added.wrong != added.right  # about what RMSNorm has not


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_formulas_of_the_other_kinds_are_the_general_ones(fault):
    for name in set(fault.layers) - {RMS.name}:
        kind = KINDS[name]
        assert (fault.wrong_for(kind), fault.right_for(kind), fault.fix_for(kind)) == (
            fault.wrong,
            fault.right,
            fault.fix,
        )


# --- the formulas -----------------------------------------------------------------------------------------------------

_PLANTED = [
    pytest.param(fault, like, id=f"{fault.id}-{like}")
    for fault in FAULTS.values()
    for like in fault.layers
    if fault.variants
]


@cache
def _cases(like: str) -> tuple[Case, ...]:
    """The probes on which a formula shows, the cheap ones first."""
    regular = [
        case for case in probes(KINDS[like]) if case.dtype == "float64" and np.prod(case.shape) * case.calls < 1500
    ]
    return tuple(case for case in regular if case.data in ("unit", "shifted", "small") and not case.overwrite)


@cache
def _right(case: Case) -> exact.Truth:
    return exact.truth(case)


def _changed(case: Case, changes: exact.Changes) -> set[str]:
    """The quantities that are no longer what they should be, by more than rounding."""
    truth, last = _right(case), exact.passes(case, changes)[-1]
    changed = set()
    for name, value in truth.exact.items():
        other = last.quantity(name)
        same_shape = other is not None and other.shape == value.shape
        if not same_shape or error_units(other, value, truth.scale[name], "float64").max(initial=0) > 1e6:
            changed.add(name)
    return changed


def _all_changed(fault: Fault, variant: Variant, like: str) -> set[str]:
    """What a variant changes, as far as the probes that it takes to change what the entry names."""
    found: set[str] = set()
    for case in _cases(like):
        found |= _changed(case, merged(variant))
        if found & set(fault.quantities):
            break
    return found


@pytest.mark.parametrize(("fault", "like"), _PLANTED)
def test_formula_changes_what_it_spoils(fault, like):
    """Planted by its own formula, in each of its variants, it changes a quantity that the entry names, in some probe of the
    layer; and a mistake of the backward alone never changes a quantity of the forward.
    """
    for number, variant in enumerate(fault.variants):
        if like == "RMSNorm" and variant.keys() == {"dbeta"}:
            continue  # it has none
        changed = _all_changed(fault, variant, like)
        assert changed & set(fault.quantities), f"variant {number} changes {changed or 'nothing'}"
        assert fault.forward or changed <= set(GRADIENTS), f"variant {number} changes {changed}"


def test_formula_without_changes_is_right():
    for like in KINDS:
        assert _changed(_cases(like)[0], {}) == set()
