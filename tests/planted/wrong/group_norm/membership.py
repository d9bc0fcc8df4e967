"""GroupNorm by einsum with a table that says which channel belongs to which set; mistakes in the sets.

The backward pools over the same sets as the forward, so it is the true derivative of the wrong forward.
Must not import `reference` or `npnorm`: the corpus judges the judge.
"""

from functools import partial
from math import prod

import numpy as np

from tests.planted.row import wrong


class MembershipGroupNorm:
    """Right. `table[c, s]` is 1 where channel c belongs to set s; x is seen as (N, C, L)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        self.G, self.C, self.eps = num_groups, num_channels, eps
        self.gamma, self.beta = (np.ones(num_channels), np.zeros(num_channels)) if affine else (None, None)
        self.dgamma, self.dbeta = None, None

    def sets(self, ndim):
        return np.arange(self.C) // (self.C // self.G)

    def mean_over_set(self, t):
        sums = np.einsum("ncl,cs->ns", t, self.table)
        return np.einsum("ns,cs->nc", sums / (self.table.sum(axis=0) * t.shape[2]), self.table)[:, :, None]

    def forward(self, x):
        which = self.sets(x.ndim)
        self.table = (which[:, None] == np.unique(which)[None, :]).astype(x.dtype)
        t = x.reshape(x.shape[0], self.C, prod(x.shape[2:]))
        t = t - self.mean_over_set(t)
        self.std = np.sqrt(self.mean_over_set(t**2) + self.eps)
        self.xhat = t / self.std
        y = self.xhat
        if self.gamma is not None:
            w, b = self.gamma.astype(x.dtype), self.beta.astype(x.dtype)
            y = np.einsum("ncl,c->ncl", y, w) + b[None, :, None]
        return y.reshape(x.shape).copy()

    def backward(self, dy):
        d = dy.reshape(self.xhat.shape)
        if self.gamma is not None:
            self.dgamma = np.einsum("ncl,ncl->c", d, self.xhat)
            self.dbeta = np.einsum("ncl->c", d)
            d = np.einsum("ncl,c->ncl", d, self.gamma.astype(dy.dtype))
        dx = (d - self.mean_over_set(d) - self.xhat * self.mean_over_set(d * self.xhat)) / self.std
        return dx.reshape(dy.shape)


class MembershipInterleaved(MembershipGroupNorm):
    def sets(self, ndim):
        return np.arange(self.C) % self.G  # planted: channel c in set c mod G


class MembershipOfGChannels(MembershipGroupNorm):
    def sets(self, ndim):
        return np.arange(self.C) // self.G  # planted: G channels to a set, so there are C / G sets


class MembershipOfOneChannel(MembershipGroupNorm):
    def sets(self, ndim):
        if ndim == 2:
            return np.arange(self.C) // (self.C // self.G)
        return np.arange(self.C)  # planted: each channel alone


class MembershipPerPosition(MembershipGroupNorm):
    def mean_over_set(self, t):
        sums = np.einsum("ncl,cs->nsl", t, self.table)  # planted: l is kept
        return np.einsum("nsl,cs->ncl", sums / self.table.sum(axis=0)[:, None], self.table)


class MembershipOverBatch(MembershipGroupNorm):
    def mean_over_set(self, t):
        sums = np.einsum("ncl,cs->s", t, self.table)  # planted: n is summed too
        means = sums / (self.table.sum(axis=0) * (t.shape[0] * t.shape[2]))
        return np.einsum("s,cs->c", means, self.table)[None, :, None]


planted = partial(wrong, "GroupNorm", style="einsum with a membership table, true derivative: ")

ROWS = (
    planted(MembershipInterleaved, "groups-interleaved", "y dx dgamma", "c mod G; when 1 < G < C"),
    planted(MembershipOfGChannels, "groups-and-channels-swapped", "y dx dgamma", "c // G; when G is not C / G"),
    planted(
        MembershipOfOneChannel, "statistics-per-channel", "y dx dgamma", "spatial axes only; from rank 3, when G < C"
    ),
    planted(MembershipPerPosition, "statistics-per-position", "y dx dgamma", "one mean per position; from rank 3"),
    planted(MembershipOverBatch, "statistics-over-batch", "y dx dgamma", "samples share statistics; batch above 1"),
)
