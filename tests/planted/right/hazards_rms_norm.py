"""RMSNorms that are right as long as the caller leaves x alone, or that give a wider dtype than they are given.

They are of the styles of those that handle memory and dtypes wrongly. Must not know `reference` or `npnorm`: the
corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right
from tests.planted.wrong.rms_norm.state import EinsumRMSNorm, RowRMSNorm


class EinsumKeepsContiguousInput(EinsumRMSNorm):
    def save(self, xhat, r, x):
        self.rows, self.r = self.matrix(x), r  # hazard: ascontiguousarray copies only what is not contiguous

    def backward(self, dy):
        self.saved = np.einsum("md,m->md", self.rows, self.r), self.r
        return super().backward(dy)


class EinsumRootOfWidthPromotes(EinsumRMSNorm):
    def inverse_rms(self, m):
        eps = float(np.finfo(m.dtype).eps) if self.eps is None else self.eps
        width = m.shape[1]
        sums = np.einsum("md,md->m", m, m) + width * eps
        return np.sqrt(width) / np.sqrt(sums)  # hazard: np.sqrt of an int is a float64, and not a weak one


class RowKeepsViews(RowRMSNorm):
    def rows(self, a):
        k = len(self.normalized_shape)
        return [a[i] for i in np.ndindex(a.shape[: a.ndim - k])]  # hazard: each row is a view of x


class RowListsBecomeFloat64(RowRMSNorm):
    def assemble(self, rows, like):
        return np.array([row.tolist() for row in rows]).reshape(like.shape)  # hazard: Python floats


ROWS = (
    right("RMSNorm", EinsumKeepsContiguousInput, "einsum; contiguous x only", hazards="input-not-saved"),
    right("RMSNorm", EinsumRootOfWidthPromotes, "einsum; np.sqrt(int); float32 in", hazards="dtype-promoted"),
    right("RMSNorm", RowKeepsViews, "rows; a list of views of x, any layout", hazards="input-not-saved"),
    right("RMSNorm", RowListsBecomeFloat64, "rows; np.array of lists; float32 in", hazards="dtype-promoted"),
)
