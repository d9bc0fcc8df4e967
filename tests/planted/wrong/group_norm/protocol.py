"""GroupNorms that raise, share or overwrite what is not theirs alone, or give gradients in a wrong shape.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisGroupNorm, RowsGroupNorm


class GroupNormShapeInPlace(RowsGroupNorm):
    def backward(self, dy):
        rows = dy.view()
        rows.shape = (len(dy) * self.groups, dy[0].size // self.groups)  # planted: where that takes a copy, it raises
        return super().backward(rows.reshape(dy.shape))


class GroupNormOneForwardAtATime(AxisGroupNorm):
    waiting = False

    def forward(self, x):
        if self.waiting:
            raise RuntimeError("forward called twice without backward")  # planted: nobody must call backward
        self.waiting = True
        return super().forward(x)

    def backward(self, dy):
        self.waiting = False
        return super().backward(dy)


class GroupNormDxIntoY(RowsGroupNorm):
    def forward(self, x):
        self.y = super().forward(x)
        return self.y

    def backward(self, dy):
        self.y[...] = super().backward(dy)  # planted: y is taken for free by now
        return self.y.copy()


class GroupNormSharedParameters(AxisGroupNorm):
    params = {}  # noqa: RUF012 - planted: all layers hold the same dict

    @property
    def gamma(self):
        return self.params.get("gamma")

    @gamma.setter
    def gamma(self, value):
        self.params["gamma"] = value


class GroupNormColumnGradients(AxisGroupNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.gamma is not None:
            self.dgamma, self.dbeta = self.dgamma[:, None], self.dbeta[:, None]  # planted: (C, 1), and gamma is (C,)
        return dx


ALL = "y dx dgamma dbeta"
planted = partial(wrong, "GroupNorm")

ROWS = (
    planted(GroupNormShapeInPlace, "backward-raises", "dx dgamma dbeta", "over rows; strided dy only", raises=True),
    planted(GroupNormOneForwardAtATime, "forward-raises", ALL, "axis by axis; after a forward alone", raises=True),
    planted(GroupNormDxIntoY, "result-overwritten", "y", "over rows; dx is written over y; all numbers are right"),
    planted(
        GroupNormSharedParameters, "instances-share-state", "y dx dgamma", "axis by axis; gamma in one dict for all"
    ),
    planted(GroupNormColumnGradients, "parameter-gradients-misshapen", "dgamma dbeta", "axis by axis; (C, 1)"),
)
