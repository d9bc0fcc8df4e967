"""The dictionary: every id that it must have, every entry complete, and every formula one that changes a number.

That each entry is found in layers which know nothing of its formula is test_diagnosis's.
"""

import re
from functools import cache

import numpy as np
import pytest

from reference.cases.case import Case
from reference.cases.probes import probes
from reference.diagnosis.faults import FAULTS, Fault, Variant
from reference.kinds import KINDS
from reference.truth import exact
from reference.truth.compare import error_units
from reference.truth.exact import GRADIENTS, QUANTITIES, merged

CONVENTIONS = {"eps-outside-sqrt", "eps-argument-ignored", "running-var-biased", "momentum-inverted"}

WANTED = {  # the ids that there must be, by what they spoil or touch
    "statistics and forward": """
        variance-unbiased eps-outside-sqrt eps-missing eps-argument-ignored std-not-rooted variance-is-std
        training-uses-running-statistics mean-not-subtracted mean-subtracted groups-interleaved
        groups-and-channels-swapped statistics-per-channel statistics-per-position statistics-over-batch
        statistics-per-sample statistics-last-axis-only gamma-not-applied gamma-per-group beta-not-applied
        beta-before-gamma
    """,
    "input gradient": """
        dx-mean-term-missing dx-mean-term-sign dx-mean-term-doubled dx-mean-term-added dx-projection-term-missing
        dx-projection-term-sign dx-statistics-held-constant dx-projection-uses-x dx-gamma-missing dx-gamma-twice
        dx-rstd-missing dx-rstd-squared dx-eps-missing dx-divides-by-n-minus-1 dx-sum-not-mean dx-last-axis-only
        dx-divided-by-batch dx-sign dx-gamma-outside-means dx-projection-term-doubled dx-diagonal-only
        dx-divides-by-batch-only dx-times-std dx-is-dy
    """,
    "parameter gradients": """
        dgamma-uses-x dgamma-uses-centred-x dgamma-uses-y dgamma-times-gamma dgamma-mean-not-sum
        dgamma-divided-by-batch dgamma-sign dgamma-batch-axis-only dbeta-batch-axis-only dbeta-mean-not-sum
        dbeta-times-gamma dgamma-dbeta-swapped dgamma-without-xhat parameter-gradients-over-normalized-axes
        parameter-gradients-summed-to-scalar parameter-gradients-accumulate parameter-gradients-missing
    """,
    "state, memory, dtype": """
        running-var-biased momentum-inverted running-statistics-updated-in-eval running-statistics-not-updated
        eval-uses-batch-statistics eval-dx-uses-training-formula eval-dx-uses-training-cache eval-backward-missing
        running-statistics-replaced-by-first-batch running-var-decayed-twice stale-cache input-mutated
        upstream-gradient-mutated dx-aliases-dy input-not-saved layout-dependent dtype-promoted dtype-demoted
    """,
}

APPLIES = {  # where not to all layers
    "GroupNorm": """
        groups-interleaved groups-and-channels-swapped statistics-per-channel statistics-over-batch gamma-per-group
    """,
    "GroupNorm BatchNorm": "statistics-per-position dx-divides-by-batch-only",
    "GroupNorm LayerNorm RMSNorm": "dx-last-axis-only",
    "LayerNorm RMSNorm": "statistics-last-axis-only parameter-gradients-over-normalized-axes",
    "RMSNorm": "mean-subtracted dx-mean-term-added",
    "BatchNorm": """
        training-uses-running-statistics statistics-per-sample running-var-biased momentum-inverted
        running-statistics-updated-in-eval running-statistics-not-updated eval-uses-batch-statistics
        eval-dx-uses-training-formula eval-dx-uses-training-cache eval-backward-missing
        running-statistics-replaced-by-first-batch running-var-decayed-twice
    """,
    "GroupNorm LayerNorm BatchNorm": """
        mean-not-subtracted dx-mean-term-missing dx-mean-term-sign dx-mean-term-doubled dx-statistics-held-constant
    """,
}

# Told by what a layer does, not by a formula.
BY_BEHAVIOUR = {
    "eps-argument-ignored", "eval-backward-missing", "input-mutated", "upstream-gradient-mutated", "dx-aliases-dy",
    "input-not-saved", "layout-dependent", "dtype-promoted", "dtype-demoted",
}  # fmt: skip


@pytest.mark.parametrize("id", [id for ids in WANTED.values() for id in ids.split()])
def test_wanted_id_is_in_the_dictionary(id):
    assert FAULTS[id].id == id
    assert FAULTS[id].kind == ("convention" if id in CONVENTIONS else "mistake")


@pytest.mark.parametrize(
    ("likes", "id"), [pytest.param(likes, id, id=id) for likes, ids in APPLIES.items() for id in ids.split()]
)
def test_entry_applies_to(likes, id):
    """InstanceNorm may come on top: it is a GroupNorm with one channel a group."""
    assert set(FAULTS[id].layers) - {"InstanceNorm"} == set(likes.split())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_entry_is_complete(fault):
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", fault.id)
    assert fault.kind in ("mistake", "convention")
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
    assert fault.quantities
    assert set(fault.quantities) <= set(QUANTITIES)
    assert bool(fault.variants) != (fault.id in BY_BEHAVIOUR)


def test_summaries_tell_entries_apart():
    assert len({fault.summary for fault in FAULTS.values()}) == len(FAULTS)


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
