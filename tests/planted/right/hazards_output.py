"""Layers that keep the y that they hand out, and read it again in backward: right as long as the caller leaves it alone.

Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

import numpy as np

from tests.planted.row import right
from tests.planted.wrong.bases import AxisInstanceNorm, RowsLayerNorm, RowsRMSNorm


class RMSNormDividesItsOutput(RowsRMSNorm):
    def forward(self, x):
        self.y = super().forward(x)
        return self.y  # hazard: the caller's from now on

    def backward(self, dy):
        if self.gamma is not None:
            gamma = self.along(self.gamma, dy)
            self.z = np.divide(self.y, gamma, out=self.z.copy(), where=gamma != 0)
        return super().backward(dy)


class LayerNormInvertsItsOutput(RowsLayerNorm):
    def forward(self, x):
        self.y = super().forward(x)
        return self.y  # hazard: the caller's from now on

    def backward(self, dy):
        if self.beta is not None:
            gamma, beta = self.along(self.gamma, dy), self.along(self.beta, dy)
            # only where few digits are lost
            self.z = np.divide(self.y - beta, gamma, out=self.z.copy(), where=np.abs(gamma) > 0.5)
        return super().backward(dy)


class InstanceNormHoldsItsOutput(AxisInstanceNorm):
    def forward(self, x):
        self.y = super().forward(x)
        return self.y  # hazard: the caller's from now on

    def backward(self, dy):
        if self.gamma is not None:
            gamma, beta = self.broad(self.gamma, dy), self.broad(self.beta, dy)
            self.zx = np.divide(self.y - beta, gamma, out=self.zx.copy(), where=np.abs(gamma) > 0.5)
        return super().backward(dy)


ROWS = (
    right("RMSNorm", RMSNormDividesItsOutput, "over rows; y / gamma for xhat", hazards="output-not-saved"),
    right("LayerNorm", LayerNormInvertsItsOutput, "over rows; (y - beta) / gamma", hazards="output-not-saved"),
    right("InstanceNorm", InstanceNormHoldsItsOutput, "axis by axis; for dgamma alone", hazards="output-not-saved"),
)
