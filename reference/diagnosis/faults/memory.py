"""Mistakes in what a layer writes to, in how it reads memory, and in its dtypes: recognised by what the layer does."""

from reference.diagnosis.faults.entry import Fault

ENTRIES = (
    Fault(
        id="input-mutated",
        summary="The caller's x is written to.",
        fix="Compute into new arrays: x = x - mean, not x -= mean.",
        wrong="x -= mean",
        right="centred = x - mean",
        formulas={"RMSNorm": ("x *= rstd", "xhat = x * rstd")},
        quantities=("y",),
        writes=True,
        seen_in="onnxruntime#20623",
    ),
    Fault(
        id="upstream-gradient-mutated",
        summary="The caller's dy is written to.",
        fix="Compute into new arrays: d = dy * gamma, not dy *= gamma.",
        wrong="dy *= gamma",
        right="d = dy * gamma",
        quantities=("dx",),
        writes=True,
    ),
    Fault(
        id="dx-aliases-dy",
        summary="dx is dy's own memory: who changes one changes the other.",
        fix="Return a new array.",
        wrong="dx = dy; dx *= ...",
        right="dx = dy * ...",
        quantities=("dx",),
        writes=True,
        covers=("upstream-gradient-mutated",),  # who returns dy's own memory has written into it
        seen_in="unsloth#4533",
    ),
    Fault(
        id="input-not-saved",
        summary="The backward reads the caller's x again, and is wrong if that was changed after the forward.",
        fix="Keep xhat, or a copy of x.",
        wrong="self.x = x",
        right="self.xhat = (x - mean) * rstd",
        quantities=("dx", "dgamma"),
    ),
    Fault(
        id="layout-dependent",
        summary="The numbers are wrong where x or dy is not contiguous in memory.",
        fix="Do not rely on the order in memory: no ravel(order='K'), no strides of one's own; np.ascontiguousarray first.",
        wrong="x.ravel(order='K')",
        right="np.ascontiguousarray(x).ravel()",
        quantities=("y", "dx"),
        seen_in="FlagGems#1068, DirectML#588, pytorch#131750",
    ),
    Fault(
        id="dtype-promoted",
        summary="The result has a wider dtype than the input: float32 in, float64 out.",
        fix="Allocate results and constants in x.dtype.",
        wrong="out = np.zeros(x.shape)",
        right="out = np.zeros(x.shape, x.dtype)",
        quantities=("y", "dx"),
    ),
    Fault(
        id="dtype-demoted",
        summary="Precision is lost on the way: float64 in, float32's precision out.",
        fix="Compute in x.dtype, or wider.",
        wrong="x.astype(np.float32)",
        right="x in its own dtype",
        quantities=("y", "dx"),
    ),
)
