"""RMSNorm with a loop over rows, each a small object that remembers its own forward; mistakes in the forward.

Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong


class Row:
    """Right. One vector v, divided by its root mean square."""

    def __init__(self, v, eps, last):
        self.eps, self.last = eps, last
        self.normalize(v)

    def normalize(self, v):
        self.r = np.sqrt(np.dot(v, v) / v.size + self.eps)
        self.h = v / self.r

    def backward(self, g):
        return (g - self.h * np.dot(g, self.h) / g.size) / self.r


class LoopedRMSNorm:
    """Right. Walks over the rows with a Row for each; a wrong layer exchanges the kind of row."""

    row = Row

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.normalized_shape = np.empty(normalized_shape).shape
        self.eps = eps
        self.gamma = np.ones(self.normalized_shape) if elementwise_affine else None
        self.dgamma = None

    def flat(self, t):
        features = int(np.prod(self.normalized_shape))
        return np.reshape(t, (t.size // features, features))

    def weight(self, t):
        if self.gamma is None:
            return np.ones(int(np.prod(self.normalized_shape)), t.dtype)
        return self.gamma.astype(t.dtype).reshape(-1)

    def forward(self, x):
        eps = np.finfo(x.dtype).eps if self.eps is None else x.dtype.type(self.eps)
        self.rows = [self.row(v, eps, self.normalized_shape[-1]) for v in self.flat(x)]
        y = np.empty(x.shape, x.dtype)
        for out, row in zip(y.reshape(self.flat(x).shape), self.rows, strict=True):
            out[:] = self.scaled(row.h, x)
        return y

    def scaled(self, h, x):
        return h * self.weight(x)

    def backward(self, dy):
        flat = self.flat(dy)
        dx = np.empty(flat.shape, dy.dtype)
        dgamma = np.zeros(flat.shape[1], dy.dtype)
        for i, row in enumerate(self.rows):
            dgamma += flat[i] * row.h
            dx[i] = row.backward(self.scaled(flat[i], dy))
        if self.gamma is not None:
            self.dgamma = dgamma.reshape(self.normalized_shape)
        return dx.reshape(dy.shape)


class SampleRow(Row):
    def normalize(self, v):
        self.r = np.sqrt(np.dot(v, v) / v.dtype.type(v.size - 1) + self.eps)  # planted: - 1
        self.h = v / self.r


class SampleRowAndDerivative(SampleRow):
    def backward(self, g):
        return (g - self.h * np.dot(g, self.h) / g.dtype.type(g.size - 1)) / self.r


class EpsOutsideRow(Row):
    def normalize(self, v):
        self.r = np.sqrt(np.dot(v, v) / v.size) + self.eps  # planted: eps outside the root
        self.h = v / self.r


class EpsOutsideRowAndDerivative(EpsOutsideRow):
    def backward(self, g):
        rms = self.r - self.eps
        return g / self.r - self.h * np.dot(g, self.h) / g.size / rms


class NoEpsRow(Row):
    def normalize(self, v):
        self.r = np.sqrt(np.dot(v, v) / v.size)  # planted: + eps
        self.h = v / self.r


class OwnEpsRow(Row):
    def normalize(self, v):
        self.r = np.sqrt(np.dot(v, v) / v.size + 1e-5)  # planted: not what was asked for
        self.h = v / self.r


class UnrootedRow(Row):
    def normalize(self, v):
        self.r = np.dot(v, v) / v.size + self.eps  # planted: no root
        self.h = v / self.r


class UnrootedRowAndDerivative(UnrootedRow):
    def backward(self, g):
        return g / self.r - 2 * self.h * np.dot(g, self.h) / g.size


class TwiceRootedRow(Row):
    def normalize(self, v):
        self.r = np.sqrt(np.sqrt(np.dot(v, v) / v.size) + self.eps)  # planted: the root of a root
        self.h = v / self.r


class TwiceRootedRowAndDerivative(TwiceRootedRow):
    def backward(self, g):
        rms = self.r * self.r - self.eps
        return (g - self.h * np.dot(g, self.h) / g.size / (2 * rms)) / self.r


class CentredRow(Row):
    def normalize(self, v):
        v = v - v.mean()  # planted: this is a LayerNorm
        self.r = np.sqrt(np.dot(v, v) / v.size + self.eps)
        self.h = v / self.r


class CentredRowAndDerivative(CentredRow):
    def backward(self, g):
        return (g - g.mean() - self.h * np.dot(g, self.h) / g.size) / self.r


class CentredNumeratorRow(Row):
    def normalize(self, v):
        self.r = np.sqrt(np.dot(v, v) / v.size + self.eps)
        self.h = (v - v.mean()) / self.r  # planted: the root mean square is that of v itself
        self.uncentred = v / self.r

    def backward(self, g):
        return (g - g.mean() - self.uncentred * np.dot(g, self.h) / g.size) / self.r


class LastAxisRow(Row):
    def normalize(self, v):
        v = v.reshape(-1, self.last)  # planted: one root mean square for each line of the last axis
        self.r = np.sqrt((v * v).mean(axis=1, keepdims=True) + self.eps).repeat(self.last, axis=1).ravel()
        self.h = v.ravel() / self.r


class LastAxisRowAndDerivative(LastAxisRow):
    def backward(self, g):
        along = (g * self.h).reshape(-1, self.last).mean(axis=1).repeat(self.last)
        return (g - self.h * along) / self.r


class LoopedSampleMeanSquare(LoopedRMSNorm):
    row = SampleRow


class LoopedSampleMeanSquareAndDerivative(LoopedRMSNorm):
    row = SampleRowAndDerivative


class LoopedEpsOutside(LoopedRMSNorm):
    row = EpsOutsideRow


class LoopedEpsOutsideAndDerivative(LoopedRMSNorm):
    row = EpsOutsideRowAndDerivative


class LoopedNoEps(LoopedRMSNorm):
    row = NoEpsRow


class LoopedOwnEps(LoopedRMSNorm):
    row = OwnEpsRow


class LoopedUnrooted(LoopedRMSNorm):
    row = UnrootedRow


class LoopedUnrootedAndDerivative(LoopedRMSNorm):
    row = UnrootedRowAndDerivative


class LoopedTwiceRooted(LoopedRMSNorm):
    row = TwiceRootedRow


class LoopedTwiceRootedAndDerivative(LoopedRMSNorm):
    row = TwiceRootedRowAndDerivative


class LoopedCentred(LoopedRMSNorm):
    row = CentredRow


class LoopedCentredAndDerivative(LoopedRMSNorm):
    row = CentredRowAndDerivative


class LoopedCentredNumerator(LoopedRMSNorm):
    row = CentredNumeratorRow


class LoopedLastAxis(LoopedRMSNorm):
    row = LastAxisRow


class LoopedLastAxisAndDerivative(LoopedRMSNorm):
    row = LastAxisRowAndDerivative


class LoopedUnscaled(LoopedRMSNorm):
    def scaled(self, h, x):
        return h  # planted: in the output and, by the same method, in the gradient


planted = partial(wrong, "RMSNorm", style="loop over row objects: ")

ROWS = (
    planted(LoopedSampleMeanSquare, "variance-unbiased", "y dx dgamma", "n - 1; standard backward"),
    planted(LoopedSampleMeanSquareAndDerivative, "variance-unbiased", "y dx dgamma", "n - 1; true derivative"),
    planted(LoopedEpsOutside, "eps-outside-sqrt", "y dx dgamma", "rms + eps; standard backward"),
    planted(LoopedEpsOutsideAndDerivative, "eps-outside-sqrt", "y dx dgamma", "rms + eps; true derivative"),
    planted(LoopedNoEps, "eps-missing", "y dx dgamma", "true derivative; when x^2 is near eps"),
    planted(LoopedOwnEps, "eps-argument-ignored", "y dx dgamma", "always 1e-5, for None too; true derivative"),
    planted(LoopedUnrooted, "std-not-rooted", "y dx dgamma", "no root; standard backward"),
    planted(LoopedUnrootedAndDerivative, "std-not-rooted", "y dx dgamma", "no root; true derivative"),
    planted(LoopedTwiceRooted, "variance-is-std", "y dx dgamma", "sqrt(rms + eps); standard backward"),
    planted(LoopedTwiceRootedAndDerivative, "variance-is-std", "y dx dgamma", "sqrt(rms + eps); true derivative"),
    planted(LoopedCentred, "mean-subtracted", "y dx dgamma", "a LayerNorm; standard RMS backward"),
    planted(LoopedCentredAndDerivative, "mean-subtracted", "y dx dgamma", "a LayerNorm; true derivative"),
    planted(LoopedCentredNumerator, "mean-subtracted", "y dx dgamma", "(x - mean) / rms(x); true derivative"),
    planted(LoopedLastAxis, "statistics-last-axis-only", "y dx dgamma", "standard backward over all the axes"),
    planted(LoopedLastAxisAndDerivative, "statistics-last-axis-only", "y dx dgamma", "true derivative"),
    planted(LoopedUnscaled, "gamma-not-applied", "y dx", "no gamma in y, dx is true to that; dgamma is right"),
)
