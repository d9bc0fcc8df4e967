"""BatchNorm: statistics across the batch while training, running averages of them afterwards.

Holds the running statistics and the mode; the arithmetic of a pass is the kernel's.
"""

from math import prod

import numpy as np

from npnorm import kernel
from npnorm.arguments import Array, epsilon, flag, fraction, positive_int
from npnorm.layer import Normalization


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

    Attributes:
        training: the mode, changed by `train()` and `eval()`.
        running_mean, running_var: arrays of shape (C,), or None. num_batches_tracked: how many batches they have seen.

    Raises:
        ValueError: later, an x whose channels are not C or whose rank is not 2 to 5; in training, one with a single
            value a channel.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015 (arXiv:1502.03167); `torch.nn.BatchNorm1d`, `BatchNorm2d`,
    `BatchNorm3d`.
    """

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
        self.num_features = positive_int("num_features", num_features)
        self.momentum = None if momentum is None else fraction("momentum", momentum)
        self.track_running_stats = flag("track_running_stats", track_running_stats)
        affine = flag("affine", affine)
        super().__init__((self.num_features,), epsilon(eps), gamma=affine, beta=affine)
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
        if not self._constant_statistics() and shape[0] * space == 1:
            raise ValueError(f"Expected more than 1 value per channel when training but got x of shape {shape}")
        return kernel.tiling((shape[0], 1, channels, space), across_batch=True)

    def _given_statistics(self, dtype: np.dtype, tiling: kernel.Tiling) -> tuple[Array, Array] | None:
        if not self._constant_statistics():
            return None
        mean = self._parameter("running_mean", dtype, tiling)
        var = self._parameter("running_var", dtype, tiling)
        return None if mean is None or var is None else (mean, var)

    def _follow(self, statistics: list[kernel.Statistics], count: int) -> None:
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked += 1
        if count == 0:  # an empty batch is counted and teaches nothing, as in torch
            return
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = count / (count - 1)
        for running, parts, weight in (
            (self.running_mean, [part.mean for part in statistics], momentum),
            (self.running_var, [part.var for part in statistics], momentum * unbiased),
        ):
            batch = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            running *= 1 - momentum
            running += batch.reshape(-1) * np.float64(weight)

    def _constant_statistics(self) -> bool:
        return not self.training and self.running_mean is not None
