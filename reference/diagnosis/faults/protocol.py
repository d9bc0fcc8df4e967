"""Mistakes, hazards and conventions that are no formula: what a layer does with exceptions, memory, shapes and defaults."""

from reference.diagnosis.faults.entry import BATCH, Fault
from reference.truth.exact import GRADIENTS

ENTRIES = (
    Fault(
        id="backward-raises",
        summary="backward raises in training mode.",
        fix="Make backward work for every x that forward takes.",
        wrong="raise in backward",
        right="dx, dgamma, dbeta for every x that forward takes",
        quantities=GRADIENTS,
        seen_in="attorch#17",
    ),
    Fault(
        id="forward-raises",
        summary="A later forward of the same layer raises.",
        fix="Let forward depend on nothing that an earlier call left behind.",
        wrong="raise in the second forward",
        right="y for every x, whatever was called before",
        quantities=("y",),
    ),
    Fault(
        id="result-overwritten",
        summary="An array that was handed out is written to again, by a later call or by backward.",
        fix="Return a new array from each call.",
        wrong="np.multiply(x, rstd, out=self.buffer); return self.buffer",
        right="return x * rstd",
        quantities=("y", "dx"),
    ),
    Fault(
        id="instances-share-state",
        told_by="another layer alive",
        summary="Two layers of the class share what each should have for itself: a cache, gamma, the mode.",
        fix="Keep it on self, set in __init__ or in forward; not on the class, in the module or in a default argument.",
        wrong="class Norm: cache = {}",
        right="self.cache = {}  # in __init__",
        quantities=GRADIENTS,
    ),
    Fault(
        id="output-not-saved",
        kind="hazard",
        summary="The backward reads the y that was handed out again, and is wrong if the caller changed it in between.",
        fix="Keep xhat, or return a copy of what backward reads.",
        wrong="self.y = y; return y",
        right="self.xhat = xhat; return gamma * xhat + beta",
        quantities=("dx", "dgamma"),
    ),
    Fault(
        id="eps-default",
        kind="convention",
        summary="The default of eps is not torch's.",
        fix="Use torch's default, or accept this convention.",
        wrong="eps=1e-8  # or another",
        right="eps=1e-5",
        quantities=(),
    ),
    Fault(
        id="momentum-default",
        kind="convention",
        summary="The default of momentum is not torch's.",
        fix="Use torch's default, or accept this convention.",
        wrong="momentum=0.9  # or another",
        right="momentum=0.1",
        quantities=(),
        layers=BATCH,
    ),
    Fault(
        id="parameters-start-elsewhere",
        kind="convention",
        summary="gamma or beta does not start at torch's values, 1 and 0.",
        fix="Start gamma at 1 and beta at 0, or accept this convention.",
        wrong="gamma = np.random.randn(n)  # or another",
        right="gamma = np.ones(n), beta = np.zeros(n)",
        quantities=(),
    ),
)
