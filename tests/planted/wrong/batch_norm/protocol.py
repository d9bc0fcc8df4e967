"""BatchNorms whose mode is everybody's, or whose defaults and first values are not torch's.

It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.bases import AxisBatchNorm, RowsBatchNorm
from tests.planted.wrong.batch_norm.running import ClosureBatchNorm

MODE = {"training": True}


class BatchNormOneModeForAll(AxisBatchNorm):
    training = property(
        lambda self: MODE["training"], lambda self, value: MODE.update(training=value)
    )  # planted: of all

    def train(self):
        self.training = True

    def eval(self):
        self.training = False

    def backward(self, dy):
        self.learns = self.training or not self.track  # the mode of now, not of the forward
        return super().backward(dy)


class BatchNormHandsDyBack(RowsBatchNorm):
    def backward(self, dy):
        super().backward(dy)
        return dy[...]  # planted: another array object over the same memory


class BatchNormLateMomentum(RowsBatchNorm):
    def __init__(self, num_features, eps=1e-5, momentum=0.9, affine=True, track_running_stats=True):  # planted: 0.1
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class BatchNormSlowMomentum(ClosureBatchNorm):
    def __init__(self, num_features, eps=1e-5, momentum=0.01, affine=True, track_running_stats=True):  # planted: 0.1
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class BatchNormKeptFraction(RowsBatchNorm):
    """As Keras has it: 0.99 is kept, so the default is as near to torch's as the meaning allows."""

    def __init__(self, num_features, eps=1e-5, momentum=0.99, affine=True, track_running_stats=True):
        kept = momentum if momentum is None else 1 - momentum  # planted: the fraction that is kept
        super().__init__(num_features, eps, kept, affine, track_running_stats)


class BatchNormOfKeras(AxisBatchNorm):
    def __init__(self, num_features, eps=1e-3, momentum=0.1, affine=True, track_running_stats=True):  # planted: 1e-5
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class BatchNormUniformGamma(ClosureBatchNorm):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if affine:
            self.gamma = np.random.default_rng(1).uniform(size=num_features)  # planted: as torch had it before 1.2
            self.beta = np.full(num_features, 0.01)  # planted


planted = partial(wrong, "BatchNorm")

ROWS = (
    planted(BatchNormOneModeForAll, "instances-share-state", "dx", "axis by axis; the mode is the class's"),
    planted(BatchNormHandsDyBack, "dx-is-dy", "dx", "over rows; a view of dy", hazards="dx-aliases-dy"),
    planted(BatchNormLateMomentum, "momentum-default", "", "over rows; 0.9 of the new"),
    planted(BatchNormSlowMomentum, "momentum-default", "", "closure; 0.01"),
    planted(
        BatchNormKeptFraction,
        "momentum-inverted",
        "running_mean running_var y dx dgamma",
        "over rows; its default follows from that, and is not told beside it",
    ),
    planted(BatchNormOfKeras, "eps-default", "", "axis by axis; 1e-3"),
    planted(BatchNormUniformGamma, "parameters-start-elsewhere", "", "closure; gamma is drawn, beta is 0.01"),
)
