"""The largest error that a right layer may have, and the scale on which it is measured.

In float64 and float32 the scale of an element is the sum of the magnitudes of its terms, and the tolerance of a quantity
is `TOLERANCE` times a power of the case's conditioning, 1 + |mean| / sqrt(var + eps): a layer that subtracts a rounded
mean loses that factor once, in y and dgamma, and may lose it twice in dx (as torch's own closed form for GroupNorm and
LayerNorm does). It never grows with the size of the array: where so many numbers are added that one by one they lose more
than that, a probe has numbers whose sums have no rounding. Where the conditioning makes a tolerance so large that it says
nothing, it is another probe's turn.

Once, and no further, the scale is larger: where more than `MANY` numbers share a mean, by `DRIFT`. Who updates the mean and
the variance number by number, as torch.var does (Welford, Technometrics 4, 1962), rounds at each step, whatever the sums
are; a block that is lost there is off by a million times that.

In 16 bits a right layer computes in float32 and rounds each result once. A rounding is at most u of the number that is
rounded, whatever its terms were, and what float32 loses before is float32's tolerance, in units of 16 bits. So

    scale = |exact| + (64 conditioning**power u32 / u16) * terms,    tolerance = 1, and `SPARE` for roundings of roundings

is all that it may be off by. A layer that rounds xhat, rstd or a product in between is off by u of that too, up to once
the terms, which is more where y is no larger than its terms are; sums and squares in 16 bits are off by far more. Running
statistics are kept in the dtype of x, and so rounded at each update; what is computed from them later bears that.

Where a framework derives the gradients itself, each use of an x of 16 bits rounds its share of dx, and so is the sum of the
shares: `DERIVED` times the terms, two uses and their sum with one to spare, which whoever wrote the forward cannot avoid.
"""

from reference.cases.case import Array, Case
from reference.dtypes import NARROW, computing_dtype, roundoff

TOLERANCE = 64.0
SPARE = 1 / 16
MANY, DRIFT = 5_000, 16.0
DERIVED = 4.0
POWER = {"y": 1, "dx": 2, "dgamma": 1, "dbeta": 0, "running_mean": 1, "running_var": 1}


def tolerance_of(quantity: str, conditioning: float, dtype: str = "float64") -> float:
    """The largest error, in units of u * scale, that a right layer may have."""
    return 1 + SPARE if dtype in NARROW else float(TOLERANCE * conditioning ** POWER[quantity])


def scale_of(quantity: str, case: Case, exact: Array, terms: Array, conditioning: float) -> Array:
    """What each element's error is measured by.

    Args:
        exact: the quantity. terms: the sum of the magnitudes of the terms that make each element.
        conditioning: of the case.
    """
    if case.sharing > MANY:
        terms = DRIFT * terms
    if case.dtype not in NARROW:
        return terms
    wider = roundoff(computing_dtype(case.dtype)) / roundoff(case.dtype)
    scale = abs(exact) + wider * tolerance_of(quantity, conditioning) * terms
    updates = sum(case.training_in(call) for call in range(case.calls)) if case.tracks else 0
    if quantity in ("running_mean", "running_var") or not case.training:
        scale = scale + updates * terms
    return scale
