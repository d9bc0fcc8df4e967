"""Mistakes in the statistics that normalize: the variance, its eps, the mean, and whose they are."""

from reference.cases.case import Array
from reference.diagnosis.faults.entry import BATCH, CENTRED, RMS, Fault, instead, times
from reference.diagnosis.faults.formulas import RSTD, XHAT
from reference.truth.arithmetic import sqrt
from reference.truth.exact import Pass


def _n_over_less(p: Pass) -> float:
    return 1.0 if p.constant else p.count / (p.count - 1 or float("nan"))


def _n_over_batch(p: Pass) -> float:
    return 1.0 if p.constant else p.count / p.batch


def _var(p: Pass) -> Array:
    """The variance, of a layer that should have none."""
    return p.average((p.x - p.average(p.x)) ** 2)


ENTRIES = (
    Fault(
        id="variance-unbiased",
        summary="The variance that normalizes is divided by n - 1; it is the mean of the squares, divided by n.",
        fix="Use var = ((x - mean)**2).mean(), NumPy's ddof=0.",
        wrong="var = sum((x - mean)**2) / (n - 1)",
        right="var = sum((x - mean)**2) / n",
        formulas={"RMSNorm": ("ms = sum(x**2) / (n - 1)", "ms = sum(x**2) / n")},
        quantities=("y",),
        variants=(
            {"var": times(_n_over_less)},
            {"var": times(_n_over_less), "stored_var": times(lambda p: p.count / max(p.count - 1, 1))},
        ),
        forward=True,
        seen_in="Flux.jl#529, annotated-transformer PR#119, darknet#170",
    ),
    Fault(
        id="one-pass-variance",
        told_by="large mean",
        summary="The variance is the difference of two large numbers, which loses all digits where the mean is large.",
        fix="Subtract the mean first: var = ((x - mean)**2).mean().",
        wrong="var = mean(x**2) - mean(x)**2",
        right="var = mean((x - mean)**2)",
        quantities=("y",),
        layers=CENTRED,
        seen_in="MyGrad PR#285, pytorch#40302, flax#1491, tt-metal#45968",
    ),
    Fault(
        id="variance-divided-by-batch",
        summary="The sum of the squares runs over batch and space, and is divided by the batch size alone.",
        fix="Divide by the number of values that share a mean, N * H * W.",
        wrong="var = sum((x - mean)**2) / N",
        right="var = sum((x - mean)**2) / (N * H * W)",
        quantities=("y",),
        layers=BATCH,
        variants=(
            {"var": times(_n_over_batch), "stored_var": times(lambda p: p.count / p.batch)},
            {"var": times(_n_over_batch)},
            {  # unbiased by the same wrong count
                "var": times(_n_over_batch),
                "stored_var": instead(lambda p: p.batch_var * p.count / max(p.batch - 1, 1)),
            },
        ),
        forward=True,
        seen_in="Knet.jl PR#102",
    ),
    Fault(
        id="eps-outside-sqrt",
        kind="convention",
        summary="eps is added to the deviation, outside of the square root, not to the variance.",
        fix="Divide by sqrt(var + eps).",
        wrong="xhat = (x - mean) / (sqrt(var) + eps)",
        right=XHAT,
        quantities=("y",),
        variants=(
            {  # with the projection term of its own derivative
                "rstd": instead(lambda p: 1 / (sqrt(p.var) + p.eps)),
                "projection_mean": lambda p, mean: mean if p.backward_constant else mean / (p.rstd * sqrt(p.var)),
            },
            # with that deviation wherever the usual backward has one, which is off by eps / std of the projection term
            {"rstd": instead(lambda p: 1 / (sqrt(p.var) + p.eps))},
        ),
        ways=2,
        forward=True,
        seen_in="OLMo#281, annotated-transformer PR#119, darknet#170",
    ),
    Fault(
        id="eps-missing",
        summary="There is no eps: rows of a small variance are blown up, constant ones become NaN.",
        fix="Add eps to the variance before the square root.",
        wrong="rstd = 1 / sqrt(var)",
        right=RSTD,
        quantities=("y",),
        variants=({"eps": instead(lambda p: 0.0)},),
        forward=True,
        seen_in="tt-metal#55347",
    ),
    Fault(
        id="eps-argument-ignored",
        kind="convention",
        summary="The eps that was asked for is not used; a fixed one is.",
        fix="Store the eps of the constructor, and add that one.",
        wrong="rstd = 1 / sqrt(var + 1e-5)  # or another constant",
        right="rstd = 1 / sqrt(var + self.eps)",
        quantities=("y",),
        forward=True,
        constant="eps",
        seen_in="tvm PR#15856",
    ),
    Fault(
        id="eps-default-for-none",
        kind="convention",
        summary="Where eps is None a constant of the layer's own is added, not the machine epsilon of the dtype.",
        fix="For eps=None take np.finfo(x.dtype).eps; or accept this convention.",
        wrong="eps = 1e-6 if eps is None else eps  # or another constant",
        right="eps = np.finfo(x.dtype).eps if eps is None else eps",
        quantities=("y",),
        layers=RMS,
        forward=True,
        constant="eps",
        where=lambda case: "eps" in case.options and case.options["eps"] is None,
    ),
    Fault(
        id="std-not-rooted",
        summary="The centred values are divided by the variance: the square root is missing.",
        fix="Divide by sqrt(var + eps).",
        wrong="xhat = (x - mean) / (var + eps)",
        right=XHAT,
        quantities=("y",),
        variants=({"rstd": instead(lambda p: 1 / (p.var + p.eps))},),
        forward=True,
        seen_in="tensorflow-cycle-gan#1",
    ),
    Fault(
        id="variance-is-std",
        summary="The deviation is taken for the variance, so that a root is drawn twice.",
        fix="Use the variance under the root: np.var, not np.std.",
        wrong="rstd = 1 / sqrt(std + eps)",
        right=RSTD,
        formulas={"RMSNorm": ("rstd = 1 / sqrt(rms + eps)", "rstd = 1 / sqrt(mean(x**2) + eps)")},
        quantities=("y",),
        variants=(
            {"rstd": instead(lambda p: 1 / sqrt(sqrt(p.var) + p.eps))},
            {
                "rstd": instead(lambda p: 1 / sqrt((p.var if p.constant else sqrt(p.var)) + p.eps)),
                "stored_var": instead(lambda p: sqrt(p.batch_var)),
            },
            {
                "rstd": instead(lambda p: 1 / sqrt((p.var if p.constant else sqrt(p.var)) + p.eps)),
                "stored_var": instead(lambda p: sqrt(p.batch_var) * p.count / max(p.count - 1, 1)),
            },
            {"rstd": instead(lambda p: 1 / sqrt((p.var if p.constant else sqrt(p.var)) + p.eps))},
        ),
        forward=True,
    ),
    Fault(
        id="variance-squared",
        summary="The variance is squared where its root should be taken: a power of 2 for one of 1/2.",
        fix="Divide by sqrt(var + eps), which is (var + eps)**0.5.",
        wrong="xhat = (x - mean) / (var + eps)**2",
        right=XHAT,
        quantities=("y",),
        variants=({"rstd": instead(lambda p: 1 / (p.var + p.eps) ** 2)},),
        forward=True,
        seen_in="jax#442",
    ),
    Fault(
        id="divided-by-rstd",
        summary="The centred values are divided by rsqrt(var + eps), which multiplies them by the deviation.",
        fix="Multiply by rsqrt(var + eps), or divide by sqrt(var + eps).",
        wrong="xhat = (x - mean) / rsqrt(var + eps)",
        right="xhat = (x - mean) * rsqrt(var + eps)",
        quantities=("y",),
        variants=({"rstd": lambda p, rstd: 1 / rstd},),
        forward=True,
        seen_in="llm-foundry#371",
    ),
    Fault(
        id="training-uses-running-statistics",
        summary="In training the running mean and variance normalize, where the batch's own should.",
        fix="In training mode use the batch's mean and variance; only update the running ones.",
        wrong="xhat = (x - running_mean) / sqrt(running_var + eps)  # while training",
        right="xhat = (x - batch_mean) / sqrt(batch_var + eps)  # while training",
        quantities=("y",),
        layers=BATCH,
        variants=tuple(
            {"constant": instead(lambda p: bool(p.tracks)), **used, **backward}
            for used in (
                {},
                {"used_mean": instead(lambda p: p.old_mean), "used_var": instead(lambda p: p.old_var)},
            )
            for backward in ({}, {"backward_constant": instead(lambda p: bool(p.tracks and not p.training))})
        ),
        forward=True,
        seen_in="systemds PR#390",
    ),
    Fault(
        id="mean-not-subtracted",
        summary="The mean is not subtracted from what is normalized.",
        fix="Normalize x - mean.",
        wrong="xhat = x * rstd",
        right="xhat = (x - mean) * rstd",
        quantities=("y",),
        layers=CENTRED,
        variants=(
            {"xhat": instead(lambda p: p.x * p.rstd)},
            {"centred": instead(lambda p: p.x)},
            {"xhat": lambda p, xhat: xhat if p.constant else p.x * p.rstd},
            {"centred": lambda p, centred: centred if p.constant else p.x},
        ),
        forward=True,
    ),
    Fault(
        id="mean-subtracted",
        summary="A mean is subtracted; RMSNorm has none.",
        fix="Normalize x itself, by the root of the mean of its squares.",
        wrong="xhat = (x - mean) / sqrt(mean(x**2) + eps)",
        right="xhat = x / sqrt(mean(x**2) + eps)",
        quantities=("y",),
        layers=RMS,
        variants=(
            {"centred": instead(lambda p: p.x - p.average(p.x))},
            {"xhat": instead(lambda p: (p.x - p.average(p.x)) * p.rstd)},
            {
                "centred": instead(lambda p: p.x - p.average(p.x)),
                "mean_term": instead(lambda p: p.backward_average(p.d)),
            },
        ),
        forward=True,
    ),
    Fault(
        id="rms-uses-variance",
        summary="x is divided by its deviation from the mean; RMSNorm divides by the root of the mean of its squares.",
        fix="Divide by sqrt(mean(x**2) + eps): np.var subtracts the mean.",
        wrong="y = gamma * x / sqrt(var(x) + eps)",
        right="y = gamma * x / sqrt(mean(x**2) + eps)",
        quantities=("y",),
        layers=RMS,
        variants=(
            {"var": instead(_var)},
            {"var": instead(lambda p: _var(p) * _n_over_less(p))},
        ),
        forward=True,
    ),
)
