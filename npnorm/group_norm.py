"""GroupNorm: which numbers share a mean and a variance. Has no arithmetic of its own."""

from math import prod

from npnorm import kernel
from npnorm.arguments import checked, flag, positive_int
from npnorm.layer import Normalization


class GroupNorm(Normalization):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, mean and variance over each sample's groups of channels.

    The channels are divided, in their order, into `num_groups` groups; a mean and a (biased) variance are taken over
    the channels of a group and all spatial positions, for each sample alone. gamma and beta are one number a channel.

    x: (N, C) or (N, C, *spatial), of any rank from 2 up. N may be 0.

    Args:
        num_groups: G, a divisor of `num_channels`. 1 normalizes each sample whole, C each channel alone.
        num_channels: C.
        eps: added to the variance.
        affine: whether there are gamma and beta, each of shape (C,).

    Raises:
        ValueError: `num_channels` is not divisible by `num_groups`; later, an x whose channels are not C, or with only
            one value for each mean.

    Wu and He, "Group Normalization", ECCV 2018 (arXiv:1803.08494); `torch.nn.GroupNorm`.
    """

    num_groups: int = checked("num_groups", positive_int, fixed=True)
    num_channels: int = checked("num_channels", positive_int, fixed=True)

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        self.num_groups = num_groups
        self.num_channels = num_channels
        if self.num_channels % self.num_groups:
            raise ValueError(
                f"Expected num_channels to be divisible by num_groups but got num_channels={num_channels} "
                f"and num_groups={num_groups}"
            )
        affine = flag("affine", affine)
        super().__init__((self.num_channels,), eps, gamma=affine, beta=affine)

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        if len(shape) < 2 or shape[1] != self.num_channels:
            raise ValueError(f"Expected x of shape (N, {self.num_channels}, *spatial) but got {shape}")
        per_group = self.num_channels // self.num_groups
        space = prod(shape[2:])
        if shape[0] * per_group * space == 1:  # torch refuses just this
            raise ValueError(f"Expected more than 1 value per group but got x of shape {shape}")
        return kernel.tiling((shape[0], self.num_groups, per_group, space))
