"""BatchNorm: statistics across the batch while training, running averages of them afterwards.

Holds the running statistics and the mode; the arithmetic of a pass is the kernel's.
"""

from math import prod

import numpy as np

from npnorm import kernel
from npnorm.arguments import Array, checked, count, flag, fraction, optional, positive_int
from npnorm.layer import Normalization
from npnorm.machine import refuse_beyond


class BatchNorm(Normalization):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, mean and variance of each channel over batch and space.

    While `training`, mean and (biased) variance are those of x, and the running statistics follow them:
    running = (1 - momentum) * running + momentum * batch, where the batch's variance is the unbiased one (divided by
    n - 1), as in torch. In eval mode the running statistics take the place of the batch's, and are constants to the
    gradient: dx = gamma * dy / sqrt(running_var + eps).

    x: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: the fraction of the new in a running statistic; None averages over all batches seen.
        affine: whether there are gamma and beta, each of shape (C,).
        track_running_stats: whether there are running statistics; without them the batch's are used in eval mode too.
            Set to False later, it leaves those that there are as they are.

    Attributes:
        training: the mode, changed by `train()` and `eval()`.
        running_mean, running_var: arrays of shape (C,), or None. num_batches_tracked: how many batches they have seen.

    Raises:
        ValueError: later, an x whose channels are not C or whose rank is not 2 to 5; in training, one with a single
            value a channel, or running statistics that cannot be written to.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015 (arXiv:1502.03167); `torch.nn.BatchNorm1d`, `BatchNorm2d`,
    `BatchNorm3d`.
    """

    _written = ("dgamma", "dbeta", "running_mean", "running_var")

    num_features: int = checked("num_features", positive_int, fixed=True)
    momentum: float | None = checked("momentum", optional(fraction))
    track_running_stats: bool = checked("track_running_stats", flag)
    training: bool = checked("training", flag)
    num_batches_tracked: int = checked("num_batches_tracked", count)
    running_mean: Array | None
    running_var: Array | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features = num_features
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        affine = flag("affine", affine)
        needed = 8 * self.num_features * (2 * affine + 2 * self.track_running_stats)
        refuse_beyond(needed, "parameters and running statistics", f"num_features={self.num_features}")
        super().__init__((self.num_features,), eps, gamma=affine, beta=affine)
        self.training = True
        self.running_mean = np.zeros(self.num_features) if self.track_running_stats else None
        self.running_var = np.ones(self.num_features) if self.track_running_stats else None
        self.num_batches_tracked = 0

    def train(self, mode: bool = True) -> "BatchNorm":
        """Take the statistics from each batch, and follow them; returns the layer."""
        self.training = flag("mode", mode)
        return self

    def eval(self) -> "BatchNorm":
        """Take the statistics from the running averages; returns the layer."""
        return self.train(False)

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        channels = self.num_features
        if not 2 <= len(shape) <= 5 or shape[1] != channels:
            raise ValueError(f"Expected x of shape (N, {channels}, *spatial) with 0 to 3 spatial axes but got {shape}")
        space = prod(shape[2:])
        if shape[0] * space == 1 and (self.training or self.running_mean is None):
            raise ValueError(f"Expected more than 1 value per channel when training but got x of shape {shape}")
        return kernel.tiling((shape[0], 1, channels, space), across_batch=True)

    def _given_statistics(self, dtype: np.dtype, tiling: kernel.Tiling) -> tuple[Array, Array] | None:
        """The running statistics in eval mode; in training they are looked at before anything changes."""
        mean, var = self._array("running_mean"), self._array("running_var")
        if mean is None or var is None:
            if mean is not var:
                none = "running_mean" if mean is None else "running_var"
                raise ValueError(
                    f"Expected running_mean and running_var to be arrays, or both None, but got {none}=None"
                )
            return None
        if not self.training:
            return mean.astype(dtype).reshape(tiling.parameters), var.astype(dtype).reshape(tiling.parameters)
        if self.track_running_stats:
            for name, array in (("running_mean", mean), ("running_var", var)):
                if not array.flags.writeable:
                    raise ValueError(f"Expected {name} to be writeable but got a read-only array")
            if mean is var:
                raise ValueError("Expected running_mean and running_var to be two arrays but got one for both")
        return None

    def _follow(self, statistics: list[kernel.Statistics], count: int) -> None:
        mean, var = self.running_mean, self.running_var
        if not (self.training and self.track_running_stats) or mean is None or var is None:
            return
        self.num_batches_tracked += 1
        if count == 0:  # an empty batch is counted and teaches nothing, as in torch
            return
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = count / (count - 1)
        if len(statistics) == 1:
            batch_mean, batch_var = statistics[0].mean, statistics[0].var
        else:
            batch_mean = np.concatenate([part.mean for part in statistics], axis=2)
            batch_var = np.concatenate([part.var for part in statistics], axis=2)
        mean *= 1 - momentum
        mean += batch_mean.reshape(-1) * np.float64(momentum)
        var *= 1 - momentum
        var += batch_var.reshape(-1) * np.float64(momentum * unbiased)
