"""Mistakes in what a layer keeps from call to call: gradients that accumulate or are never set, stale caches."""

from reference.cases.case import Array
from reference.diagnosis.faults.earlier import Choose, earlier, own_mode, rebuilt
from reference.diagnosis.faults.entry import Fault
from reference.truth.exact import GRADIENTS, Change, Pass


def _previous(p: Pass) -> Pass | None:
    return p.previous


def _first(p: Pass) -> Pass:
    while p.previous is not None:
        p = p.previous
    return p


def _first_of_shape(p: Pass) -> Pass:
    found, q = p, p.previous
    while q is not None:
        if q.x.shape == p.x.shape:
            found = q
        q = q.previous
    return found


def _after(history: str) -> Choose:
    """The pass before, but only where the calls before were made in this way."""
    return lambda p: p.previous if p.case.history == history else None


_CHOICES = (_previous, _first, _first_of_shape, _after("refilled"), _after("forward only"))


def _accumulated(name: str) -> Change:
    def change(p: Pass, value: Array) -> Array:
        # after a call without a backward there is nothing to add to
        alone = p.previous is None or p.case.history == "forward only"
        return value if alone else value + getattr(p.previous, name)

    return change


ENTRIES = (
    Fault(
        id="parameter-gradients-accumulate",
        summary="dgamma and dbeta are added to those of the calls before.",
        fix="Set them anew in each backward.",
        wrong="dgamma += sum(dy * xhat)",
        right="dgamma = sum(dy * xhat)",
        quantities=("dgamma", "dbeta"),
        variants=(
            {"dgamma": _accumulated("dgamma"), "dbeta": _accumulated("dbeta")},
            {"dgamma": _accumulated("dgamma")},
            {"dbeta": _accumulated("dbeta")},
        ),
        stateful=True,
        seen_in="llm.c PR#408, mxnet#18499",
    ),
    Fault(
        id="parameter-gradients-missing",
        summary="dgamma and dbeta are never set.",
        fix="Set both in backward.",
        wrong="self.dgamma stays as it was",
        right="dgamma = sum(dy * xhat), dbeta = sum(dy)",
        quantities=("dgamma", "dbeta"),
        variants=(
            {"dgamma": lambda p, g: 0 * g, "dbeta": lambda p, g: 0 * g},
            {"dgamma": lambda p, g: 0 * g},
            {"dbeta": lambda p, g: 0 * g},
        ),
        absent=True,
        seen_in="unsloth#4533",
    ),
    Fault(
        id="backward-not-reentrant",
        summary="A second backward of the same forward gives other gradients: the first has spoilt what it was given to use.",
        fix="Write to no saved array in backward, and add to no gradient that is kept elsewhere.",
        wrong="xhat *= dy",
        right="projection = xhat * dy",
        quantities=GRADIENTS,
        seen_in="torch.autograd.gradcheck's own check",
    ),
    Fault(
        id="backward-not-repeatable",
        kind="hazard",
        summary="A second backward of the same forward gives other bits, or raises.",
        fix="Add up in a fixed order, and keep what was saved until the pass is freed.",
        wrong="atomic adds; del ctx.xhat",
        right="one sum a row, then one over the rows",
        quantities=GRADIENTS,
    ),
    Fault(
        id="stale-cache",
        summary="The backward uses an earlier forward's cache.",
        fix="Store the cache anew in each forward.",
        wrong="xhat and rstd of an earlier call",
        right="xhat and rstd of the forward before this backward",
        quantities=GRADIENTS,
        variants=(
            *(earlier(choose) for choose in _CHOICES),
            *(own_mode(earlier(choose)) for choose in _CHOICES),
            *(rebuilt(choose) for choose in _CHOICES),
            *(
                {name: change}
                for choose in _CHOICES
                for name, change in earlier(choose).items()
                if name != "backward_constant"
            ),
        ),
        stateful=True,
        cached=True,
        covers=("backward-raises",),
    ),
)
