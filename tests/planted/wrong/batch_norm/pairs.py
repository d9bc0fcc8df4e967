"""BatchNorms with two mistakes each: those that live together, built on the styles beside this file.

Both ids must be named, nothing else. It must not know `reference` or `npnorm`: the corpus judges them.
"""

from functools import partial

import numpy as np

from tests.planted.row import wrong
from tests.planted.wrong.batch_norm.axes import AxesBatchNorm
from tests.planted.wrong.batch_norm.einsum import EinsumBatchNorm
from tests.planted.wrong.batch_norm.flat import FlatBatchNorm
from tests.planted.wrong.batch_norm.loop import LoopBatchNorm
from tests.planted.wrong.batch_norm.memory import BufferBatchNorm
from tests.planted.wrong.batch_norm.running import ClosureBatchNorm
from tests.planted.wrong.batch_norm.staged import StagedBatchNorm


class ClosureBiasedAndEvalTrainingFormula(ClosureBatchNorm):
    def update(self, mean, var, n):
        self.updates += 1
        r = self.rate()
        self.running_mean = (1 - r) * self.running_mean.astype(mean.dtype) + r * mean
        self.running_var = (1 - r) * self.running_var.astype(var.dtype) + r * var  # planted: divides by n

    def normalize_by_running(self, x):
        mean, var = self.wide(self.running_mean, x), self.wide(self.running_var, x)
        return self.transform(x, mean, var, through_batch=True)  # planted: as if they depended on x


class ClosureInvertedAndEvalTrainingFormula(ClosureBatchNorm):
    def rate(self):
        return 1.0 / self.updates if self.momentum is None else 1 - self.momentum  # planted: the fraction kept

    def normalize_by_running(self, x):
        mean, var = self.wide(self.running_mean, x), self.wide(self.running_var, x)
        return self.transform(x, mean, var, through_batch=True)  # planted: as if they depended on x


class ClosureInvertedAndDgammaUsesX(ClosureBatchNorm):
    def rate(self):
        return 1.0 / self.updates if self.momentum is None else 1 - self.momentum  # planted: the fraction kept

    def transform(self, x, mean, var, through_batch):
        y, pull = super().transform(x, mean, var, through_batch)
        kept = x.copy()

        def pull_over_x(dy):
            dx, _, to_beta = pull(dy)
            return dx, self.sum(dy * kept).ravel(), to_beta  # planted: x, not xhat

        return y, pull_over_x


class StagedBiasedAndMeanTermMissing(StagedBatchNorm):
    @staticmethod
    def correct(var, n):
        return var  # planted: the variance that divides by n goes into the running one

    @staticmethod
    def nodes(dxhat, cache):
        _, _, xmu, ivar, *_ = cache
        dvar = np.sum(dxhat * xmu, axis=0) * -0.5 * ivar**3
        return dxhat * ivar + 2 * xmu * dvar / dxhat.shape[0]  # planted: no dmean


class StagedBiasedAndInverted(StagedBatchNorm):
    @staticmethod
    def correct(var, n):
        return var  # planted: the variance that divides by n goes into the running one

    def average(self, old, new, momentum):
        if self.momentum is None:
            return super().average(old, new, momentum)
        return (momentum * old + (1 - momentum) * new).astype(new.dtype)  # planted: the fraction kept


class FlatBiasedAndEpsOutsideSqrt(FlatBatchNorm):
    def inverse_deviation(self, var):
        return 1.0 / (np.sqrt(var) + self.eps)  # planted: the eps stands outside the root

    def remember(self, rows):
        self.batches_seen += 1
        f = 1.0 / self.batches_seen if self.momentum is None else self.momentum
        mean, var = self.statistics(rows)
        self.running_mean = ((1 - f) * self.running_mean + f * mean).astype(rows.dtype)
        self.running_var = ((1 - f) * self.running_var + f * var).astype(rows.dtype)  # planted: divides by n


class FlatEpsMissingAndHeldConstant(FlatBatchNorm):
    def inverse_deviation(self, var):
        return 1.0 / np.sqrt(var)  # planted: no eps

    def input_gradient(self, d, samples):
        return d * self.cache["rstd"]  # planted: mean and variance are taken for constants


class LoopFixedEpsAndEvalBackwardMissing(LoopBatchNorm):
    def scale(self, var, n):
        return (var + 1e-8) ** -0.5  # planted: a fixed eps

    def backward(self, dy):
        dx = super().backward(dy)
        return dx if self.batch else None  # planted: eval has a gradient too


class LoopBetaForgottenAndDgammaMean(LoopBatchNorm):
    def output(self, xhat, c):
        return float(self.gamma[c]) * xhat  # planted: no beta

    def channel_parameters(self, g, c):
        return (g * self.xhat(c)).mean(), g.sum()  # planted: the mean over the batch and the positions


class EinsumGammaMissingAndDbetaMean(EinsumBatchNorm):
    def gradient_at_xhat(self, dy3):
        return dy3  # planted: gamma does not reach dx

    def gradient_at_beta(self, dy3):
        return np.einsum("ncl->c", dy3) / (dy3.shape[0] * dy3.shape[2])  # planted: a mean


class EinsumSwappedAndProjectionMissing(EinsumBatchNorm):
    def set_parameter_gradients(self, dy3):
        self.dbeta, self.dgamma = self.gradient_at_gamma(dy3), self.gradient_at_beta(dy3)  # planted: swapped

    def backward(self, dy):
        dx = super().backward(dy)
        if not self.batch_mode:
            return dx
        d = np.array(dy).reshape(self.x3.shape)
        if self.gamma is not None:
            d = self.gradient_at_xhat(d)
        d = d - d.mean(axis=(0, 2))[:, None]  # planted: the term along xhat is not taken away
        return (d * self.rstd[:, None]).reshape(dy.shape)


class AxesNotUpdatedAndDxDividedByBatch(AxesBatchNorm):
    def update_running(self, x):
        pass  # planted: left for later

    def backward(self, dy):
        return super().backward(dy) / len(dy)  # planted: over N


class AxesBiasedAndAccumulating(AxesBatchNorm):
    def update_running(self, x):
        axes = self.all_but_channels(x)
        self.steps += 1
        new = self.momentum if self.momentum is not None else 1 / self.steps
        mean, var = np.mean(x, axis=axes), np.var(x, axis=axes)  # planted: divides by n
        self.running_mean = (self.running_mean + new * (mean - self.running_mean)).astype(x.dtype)
        self.running_var = (self.running_var + new * (var - self.running_var)).astype(x.dtype)

    def parameter_gradients(self, dy):
        dgamma, dbeta = super().parameter_gradients(dy)
        if self.dgamma is not None:
            dgamma, dbeta = dgamma + self.dgamma, dbeta + self.dbeta  # planted: never reset
        return dgamma, dbeta


class BufferBiasedAndDxIntoDy(BufferBatchNorm):
    def learn(self, mean, var, m):
        super().learn(mean, var * (m - 1) / m, m)  # planted: the correction is undone

    def backward(self, dy):
        dy[...] = super().backward(dy)  # planted: dx is dy's memory
        return dy


planted = partial(wrong, "BatchNorm")

ROWS = (
    planted(
        ClosureBiasedAndEvalTrainingFormula,
        "running-var-biased eval-dx-uses-training-formula",
        "running_var dx y dgamma",
        "closure; y and dgamma only in an eval step after training steps",
    ),
    planted(
        ClosureInvertedAndEvalTrainingFormula,
        "momentum-inverted eval-dx-uses-training-formula",
        "running_mean running_var dx y dgamma",
        "closure; y and dgamma only in an eval step after training steps",
    ),
    planted(
        ClosureInvertedAndDgammaUsesX,
        "momentum-inverted dgamma-uses-x",
        "running_mean running_var dgamma y dx",
        "closure; y and dx only in an eval step after training steps",
    ),
    planted(
        StagedBiasedAndMeanTermMissing,
        "running-var-biased dx-mean-term-missing",
        "running_var dx y dgamma",
        "staged; y and dgamma only in an eval step after training steps",
    ),
    planted(
        StagedBiasedAndInverted,
        "running-var-biased momentum-inverted",
        "running_mean running_var y dx dgamma",
        "staged; y, dx, dgamma only in an eval step after training steps; momentum=None is biased only",
    ),
    planted(
        FlatBiasedAndEpsOutsideSqrt,
        "running-var-biased eps-outside-sqrt",
        "running_var y dx dgamma",
        "(M, C) rows; standard backward over the wrong rstd",
    ),
    planted(
        FlatEpsMissingAndHeldConstant,
        "eps-missing dx-statistics-held-constant",
        "y dx dgamma",
        "(M, C) rows; the eval formula over the wrong rstd",
    ),
    planted(
        LoopFixedEpsAndEvalBackwardMissing,
        "eps-argument-ignored eval-backward-missing",
        "y dx dgamma",
        "loop; 1e-8 always; None in eval, where dgamma and dbeta are right",
    ),
    planted(
        LoopBetaForgottenAndDgammaMean,
        "beta-not-applied dgamma-mean-not-sum",
        "y dgamma",
        "loop; training and eval; the right layer's dx and dbeta",
    ),
    planted(
        EinsumGammaMissingAndDbetaMean, "dx-gamma-missing dbeta-mean-not-sum", "dx dbeta", "einsum; training and eval"
    ),
    planted(
        EinsumSwappedAndProjectionMissing,
        "dgamma-dbeta-swapped dx-projection-term-missing",
        "dgamma dbeta dx",
        "einsum; dx in training only",
    ),
    planted(
        AxesNotUpdatedAndDxDividedByBatch,
        "running-statistics-not-updated dx-divided-by-batch",
        "running_mean running_var dx y dgamma",
        "keepdims; y and dgamma only in an eval step after training steps",
    ),
    planted(
        AxesBiasedAndAccumulating,
        "running-var-biased parameter-gradients-accumulate",
        "running_var dgamma dbeta y dx",
        "keepdims; the gradients from call two on; y and dx only in an eval step after training steps",
    ),
    planted(
        BufferBiasedAndDxIntoDy,
        "running-var-biased upstream-gradient-mutated",
        "running_var dx y dgamma",
        "work buffer; dx is right in value; y and dgamma only in an eval step after training steps",
        raises=True,
    ),
)
